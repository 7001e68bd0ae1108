"""Log-probabilities of given tokens, without logits of the whole vocabulary.

The vocabulary is cut into slices, one after the other, and every slice meets all tokens: a softmax
over slices is the online softmax of flash attention (arXiv 2205.14135, section 3.1), and the
backward pass computes the scores of a slice again (as Cut Cross-Entropy, arXiv 2411.09009). Slices
of the vocabulary rather than of the tokens, since the gradient of a slice is complete when its
scores are: nothing of the size of the head is summed up, or held whole by a device.

Over a mesh each device scores its own rows. It gathers one slice of the head at a time over fsdp,
in the compute dtype, and the gradient of the slice goes back by a reduce-scatter; what is summed
over tensor is summed once, behind the loop.

Axis letters: base/axes.py; n slices of v tokens each.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from qoq_jax.models import decoder
from qoq_jax.parallel.mesh import batch_shards, partition_spec, sequence_shards, tensor_shards

SCORES = 1 << 26  # most scores that a device computes at a time, 256 MiB in float32
LOWEST = -1e30  # finite, so that differences of it stay free of NaN


@jax.named_scope("head")
def token_logprobs(
    params: dict,
    hidden: jax.Array,
    targets: jax.Array,
    *,
    temperature: float = 1.0,
    scores: int = SCORES,
) -> tuple[jax.Array, jax.Array]:
    """log softmax(logits / temperature)[target] and its entropy.

    Args:
      params: those of the decoder; its head alone is read.
      hidden: [B,T,D] after the final norm; position t scores targets[:, t].
      targets: int32 [B,T].
      scores: most scores that a device computes at a time; a few arrays of that size exist, in both
        directions.

    Returns (logprob, entropy), float32 [B,T], entropy in nats.
    """
    kernel = decoder.head(params).astype(hidden.dtype)
    mesh = jax.sharding.get_abstract_mesh()
    vocabulary, shards = kernel.shape[0], batch_shards() * sequence_shards()
    tokens = hidden.shape[0] * hidden.shape[1] // shards
    count = _slices(vocabulary, tensor_shards(), tokens, scores)
    width = -(-vocabulary // count)
    kernel = jnp.pad(kernel, [(0, count * width - vocabulary), (0, 0)])
    form = _Form(vocabulary, count, temperature)
    if mesh.empty or mesh.size == 1:
        kernel = kernel.reshape(count, width, -1)  # no copy of the head
    else:
        # Slice j has the tokens j, j + n, j + 2n, ...: each device of a cut vocabulary has its
        # share.
        kernel = jnp.moveaxis(kernel.reshape(width, count, -1), 1, 0)
        form = dataclasses.replace(
            form,
            kernel=partition_spec(mesh, (None, "vocab", "embed"), kernel.shape),
            rows=partition_spec(mesh, ("batch", "tokens", None), hidden.shape),
        )
    return _logprobs(form, kernel, hidden, targets)


def _slices(vocabulary: int, tensor: int, tokens: int, scores: int) -> int:
    """How many slices; a number that asks for no padding where there is one."""
    least = min(max(-(-tokens * vocabulary // (tensor * scores)), 1), vocabulary)
    fitting = (n for n in range(least, 2 * least) if vocabulary % (n * tensor) == 0)
    return next(fitting, least)


@dataclasses.dataclass(frozen=True)
class _Form:
    """What is known when the program is built.

    Attributes:
      vocabulary: V; the slices may be padded beyond it.
      count: n, slices.
      temperature: that scores are divided by.
      kernel: how the slices [n,v,D] are cut over the mesh; None = one device.
      rows: how hidden [B,T,D] is cut.
    """

    vocabulary: int
    count: int
    temperature: float
    kernel: PartitionSpec | None = None
    rows: PartitionSpec | None = None

    @property
    def vocabulary_axis(self) -> str | None:
        """Mesh axis that the tokens of a slice are cut over."""
        return self.kernel and self.kernel[1]

    @property
    def width_axes(self) -> tuple[str, ...]:
        """Mesh axes that the channels of the head are cut over."""
        return _names(self.kernel and self.kernel[2])

    @property
    def token_axes(self) -> tuple[str, ...]:
        """Mesh axes that rows and their tokens are cut over."""
        return () if self.rows is None else _names(self.rows[0]) + _names(self.rows[1])

    def on_devices(self, body: Callable, inputs: str, outputs: str) -> Callable:
        """`body` on each device's part; `inputs` and `outputs` have a letter for each array: k for
        one like the kernel, h like hidden, t for a number per token.
        """
        if self.kernel is None:
            return body
        specs = {"k": self.kernel, "h": self.rows, "t": PartitionSpec(*self.rows[:2])}
        return jax.shard_map(
            body,
            in_specs=tuple(specs[letter] for letter in inputs),
            out_specs=tuple(specs[letter] for letter in outputs),
            check_vma=False,
        )


def _names(axes: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """An entry of a PartitionSpec as names."""
    return (axes,) if isinstance(axes, str) else axes or ()


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _logprobs(
    form: _Form, kernel: jax.Array, hidden: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """`token_logprobs` with a kernel [n,v,D]."""
    return _forward(form, kernel, hidden, targets)[0]


def _forward(form: _Form, *arrays: jax.Array) -> tuple:
    body = functools.partial(_forward_on_device, form)
    logprob, entropy, total = form.on_devices(body, "kht", "ttt")(*arrays)
    return (logprob, entropy), (*arrays, total, entropy)


def _backward(form: _Form, saved: tuple, gradients: tuple[jax.Array, jax.Array]) -> tuple:
    body = functools.partial(_backward_on_device, form)
    of_kernel, of_hidden = form.on_devices(body, "khttttt", "kh")(*saved, *gradients)
    return of_kernel, of_hidden, None


_logprobs.defvjp(_forward, _backward)


def _scores(
    form: _Form, kernel: jax.Array, j: jax.Array, hidden: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Slice j on a device: (kernel [v,D] with all channels, scores float32 [B,T,v], bool [B,T,v]:
    the score is the target's).
    """
    if form.width_axes:
        kernel = jax.lax.all_gather(kernel, form.width_axes, axis=1, tiled=True)
    # [B,T,D] x [v,D] -> [B,T,v]
    scores = jnp.einsum("btd,vd->btv", hidden, kernel, preferred_element_type=jnp.float32)
    place = jnp.arange(kernel.shape[0])
    if form.vocabulary_axis:
        place += jax.lax.axis_index(form.vocabulary_axis) * len(place)
    ids = j * len(place) + place if form.kernel is None else place * form.count + j
    ids = ids[None, None]
    scores = jnp.where(ids < form.vocabulary, scores / form.temperature, LOWEST)
    return kernel, scores, ids == targets[:, :, None]


def _forward_on_device(
    form: _Form, kernel: jax.Array, hidden: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(logprob, entropy, log of the softmax's denominator) of a device's rows, float32 [B,T]."""

    def body(
        carry: tuple[jax.Array, ...], one: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, ...], None]:
        # Of the slices so far, with weights exp(score - highest): their sum, the sum of weight x
        # (score - highest), and the target's score.
        highest, total, spread, score = carry
        _, scores, is_target = _scores(form, *one, hidden, targets)
        now = jnp.maximum(highest, scores.max(axis=-1))
        shifted = scores - now[:, :, None]
        weight, before = jnp.exp(shifted), jnp.exp(highest - now)
        spread = before * (spread + total * (highest - now)) + (weight * shifted).sum(axis=-1)
        total = before * total + weight.sum(axis=-1)
        # A comparison instead of a gather: it fuses.
        score += jnp.where(is_target, scores, 0.0).sum(axis=-1)
        return (now, total, spread, score), None

    zeros = jnp.zeros(targets.shape, jnp.float32)
    start = jnp.full(targets.shape, LOWEST), zeros, zeros, zeros
    (highest, total, spread, score), _ = jax.lax.scan(body, start, (kernel, jnp.arange(form.count)))
    if form.vocabulary_axis:
        mine, highest = highest, jax.lax.pmax(highest, form.vocabulary_axis)
        factor = jnp.exp(mine - highest)
        spread = factor * (spread + total * (mine - highest))
        total, spread, score = jax.lax.psum((factor * total, spread, score), form.vocabulary_axis)
    entropy = jnp.log(total) - spread / total
    total = highest + jnp.log(total)
    return score - total, entropy, total


def _backward_on_device(
    form: _Form,
    kernel: jax.Array,
    hidden: jax.Array,
    targets: jax.Array,
    total: jax.Array,
    entropy: jax.Array,
    of_logprob: jax.Array,
    of_entropy: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Gradients of a device's (kernel [n,v,D], hidden [B,T,D])."""

    def body(of_hidden: jax.Array, one: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        whole, scores, is_target = _scores(form, *one, hidden, targets)
        logprobs = scores - total[:, :, None]
        # d log p(target) = 1(target) - p; d entropy = -p (log p + entropy)
        pull = of_logprob[:, :, None] + of_entropy[:, :, None] * (logprobs + entropy[:, :, None])
        of_scores = jnp.where(is_target, of_logprob[:, :, None], 0.0) - jnp.exp(logprobs) * pull
        of_scores = (of_scores / form.temperature).astype(hidden.dtype)
        # [B,T,v] x [v,D] -> [B,T,D], and [B,T,v] x [B,T,D] -> [v,D]
        of_hidden += jnp.einsum("btv,vd->btd", of_scores, whole, preferred_element_type=jnp.float32)
        of_kernel = jnp.einsum("btv,btd->vd", of_scores, hidden)
        return of_hidden, _summed_over_rows(form, of_kernel)

    of_hidden, of_kernel = jax.lax.scan(
        body, jnp.zeros(hidden.shape, jnp.float32), (kernel, jnp.arange(form.count))
    )
    of_hidden = of_hidden.astype(hidden.dtype)
    if form.vocabulary_axis:
        of_hidden = jax.lax.psum(of_hidden, form.vocabulary_axis)
    return of_kernel, of_hidden


def _summed_over_rows(form: _Form, of_kernel: jax.Array) -> jax.Array:
    """The gradient of a slice [v,D] over all tokens, cut along D as the slice is."""
    if form.width_axes:
        of_kernel = jax.lax.psum_scatter(
            of_kernel, form.width_axes, scatter_dimension=1, tiled=True
        )
    axes = tuple(axis for axis in form.token_axes if axis not in form.width_axes)
    return jax.lax.psum(of_kernel, axes) if axes else of_kernel
