"""Supervised stages: the warm start on packed gold answers, and `rl.algorithm = "sft"`, the
baseline without RL.
"""

from __future__ import annotations

from typing import Any

from qoq_jax.data.packing import empty_batch
from qoq_jax.train import step as steps
from qoq_jax.train.loop import Row, StepResult
from qoq_jax.train.plan import Plan
from qoq_jax.train.setup import Setup
from qoq_jax.train.stage_run import StageRun
from qoq_jax.train.state import TrainState


def run(setup: Setup, plan: Plan, weights: Any) -> Any:
    """Trains on gold answers; returns the weights reached.

    Stage sft packs several samples into a row and may hide diagnoses. In the place of RL, the
    prompts are the very ones that RL would sample responses to, `rl.questions` a step, and their
    gold answers are whole.
    """
    stage = StageRun(setup, plan, weights)
    update = steps.make_sft_step(
        setup.model,
        stage.optimizer,
        plan.accumulate,
        stage.layout,
        plan.lora,
        plan.optimizer.frozen,
    )
    # compiled before the data are asked for, which may still be on their way
    if not stage.finished:
        empty = setup.put(empty_batch(setup.training_budget(plan.name, answers=True)))
        update = update.lower(stage.layout, empty, stage.base).compile()
    stage.feed(setup.training_iterator(plan.name, answers=True, domains=plan.domains))

    def step(state: TrainState, number: int) -> StepResult:
        del number  # nothing is sampled
        batch, samples = next(stage.data)
        state, metrics = update(stage.on_device(state), setup.put(batch), stage.base)
        facts = {"tokens": float(batch["loss_mask"].sum()), "samples": len(samples)}
        return StepResult(stage.offloaded(state), metrics, facts, [s.meta.id for s in samples])

    return stage.loop(step, _headline)


def _headline(row: Row) -> dict[str, str]:
    return {"loss": f"{row['loss']:.3f}"}
