"""What all updates share: exact accumulation over micro-batches, adapters, and the jitted step.

A micro-batch is a set of whole media rows with their text rows. Losses are sums over tokens divided
by the token count of the WHOLE batch, so that the gradient does not depend on how the batch is cut,
nor over how many devices it is spread, up to rounding in the compute dtype.

Letters: B text rows, R media rows, T tokens, Q questions (= text rows in RL), G rollouts, S
response positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qoq_jax.models import lora as lora_lib
from qoq_jax.models.lora import LoraConfig
from qoq_jax.parallel.mesh import constrain

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


class LossMetrics(NamedTuple):
    """What a loss function tells beside the loss, by how micro-batches of it are joined.

    Attributes:
      sums: added up; so what is a mean has been divided by the whole batch's count.
      maxima: the largest counts.
    """

    sums: Metrics
    maxima: Metrics


def accumulated_gradients(
    loss_fn: Callable[[Any, Any], tuple[jax.Array, LossMetrics]],
    params: Any,
    batch: Any,
    parts: int,
) -> tuple[tuple[jax.Array, Metrics], Any]:
    """((loss, metrics), gradients) of a batch, computed in `parts` micro-batches.

    Args:
      loss_fn: (params, micro-batch) -> (loss already divided by the whole batch's token count,
        LossMetrics).
      params: pytree of weights.
      batch: pytree whose leaves have the batch on axis 0, each divisible by `parts`.
      parts: micro-batches.
    """
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    with jax.named_scope("gradients"):
        if parts == 1:
            (loss, metrics), grads = grad_fn(params, batch)
            return (loss, metrics.sums | metrics.maxima), grads
        split = _micro_batches(batch, parts)
        first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), split)
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(grad_fn, params, first)
        )

        def body(total: Any, micro: Any) -> tuple[Any, None]:
            ((loss, metrics), grads), ((more_loss, more), more_grads) = (
                total,
                grad_fn(params, micro),
            )
            joined = LossMetrics(
                jax.tree.map(jnp.add, metrics.sums, more.sums),
                jax.tree.map(jnp.maximum, metrics.maxima, more.maxima),
            )
            return ((loss + more_loss, joined), jax.tree.map(jnp.add, grads, more_grads)), None

        ((loss, metrics), grads), _ = jax.lax.scan(body, zeros, split)
    return (loss, metrics.sums | metrics.maxima), grads


def _micro_batches(batch: Any, parts: int) -> Any:
    """The leaves [rows, ...] as [parts, rows / parts, ...]: micro-batch p has the media rows p, p +
    parts, ..., each with its text rows. So every device has rows of its own in every micro-batch.
    """
    media_rows = min(x.shape[0] for x in jax.tree.leaves(batch))

    def cut(x: jax.Array) -> jax.Array:
        rows, *rest = x.shape
        x = x.reshape(media_rows // parts, parts, rows // media_rows, *rest)
        x = jnp.moveaxis(x, 1, 0).reshape(parts, rows // parts, *rest)
        return constrain(x, (None, "batch", *[None] * (x.ndim - 2)))

    return jax.tree.map(cut, batch)


def model_weights(params: Any, base: Any, lora: LoraConfig) -> Any:
    """All weights of the model: the trained ones themselves, or a base with the trained adapters
    added.
    """
    return params if base is None else lora_lib.merge(base, params["lora"], lora)


def full_weights(params: Any, base: Any, lora: LoraConfig) -> dict[str, Any]:
    """All weights of the model out of what a stage trains: adapters merged, the critic left out."""
    weights = model_weights(params, base, lora)
    return {name: part for name, part in weights.items() if name != "critic"}


def jit_update(step: Callable, layout: Any) -> Callable:
    """Jits an update whose new state lies where the old one lay; left to the compiler, it could
    move and recompile.
    """
    shardings = jax.tree.map(lambda x: x.sharding, layout)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
