"""The key-value cache of sampling: prompts that are shared, and a ring of response tokens.

Axis letters: base/axes.py; Tp prompt places, S response places (the ring).
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp

from qoq_jax.models.int8 import Int8, Stored, quantise
from qoq_jax.parallel.mesh import constrain


def store(x: jax.Array, channels: int, dtype: str) -> Stored:
    """x as the cache holds it: itself ("auto"), or in 8 bits ("int8"), a scale for each token and
    head over its axis `channels`.
    """
    if dtype == "auto":
        return x
    if dtype != "int8":
        raise ValueError(f"kv_cache_dtype {dtype!r} is neither auto nor int8")
    return quantise(x, channels)


@flax.struct.dataclass
class KVCache:
    """Keys (rotated) and values of B prompts and of G responses each, written in place.

    The response cache is a ring: every step writes one place for all responses, whenever each of
    them began, so that a response may start while others continue. The layout (keys with the tokens
    last, heads outermost) is the fastest of those measured for the two products that read it:
    docs/generation.md.

    Each layer has arrays of its own: a slice of one array of all layers would be copied before it
    is multiplied, the whole cache once per token.

    With `init(dtype="int8")` each of them is an `Int8` of the same axes.

    Attributes:
      prompt_k: L of [B, K, h, Tp] and prompt_v: L of [B, K, Tp, h], read by all G responses of a
        row, never repeated.
      prompt_mask: bool [B, Tp], True at prompt tokens, False at padding.
      response_k: L of [B, K, G, h, S] and response_v: L of [B, K, G, S, h].
      step: int32 scalar, steps written since the beginning; the next goes to place step mod S.
      length: int32 [B, G], tokens of its present response that each row has written, at most S; a
        finished row keeps writing pad tokens that nothing reads.
    """

    prompt_k: tuple[Stored, ...]
    prompt_v: tuple[Stored, ...]
    prompt_mask: jax.Array
    response_k: tuple[Stored, ...]
    response_v: tuple[Stored, ...]
    step: jax.Array
    length: jax.Array

    @property
    def places(self) -> int:
        """Response tokens that the ring holds, S."""
        return self.response_k[0].shape[-1]


def init(
    prompt_k: jax.Array,
    prompt_v: jax.Array,
    prompt_mask: jax.Array,
    *,
    rollouts: int,
    max_new_tokens: int,
    dtype: str = "auto",
) -> KVCache:
    """An empty ring beside the prompts' keys and values.

    Args:
      prompt_k, prompt_v: [L, B, Tp, K, h], as `decoder.forward` returns them.
      prompt_mask: bool [B, Tp].
      rollouts: G. max_new_tokens: S.
      dtype: of keys and values: "auto" (that of prompt_k) or "int8".
    """
    L, B, _, K, h = prompt_k.shape

    def cut(x: jax.Array) -> jax.Array:
        return constrain(x, ("batch", "kv_heads", *[None] * (x.ndim - 2)))

    def stored(x: jax.Array, channels: int) -> Stored:
        return jax.tree.map(cut, store(x, channels, dtype))

    def empty(*shape: int, channels: int) -> tuple[Stored, ...]:
        return tuple(stored(jnp.zeros(shape, prompt_k.dtype), channels) for _ in range(L))

    return KVCache(
        prompt_k=tuple(stored(jnp.transpose(layer, (0, 2, 3, 1)), 2) for layer in prompt_k),
        prompt_v=tuple(stored(jnp.transpose(layer, (0, 2, 1, 3)), 3) for layer in prompt_v),
        prompt_mask=prompt_mask,
        response_k=empty(B, K, rollouts, h, max_new_tokens, channels=3),
        response_v=empty(B, K, rollouts, max_new_tokens, h, channels=4),
        step=jnp.zeros((), jnp.int32),
        length=jnp.zeros((B, rollouts), jnp.int32),
    )


def append(cache: KVCache, layer: int, k: jax.Array, v: jax.Array) -> tuple[Stored, Stored]:
    """The ring of one layer with a token more for each response: k, v [B, K, G, h].

    Returns (response_k, response_v) of that layer; `advance` puts those of all layers back.
    """
    place = cache.step % cache.places

    def write(ring: Stored, token: jax.Array, channels: int, at: tuple) -> Stored:
        dtype = "int8" if isinstance(ring, Int8) else "auto"
        return jax.tree.map(
            lambda ring, token: jax.lax.dynamic_update_slice(ring, token, at),
            ring,
            store(token, channels, dtype),
        )

    return (
        write(cache.response_k[layer], k[..., None], 3, (0, 0, 0, 0, place)),
        write(cache.response_v[layer], v[:, :, :, None], 4, (0, 0, 0, place, 0)),
    )


def write_several(cache: KVCache, layer: int, k: jax.Array, v: jax.Array) -> tuple[Stored, Stored]:
    """`append` of C tokens at the places from each row's length on, for a cache that is no ring.

    k, v [B,K,G,C,h].
    """

    def write(ring: Stored, tokens: jax.Array, channels: int) -> Stored:
        dtype = "int8" if isinstance(ring, Int8) else "auto"
        places = 7 - channels  # the other of the last two axes of [B,K,G,.,.]

        def one(ring: jax.Array, tokens: jax.Array, at: jax.Array) -> jax.Array:  # [K,.,.]
            return jax.lax.dynamic_update_slice_in_dim(ring, tokens, at, axis=places - 2)

        rows = jax.vmap(jax.vmap(one, in_axes=(1, 1, 0), out_axes=1))
        return jax.tree.map(
            lambda ring, tokens: rows(ring, tokens, cache.length),
            ring,
            store(tokens, channels, dtype),
        )

    return (
        write(cache.response_k[layer], k.swapaxes(3, 4), 3),
        write(cache.response_v[layer], v, 4),
    )


def at_length(cache: KVCache, length: jax.Array) -> KVCache:
    """The cache with responses of so many tokens, int32 [B, G]; for one that is no ring."""
    return cache.replace(length=length, step=jnp.zeros((), jnp.int32))


def advance(cache: KVCache, keys: Sequence[Stored], values: Sequence[Stored]) -> KVCache:
    """The cache after a step in which every layer was appended to."""
    return cache.replace(
        response_k=tuple(keys),
        response_v=tuple(values),
        step=cache.step + 1,
        length=cache.length + 1,
    )


def written(cache: KVCache) -> jax.Array:
    """Bool [B, G, S]: places that hold the present response, the one that this step writes too."""
    age = (cache.step - jnp.arange(cache.places)) % cache.places  # 0 = written now
    return age[None, None] <= cache.length[:, :, None]


def written_now(cache: KVCache) -> jax.Array:
    """Bool [1, 1, S]: the place that this step writes."""
    return (jnp.arange(cache.places) == cache.step % cache.places)[None, None]


def restart(cache: KVCache, start: jax.Array) -> KVCache:
    """The cache in which the responses of `start`, bool [B, G], begin anew."""
    return cache.replace(length=jnp.where(start, 0, cache.length))


def refill(cache: KVCache, new: KVCache, at: jax.Array) -> KVCache:
    """The cache with the prompts of `new` in rows `at`, int32 [rows of new].

    The prompts of `new` have at most as many places. A row with at >= B is padding and is dropped.
    """
    length = new.prompt_mask.shape[1]
    mask = jnp.pad(new.prompt_mask, [(0, 0), (0, cache.prompt_mask.shape[1] - length)])
    return cache.replace(
        prompt_k=jax.tree.map(
            lambda x, y: x.at[at, :, :, :length].set(y, mode="drop"), cache.prompt_k, new.prompt_k
        ),
        prompt_v=jax.tree.map(
            lambda x, y: x.at[at, :, :length].set(y, mode="drop"), cache.prompt_v, new.prompt_v
        ),
        prompt_mask=cache.prompt_mask.at[at].set(mask, mode="drop"),
    )


def grow(cache: KVCache, places: int) -> KVCache:
    """The cache with a larger ring: the old one is unrolled, oldest first, into its beginning."""
    old = cache.places

    def longer(x: jax.Array, axis: int) -> jax.Array:
        widths = [(0, places - old if i == axis else 0) for i in range(x.ndim)]
        return jnp.pad(jnp.roll(x, -(cache.step % old), axis), widths)

    return cache.replace(
        response_k=jax.tree.map(lambda x: longer(x, 4), cache.response_k),
        response_v=jax.tree.map(lambda x: longer(x, 3), cache.response_v),
        step=jnp.full((), old, jnp.int32),
    )
