"""The jitted policy update, for every algorithm of rl/algorithms.py, and the advantages that it
learns from.

Letters: Q groups (= text rows), G responses of a group, S response positions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from qoq_jax.models import critic as critic_lib
from qoq_jax.models.sizes import VlmConfig
from qoq_jax.rl import algorithms, losses
from qoq_jax.rl.batches import GroupBatch, UpdateBatch
from qoq_jax.sampling import rollout
from qoq_jax.train import domains
from qoq_jax.train.config import RlConfig
from qoq_jax.train.optim import stop_frozen_gradients
from qoq_jax.train.plan import Plan
from qoq_jax.train.state import TrainState, apply_gradients, keep_finite
from qoq_jax.train.step import (
    Batch,
    LossMetrics,
    Metrics,
    accumulated_gradients,
    jit_update,
    model_weights,
)

# ---------------------------------------------------------------------------- values and advantages


def make_critic(model: VlmConfig) -> Callable:
    """Returns the jitted `values(weights, critic, prompts, tokens, mask) -> [Q, G, S]`, 0 where
    masked.
    """

    def values(
        weights: Any, critic: Any, prompts: Batch, tokens: jax.Array, mask: jax.Array
    ) -> jax.Array:
        hidden = rollout.answer_hidden(weights, model, prompts, tokens, mask)
        return rollout.by_response(critic_lib.values(critic, hidden), mask.shape[1]) * mask

    return jax.jit(values)


def make_advantages(rl: RlConfig, algorithm: algorithms.Algorithm) -> Callable:
    """Returns the jitted function behind every advantage: `advantages(groups, kl_coefficient) ->
    (algorithms.Estimate, mean KL per response [], next KL coefficient)`.

    groups: a GroupBatch with the log-probabilities of sampler, reference and, where the trainer has
    computed them, of the old policy, and greedy rewards, values and history where the algorithm
    needs them. kl_coefficient: float32 [], or None for the
    config's fixed one, which then has no next.
    """

    def advantages(
        groups: GroupBatch, kl_coefficient: jax.Array | None = None
    ) -> tuple[algorithms.Estimate, jax.Array, jax.Array | None]:
        between = groups.policy_logprobs, groups.ref_logprobs
        kl = (losses.kl(*between, "low_var") * groups.mask).sum(axis=-1)
        coefficient = rl.kl_coefficient if kl_coefficient is None else kl_coefficient
        penalty = None
        if rl.kl_in == "reward":
            penalty = coefficient * losses.kl(*between, rl.kl_estimator) * groups.mask
        estimate = algorithm.advantage(groups.replace(kl=kl, penalty=penalty), rl)
        count = jnp.maximum(groups.valid.sum() * rl.rollouts, 1)
        mean = (kl * groups.valid[:, None]).sum() / count
        # What outlives the step stays as it was after a step whose update will be dropped.
        finite = jnp.isfinite(mean) & jnp.isfinite(estimate.advantages).all()
        if groups.history is not None:
            history = keep_finite(finite, estimate.history, groups.history)
            estimate = dataclasses.replace(estimate, history=history)
        if kl_coefficient is not None:
            responses = rl.questions * rl.rollouts
            moved = algorithms.next_kl_coefficient(
                coefficient, mean, rl.kl_target, rl.kl_horizon, responses
            )
            kl_coefficient = keep_finite(finite, moved, kl_coefficient)
        return estimate, mean, kl_coefficient

    return jax.jit(advantages)


# ------------------------------------------------------------------------------------------- update


def policy_loss(
    params: Any,
    model: VlmConfig,
    plan: Plan,
    batch: UpdateBatch,
    base: Any,
    kl_coefficient: jax.Array | float,
    divisors: dict[str, jax.Array],
) -> tuple[jax.Array, LossMetrics]:
    """Clipped surrogate, plus KL to the reference where it is part of the loss, plus the critic's
    loss where there is one.

    Args:
      params: what is trained.
      model, plan: sizes of the model; the RL stage.
      batch: a micro-batch.
      base: what adapters are added to, or None.
      kl_coefficient: β.
      divisors: {"tokens", "responses", "loss"} of the whole update.
    """
    rl, algorithm = plan.rl, plan.algorithm
    weights = model_weights(params, base, plan.lora)
    hidden = rollout.answer_hidden(weights, model, batch.prompts, batch.tokens, batch.mask)
    new, entropy = rollout.score_hidden(
        weights, model, hidden, batch.tokens, batch.mask, rl.temperature
    )
    old = jax.lax.stop_gradient(new) if batch.old_logprobs is None else batch.old_logprobs
    loss, facts = _surrogate(algorithm, rl, new, old, batch)
    factors, _ = algorithms.loss_weights(batch.mask, algorithm.mean)
    if rl.kl_in == "loss":
        estimate = losses.kl(new, batch.ref_logprobs, rl.kl_estimator) * batch.mask
        loss += kl_coefficient * (estimate if factors is None else estimate * factors).sum()
    if rl.entropy_coefficient:
        bonus = entropy if factors is None else entropy * factors
        loss -= rl.entropy_coefficient * bonus.sum()
    loss /= divisors["loss"]

    tokens = divisors["tokens"]
    ratios = divisors["responses"] if algorithm.ratio == "sequence" else tokens
    facts = {f"policy/{name}": value / ratios for name, value in facts.items()}
    difference = jnp.abs(new - batch.sampler_logprobs) * batch.mask
    sums = {
        "entropy": entropy.sum() / tokens,
        "kl": (losses.kl(new, batch.ref_logprobs, "low_var") * batch.mask).sum() / tokens,
        "logprob_difference_mean": difference.sum() / tokens,
    }
    if batch.domains is not None:
        sums[domains.ENTROPY] = domains.entropy_sums(entropy, batch.mask, batch.domains)
    if algorithm.critic:
        error, clipped = _critic_loss(params["critic"], rl, hidden, batch)
        loss += error / tokens
        sums |= {"value_loss": error / tokens, "value_clipped": clipped / tokens}
    maxima = {"logprob_difference_max": difference.max()}
    return loss, LossMetrics({"loss": loss} | sums | facts, maxima)


def _critic_loss(
    critic: Any, rl: RlConfig, hidden: jax.Array, batch: UpdateBatch
) -> tuple[jax.Array, jax.Array]:
    """(sum of the value loss, number of tokens whose value was clipped) of a micro-batch."""
    error, _, facts = losses.value_loss(
        _rows(rollout.by_response(critic_lib.values(critic, hidden), batch.mask.shape[1])),
        _rows(batch.values),
        _rows(batch.returns),
        _rows(batch.mask),
        clip=rl.critic.clip,
    )
    return error, facts["clipped"]


def _surrogate(
    algorithm: algorithms.Algorithm,
    rl: RlConfig,
    new: jax.Array,
    old: jax.Array,
    batch: UpdateBatch,
) -> tuple[jax.Array, Metrics]:
    """Sum of the clipped surrogate over a micro-batch, weighted for the algorithm's mean, and sums
    for the log. new, old: float32 [Q, G, S] log-probabilities.
    """
    mask = _rows(batch.mask)
    clips = {"clip_low": algorithm.clip_low, "clip_high": algorithm.clip_high}
    if algorithm.ratio == "sequence":
        loss, _, facts = losses.sequence_policy_loss(
            _rows(new), _rows(old), batch.advantages.reshape(-1), mask, **clips
        )
        return loss, facts
    spread = batch.advantages
    if spread.ndim == 2:
        spread = jnp.broadcast_to(spread[..., None], batch.mask.shape)
    factors, _ = algorithms.loss_weights(batch.mask, algorithm.mean)
    if rl.importance_cap:
        importance = losses.truncated_importance_weights(
            old, batch.sampler_logprobs, batch.mask, rl.importance_cap
        )
        factors = importance if factors is None else importance * factors
    loss, _, facts = losses.policy_loss(
        _rows(new),
        _rows(old),
        _rows(spread),
        mask,
        **clips,
        dual_clip=None if math.isinf(algorithm.clip_dual) else algorithm.clip_dual,
        weights=None if factors is None else _rows(factors),
    )
    return loss, facts


def _rows(x: jax.Array) -> jax.Array:
    """[Q, G, S] -> [Q * G, S]."""
    return x.reshape(-1, x.shape[-1])


def make_policy_step(
    model: VlmConfig, plan: Plan, optimizer: optax.GradientTransformation, layout: TrainState
) -> Callable:
    """Returns the jitted `step(state, batch, base=None) -> (state, metrics)`; batch: UpdateBatch.

    The state is donated and keeps the sharding of `layout`; `base` is what adapters are added to;
    frozen weights, which the optimiser leaves alone, get no gradient.
    """
    rl, frozen = plan.rl, plan.optimizer.frozen

    def step(state: TrainState, batch: UpdateBatch, base: Any = None) -> tuple[TrainState, Metrics]:
        divisors = {
            "tokens": jnp.maximum(batch.mask.sum(), 1.0),
            "responses": jnp.maximum((batch.mask.sum(axis=-1) > 0).sum(), 1.0),
            "loss": algorithms.loss_weights(batch.mask, plan.algorithm.mean)[1],
        }
        coefficient = rl.kl_coefficient if state.kl_coefficient is None else state.kl_coefficient

        def loss_fn(params: Any, micro: UpdateBatch) -> tuple[jax.Array, LossMetrics]:
            params = stop_frozen_gradients(params, frozen)
            return policy_loss(params, model, plan, micro, base, coefficient, divisors)

        (loss, metrics), grads = accumulated_gradients(loss_fn, state.params, batch, rl.accumulate)
        state, applied = apply_gradients(state, grads, loss, optimizer)
        return state, metrics | applied

    return jit_update(step, layout)
