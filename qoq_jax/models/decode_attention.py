"""Attention of one new token of each response to its prompt, its earlier tokens and itself, and the
token's way into the cache.

"einsum" is the reference of the kernels: it reads all places of the cache and masks those that hold
nothing. "ragged" (ragged.py, for TPUs) reads the filled blocks of each row alone;
"ragged-interpret" is the same on any platform, for tests.

Axis letters: base/axes.py.
"""

from __future__ import annotations

import functools

import einops
import flax.struct
import jax
import jax.numpy as jnp

from qoq_jax.models import cache as cache_lib
from qoq_jax.models import int8, ragged
from qoq_jax.models.attention import KeySet, attention
from qoq_jax.models.cache import KVCache
from qoq_jax.models.int8 import Stored


def kernel_of(name: str) -> str:
    """The kernel that model.decode_attention stands for; "auto" is the einsum on every platform, as
    long as the other has not been timed.
    """
    return "einsum" if name == "auto" else name


@flax.struct.dataclass
class Filled:
    """Which places a step reads, the same in all layers.

    Attributes:
      written: bool [B,G,S], the present response with the place of the new token, for "einsum".
      now: bool [1,1,S], that place.
      prompt: (first, count), int32 [B,1] each: the places of the prompt, for "ragged".
      response: the same of the tokens before the new one, [B,G].
    """

    written: jax.Array
    now: jax.Array
    prompt: tuple[jax.Array, jax.Array]
    response: tuple[jax.Array, jax.Array]


def filled(cache: KVCache, live: jax.Array | None = None) -> Filled:
    """What the rows of a cache have filled.

    live: bool [B,G], rows whose result is read, None = all; "ragged" reads nothing for the others,
    and no prompt of which none is live.
    """
    prompt = cache.prompt_mask.sum(axis=1, dtype=jnp.int32, keepdims=True)  # they begin at place 0
    before = jnp.minimum(cache.length, cache.places - 1)
    if live is not None:
        prompt = jnp.where(live.any(axis=1, keepdims=True), prompt, 0)
        before = jnp.where(live, before, 0)
    return Filled(
        written=cache_lib.written(cache),
        now=cache_lib.written_now(cache),
        prompt=(jnp.zeros_like(prompt), prompt),
        response=((cache.step - before) % cache.places, before),
    )


def decode(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    cache: KVCache,
    layer: int,
    at: Filled,
    *,
    kernel: str,
    write_last: bool,
) -> tuple[jax.Array, Stored, Stored]:
    """One layer's attention of a token of every response.

    Args:
      q: [B,K,G,N,h]. k, v: [B,K,G,h], of the new tokens.
      at: `filled` of the cache.
      write_last: the einsum reads the ring before the token is written to it; the kernel always.

    Returns:
      (attended [B,K,G,N,h], response_k, response_v with the token); "ragged" has the token alone
      for rows that are not live.
    """
    keys, values = cache_lib.append(cache, layer, k, v)
    name, _, how = kernel.partition("-")
    if name == "ragged":
        attended = _ragged(q, k, v, cache, layer, at, how == "interpret")
        return attended, keys, values
    prompt = KeySet(
        int8.read(cache.prompt_k[layer], q.dtype),
        int8.read(cache.prompt_v[layer], q.dtype),
        valid=cache.prompt_mask,
        k_axes="bkhs",
        v_axes="bksh",
    )
    ring = functools.partial(KeySet, k_axes="bkghs", v_axes="bkgsh")
    if write_last:
        # On a TPU the token is a set of its own, and is written after the ring was read: what is
        # fetched to be read need not be sent back whole, a fifth of a step's HBM traffic. XLA on
        # the CPU would copy the ring for this order.
        before = ring(
            int8.read(cache.response_k[layer], q.dtype),
            int8.read(cache.response_v[layer], q.dtype),
            valid=at.written & ~at.now,
        )
        own = [before, ring(k[..., None], v[..., None, :])]
    else:
        own = [ring(int8.read(keys, q.dtype), int8.read(values, q.dtype), valid=at.written)]
    return attention(q, [prompt, *own], axes="bkgnh"), keys, values


@jax.named_scope("attention")
def _ragged(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    cache: KVCache,
    layer: int,
    at: Filled,
    interpret: bool,
) -> jax.Array:
    """`decode` by the kernel: the prompt's part for all queries of its responses at once, each
    response's own, and the new token's.
    """
    prompt_k, prompt_v = jax.tree.map(
        lambda x: x[:, :, None], (cache.prompt_k[layer], cache.prompt_v[layer])
    )
    G = q.shape[2]
    together = einops.rearrange(q, "b k g n h -> b k 1 (g n) h")
    shared = ragged.attend(together, prompt_k, prompt_v, *at.prompt, interpret=interpret)
    shared = ragged.Part(
        einops.rearrange(shared.out, "b k 1 (g n) h -> b k g n h", g=G),
        einops.rearrange(shared.logsum, "b k 1 (g n) -> b k g n", g=G),
    )
    own = ragged.attend(
        q, cache.response_k[layer], cache.response_v[layer], *at.response, interpret=interpret
    )
    return ragged.join([shared, own, ragged.one_token(q, k, v)]).astype(q.dtype)
