"""The decode loop: what RL rollouts, evaluation and `qoq generate` all sample their tokens with.

A slot holds one prompt and G rows that sample responses to it; prompt keys and values exist once
per slot. All rows step together, but each has its own length and ends by itself. What a row
samples depends on its own key and on the positions of its own tokens, not on when it runs nor on
what runs beside it.

Everything here is traced: no host, no files. The host's part, which hands rows and slots further
work, is sampling/engine.py.

Axis letters: P slots, G rows of a slot, C tokens of one call of `decode`, V vocabulary, D width, Tp
prompt places.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from qoq_jax.models import cache as cache_lib
from qoq_jax.models import decoder, vlm
from qoq_jax.models.cache import KVCache
from qoq_jax.models.sizes import VlmConfig
from qoq_jax.parallel.mesh import constrain
from qoq_jax.sampling import tokens as sampling

Batch = Mapping[str, jax.Array]


@struct.dataclass
class Slots:
    """Prompts and growing responses on the device, donated from call to call.

    Attributes:
      cache: of P prompts and P x G responses.
      hidden: [P, G, D], predicts the next token of each row.
      prompt_hidden: [P, D], predicts the first token of a response.
      last: int32 [P], position of the prompt's last token.
      context: int32 [P, G, Z], tokens of prompt and response one behind the other, where drafts
        are looked up in them (lookup.py); else None.
    """

    cache: KVCache
    hidden: jax.Array
    prompt_hidden: jax.Array
    last: jax.Array
    context: jax.Array | None = None


@struct.dataclass
class Draw:
    """How a token is sampled from logits. Numbers or traced scalars; None is switched off.

    Attributes:
      banned: bool [V], tokens that are never sampled.
      temperature: above 0; None = greedy.
      top_p, top_k: see tokens.choose.
    """

    banned: jax.Array
    temperature: jax.Array | float | None = None
    top_p: jax.Array | float | None = None
    top_k: jax.Array | int | None = None


@struct.dataclass
class Orders:
    """What the host asks of one call of `decode`.

    Attributes:
      start: bool [P, G], rows that begin a new response.
      live: bool [P, G], rows that sample, the beginning ones included.
      keys: uint32 [P, G, 2], key data of each row's response; not read when greedy.
      limit: int32 [], most tokens of a response.
      steps: int32 [], most steps of this call, at most C.
      more: bool [P], the prompt has further responses to begin as soon as a row is free.
      wanted: int32 [], so many idle slots are worth a return, because prompts wait for them; P + 1
        when none waits.
    """

    start: jax.Array
    live: jax.Array
    keys: jax.Array
    limit: jax.Array
    steps: jax.Array
    more: jax.Array
    wanted: jax.Array


@struct.dataclass
class Decoded:
    """What one call of `decode` has sampled.

    Attributes:
      tokens: int32 [P, G, C], those of each row in order, then pad.
      logprobs: float32 [P, G, C] of tokens.choose, then 0.
      count: int32 [P, G], tokens of each row.
      steps: int32 [], steps done.
    """

    tokens: jax.Array
    logprobs: jax.Array
    count: jax.Array
    steps: jax.Array


@struct.dataclass
class DecodeState:
    """The carry of the loop over tokens.

    Attributes:
      slots: the cache, and the hidden state that predicts each row's next token.
      decoded: what has been sampled since the call began; `decoded.steps` is the next place in C.
      live: bool [P, G], rows whose response continues.
      ended: bool [P, G], rows whose response ended in the last step.
    """

    slots: Slots
    decoded: Decoded
    live: jax.Array
    ended: jax.Array


def decode(
    cfg: VlmConfig, params: Any, slots: Slots, orders: Orders, draw: Draw, *, length: int
) -> tuple[Slots, Decoded]:
    """Up to `length` = C tokens of every row that is live.

    Args:
      params: see vlm.decode_params.
    """

    def going(state: DecodeState) -> jax.Array:
        return goes_on(state, orders)

    def body(state: DecodeState) -> DecodeState:
        return step(cfg, params, state, orders, draw)

    state = jax.lax.while_loop(going, body, begin(cfg, slots, orders, length))
    return pinned(state.slots), state.decoded


def begin(cfg: VlmConfig, slots: Slots, orders: Orders, length: int) -> DecodeState:
    """The state before the first step of a call that has room for `length` tokens of a row."""
    start, shape = orders.start, (*orders.start.shape, length)
    slots = slots.replace(
        hidden=jnp.where(start[..., None], slots.prompt_hidden[:, None], slots.hidden),
        cache=cache_lib.restart(slots.cache, start),
    )
    empty = Decoded(
        tokens=jnp.full(shape, cfg.pad_id, jnp.int32),
        logprobs=jnp.zeros(shape, jnp.float32),
        count=jnp.zeros(shape[:2], jnp.int32),
        steps=jnp.zeros((), jnp.int32),
    )
    return DecodeState(pinned(slots), empty, orders.live, jnp.zeros_like(orders.live))


def goes_on(state: DecodeState, orders: Orders) -> jax.Array:
    """bool []: whether the loop takes another step, or returns to the host."""
    idle_slots = (~state.live.any(axis=1)).sum()
    return (
        (state.decoded.steps < orders.steps)  # the call has steps left
        & state.live.any()  # some response continues
        & ~(state.ended & orders.more[:, None]).any()  # no row is free for a further response
        & (idle_slots < orders.wanted)  # too few slots are idle for a prefill
    )


def step(
    cfg: VlmConfig, params: Any, state: DecodeState, orders: Orders, draw: Draw
) -> DecodeState:
    """One token of every live row; the others write pad tokens that nothing reads."""
    slots, decoded, live = state.slots, state.decoded, state.live
    length = slots.cache.length
    # The next token of each row.
    uniform = None
    if draw.temperature is not None:
        uniform = sampling.uniforms(jax.random.wrap_key_data(orders.keys), length)
    token, logprob = sampling.choose(
        vlm.unembed(params, slots.hidden),
        uniform,
        draw.banned,
        temperature=draw.temperature,
        top_p=draw.top_p,
        top_k=draw.top_k,
    )
    token = jnp.where(live, token, cfg.pad_id)
    # Which responses it ends.
    eos = jnp.asarray(cfg.eos_ids, jnp.int32)
    is_end = (token[..., None] == eos[None, None]).any(axis=-1)
    ended = live & (is_end | (length + 1 >= orders.limit))

    def write(array: jax.Array, value: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(array, value, decoded.steps, axis=2)

    decoded = Decoded(
        tokens=write(decoded.tokens, token),
        logprobs=write(decoded.logprobs, jnp.where(live, logprob, 0.0)),
        count=decoded.count + live,
        steps=decoded.steps + 1,
    )
    # The hidden state that predicts the token after it.
    positions = (slots.last[:, None] + 1 + length)[:, None, :]
    positions = jnp.broadcast_to(positions, (length.shape[0], 3, length.shape[1]))
    hidden, cache = vlm.decode_step(params, cfg, token, positions, slots.cache, live)
    return DecodeState(slots.replace(hidden=hidden, cache=cache), decoded, live & ~ended, ended)


# -------------------------------------------------------------------------------- slots and prompts


def empty_slots(
    cfg: VlmConfig, slots: int, rows: int, prompt: int, places: int, drafts: int = 0
) -> Slots:
    """P = `slots` slots of G = `rows` rows, with `prompt` places for prompts and `places` for
    responses; with drafts of so many tokens (lookup.py) for a step more of them, and a context.
    """
    dec, dtype, more = cfg.decoder, jnp.dtype(cfg.compute_dtype), drafts + 1 if drafts else 0
    keys = constrain(
        jnp.zeros((dec.num_layers, slots, prompt, dec.num_kv_heads, dec.head_dim), dtype),
        (None, "batch", None, "kv_heads", None),
    )
    cache = cache_lib.init(
        keys,
        keys,
        jnp.zeros((slots, prompt), bool),
        rollouts=rows,
        max_new_tokens=places + more,
        dtype=cfg.kv_cache_dtype,
    )
    return pinned(
        Slots(
            cache,
            hidden=jnp.zeros((slots, rows, dec.width), dtype),
            prompt_hidden=jnp.zeros((slots, dec.width), dtype),
            last=jnp.zeros(slots, jnp.int32),
            context=jnp.zeros((slots, rows, prompt + places + more), jnp.int32) if drafts else None,
        )
    )


def start_slots(cfg: VlmConfig, params: Any, batch: Batch, *, rows: int, places: int) -> Slots:
    """Slots that hold the prompts of a batch, one per slot."""
    hidden, cache = vlm.prefill(params, cfg, batch, rollouts=rows, max_new_tokens=places)
    return Slots(
        cache,
        hidden=jnp.broadcast_to(hidden[:, None], (hidden.shape[0], rows, hidden.shape[-1])),
        prompt_hidden=hidden,
        last=last_position(batch),
    )


def admit(cfg: VlmConfig, params: Any, slots: Slots, batch: Batch, at: jax.Array) -> Slots:
    """Prefills the batch's prompts into the slots `at`, int32 [rows of the batch]; a row with at >=
    P is padding.
    """
    hidden, new = vlm.prefill(params, cfg, batch, rollouts=1, max_new_tokens=1)
    return _placed(slots, hidden, new, batch, at)


@struct.dataclass
class Prompts:
    """The prompts of a packed batch, embedded: their media went through the towers, once.

    Attributes:
      x: [B, Tp, D], input embeddings of the decoder.
      features: DeepStack features [J, R, M, D] of the media rows, or None.
      text: tokens, positions, segment_ids, branch_ids and media_index of the batch
        (data/packing.py).
    """

    x: jax.Array
    features: jax.Array | None
    text: dict[str, jax.Array]


def embed_prompts(cfg: VlmConfig, params: Any, batch: Batch) -> Prompts:
    """Towers and embeddings of a whole batch, which `admit_rows` then takes in chunks."""
    x, deepstack = vlm.decoder_inputs(params, cfg, batch)
    names = ("tokens", "positions", "segment_ids", "branch_ids", "media_index")
    features = None if deepstack is None else deepstack[0]
    return Prompts(x, features, {name: batch[name] for name in names})


def admit_rows(
    cfg: VlmConfig, params: Any, slots: Slots, prompts: Prompts, rows: jax.Array, at: jax.Array
) -> Slots:
    """Prefills some rows of a packed batch.

    Args:
      rows: int32 [N], rows of the batch.
      at: int32 [N], the slot of each; one with at >= P is padding.
    """
    text = {
        name: constrain(value[rows], ("batch", *[None] * (value.ndim - 1)))
        for name, value in prompts.text.items()
    }
    deepstack = None
    if prompts.features is not None:
        share = prompts.x.shape[0] // prompts.features.shape[1]  # text rows of a media row
        deepstack = (prompts.features[:, rows // share], text["media_index"])
    x = constrain(prompts.x[rows], ("batch", None, None))
    hidden, new = vlm.prefill_embedded(
        params, cfg, x, deepstack, text, rollouts=1, max_new_tokens=1
    )
    return _placed(slots, hidden, new, text, at)


@struct.dataclass
class Prefill:
    """Prompts of which some tokens are prefilled, beside running responses.

    Attributes:
      prompts: embedded, padded to a multiple of the tokens of a part.
      keys, values: L of [B, T, K, h] each, filled before `at`; T the padded length.
      hidden: [B, D], predicts the first token of a response, once its prompt is done.
      at: int32 scalar, tokens done.
    """

    prompts: Prompts
    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    hidden: jax.Array
    at: jax.Array


def begin_prefill(cfg: VlmConfig, params: Any, batch: Batch, *, part: int) -> Prefill:
    """Towers and embeddings of prompts whose tokens are then prefilled `part` at a time."""
    prompts, dec = embed_prompts(cfg, params, batch), cfg.decoder
    B, T, _ = prompts.x.shape
    pad = -T % part

    def padded(x: jax.Array, axis: int, value: int = 0) -> jax.Array:
        return jnp.pad(
            x, [(0, pad if i == axis else 0) for i in range(x.ndim)], constant_values=value
        )

    text = {
        name: padded(value, value.ndim - 1, -1 if name == "media_index" else 0)
        for name, value in prompts.text.items()
    }

    def empty() -> tuple[jax.Array, ...]:
        shape = (B, T + pad, dec.num_kv_heads, dec.head_dim)
        zeros = (jnp.zeros(shape, prompts.x.dtype) for _ in range(dec.num_layers))
        return tuple(constrain(x, ("batch", None, "kv_heads", None)) for x in zeros)

    return Prefill(
        prompts.replace(x=padded(prompts.x, 1), text=text),
        keys=empty(),
        values=empty(),
        hidden=jnp.zeros((B, dec.width), prompts.x.dtype),
        at=jnp.zeros((), jnp.int32),
    )


def prefill_part(cfg: VlmConfig, params: Any, prefill: Prefill, *, part: int) -> Prefill:
    """The next `part` tokens of each prompt."""
    prompts, at = prefill.prompts, prefill.at

    def cut(x: jax.Array, axis: int) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(x, at, part, axis)

    segment = prompts.text["segment_ids"]
    deepstack = None
    if prompts.features is not None:
        deepstack = (prompts.features, cut(prompts.text["media_index"], 1))
    hidden, (keys, values) = decoder.forward_part(
        params["decoder"],
        cfg,
        cut(prompts.x, 1),
        cut(prompts.text["positions"], 2),
        segment,
        (prefill.keys, prefill.values),
        at,
        deepstack,
    )
    last = (segment > 0).sum(axis=1) - 1 - at  # in this part, if it is in 0 .. part - 1
    found = jnp.take_along_axis(hidden, jnp.clip(last, 0, part - 1)[:, None, None], axis=1)[:, 0]
    here = ((last >= 0) & (last < part))[:, None]
    return prefill.replace(
        keys=keys, values=values, hidden=jnp.where(here, found, prefill.hidden), at=at + part
    )


def end_prefill(
    cfg: VlmConfig, slots: Slots, prefill: Prefill, at: jax.Array, *, tokens: int
) -> Slots:
    """The slots with the prompts, all of whose `tokens` places are done, at `at`: see `admit`."""
    text = {
        name: value[..., :tokens]
        for name, value in prefill.prompts.text.items()
        if name in ("tokens", "positions", "segment_ids")
    }
    new = cache_lib.init(
        jnp.stack(prefill.keys)[:, :, :tokens],
        jnp.stack(prefill.values)[:, :, :tokens],
        text["segment_ids"] > 0,
        rollouts=1,
        max_new_tokens=1,
        dtype=cfg.kv_cache_dtype,
    )
    return _placed(slots, prefill.hidden, new, text, at)


def last_position(batch: Batch) -> jax.Array:
    """int32 [Q]: the largest M-RoPE position of each prompt; its response continues from there on
    all three axes.
    """
    return jnp.where(batch["segment_ids"][:, None] > 0, batch["positions"], -1).max(axis=(1, 2))


def _placed(slots: Slots, hidden: jax.Array, new: KVCache, text: Batch, at: jax.Array) -> Slots:
    """The slots with prefilled prompts at `at`; text: their tokens, positions and segment_ids."""
    context, last = slots.context, last_position(text)
    if context is not None:
        tokens = text["tokens"]
        context = context.at[at, :, : tokens.shape[1]].set(tokens[:, None], mode="drop")
    return pinned(
        slots.replace(
            context=context,
            cache=cache_lib.refill(slots.cache, new, at),
            prompt_hidden=slots.prompt_hidden.at[at].set(hidden, mode="drop"),
            last=slots.last.at[at].set(last, mode="drop"),
        )
    )


def pinned(slots: Slots) -> Slots:
    """The slots over the mesh in one way, so that every function gets them as every other left
    them.
    """

    def rows(x: jax.Array) -> jax.Array:
        return constrain(x, ("batch", *[None] * (x.ndim - 1)))

    def heads(arrays: tuple[cache_lib.Stored, ...]) -> tuple[cache_lib.Stored, ...]:
        return jax.tree.map(
            lambda x: constrain(x, ("batch", "kv_heads", *[None] * (x.ndim - 2))), arrays
        )

    cache = slots.cache
    return Slots(
        cache.replace(
            prompt_k=heads(cache.prompt_k),
            prompt_v=heads(cache.prompt_v),
            prompt_mask=rows(cache.prompt_mask),
            response_k=heads(cache.response_k),
            response_v=heads(cache.response_v),
            length=rows(cache.length),
        ),
        hidden=rows(slots.hidden),
        prompt_hidden=rows(slots.prompt_hidden),
        last=rows(slots.last),
        context=None if slots.context is None else rows(slots.context),
    )
