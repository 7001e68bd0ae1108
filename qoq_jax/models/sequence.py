"""Text rows that are cut over devices by their tokens (the mesh axis "sequence").

Everything in the decoder works on tokens one by one, but attention, which works on heads one by
one. So before it each device gives the others their share of the heads of its tokens, and gets its
own share of the heads of all tokens: an all-to-all over the devices of a row, and another behind
attention (DeepSpeed-Ulysses, arXiv 2309.14509, section 3). Attention sees whole rows, and every
kernel and mask of models/attention.py is what it was.

Axis letters: base/axes.py.
"""

from __future__ import annotations

import math

import einops
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from qoq_jax.base.errors import ConfigError
from qoq_jax.parallel.mesh import constrain, partition_spec, sequence_shards, tensor_shards

Heads = tuple[jax.Array, jax.Array, jax.Array]


def repeats(heads: int, kv_heads: int, ways: int) -> int:
    """How often each key-value head is repeated, so that `ways` devices have as many each.

    Raises:
      ConfigError: the query heads do not divide over them.
    """
    times = math.lcm(kv_heads, ways) // kv_heads
    if heads % (kv_heads * times):
        raise ConfigError(
            f"{heads} heads with {kv_heads} key-value heads do not divide over {ways} devices",
            hint="choose mesh.sequence * mesh.tensor so that it divides the heads",
        )
    return times


def row_heads(q: jax.Array, k: jax.Array, v: jax.Array) -> Heads:
    """`to_heads` of text rows. q [B,T,K,N,h], k and v [B,T,K,h]; where rows are cut, K may become a
    multiple of what it was, and N as much smaller.
    """
    if sequence_shards() == 1:
        return q, k, v
    K, N = q.shape[2:4]
    times = repeats(K * N, K, sequence_shards() * tensor_shards())
    q = einops.rearrange(q, "b t k (r n) h -> b t (k r) n h", r=times)
    k, v = (jnp.repeat(x, times, axis=2) for x in (k, v))
    q, k, v = (to_heads(x, "batch", "tokens") for x in (q, k, v))
    return q, k, v


def to_heads(x: jax.Array, rows: str, tokens: str | None) -> jax.Array:
    """From a share of the tokens and all heads (that tensor leaves) to all tokens and a share of
    the heads.

    Args:
      x: rows, tokens, key-value heads, ...; returned as it is where rows are not cut.
      rows, tokens: logical axes of the first two.
    """
    if sequence_shards() == 1:
        return x
    # Both said, the compiler has one all-to-all.
    x = constrain(x, (rows, tokens, "heads", *(None,) * (x.ndim - 3)))
    return constrain(x, (rows, None, "row_heads", *(None,) * (x.ndim - 3)))


def to_tokens(x: jax.Array, rows: str, tokens: str | None) -> jax.Array:
    """The way back of `to_heads`."""
    if sequence_shards() == 1:
        return x
    x = constrain(x, (rows, None, "row_heads", *(None,) * (x.ndim - 3)))
    return constrain(x, (rows, tokens, "heads", *(None,) * (x.ndim - 3)))


def patch_axis(patches: int, merged: int) -> str | None:
    """The logical axis of so many patches of a media row, of which `merged` make a token: cut where
    each device has whole tokens, as many as the others.
    """
    return "patches" if patches % (merged * sequence_shards()) == 0 else None


def predecessors(hidden: jax.Array, start: int, branches: int, first: jax.Array) -> jax.Array:
    """The hidden states behind which the tokens of responses stand, [B,T-start,D].

    Args:
      hidden: [B,T,D] of rows [prompt | branch 1 | ... | branch G], cut by tokens or not.
      start: tokens of the prompt.
      branches: G.
      first: int32 [B], the token behind which all branches begin; within a branch each token stands
        behind the one before it.
    """
    count = hidden.shape[1] - start
    length = count // branches

    def part(hidden: jax.Array, first: jax.Array, begin: int | jax.Array, size: int) -> jax.Array:
        behind = jax.lax.dynamic_slice_in_dim(hidden, start - 1 + begin, size, axis=1)
        begins = (begin + jnp.arange(size)) % length == 0
        of_prompt = jnp.take_along_axis(hidden, first[:, None, None], axis=1)
        return jnp.where(begins[None, :, None], of_prompt, behind)

    ways = sequence_shards()
    if ways == 1:
        return part(hidden, first, 0, count)

    def on_device(hidden: jax.Array, first: jax.Array) -> jax.Array:
        # Whole rows once, behind the last layer: a device's share of the responses lies with
        # several others.
        hidden = jax.lax.all_gather(hidden, "sequence", axis=1, tiled=True)
        begin = jax.lax.axis_index("sequence") * (count // ways)
        return part(hidden, first, begin, count // ways)

    mesh = jax.sharding.get_abstract_mesh()
    rows = partition_spec(mesh, ("batch", "tokens", None), (hidden.shape[0], count, 1))
    return jax.shard_map(
        on_device, in_specs=(rows, PartitionSpec(rows[0])), out_specs=rows, check_vma=False
    )(hidden, first)
