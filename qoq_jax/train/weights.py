"""Weights of the multimodal model before a run's first stage and after any stage: random,
published, of another run, or from a checkpoint.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from qoq_jax import hf
from qoq_jax.base.errors import CheckpointError, ConfigError
from qoq_jax.models import vlm
from qoq_jax.train import jepa, run_config
from qoq_jax.train.checkpoint import has_checkpoint
from qoq_jax.train.plan import plan
from qoq_jax.train.setup import Setup, is_published, model_config
from qoq_jax.train.stage_run import checkpointer, random_weights, state_layout
from qoq_jax.train.step import full_weights
from qoq_jax.train.validation import Validation


def start_weights(setup: Setup) -> dict[str, Any] | None:
    """The weights that the first stage of a run begins with, on the setup's mesh: those of the run
    `config.start`, or of `model.variant` with `model.ecg_weights`. None: all are random.

    Raises:
      ConfigError: the run named in `start` trained another model.
      CheckpointError: it has no sound checkpoint.
    """
    cfg = setup.config
    if not cfg.start:
        weights = published_weights(setup) if is_published(cfg.model.variant) else None
        if not cfg.model.ecg_weights:
            return weights
        return jepa.with_ecg_weights(weights or random_weights(setup, cfg.stages[0]), setup)
    theirs = run_config.read(cfg.start)
    if model_config(theirs) != model_config(cfg):
        raise ConfigError(
            "the run named in start trained another model",
            where=cfg.start,
            hint="give both runs the same section model",
        )
    return weights_after(
        dataclasses.replace(setup, config=theirs), run_config.last_trained_stage(theirs)
    )


def published_weights(setup: Setup) -> dict[str, Any]:
    """The weights of the Hugging Face model that `model.variant` names, float32; an ECG encoder
    that it lacks is random.
    """
    _, found = hf.load(hf.resolve(setup.config.model.variant), setup.mesh, "float32")
    wanted = vlm.param_specs(setup.model)
    lacking = frozenset(wanted.keys() - found.keys())
    new = random_weights(setup, setup.config.stages[0], lacking) if lacking else {}
    return {branch: found[branch] if branch in found else new[branch] for branch in wanted}


def weights_after(setup: Setup, name: str, step: int | None = None) -> dict[str, Any]:
    """All weights that a stage reached, from its checkpoint. Adapters are added to what the stages
    before it reached.

    step: see `load_weights`.

    Raises:
      CheckpointError: there is no sound checkpoint.
    """
    before = None
    if plan(setup.config, name).lora.rank:
        place = setup.config.stages.index(name)
        if place:
            before = weights_after(setup, setup.config.stages[place - 1])
        else:
            before = start_weights(setup)
    return load_weights(setup, name, before, step)


def load_weights(setup: Setup, name: str, before: Any, step: int | None = None) -> dict[str, Any]:
    """All weights that a stage has reached, from its last checkpoint (or its best, with
    `eval.best`).

    Args:
      setup: the run.
      name: of the stage.
      before: the weights that the stage started from; needed for adapters, else None will do.
      step: the checkpoint of this step, as it was saved.

    Raises:
      CheckpointError: there is no sound checkpoint.
    """
    stage = plan(setup.config, name)
    folder = os.path.join(setup.config.workdir, "checkpoints", name)
    if not has_checkpoint(folder):
        raise CheckpointError(
            "no checkpoint", where=folder, hint="train this stage first, or name another"
        )
    if stage.lora.rank and before is None:
        before = random_weights(setup, name)
    checkpoints = checkpointer(setup, name, read_only=True)
    try:
        trained = checkpoints.restore(state_layout(setup, stage), only=step)[0].params
    finally:
        checkpoints.close()
    if setup.config.eval.best and step is None:
        trained = Validation(setup.config.workdir, name, setup.config.eval).restore_best(trained)
    return full_weights(trained, before, stage.lora)
