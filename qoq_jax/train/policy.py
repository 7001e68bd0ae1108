"""The jitted policy update, for every algorithm of rl/algorithms.py, and the advantages that it
learns from.

Letters: Q questions (= text rows), R media rows, G rollouts, S response positions, D decoder width.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from qoq_jax.models import critic as critic_lib
from qoq_jax.models.lora import LoraConfig
from qoq_jax.models.sizes import VlmConfig
from qoq_jax.rl import algorithms, losses
from qoq_jax.sampling import rollout
from qoq_jax.train.config import RlConfig
from qoq_jax.train.state import TrainState, apply_gradients, hold
from qoq_jax.train.step import Batch, Metrics, accumulated_gradients, jit_update, model_weights


@struct.dataclass
class Experience:
    """What a policy update learns from.

    Attributes:
      tokens, mask: [Q, G, S] the answers.
      sampler_logprobs: float32 [Q, G, S], as sampled.
      old_logprobs: float32 [Q, G, S] under the policy at the start of the first update, or None
        where the update is the first: its own log-probabilities then, without gradient.
      ref_logprobs: float32 [Q, G, S] under the frozen reference.
      advantages: float32 [Q, G], or [Q, G, S] for one number a token.
      values, returns: float32 [Q, G, S], the critic's values before the update and its targets, or
        None.
    """

    tokens: jax.Array
    mask: jax.Array
    sampler_logprobs: jax.Array
    old_logprobs: jax.Array | None
    ref_logprobs: jax.Array
    advantages: jax.Array
    values: jax.Array | None = None
    returns: jax.Array | None = None


def make_critic(cfg: VlmConfig) -> Callable:
    """Returns the jitted `values(weights, critic, batch, tokens, mask) -> [Q, G, S]`, 0 where
    masked.
    """

    def values(weights, critic, batch, tokens, mask):
        return (
            critic_lib.values(critic, rollout.answer_hidden(weights, cfg, batch, tokens, mask))
            * mask
        )

    return jax.jit(values)


def make_advantages(rl: RlConfig) -> Callable:
    """Returns the jitted function behind every advantage:

        (rewards [Q, G], domains [Q], valid [Q], mask, sampler_logprobs, ref_logprobs [Q, G, S],
        history, kl_coefficient,
         greedy [Q] or None, values [Q, G, S] or None) -> (algorithms.Estimate, mean KL an answer
         [], next KL coefficient)

    kl_coefficient is None for the config's fixed one.
    """
    algorithm = algorithms.resolve(rl)

    def advantages(
        rewards,
        domains,
        valid,
        mask,
        sampler_logprobs,
        ref_logprobs,
        history,
        kl_coefficient=None,
        greedy=None,
        values=None,
    ):
        kl = (losses.kl(sampler_logprobs, ref_logprobs, "low_var") * mask).sum(axis=-1)
        coefficient = rl.kl_coefficient if kl_coefficient is None else kl_coefficient
        penalty = None
        if rl.kl_in == "reward":
            penalty = (
                coefficient * losses.kl(sampler_logprobs, ref_logprobs, rl.kl_estimator) * mask
            )
        outcome = algorithms.Outcome(
            rewards, domains, valid, mask, kl, penalty, greedy, values, history
        )
        estimate = algorithm.advantage(outcome, rl)
        answers = rl.questions * rl.rollouts
        mean = (kl * valid[:, None]).sum() / jnp.maximum(valid.sum() * rl.rollouts, 1)
        # What outlives the step stays as it was after a step whose update will be dropped.
        finite = jnp.isfinite(mean) & jnp.isfinite(estimate.advantages).all()
        keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)  # noqa: E731
        if history is not None:
            estimate = dataclasses.replace(estimate, history=keep(estimate.history, history))
        if kl_coefficient is not None:
            moved = algorithms.next_kl_coefficient(
                coefficient, mean, rl.kl_target, rl.kl_horizon, answers
            )
            kl_coefficient = keep(moved, kl_coefficient)
        return estimate, mean, kl_coefficient

    return jax.jit(advantages)


def policy_loss(
    params,
    cfg: VlmConfig,
    rl: RlConfig,
    lora: LoraConfig,
    batch: Batch,
    data: Experience,
    base,
    kl_coefficient,
    divisors,
) -> tuple[jax.Array, Metrics]:
    """Clipped surrogate, plus KL to the reference where it is part of the loss, plus the critic's
    loss where there is one.

    Args:
      batch, data: a micro-batch.
      divisors: {"tokens", "answers", "loss"} of the whole update.
    """
    algorithm = algorithms.resolve(rl)
    weights = model_weights(params, base, lora)
    hidden = rollout.answer_hidden(weights, cfg, batch, data.tokens, data.mask)
    new, entropy = rollout.score_hidden(
        weights, cfg, hidden, data.tokens, data.mask, rl.temperature
    )
    old = jax.lax.stop_gradient(new) if data.old_logprobs is None else data.old_logprobs
    loss, facts = _surrogate(algorithm, rl, new, old, data)
    factors, _ = algorithms.loss_weights(data.mask, algorithm.mean)
    if rl.kl_in == "loss":
        estimate = losses.kl(new, data.ref_logprobs, rl.kl_estimator) * data.mask
        loss += kl_coefficient * (estimate if factors is None else estimate * factors).sum()
    loss /= divisors["loss"]

    tokens = divisors["tokens"]
    facts = {
        f"policy/{name}": value / (divisors["answers"] if algorithm.ratio == "sequence" else tokens)
        for name, value in facts.items()
    }
    difference = jnp.abs(new - data.sampler_logprobs) * data.mask
    metrics = {
        "entropy": entropy.sum() / tokens,
        "kl": (losses.kl(new, data.ref_logprobs, "low_var") * data.mask).sum() / tokens,
        "logprob_difference_mean": difference.sum() / tokens,
        "logprob_difference_max": difference.max(),
    }
    if algorithm.critic:
        flat = lambda x: x.reshape(-1, x.shape[-1])
        error, _, critic_facts = losses.value_loss(
            flat(critic_lib.values(params["critic"], hidden)),
            flat(data.values),
            flat(data.returns),
            flat(data.mask),
            clip=rl.critic.clip,
        )
        loss += error / tokens
        metrics |= {"value_loss": error / tokens, "value_clipped": critic_facts["clipped"] / tokens}
    return loss, {"loss": loss} | metrics | facts


def _surrogate(
    algorithm: algorithms.Algorithm, rl: RlConfig, new, old, data: Experience
) -> tuple[jax.Array, dict]:
    """Sum of the clipped surrogate over a micro-batch, weighted for the algorithm's mean, and sums
    for the log.
    """
    flat = lambda x: x.reshape(-1, x.shape[-1])
    mask = flat(data.mask)
    clips = dict(clip_low=algorithm.clip_low, clip_high=algorithm.clip_high)
    if algorithm.ratio == "sequence":
        loss, _, facts = losses.sequence_policy_loss(
            flat(new), flat(old), data.advantages.reshape(-1), mask, **clips
        )
        return loss, facts
    spread = (
        data.advantages
        if data.advantages.ndim == 3
        else jnp.broadcast_to(data.advantages[..., None], data.mask.shape)
    )
    factors, _ = algorithms.loss_weights(data.mask, algorithm.mean)
    if rl.importance_cap:
        importance = losses.truncated_importance_weights(
            old, data.sampler_logprobs, data.mask, rl.importance_cap
        )
        factors = importance if factors is None else importance * factors
    loss, _, facts = losses.policy_loss(
        flat(new),
        flat(old),
        flat(spread),
        mask,
        **clips,
        dual_clip=None if math.isinf(algorithm.clip_dual) else algorithm.clip_dual,
        weights=None if factors is None else flat(factors),
    )
    return loss, facts


def make_policy_step(
    cfg: VlmConfig,
    rl: RlConfig,
    optimizer: optax.GradientTransformation,
    layout: TrainState,
    lora: LoraConfig = LoraConfig(),
    frozen: tuple[str, ...] = (),
) -> Callable:
    """Returns the jitted `step(state, batch, experience, base=None) -> (state, metrics)`.

    The state is donated and keeps the sharding of `layout`; `base` is what adapters are added to;
    `frozen` weights, which the optimiser leaves alone, get no gradient.
    """
    mean = algorithms.resolve(rl).mean

    def step(
        state: TrainState, batch: Batch, data: Experience, base=None
    ) -> tuple[TrainState, Metrics]:
        divisors = {
            "tokens": jnp.maximum(data.mask.sum(), 1.0),
            "answers": jnp.maximum((data.mask.sum(axis=-1) > 0).sum(), 1.0),
            "loss": algorithms.loss_weights(data.mask, mean)[1],
        }
        coefficient = rl.kl_coefficient if state.kl_coefficient is None else state.kl_coefficient

        def loss_fn(params, micro):
            return policy_loss(
                hold(params, frozen), cfg, rl, lora, *micro, base, coefficient, divisors
            )

        (loss, metrics), grads = accumulated_gradients(
            loss_fn, state.params, (batch, data), rl.accumulate
        )
        state, applied = apply_gradients(state, grads, loss, optimizer)
        return state, metrics | applied

    return jit_update(step, layout)


def split_questions(tree, parts: int) -> list:
    """Cuts a batch and its experience into `parts` runs of whole media rows, one per mini-batch."""
    return [tree] if parts == 1 else _split(tree, parts)


@functools.partial(jax.jit, static_argnames="parts")
def _split(tree, parts: int) -> list:
    # Jitted, since the bounds of a slice outside of jit are sent to the device each time.
    cut = lambda i: jax.tree.map(
        lambda x: x[i * (x.shape[0] // parts) : (i + 1) * (x.shape[0] // parts)], tree
    )
    return [cut(i) for i in range(parts)]


def deal_rows(tokens: np.ndarray, parts: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """An order of media rows in which `parts` runs of equal length, one a mini- or micro-batch,
    hold about equally many tokens.

    The rows are sorted by tokens and dealt in rounds of one a part: the longest row of a round to
    the part with the fewest tokens so far, or with `rng` to any part, so that the parts of a later
    epoch have other members. What a row costs does not depend on its tokens (rows are padded to one
    width): this evens out how much each update learns from, not its time.

    Args:
      tokens: [R] answer tokens of each media row. parts: divides R.

    Returns:
      int64 [R], the rows of part 0, then those of part 1, ...; within a part in the order in which
      they came.
    """
    longest_first = np.argsort(-np.asarray(tokens), kind="stable").reshape(-1, parts)
    members, held = [[] for _ in range(parts)], np.zeros(parts)
    for dealt in longest_first:
        takers = np.argsort(held, kind="stable") if rng is None else rng.permutation(parts)
        for row, part in zip(dealt, takers):
            members[part].append(row)
            held[part] += tokens[row]
    return np.concatenate([np.sort(rows) for rows in members])


@jax.jit
def shuffle_questions(tree, order: jax.Array):
    """A batch and its experience with the media rows, and the text rows that belong to each, in the
    order `order` [R].
    """

    def move(x):
        groups = x.reshape(order.shape[0], x.shape[0] // order.shape[0], *x.shape[1:])
        return jnp.take(groups, order, axis=0).reshape(x.shape)

    return jax.tree.map(move, tree)
