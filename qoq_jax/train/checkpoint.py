"""Checkpoints: everything the next step depends on, in one atomic commit (Orbax).

A checkpoint holds the TrainState, the data iterator's state and a small JSON record (model fingerprint, stage, step). A run that
is killed at any moment restarts from the last committed step and goes on bit-identically.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from typing import Any

import jax
import orbax.checkpoint as ocp

from qoq_jax.errors import CheckpointError
from qoq_jax.models.variants import EcgConfig, VlmConfig

# Orbax raises a failed write and also logs its traceback from each of its threads; the raised one becomes our one line.
logging.getLogger("absl").addFilter(lambda record: record.levelno < logging.ERROR or "orbax" not in record.pathname)

_RUNTIME_FIELDS = ("compute_dtype", "remat")  # do not change what a checkpoint holds


def model_fingerprint(cfg: VlmConfig | EcgConfig) -> str:
    """Short hash of the architecture; two models with equal fingerprints have interchangeable parameters."""
    fields = {k: v for k, v in dataclasses.asdict(cfg).items() if k not in _RUNTIME_FIELDS}
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()[:16]


class Checkpointer:
    """Saves and restores one stage of a run.

    Args:
      folder: where the numbered step folders live; made when missing.
      model: configuration whose fingerprint guards against a checkpoint of another model.
      keep: how many steps to keep.
    """

    def __init__(self, folder: str, model: VlmConfig | EcgConfig, keep: int = 2):
        self._folder = os.path.abspath(folder)
        self._model = model
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def latest(self) -> int | None:
        """The last committed step, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, data_state: dict) -> None:
        """Starts an asynchronous save; a failure of this or the previous one is raised here or in `wait`.

        Raises:
          CheckpointError: the disk is full or cannot be written; the last committed step stays readable.
        """
        record = {"model": model_fingerprint(self._model), "step": step}
        try:
            self._manager.wait_until_finished()
            self._manager.save(step, args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data_state), record=ocp.args.JsonSave(record)))
        except (OSError, ValueError) as error:
            raise self._failed(step, error) from error

    def wait(self) -> None:
        """Blocks until the running save is committed."""
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise self._failed(None, error) from error

    def restore(self, abstract: Any, step: int | None = None) -> tuple[Any, dict, int]:
        """The state in the layout of `abstract` (a state, or ShapeDtypeStructs with shardings), the data state, the step.

        Raises:
          CheckpointError: there is none, or it belongs to another model.
        """
        step = self.latest() if step is None else step
        if step is None:
            raise CheckpointError("no checkpoint", where=self._folder, mend="train first, or name another workdir")
        record = self._manager.restore(step, args=ocp.args.Composite(record=ocp.args.JsonRestore()))["record"]
        if record["model"] != model_fingerprint(self._model):
            raise CheckpointError("the checkpoint holds another model than the config describes",
                                  where=os.path.join(self._folder, str(step)),
                                  mend="use the config it was trained with, or another workdir")
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), abstract)
        restored = self._manager.restore(step, args=ocp.args.Composite(
            state=ocp.args.StandardRestore(shapes), data=ocp.args.JsonRestore()))
        return restored["state"], restored["data"], step

    def close(self) -> None:
        """Waits for the running save and frees the manager's threads."""
        self.wait()
        self._manager.close()

    def _failed(self, step: int | None, error: Exception) -> CheckpointError:
        what = "a checkpoint" if step is None else f"the checkpoint of step {step}"
        cause = "the disk is full" if "No space left on device" in str(error) else str(error).partition("\n")[0]
        return CheckpointError(f"cannot write {what}: {cause}", where=self._folder,
                               mend="free disk space or choose another workdir; the last committed step is intact")
