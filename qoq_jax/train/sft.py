"""Supervised stages: the warm start on packed gold answers, and `rl.algorithm = "sft"`, the
baseline without RL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from qoq_jax.data.packing import Placed, empty_batch
from qoq_jax.models import vlm
from qoq_jax.models.logprobs import token_logprobs
from qoq_jax.models.lora import LoraConfig
from qoq_jax.models.sizes import VlmConfig
from qoq_jax.train import domains
from qoq_jax.train.loop import Row, StepResult
from qoq_jax.train.optim import stop_frozen_gradients
from qoq_jax.train.plan import Plan
from qoq_jax.train.setup import Setup
from qoq_jax.train.stage_run import StageRun
from qoq_jax.train.state import TrainState, apply_gradients
from qoq_jax.train.step import (
    Batch,
    LossMetrics,
    Metrics,
    accumulated_gradients,
    jit_update,
    model_weights,
)

_NO_ADAPTERS = LoraConfig()


def run(setup: Setup, plan: Plan, weights: Any) -> Any:
    """Trains on gold answers; returns the weights reached.

    Stage sft packs several samples into a row and may hide diagnoses. In the place of RL, the
    prompts are the very ones that RL would sample responses to, `rl.questions` a step, and their
    gold answers are whole.
    """
    stage = StageRun(setup, plan, weights)
    update = make_sft_step(
        setup.model,
        stage.optimizer,
        plan.accumulate,
        stage.layout,
        plan.lora,
        plan.optimizer.frozen,
    )
    # compiled before the data are asked for, which may still be on their way
    if not stage.finished:
        budget = setup.training_budget(plan.name, answers=True)
        empty = with_domains(empty_batch(budget.part(setup.share.count)), [])
        update = update.lower(stage.layout, setup.put(empty), stage.base).compile()
    stage.feed(setup.training_iterator(plan.name, answers=True, domains=plan.domains))

    def step(state: TrainState, number: int) -> StepResult:
        del number  # nothing is sampled
        batch, samples = next(stage.data)
        batch = setup.put(with_domains(batch, samples))
        state, metrics = update(stage.on_device(state), batch, stage.base)
        return StepResult(stage.offloaded(state), metrics, {}, [s.meta.id for s in samples])

    return stage.loop(step, headline)


def with_domains(batch: Mapping[str, np.ndarray], samples: Sequence[Placed]) -> Batch:
    """A packed batch with "domains", int32 [B, T], by which the loss of each is summed."""
    return {**batch, "domains": domains.token_domains(batch["segment_ids"], samples)}


def headline(row: Row) -> dict[str, str]:
    """What of a log row is shown on the terminal."""
    return {"loss": f"{row['loss']:.3f}"}


def sft_loss(
    params: Any, cfg: VlmConfig, batch: Batch, denominator: jax.Array
) -> tuple[jax.Array, LossMetrics]:
    """Cross-entropy of the response tokens, −Σ log π(xₜ | x₍<ₜ₎) / denominator; of a batch
    `with_domains` also the sums of each domain.
    """
    hidden = vlm.hidden(params, cfg, batch)
    # The last token predicts one that does not exist, and does not count.
    next_one = {
        name: jnp.pad(batch[name][:, 1:], [(0, 0), (0, 1)])
        for name in ("tokens", "loss_mask", "domains")
        if name in batch
    }
    weight = next_one["loss_mask"]
    logprobs, entropy = token_logprobs(params["decoder"], hidden, next_one["tokens"])
    loss = -(logprobs * weight).sum() / denominator
    sums = {"loss": loss, "entropy": (entropy * weight).sum() / denominator}
    if "domains" in next_one:
        sums[domains.LOSS] = domains.loss_sums(-logprobs, weight, next_one["domains"])
    return loss, LossMetrics(sums, {})


def make_sft_step(
    cfg: VlmConfig,
    optimizer: optax.GradientTransformation,
    accumulate: int,
    layout: TrainState,
    lora: LoraConfig = _NO_ADAPTERS,
    frozen: tuple[str, ...] = (),
) -> Callable:
    """Returns the jitted `step(state, batch, base=None) -> (state, metrics)`.

    The state is donated and keeps the sharding of `layout`; `base` is what adapters are added to;
    `frozen` weights, which the optimiser leaves alone, get no gradient.
    """

    def step(state: TrainState, batch: Batch, base: Any = None) -> tuple[TrainState, Metrics]:
        denominator = jnp.maximum(batch["loss_mask"][:, 1:].sum(), 1.0)

        def loss_fn(params: Any, micro: Batch) -> tuple[jax.Array, LossMetrics]:
            weights = model_weights(stop_frozen_gradients(params, frozen), base, lora)
            return sft_loss(weights, cfg, micro, denominator)

        (loss, metrics), grads = accumulated_gradients(loss_fn, state.params, batch, accumulate)
        state, applied = apply_gradients(state, grads, loss, optimizer)
        # Of the whole batch, which no process knows.
        counts = {
            "tokens": batch["loss_mask"].sum(),
            "samples": batch["segment_ids"].max(axis=1).sum(),
        }
        return state, metrics | applied | counts

    return jit_update(step, layout)
