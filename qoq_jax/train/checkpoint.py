"""Checkpoints: everything the next step depends on, in one atomic commit (Orbax).

A checkpoint holds the TrainState, the data iterator's state and a small JSON record (model
fingerprint, stage, step). A run that is killed at any moment restarts from the last committed step
and continues bit-identically.

Orbax reads many a flipped bit without a word, so the SHA-256 of every file is written into the
folder before the commit (sha256.json) and compared before reading. A damaged checkpoint is named,
and the one before it is used.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import os
import sys
from typing import Any

import jax
import orbax.checkpoint as ocp

from qoq_jax.base import append, files, storage
from qoq_jax.base.errors import CheckpointError
from qoq_jax.models.sizes import EcgConfig, VlmConfig
from qoq_jax.parallel import hosts, messages
from qoq_jax.train import checkpoint_store
from qoq_jax.train.checkpoint_store import CHECKSUMS, has_checkpoint

# Orbax raises a failed write and also logs its traceback from each of its threads; the raised one
# becomes our one line.
logging.getLogger("absl").addFilter(
    lambda record: record.levelno < logging.ERROR or "orbax" not in record.pathname
)

__all__ = ["Checkpointer", "damage", "has_checkpoint", "model_fingerprint", "write_checksums"]
_RUNTIME_FIELDS = ("compute_dtype", "remat", "attention")  # do not change what a checkpoint holds


def model_fingerprint(cfg: VlmConfig | EcgConfig) -> str:
    """Short hash of the architecture; two models with equal fingerprints have interchangeable
    parameters.
    """
    fields = {k: v for k, v in dataclasses.asdict(cfg).items() if k not in _RUNTIME_FIELDS}
    decoder = fields.get("decoder", {})
    if decoder.get("yarn", ...) is None:  # a field that older checkpoints do not know
        del decoder["yarn"]
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()[:16]


def write_checksums(folder: str) -> None:
    """Writes what a change of any file shows in, {path in it: SHA-256}, to its sha256.json."""
    sums = checkpoint_store.digests(folder)
    files.write_json(os.path.join(folder, CHECKSUMS), sums, indent=0)


def damage(folder: str) -> str | None:
    """What is wrong with the files of a checkpoint, or None.

    Without sha256.json (an older checkpoint) nothing is known.
    """
    path = os.path.join(folder, CHECKSUMS)
    try:
        sums = files.read_json(path, None, error=CheckpointError)
        if sums is None:
            return None
        found = checkpoint_store.digests(folder)
        for name, wanted in sums.items():
            if name not in found:
                return f"{name} is missing"
            if found[name] != wanted:
                return f"{name} has changed since it was written"
    except (CheckpointError, OSError, AttributeError) as error:
        return f"{CHECKSUMS} cannot be read ({type(error).__name__})"
    return None


class Checkpointer:
    """Saves and restores one stage of a run.

    Args:
      folder: where the numbered step folders live; made when missing.
      model: configuration whose fingerprint guards against a checkpoint of another model.
      keep: how many steps to keep.
    """

    def __init__(self, folder: str, model: VlmConfig | EcgConfig, keep: int = 2):
        self._place = checkpoint_store.place(folder)
        self._folder = self._place.folder
        self._model = model
        self._saving: int | None = None
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            create=True,
            enable_async_checkpointing=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._before_commit),
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def latest(self) -> int | None:
        """The last committed step, or None."""
        return messages.from_main("latest step", self._manager.latest_step)

    def save(self, step: int, state: Any, data_state: dict) -> None:
        """Starts an asynchronous save; a failure of this or the previous one is raised here or in
        `wait`.

        Raises:
          CheckpointError: the disk is full or cannot be written; the last committed step stays
            readable.
        """
        record = {"model": model_fingerprint(self._model), "step": step}
        try:
            append.flush_all()  # no row of a step before a checkpoint may be lost
            self.wait()
            self._saving = step
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    data=ocp.args.JsonSave(data_state),
                    record=ocp.args.JsonSave(record),
                ),
            )
        except (OSError, ValueError) as error:
            raise self._failed(step, error) from error

    def _before_commit(self) -> None:
        """Runs in Orbax's thread when all files are written and the folder has not got its final
        name yet.
        """
        if not hosts.is_main():
            return
        for name in storage.names(self._folder):
            if name == str(self._saving) or name.startswith(f"{self._saving}.orbax-checkpoint-tmp"):
                write_checksums(os.path.join(self._folder, name))
                self._place.commit(self._saving, os.path.join(self._folder, name))

    def wait(self) -> None:
        """Blocks until the running save is committed."""
        try:
            self._manager.wait_until_finished()
            self._place.keep_only(self._manager.all_steps())
        except (OSError, ValueError) as error:
            raise self._failed(None, error) from error

    def restore(self, abstract: Any, resume: bool = False) -> tuple[Any, dict, int]:
        """The last sound state in the layout of `abstract`, the data state, the step.

        Damaged checkpoints are passed over with a line on stderr each.

        Args:
          abstract: a state, or ShapeDtypeStructs with shardings.
          resume: training continues from it: damaged steps are renamed to damaged-STEP, since their
            numbers will be used again.

        Raises:
          CheckpointError: there is none, all are damaged, or it belongs to another model.
        """
        # What the files say is decided by process 0 for all; each reads its own parts.
        steps = messages.from_main(
            "steps", lambda: sorted(map(int, self._manager.all_steps()), reverse=True)
        )
        if not steps:
            raise CheckpointError(
                "no checkpoint", where=self._folder, hint="train first, or name another workdir"
            )
        for step, before in zip(steps, [*steps[1:], None]):
            folder = os.path.join(self._folder, str(step))
            self._place.fetch(step)
            wrong = messages.from_main("damage", functools.partial(damage, folder))
            if wrong is None:
                try:
                    return *self._read(step, abstract), step
                except CheckpointError:
                    raise
                # Orbax and TensorStore raise whatever their parsers meet
                except Exception as error:
                    wrong = (
                        f"cannot be read: {type(error).__name__}: "
                        f"{str(error).partition(chr(10))[0][:160]}"
                    )
                    # its files are as they were written: nothing is damaged; and of several
                    # processes none goes back alone
                    checked = storage.exists(os.path.join(folder, CHECKSUMS))
                    if checked or hosts.process_count() > 1:
                        raise CheckpointError(
                            f"the checkpoint {wrong}",
                            where=folder,
                            hint="use the config and the version of qoq_jax that wrote it",
                        ) from error
            if before is None:
                break
            kept = folder
            if resume:
                aside = functools.partial(self._place.set_aside, step)
                kept = messages.from_main("set aside", aside)
            if hosts.is_main():
                print(
                    f"qoq: {kept}: the checkpoint is damaged ({wrong}); the one of step {before} "
                    "is used (hint: delete that folder)",
                    file=sys.stderr,
                )
            if resume:
                self._manager.reload()
        raise CheckpointError(
            f"the checkpoint is damaged ({wrong}), and there is no intact one before it",
            where=folder,
            hint=f"restore the folder from a copy, or delete {self._folder} and start the same "
            "command again: the stage then starts from its beginning",
        )

    def _read(self, step: int, abstract: Any) -> tuple[Any, dict]:
        record = self._manager.restore(
            step, args=ocp.args.Composite(record=ocp.args.JsonRestore())
        )["record"]
        if record["model"] != model_fingerprint(self._model):
            raise CheckpointError(
                "the checkpoint holds another model than the config describes",
                where=os.path.join(self._folder, str(step)),
                hint="use the config it was trained with, or another workdir",
            )
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), abstract
        )
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(shapes), data=ocp.args.JsonRestore()
            ),
        )
        return restored["state"], restored["data"]

    def close(self) -> None:
        """Waits for the running save and frees the manager's threads."""
        self.wait()
        self._manager.close()

    def _failed(self, step: int | None, error: Exception) -> CheckpointError:
        what = "a checkpoint" if step is None else f"the checkpoint of step {step}"
        cause = (
            "the disk is full"
            if "No space left on device" in str(error)
            else str(error).partition("\n")[0]
        )
        return CheckpointError(
            f"cannot write {what}: {cause}",
            where=self._folder,
            hint="free disk space or choose another workdir; the last committed step is intact",
        )
