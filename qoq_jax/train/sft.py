"""Supervised stages: the warm start on packed gold answers, and `rl.algorithm = "sft"`, the
baseline without RL.
"""

from __future__ import annotations

from qoq_jax.data.packing import empty_batch
from qoq_jax.train import step as steps
from qoq_jax.train.loop import Plan, Stage
from qoq_jax.train.setup import Setup
from qoq_jax.train.state import TrainState


def run(setup: Setup, plan: Plan, weights):
    """Trains on gold answers; returns the weights reached.

    Stage sft packs several samples into a row and may hide diagnoses. In the place of RL, the
    questions are the very ones that RL would sample answers to, `rl.questions` a step, and their
    gold answers are whole.
    """
    cfg = setup.config
    accumulate = cfg.sft.accumulate if plan.name == "sft" else cfg.rl.accumulate
    stage = Stage(setup, plan, weights)
    step_fn = steps.make_sft_step(
        setup.model, stage.optimizer, accumulate, stage.layout, plan.lora, plan.optimizer.frozen
    )
    # compiled before the data are asked for, which may still be on their way
    if not stage.finished:
        empty = setup.put(empty_batch(setup.training_budget(plan.name, answers=True)))
        step_fn = step_fn.lower(stage.layout, empty, stage.base).compile()
    stage.feed(setup.training_iterator(plan.name, answers=True, domains=plan.domains))

    def one(state: TrainState, step: int):
        batch, samples = next(stage.data)
        stage.asked = [s.meta.id for s in samples]
        state, metrics = step_fn(stage.on_device(state), setup.put(batch), stage.base)
        return (
            stage.parked(state),
            metrics,
            {"tokens": float(batch["loss_mask"].sum()), "samples": len(samples)},
        )

    return stage.loop(one, lambda m: {"loss": f"{m['loss']:.3f}"})
