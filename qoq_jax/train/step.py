"""The jitted updates: one supervised step, one policy step. Both accumulate over micro-batches exactly.

A micro-batch is a set of whole media rows with their text rows. Losses are sums over tokens divided by the token count of the
WHOLE batch, so that the gradient does not depend on how the batch is cut, nor over how many devices it is spread.

Letters: B text rows, R media rows, T tokens, Q questions (= text rows in RL), G rollouts, S response positions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import struct

from qoq_jax.config import RlConfig
from qoq_jax.models import vlm
from qoq_jax.models.variants import VlmConfig
from qoq_jax.rl import drpo, losses, rollout
from qoq_jax.rl.advantages import grpo
from qoq_jax.train.state import TrainState, apply_gradients

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


@struct.dataclass
class Experience:
    """What a policy update learns from.

    Attributes:
      tokens, mask: [Q, G, S] the answers.
      old_logprobs: float32 [Q, G, S] under the policy that sampled them.
      ref_logprobs: float32 [Q, G, S] under the frozen reference.
      advantages: float32 [Q, G].
    """

    tokens: jax.Array
    mask: jax.Array
    old_logprobs: jax.Array
    ref_logprobs: jax.Array
    advantages: jax.Array


def accumulated_gradients(loss_fn: Callable, params, batches, parts: int):
    """Sums loss, gradients and metrics of `loss_fn(params, micro_batch)` over `parts` micro-batches.

    Args:
      loss_fn: returns (loss already divided by the whole batch's token count, metrics that add up; a name that ends in
        "_max" is a maximum instead).
      batches: pytree whose leaves have the batch on axis 0, each divisible by `parts`.
    """
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    if parts == 1:
        return grad_fn(params, batches)
    split = jax.tree.map(lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), batches)
    first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), split)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(grad_fn, params, first))

    def body(total, micro):
        ((loss, metrics), grads), ((more, facts), more_grads) = total, grad_fn(params, micro)
        metrics = {name: (jnp.maximum if name.endswith("_max") else jnp.add)(value, facts[name])
                   for name, value in metrics.items()}
        return ((loss + more, metrics), jax.tree.map(jnp.add, grads, more_grads)), None

    return jax.lax.scan(body, zeros, split)[0]


def sft_loss(params, cfg: VlmConfig, batch: Batch, denominator: jax.Array) -> tuple[jax.Array, Metrics]:
    """Cross-entropy of the answer tokens, −Σ log π(xₜ | x₍<ₜ₎) / denominator."""
    hidden = vlm.hidden(params, cfg, batch)
    weight = batch["loss_mask"][:, 1:]
    logprobs, entropy = vlm.token_logprobs(params, cfg, hidden[:, :-1], batch["tokens"][:, 1:])
    loss = -(logprobs * weight).sum() / denominator
    return loss, {"loss": loss, "entropy": (entropy * weight).sum() / denominator}


def make_sft_step(cfg: VlmConfig, optimizer: optax.GradientTransformation, accumulate: int, layout: TrainState) -> Callable:
    """Returns the jitted `step(state, batch) -> (state, metrics)`; the state is donated and keeps the sharding of `layout`."""

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        denominator = jnp.maximum(batch["loss_mask"][:, 1:].sum(), 1.0)
        (loss, metrics), grads = accumulated_gradients(
            lambda p, b: sft_loss(p, cfg, b, denominator), state.params, batch, accumulate)
        state, applied = apply_gradients(state, grads, loss, optimizer)
        return state, metrics | applied

    return _jit_update(step, layout)


def _jit_update(step: Callable, layout: TrainState) -> Callable:
    """Jits an update whose new state lies where the old one lay; left to the compiler, it could move and recompile."""
    shardings = jax.tree.map(lambda x: x.sharding, layout)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


@functools.cache
def make_sampler(cfg: VlmConfig, rollouts: int, max_new_tokens: int, temperature: float, top_p: float) -> Callable:
    """Returns the jitted `sampler(params, batch, key, banned) -> rollout.Rollout`."""

    def sampler(params, batch, key, banned):
        return rollout.sample(params, cfg, batch, key, rollouts=rollouts, max_new_tokens=max_new_tokens,
                              temperature=temperature, top_p=top_p, banned=banned)

    return jax.jit(sampler)


def make_scorer(cfg: VlmConfig, temperature: float) -> Callable:
    """Returns the jitted `scorer(params, batch, tokens, mask) -> logprobs [Q, G, S]`."""
    return jax.jit(lambda params, batch, tokens, mask: rollout.score(params, cfg, batch, tokens, mask, temperature)[0])


def make_advantages(cfg: RlConfig) -> Callable:
    """Returns the jitted `advantages(rewards, domains, valid, kl, history) -> (advantages, history, diagnostics)`.

    Shapes: rewards and kl [Q, G], domains and valid [Q].
    """

    def advantages(rewards, domains, valid, kl, history):
        if cfg.algorithm == "drpo":
            return drpo.advantages(rewards, domains, kl=kl, history=history, cfg=cfg.drpo, valid=valid)
        scores = jnp.where(valid[:, None], grpo(rewards), 0.0)
        return scores, history, {}

    return jax.jit(advantages)


def policy_loss(params, cfg: VlmConfig, rl: RlConfig, batch: Batch, data: Experience,
                denominator: jax.Array) -> tuple[jax.Array, Metrics]:
    """Clipped surrogate plus KL to the reference, both as means over the answer tokens of the whole batch."""
    new, entropy = rollout.score(params, cfg, batch, data.tokens, data.mask, rl.temperature)
    flat = lambda x: x.reshape(-1, x.shape[-1])
    mask = flat(data.mask)
    spread = jnp.broadcast_to(data.advantages[..., None], data.mask.shape)
    surrogate, _, facts = losses.policy_loss(
        flat(new), flat(data.old_logprobs), flat(spread), mask,
        clip_low=rl.clip_low, clip_high=rl.clip_high, dual_clip=rl.clip_dual)
    kl = (losses.kl(new, data.ref_logprobs, "low_var") * data.mask).sum()
    loss = (surrogate + rl.kl_coefficient * kl) / denominator
    difference = jnp.abs(new - data.old_logprobs) * data.mask
    return loss, {
        "loss": loss,
        "entropy": entropy.sum() / denominator,
        "kl": kl / denominator,
        "logprob_difference_mean": difference.sum() / denominator,
        "logprob_difference_max": difference.max(),
    } | {f"policy/{name}": value / denominator for name, value in facts.items()}


def make_policy_step(cfg: VlmConfig, rl: RlConfig, optimizer: optax.GradientTransformation, layout: TrainState) -> Callable:
    """Returns the jitted `step(state, batch, experience) -> (state, metrics)`; donation and sharding as in `make_sft_step`."""

    def step(state: TrainState, batch: Batch, data: Experience) -> tuple[TrainState, Metrics]:
        denominator = jnp.maximum(data.mask.sum(), 1.0)

        def loss_fn(params, micro):
            return policy_loss(params, cfg, rl, *micro, denominator)

        (loss, metrics), grads = accumulated_gradients(loss_fn, state.params, (batch, data), rl.accumulate)
        state, applied = apply_gradients(state, grads, loss, optimizer)
        return state, metrics | applied

    return _jit_update(step, layout)


def rollout_kl(sampled: rollout.Rollout, ref_logprobs: jax.Array) -> jax.Array:
    """KL of each answer to the reference, summed over its tokens (low-variance estimator): [Q, G, S] -> [Q, G]."""
    return (losses.kl(sampled.logprobs, ref_logprobs, "low_var") * sampled.mask).sum(axis=-1)


def split_questions(tree, parts: int) -> list:
    """Cuts a batch and its experience into `parts` runs of whole media rows, one per mini-batch."""
    cut = lambda i: jax.tree.map(lambda x: x[i * (x.shape[0] // parts):(i + 1) * (x.shape[0] // parts)], tree)
    return [cut(i) for i in range(parts)]
