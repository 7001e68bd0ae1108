"""One token from logits: greedy, temperature, top-k, top-p, and tokens that are never sampled.

What a row draws depends on its logits and on its own key and position alone, so neither its
neighbours in the batch nor the mesh change it. Axis letters: V vocabulary, N blocks of the
vocabulary.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

BLOCK = 256  # vocabulary entries summed at once by `draw`


def row_keys(key: jax.Array, rows: int, samples: int) -> jax.Array:
    """Keys [rows, samples]: that of (i, g) depends on `key`, i and g only."""
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    return jax.vmap(fold, in_axes=(0, None))(fold(key, jnp.arange(rows)), jnp.arange(samples))


def uniforms(keys: jax.Array, position: jax.Array) -> jax.Array:
    """A number for each row from its key and the position of its next token.

    Keys [...], positions int32 [...] -> float32 [...] in [0, 1).
    """

    def one(key: jax.Array, at: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(key, at))

    return jax.vmap(one)(keys.reshape(-1), position.reshape(-1)).reshape(keys.shape)


def choose(
    logits: jax.Array,
    uniform: jax.Array | None,
    banned: jax.Array,
    *,
    temperature: float | jax.Array | None = 1.0,
    top_p: float | jax.Array | None = None,
    top_k: int | jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The next token of each row, and its log-probability.

    Args:
      logits: float32 [..., V].
      uniform: float32 [...] in [0, 1) that decides the draw; None takes the most likely token.
      banned: bool [V], tokens that are never chosen.
      temperature: above 0; not used when greedy.
      top_p: nucleus, None = off. top_k: None = off. Top-k comes first, top-p is of what it leaves,
        as in transformers.

    Returns:
      (int32 [...], float32 [...]): log-probabilities are at the temperature (1 when greedy), before
      top-k, top-p and the ban: those of the policy, which a trainer can compute again.
    """
    scaled = logits if uniform is None else logits / temperature
    allowed = jnp.where(banned.reshape((1,) * (logits.ndim - 1) + banned.shape), -jnp.inf, scaled)
    if uniform is None:
        token = jnp.argmax(allowed, axis=-1)
    else:
        allowed = allowed if top_k is None else keep_top_k(allowed, top_k)
        allowed = allowed if top_p is None else nucleus(allowed, top_p)
        token = draw(allowed, uniform)
    chosen = jnp.take_along_axis(scaled, token[..., None], axis=-1)[..., 0]
    return token.astype(jnp.int32), chosen - jax.nn.logsumexp(scaled, axis=-1)


def draw(logits: jax.Array, uniform: jax.Array) -> jax.Array:
    """Inverts the cumulative distribution at `uniform` [...]: logits [..., V] -> int32 [...].

    One random number per row instead of one per word, and two short cumulative sums instead of one
    over the vocabulary: first of blocks, then within the block. A token of probability 0 is never
    sampled, whatever the rounding.
    """
    weight = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    pad = -weight.shape[-1] % BLOCK
    weight = jnp.pad(weight, [(0, 0)] * (weight.ndim - 1) + [(0, pad)])
    weight = weight.reshape(*weight.shape[:-1], -1, BLOCK)
    sums = weight.sum(axis=-1)
    until = jnp.cumsum(sums, axis=-1)
    block, rest = _first_beyond(sums, until, uniform * until[..., -1])
    inside = jnp.take_along_axis(weight, block[..., None, None], axis=-2)[..., 0, :]
    word, _ = _first_beyond(inside, jnp.cumsum(inside, axis=-1), rest)
    return block * BLOCK + word


def _first_beyond(
    weight: jax.Array, until: jax.Array, target: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """First index whose cumulative sum exceeds `target` >= 0, and how far the target lies beyond
    what comes before it.
    """
    last = weight.shape[-1] - 1 - jnp.argmax(weight[..., ::-1] > 0, axis=-1)
    index = jnp.minimum((until <= target[..., None]).sum(axis=-1), last)
    before = jnp.take_along_axis(until - weight, index[..., None], axis=-1)[..., 0]
    return index, jnp.maximum(target - before, 0.0)


def nucleus(logits: jax.Array, top_p: float | jax.Array) -> jax.Array:
    """Keeps the smallest set of most likely tokens whose probability reaches `top_p`; the rest
    becomes -inf. [..., V].

    Tokens as likely as the last one kept are kept too.
    """
    return _keep(
        logits, jax.nn.softmax(logits, axis=-1), jnp.where(jnp.asarray(top_p) < 1, top_p, jnp.inf)
    )


def keep_top_k(logits: jax.Array, top_k: int | jax.Array) -> jax.Array:
    """Keeps the `top_k` most likely tokens (0: all), and those as likely as the last of them; the
    rest becomes -inf.
    """
    limit = jnp.where(jnp.asarray(top_k) > 0, top_k, jnp.inf).astype(jnp.float32)
    return _keep(logits, jnp.ones_like(logits), limit)


def _keep(logits: jax.Array, weight: jax.Array, limit: jax.Array) -> jax.Array:
    """Keeps a token when the tokens above it weigh less than `limit` together.

    The threshold is found by bisection over the 32 bits of a float, which is exact and reads the
    vocabulary 32 times: a sort of 152,064 words costs several times more, and its order is not
    needed.
    """
    bits = jax.lax.bitcast_convert_type(logits.astype(jnp.float32), jnp.int32)
    # Unsigned integers in the order of the floats: flip all bits of negative numbers, the sign bit
    # of the others.
    order = jax.lax.bitcast_convert_type(
        bits ^ jnp.where(bits < 0, jnp.int32(-1), jnp.int32(-(2**31))), jnp.uint32
    )

    def above(threshold: jax.Array) -> jax.Array:
        return jnp.where(order > threshold[..., None], weight, 0.0).sum(axis=-1)

    # the largest threshold above which the tokens still weigh `limit` or more
    def bit(i: jax.Array, threshold: jax.Array) -> jax.Array:
        higher = threshold | (jnp.uint32(1) << (jnp.uint32(31) - i.astype(jnp.uint32)))
        return jnp.where(above(higher) >= limit, higher, threshold)

    threshold = jax.lax.fori_loop(0, 32, bit, jnp.zeros(logits.shape[:-1], jnp.uint32))
    return jnp.where(order > threshold[..., None], logits, -jnp.inf)
