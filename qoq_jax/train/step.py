"""The supervised update, and what all updates share: exact accumulation over micro-batches.

A micro-batch is a set of whole media rows with their text rows. Losses are sums over tokens divided
by the token count of the WHOLE batch, so that the gradient does not depend on how the batch is cut,
nor over how many devices it is spread.

Letters: B text rows, R media rows, T tokens, Q questions (= text rows in RL), G rollouts, S
response positions.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from qoq_jax.models import lora as lora_lib
from qoq_jax.models import vlm
from qoq_jax.models.lora import LoraConfig
from qoq_jax.models.sizes import VlmConfig
from qoq_jax.train.state import TrainState, apply_gradients, hold

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def accumulated_gradients(loss_fn: Callable, params, batches, parts: int):
    """Sums loss, gradients and metrics of `loss_fn(params, micro_batch)` over `parts`
    micro-batches.

    Args:
      loss_fn: returns (loss already divided by the whole batch's token count, metrics that add up;
        a name that ends in "_max" is a maximum instead).
      batches: pytree whose leaves have the batch on axis 0, each divisible by `parts`.
    """
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    if parts == 1:
        return grad_fn(params, batches)
    split = jax.tree.map(lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), batches)
    first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), split)
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(grad_fn, params, first)
    )

    def body(total, micro):
        ((loss, metrics), grads), ((more, facts), more_grads) = total, grad_fn(params, micro)
        metrics = {
            name: (jnp.maximum if name.endswith("_max") else jnp.add)(value, facts[name])
            for name, value in metrics.items()
        }
        return ((loss + more, metrics), jax.tree.map(jnp.add, grads, more_grads)), None

    return jax.lax.scan(body, zeros, split)[0]


def sft_loss(
    params, cfg: VlmConfig, batch: Batch, denominator: jax.Array
) -> tuple[jax.Array, Metrics]:
    """Cross-entropy of the answer tokens, −Σ log π(xₜ | x₍<ₜ₎) / denominator."""
    hidden = vlm.hidden(params, cfg, batch)
    weight = batch["loss_mask"][:, 1:]
    logprobs, entropy = vlm.token_logprobs(params, cfg, hidden[:, :-1], batch["tokens"][:, 1:])
    loss = -(logprobs * weight).sum() / denominator
    return loss, {"loss": loss, "entropy": (entropy * weight).sum() / denominator}


def model_weights(params, base, lora: LoraConfig):
    """All weights of the model: the trained ones themselves, or a base with the trained adapters
    added.
    """
    return params if base is None else lora_lib.merge(base, params["lora"], lora)


def make_sft_step(
    cfg: VlmConfig,
    optimizer: optax.GradientTransformation,
    accumulate: int,
    layout: TrainState,
    lora: LoraConfig = LoraConfig(),
    frozen: tuple[str, ...] = (),
) -> Callable:
    """Returns the jitted `step(state, batch, base=None) -> (state, metrics)`.

    The state is donated and keeps the sharding of `layout`; `base` is what adapters are added to;
    `frozen` weights, which the optimiser leaves alone, get no gradient.
    """

    def step(state: TrainState, batch: Batch, base=None) -> tuple[TrainState, Metrics]:
        denominator = jnp.maximum(batch["loss_mask"][:, 1:].sum(), 1.0)
        (loss, metrics), grads = accumulated_gradients(
            lambda p, b: sft_loss(model_weights(hold(p, frozen), base, lora), cfg, b, denominator),
            state.params,
            batch,
            accumulate,
        )
        state, applied = apply_gradients(state, grads, loss, optimizer)
        return state, metrics | applied

    return jit_update(step, layout)


def jit_update(step: Callable, layout: TrainState) -> Callable:
    """Jits an update whose new state lies where the old one lay; left to the compiler, it could
    move and recompile.
    """
    shardings = jax.tree.map(lambda x: x.sharding, layout)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
