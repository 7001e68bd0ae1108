"""Rollouts: G responses per question, sampled with the trainer's own parameters and forward code.

The prompt is prefilled once per question; its keys and values are shared by the G samples
(models/cache.py `KVCache`). For the update the same sharing is written as one row, [prompt |
response 1 | ... | response G], whose branch ids keep the responses from seeing each other: the
gradients equal those of G separate rows at a fraction of the work.

Letters: Q questions, G rollouts per question, S response positions, T prompt positions, D width, V
vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from qoq_jax.models import sequence, vlm
from qoq_jax.models.logprobs import token_logprobs
from qoq_jax.models.sizes import VlmConfig
from qoq_jax.parallel.mesh import constrain
from qoq_jax.sampling import loop
from qoq_jax.sampling import tokens as sampling
from qoq_jax.sampling.loop import Draw, Orders
from qoq_jax.sampling.schedule import Settings

Batch = dict[str, jax.Array]


@struct.dataclass
class Rollout:
    """Sampled responses.

    Attributes:
      tokens: int32 [Q, G, S]; pad after the end token.
      mask: float32 [Q, G, S]; 1 for sampled tokens, the end token included.
      logprobs: float32 [Q, G, S]; log-probability under the policy (temperature applied, before
        top-p and the ban list), 0 where masked.
    """

    tokens: jax.Array
    mask: jax.Array
    logprobs: jax.Array


def sample(
    params: Any,
    cfg: VlmConfig,
    batch: Batch,
    key: jax.Array,
    banned: jax.Array,
    settings: Settings,
) -> Rollout:
    """G = `settings.num_samples` responses to each prompt, all at the same time; stops as soon as
    every response has ended.

    For jit, with `settings` static. sampling/sampler.py draws the same responses with fewer of them
    at a time.

    Args:
      batch: one prompt per row (contract of data/packing.py).
      key: PRNG key; the result depends on it and on nothing of the mesh.
      banned: bool [V], tokens that are never sampled: modality pads and template tokens (a policy
        that emits an image pad would ask for an image that is not there).
    """
    q, g, s = batch["tokens"].shape[0], settings.num_samples, settings.max_new_tokens
    slots = loop.start_slots(cfg, params, batch, rows=g, places=s)
    orders = Orders(
        start=jnp.ones((q, g), bool),
        live=jnp.broadcast_to(has_prompt(batch)[:, None], (q, g)),
        keys=jax.random.key_data(sampling.row_keys(key, q, g)),
        limit=jnp.int32(s),
        steps=jnp.int32(s),
        more=jnp.zeros(q, bool),
        wanted=jnp.int32(q + 1),
    )
    weights, draw = vlm.decode_params(params, cfg), static_draw(settings, banned)
    _, drawn = loop.decode(cfg, weights, slots, orders, draw, length=s)
    mask = (jnp.arange(s)[None, None] < drawn.count[..., None]).astype(jnp.float32)
    return Rollout(drawn.tokens, mask, drawn.logprobs)


def static_draw(settings: Settings, banned: jax.Array) -> Draw:
    """The settings as constants of a compiled program: a trainer has few, and they never change."""
    if not settings.temperature:
        return Draw(banned)
    return Draw(
        banned,
        temperature=settings.temperature,
        top_p=settings.top_p if settings.top_p < 1 else None,
        top_k=settings.top_k or None,
    )


def has_prompt(batch: Batch) -> jax.Array:
    """bool [Q]: rows that hold a prompt, and not only padding."""
    return batch["segment_ids"].max(axis=1) > 0


def group_rows(batch: Batch, tokens: jax.Array, mask: jax.Array) -> Batch:
    """Prompts and their responses as rows [prompt | response 1 | ... | response G], T + G*S long.

    Args:
      batch: one prompt per row.
      tokens, mask: [Q, G, S].
    """
    q, g, s = tokens.shape

    def flat(x: jax.Array) -> jax.Array:
        return x.reshape(q, g * s)

    def join(name: str, tail: jax.Array, axis: int = 1) -> jax.Array:
        return jnp.concatenate([batch[name], tail.astype(batch[name].dtype)], axis=axis)

    position = (
        loop.last_position(batch)[:, None, None] + 1 + jnp.arange(s, dtype=jnp.int32)[None, None]
    )
    position = jnp.broadcast_to(flat(jnp.broadcast_to(position, (q, g, s)))[:, None], (q, 3, g * s))
    branch = jnp.broadcast_to(
        jnp.repeat(jnp.arange(1, g + 1, dtype=jnp.int32), s)[None], (q, g * s)
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
    params: Any, cfg: VlmConfig, batch: Batch, tokens: jax.Array, mask: jax.Array
) -> jax.Array:
    """The hidden state that predicts each response token, [Q, G * S, D], response by response:
    position t has seen the prompt and the t tokens before it.

    Args:
      batch: one prompt per row.
      tokens, mask: [Q, G, S].
    """
    prompt, g = batch["tokens"].shape[1], tokens.shape[1]
    hidden = vlm.hidden(params, cfg, group_rows(batch, tokens, mask), shared=(prompt, g))
    # The first response token is predicted by the prompt's last token, every other one by its
    # predecessor.
    end = jnp.maximum((batch["segment_ids"] > 0).sum(axis=1) - 1, 0)
    return sequence.predecessors(hidden, prompt, g, end)


def by_response(x: jax.Array, responses: int) -> jax.Array:
    """Numbers of response tokens [Q, G * S], cut by tokens or not, as [Q, G, S]."""
    return constrain(x, ("batch", None)).reshape(x.shape[0], responses, -1)


def score_hidden(
    params: Any,
    cfg: VlmConfig,
    hidden: jax.Array,
    tokens: jax.Array,
    mask: jax.Array,
    temperature: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """(logprobs, entropy) of responses, float32 [Q, G, S], 0 where masked, from their
    `answer_hidden`.
    """
    q, g, s = tokens.shape
    found = token_logprobs(
        params["decoder"], hidden, tokens.reshape(q, g * s), temperature=temperature
    )
    logprobs, entropy = (by_response(x, g) * mask for x in found)
    return logprobs, entropy


def score(
    params: Any,
    cfg: VlmConfig,
    batch: Batch,
    tokens: jax.Array,
    mask: jax.Array,
    temperature: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """Log-probability and entropy of given responses in one forward pass.

    Args:
      batch: one prompt per row.
      tokens, mask: [Q, G, S].

    Returns:
      (logprobs, entropy), float32 [Q, G, S], 0 where masked.
    """
    return score_hidden(
        params, cfg, answer_hidden(params, cfg, batch, tokens, mask), tokens, mask, temperature
    )


@functools.cache
def make_scorer(cfg: VlmConfig, temperature: float) -> Callable[..., jax.Array]:
    """Returns the jitted `scorer(params, batch, tokens, mask) -> logprobs [Q, G, S]`."""

    def scorer(params: Any, batch: Batch, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        return score(params, cfg, batch, tokens, mask, temperature)[0]

    return jax.jit(scorer)
