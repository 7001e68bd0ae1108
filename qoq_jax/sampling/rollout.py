"""Rollouts: G answers a question, sampled with the trainer's own parameters and forward code.

The prompt is prefilled once a question; its keys and values are shared by the G samples
(models/cache.py `KVCache`). For the update the same sharing is written as one row, [prompt |
answer 1 | ... | answer G], whose branch ids keep the answers from seeing each other: the gradients
equal those of G separate rows at a fraction of the work.

Letters: Q questions, G rollouts a question, S response positions, T prompt positions, D width, V
vocabulary.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from qoq_jax.models import vlm
from qoq_jax.models.logprobs import token_logprobs
from qoq_jax.models.sizes import VlmConfig
from qoq_jax.sampling import tokens as sampling

Batch = dict[str, jax.Array]


@struct.dataclass
class Rollout:
    """Sampled answers.

    Attributes:
      tokens: int32 [Q, G, S]; pad after the end token.
      mask: float32 [Q, G, S]; 1 for sampled tokens, the end token included.
      logprobs: float32 [Q, G, S]; log-probability under the policy (temperature applied, before
        top-p and the ban list), 0 where masked.
    """

    tokens: jax.Array
    mask: jax.Array
    logprobs: jax.Array


@struct.dataclass
class SamplingState:
    """Loop state of `sample`.

    Attributes:
      step: int32 [], response positions written so far.
      rollout: what has been sampled.
      done: bool [Q, G], the end token was sampled (or the row holds no question).
      hidden: [Q, G, D] final hidden state that predicts position `step`.
      cache: models.cache.KVCache.
    """

    step: jax.Array
    rollout: Rollout
    done: jax.Array
    hidden: jax.Array
    cache: Any


def sample(
    params,
    cfg: VlmConfig,
    batch: Batch,
    key: jax.Array,
    *,
    rollouts: int,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    banned: jax.Array,
) -> Rollout:
    """Samples `rollouts` answers to each prompt; stops as soon as every answer has ended.

    Args:
      batch: one prompt a row (contract of data/packing.py).
      key: PRNG key; the result depends on it and on nothing of the mesh.
      temperature: 0 means greedy.
      top_p: nucleus; 1 switches it off.
      banned: bool [V], tokens that are never sampled: modality pads and template tokens (a policy
        that emits an image pad would ask for an image that is not there).
    """
    q, g, s = batch["tokens"].shape[0], rollouts, max_new_tokens
    hidden, cache = vlm.prefill(params, cfg, batch, rollouts=g, max_new_tokens=s)
    asked = batch["segment_ids"].max(axis=1) > 0
    last = last_position(batch)
    eos = jnp.asarray(cfg.eos_ids, jnp.int32)
    keys = sampling.row_keys(key, q, g)
    params = vlm.decode_params(params, cfg)

    def body(state: SamplingState) -> SamplingState:
        logits = vlm.unembed(params, state.hidden).astype(jnp.float32)
        uniform = (
            sampling.uniforms(keys, jnp.broadcast_to(state.step, (q, g))) if temperature else None
        )
        token, logprob = sampling.choose(
            logits, uniform, banned, temperature=temperature, top_p=top_p if top_p < 1 else None
        )
        token = jnp.where(state.done, cfg.pad_id, token)
        live = 1.0 - state.done.astype(jnp.float32)
        write = lambda array, value: jax.lax.dynamic_update_index_in_dim(
            array, value, state.step, axis=2
        )
        rollout = Rollout(
            tokens=write(state.rollout.tokens, token),
            mask=write(state.rollout.mask, live),
            logprobs=write(state.rollout.logprobs, logprob * live),
        )
        done = state.done | (token[..., None] == eos[None, None]).any(axis=-1)
        positions = jnp.broadcast_to((last + 1 + state.step)[:, None, None], (q, 3, g))
        hidden, cache = vlm.decode_step(params, cfg, token, positions, state.cache)
        return SamplingState(state.step + 1, rollout, done, hidden, cache)

    empty = Rollout(
        tokens=jnp.full((q, g, s), cfg.pad_id, jnp.int32),
        mask=jnp.zeros((q, g, s), jnp.float32),
        logprobs=jnp.zeros((q, g, s), jnp.float32),
    )
    start = SamplingState(
        jnp.zeros((), jnp.int32),
        empty,
        jnp.broadcast_to(~asked[:, None], (q, g)),
        jnp.broadcast_to(hidden[:, None], (q, g, hidden.shape[-1])),
        cache,
    )
    return jax.lax.while_loop(lambda st: (st.step < s) & ~st.done.all(), body, start).rollout


def last_position(batch: Batch) -> jax.Array:
    """int32 [Q]: the largest M-RoPE position of each prompt; its answer goes on from there on all
    three axes.
    """
    return jnp.where(batch["segment_ids"][:, None] > 0, batch["positions"], -1).max(axis=(1, 2))


def group_rows(batch: Batch, tokens: jax.Array, mask: jax.Array) -> Batch:
    """Prompts and their answers as rows [prompt | answer 1 | ... | answer G] of length T + G*S.

    Args:
      batch: one prompt a row.
      tokens, mask: [Q, G, S].
    """
    q, g, s = tokens.shape
    flat = lambda x: x.reshape(q, g * s)
    position = last_position(batch)[:, None, None] + 1 + jnp.arange(s, dtype=jnp.int32)[None, None]
    position = jnp.broadcast_to(flat(jnp.broadcast_to(position, (q, g, s)))[:, None], (q, 3, g * s))
    branch = jnp.broadcast_to(
        jnp.repeat(jnp.arange(1, g + 1, dtype=jnp.int32), s)[None], (q, g * s)
    )
    join = lambda name, tail, axis=1: jnp.concatenate(
        [batch[name], tail.astype(batch[name].dtype)], axis=axis
    )
    return dict(
        batch,
        tokens=join("tokens", flat(tokens)),
        positions=join("positions", position, axis=2),
        segment_ids=join("segment_ids", flat(mask)),
        branch_ids=join("branch_ids", branch),
        media_index=join("media_index", jnp.full((q, g * s), -1)),
    )


def answer_hidden(
    params, cfg: VlmConfig, batch: Batch, tokens: jax.Array, mask: jax.Array
) -> jax.Array:
    """The hidden state that predicts each answer token, [Q, G, S, D]: position t has seen the
    prompt and the t tokens before it.

    Args:
      batch: one prompt a row.
      tokens, mask: [Q, G, S].
    """
    q, g, s = tokens.shape
    prompt = batch["tokens"].shape[1]
    hidden = vlm.hidden(params, cfg, group_rows(batch, tokens, mask), shared=(prompt, g))
    # The first answer token is predicted by the prompt's last token, every other one by its
    # predecessor.
    end = jnp.maximum((batch["segment_ids"] > 0).sum(axis=1) - 1, 0)
    first = jnp.take_along_axis(hidden, end[:, None, None], axis=1)
    first = jnp.broadcast_to(first[:, None], (q, g, 1, hidden.shape[-1]))
    answers = hidden[:, prompt:].reshape(q, g, s, -1)
    return jnp.concatenate([first, answers[:, :, :-1]], axis=2)


def score_hidden(
    params,
    cfg: VlmConfig,
    hidden: jax.Array,
    tokens: jax.Array,
    mask: jax.Array,
    temperature: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """(logprobs, entropy) of answers, float32 [Q, G, S], 0 where masked, from their
    `answer_hidden`.
    """
    q, g, s = tokens.shape
    logprobs, entropy = token_logprobs(
        params["decoder"],
        hidden.reshape(q, g * s, -1),
        tokens.reshape(q, g * s),
        temperature=temperature,
    )
    return logprobs.reshape(q, g, s) * mask, entropy.reshape(q, g, s) * mask


def score(
    params,
    cfg: VlmConfig,
    batch: Batch,
    tokens: jax.Array,
    mask: jax.Array,
    temperature: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """Log-probability and entropy of given answers in one forward pass.

    Args:
      batch: one prompt a row.
      tokens, mask: [Q, G, S].

    Returns:
      (logprobs, entropy), float32 [Q, G, S], 0 where masked.
    """
    return score_hidden(
        params, cfg, answer_hidden(params, cfg, batch, tokens, mask), tokens, mask, temperature
    )
