"""Speculative decoding with drafts from the text so far (prompt lookup; of speculative decoding in
general arXiv 2211.17192): several tokens in a step where a response repeats what stands before it.

The tokens that followed the last earlier occurrence of the latest NGRAM tokens are fed to the model
together with the next token, which costs little more where a step is bound by reading weights. Then
each position samples its token from its own logits and its own random number, as it would without
drafts, and the draft is kept as far as it is the same. So the responses are those of `loop.decode`,
token for token, greedy or sampled, up to rounding of the logits; a draft d is kept with probability
p(d), as the rejection rule keeps that of a proposal of one token.

Rows move by different numbers of tokens: their cache is no ring here, token i of a response lies at
place i, and what a rejected draft left behind is overwritten.

Axis letters: as in loop.py; C = 1 + the tokens of a draft, Z places of the context.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from qoq_jax.models import cache as cache_lib
from qoq_jax.models import vlm
from qoq_jax.models.sizes import VlmConfig
from qoq_jax.sampling import loop
from qoq_jax.sampling import tokens as sampling
from qoq_jax.sampling.loop import Decoded, DecodeState, Draw, Orders, Slots

NGRAM = 2  # tokens that must be the same for a draft


def draft(context: jax.Array, end: jax.Array, count: int) -> jax.Array:
    """int32 [P, G, count]: what followed the last earlier occurrence of the latest NGRAM tokens,
    over and over where the text ends before the draft; -1 where there is none.

    Args:
      context: int32 [P, G, Z], tokens of prompt and response.
      end: int32 [P, G], how many of them are there.
    """
    Z = context.shape[-1]
    place = jnp.arange(Z)[None, None]

    def at(index: jax.Array) -> jax.Array:
        return jnp.take_along_axis(context, jnp.clip(index, 0, Z - 1), axis=-1)

    same = place + NGRAM < end[..., None]
    for i in range(NGRAM):
        same &= jnp.roll(context, -i, axis=-1) == at(end[..., None] - NGRAM + i)
    found = jnp.where(same, place, -NGRAM).max(axis=-1, keepdims=True)
    period = jnp.maximum(end[..., None] - (found + NGRAM), 1)
    index = found + NGRAM + jnp.arange(count)[None, None] % period
    return jnp.where(found >= 0, at(index), -1)


def decode(
    cfg: VlmConfig,
    params: Any,
    slots: Slots,
    orders: Orders,
    draw: Draw,
    *,
    length: int,
    drafts: int,
) -> tuple[Slots, Decoded]:
    """`loop.decode` with drafts of so many tokens; `orders.steps` bounds the tokens of each row.

    The slots have a context and places for `drafts` + 1 tokens more than a response has, `length`
    for as many more than `orders.steps`: a row that waits or has ended writes too.
    """

    def going(state: DecodeState) -> jax.Array:
        waiting = state.live & (state.decoded.count < orders.steps)
        idle_slots = (~state.live.any(axis=1)).sum()
        return (
            waiting.any()
            & ~(state.ended & orders.more[:, None]).any()
            & (idle_slots < orders.wanted)
        )

    def body(state: DecodeState) -> DecodeState:
        return step(cfg, params, state, orders, draw, drafts)

    state = loop.begin(cfg, slots, orders, length)
    state = jax.lax.while_loop(going, body, state)
    return loop.pinned(state.slots), state.decoded


def step(
    cfg: VlmConfig, params: Any, state: DecodeState, orders: Orders, draw: Draw, drafts: int
) -> DecodeState:
    """At least one token of every live row that has not all of this call."""
    slots, decoded = state.slots, state.decoded
    start, C = slots.cache.length, 1 + drafts
    (P, G), offset = start.shape, jnp.arange(C)[None, None]

    def choose(hidden: jax.Array, first: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Tokens and log-probabilities [P, G, n] from hidden [P, G, n, D], at positions from
        `first` on.
        """
        n, uniform = hidden.shape[2], None
        if draw.temperature is not None:
            keys = jax.random.wrap_key_data(orders.keys)
            at = first[..., None] + jnp.arange(n)[None, None]
            uniform = sampling.uniforms(jnp.broadcast_to(keys[..., None], at.shape), at)
        logits = vlm.unembed(params, hidden.reshape(P, G * n, -1)).reshape(P, G, n, -1)
        return sampling.choose(
            logits,
            uniform,
            draw.banned,
            temperature=draw.temperature,
            top_p=draw.top_p,
            top_k=draw.top_k,
        )

    # The next token, which is certain, and a draft of those behind it.
    token, logprob = choose(slots.hidden[:, :, None], start)
    end = slots.cache.prompt_mask.sum(axis=1)[:, None] + start
    context = _write(slots.context, token, end)
    fed = jnp.concatenate([token, draft(context, end + 1, drafts)], axis=-1)
    positions = slots.last[:, None, None] + 1 + start[..., None] + offset
    hidden, cache = vlm.decode_several(
        params, cfg, jnp.maximum(fed, 0), positions, slots.cache.replace(step=jnp.int32(0))
    )
    # What the model samples at each place of the draft, and how far the draft is that.
    drawn, drawn_logprob = choose(hidden[:, :, :-1], start + 1)
    tokens = jnp.concatenate([token, drawn], axis=-1)
    logprobs = jnp.concatenate([logprob, drawn_logprob], axis=-1)
    eos = jnp.asarray(cfg.eos_ids, jnp.int32)
    is_end = (tokens[..., None] == eos[None, None, None]).any(axis=-1)
    right = (tokens == fed) & ~jnp.pad(is_end[..., :-1], [(0, 0), (0, 0), (1, 0)])
    kept = jnp.cumprod(right, axis=-1).sum(axis=-1)
    kept = jnp.minimum(kept, jnp.minimum(orders.steps - decoded.count, orders.limit - start))
    kept = jnp.where(state.live, kept, 0)
    length = start + kept
    last = jnp.maximum(kept - 1, 0)[..., None]
    ended = jnp.take_along_axis(is_end, last, axis=-1)[..., 0] | (length >= orders.limit)
    ended &= kept > 0

    mine = offset < kept[..., None]
    decoded = decoded.replace(
        tokens=_write(decoded.tokens, jnp.where(mine, tokens, cfg.pad_id), decoded.count),
        logprobs=_write(decoded.logprobs, jnp.where(mine, logprobs, 0.0), decoded.count),
        count=decoded.count + kept,
        steps=decoded.steps + 1,
    )
    moved = jnp.take_along_axis(hidden, last[..., None], axis=2)[:, :, 0]
    slots = slots.replace(
        hidden=jnp.where((kept > 0)[..., None], moved, slots.hidden),
        cache=cache_lib.at_length(cache, length),
        context=_write(slots.context, tokens, end),
    )
    return DecodeState(slots, decoded, state.live & ~ended, ended)


def _write(rows: jax.Array, values: jax.Array, at: jax.Array) -> jax.Array:
    """rows [P, G, Z] with values [P, G, n] from place `at` [P, G] on; Z leaves room for them."""
    one = jax.vmap(jax.vmap(lambda row, value, at: jax.lax.dynamic_update_slice(row, value, (at,))))
    return one(rows, values.astype(rows.dtype), at)
