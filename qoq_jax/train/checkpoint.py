"""Checkpoints: everything the next step depends on, in one atomic commit (Orbax).

A checkpoint holds the TrainState, the data iterator's state and a small JSON record (model
fingerprint, stage, step). A run that is killed at any moment restarts from the last committed step
and continues bit-identically.

Before it is read, its files are compared with the hashes that were written with it (checksums.py).
A damaged checkpoint is named, and the one before it is used.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import os
import pathlib
import sys
import time
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from qoq_jax.base import append, exit_codes, progress, storage
from qoq_jax.base.errors import CheckpointError, QoqError, RetryError
from qoq_jax.data.rows import DOMAINS
from qoq_jax.parallel import hosts, leaving, messages
from qoq_jax.train import checkpoint_store
from qoq_jax.train.checkpoint_store import has_checkpoint
from qoq_jax.train.checksums import CHECKSUMS, damage, raise_what_may_pass, write_checksums
from qoq_jax.train.sections import CheckpointConfig
from qoq_jax.train.state import stored_layout, with_new_domains

__all__ = ["Checkpointer", "has_checkpoint", "model_fingerprint"]
SCORE = "macro_f1"  # of the validation rows, by which `keep_best` ranks
# What does not change what a checkpoint holds.
_RUNTIME_FIELDS = ("compute_dtype", "remat", "attention", "decode_attention", "kv_cache_dtype")


def _is_news(record: logging.LogRecord) -> bool:
    """Orbax raises a failed write and also logs its traceback from each of its threads: the raised
    one becomes our one line. It warns that a folder is opened for reading, too, as was asked.
    """
    if "orbax" not in record.pathname:
        return True
    text = record.getMessage()
    asked = "read_only=True" in text or "is read only=" in text
    return record.levelno < logging.ERROR and not asked


logging.getLogger("absl").addFilter(_is_news)


def model_fingerprint(cfg: Any) -> str:
    """Short hash of the architecture; two models with equal fingerprints have interchangeable
    parameters.
    """
    fields = {k: v for k, v in dataclasses.asdict(cfg).items() if k not in _RUNTIME_FIELDS}
    decoder = fields.get("decoder", {})
    if decoder.get("yarn", ...) is None:  # a field that older checkpoints do not know
        del decoder["yarn"]
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()[:16]


_KEEP = CheckpointConfig()


class _Manager(ocp.CheckpointManager):
    """Orbax's, with three differences.

    It leaves JAX's preemption service to parallel/preemption.py: it would ask with numbers of
    steps, and the service counts one kind of numbers alone. And it seals a step that it has
    committed, in the thread of the save and before older steps are deleted. And a score that cannot
    be read is none, so that `restore` comes to name the damage.
    """

    def __init__(self, place: checkpoint_store.Place, options: Any):
        super().__init__(place.folder, options=options)
        self._place = place

    def _finalize_checkpoint(self, step: int) -> None:
        super()._finalize_checkpoint(step)
        if hosts.is_main():
            self._place.seal(step)

    def metrics(self, step: int) -> dict[str, float] | None:
        try:
            found = super().metrics(step)
        except ValueError:  # no JSON, no UTF-8
            return None
        is_whole = isinstance(found, dict) and isinstance(found.get(SCORE), int | float)
        return found if is_whole else None

    def reached_preemption(self, step: int) -> bool:
        del step
        return False


def _kept(keep: CheckpointConfig) -> checkpoint_managers.PreservationPolicy:
    """Which of the saved steps stay."""
    policies: list[Any] = [checkpoint_managers.LatestN(keep.keep_last)]
    if keep.keep_every:
        policies.append(checkpoint_managers.EveryNSteps(keep.keep_every))
    if keep.keep_best:
        best = checkpoint_managers.BestN(
            get_metric_fn=_score, n=keep.keep_best, keep_checkpoints_without_metrics=False
        )
        policies.append(best)
    return checkpoint_managers.AnyPreservationPolicy(policies)


def _score(metrics: dict[str, float]) -> float:
    return metrics[SCORE]


@dataclasses.dataclass(frozen=True)
class SaveSpeed:
    """How long the last committed save took.

    Attributes:
      bytes: of all its files; 0 in processes that do not write the manifest.
      seconds: from the call of `save` to the commit.
    """

    bytes: int
    seconds: float


class Checkpointer:
    """Saves and restores one stage of a run. One of a version with fewer domains is restored with
    all of today's.

    Args:
      folder: where the numbered step folders live; made when missing.
      model: dataclass whose fingerprint guards against a checkpoint of another model.
      keep: which steps are kept.
      read_only: nothing is written or deleted there, and a run may be training in it meanwhile.

    Attributes:
      speed: of the last committed save, or None.
    """

    def __init__(
        self,
        folder: str,
        model: Any,
        keep: CheckpointConfig = _KEEP,
        read_only: bool = False,
    ):
        self._place = checkpoint_store.place(folder, read_only)
        self._folder, self._name = self._place.folder, self._place.name
        self._read_only = read_only
        self._model = model
        self._saving: int | None = None
        self._began = 0.0
        self.speed: SaveSpeed | None = None
        options = checkpoint_managers.CheckpointManagerOptions(
            preservation_policy=_kept(keep),
            best_fn=_score if keep.keep_best else None,
            create=True,
            enable_async_checkpointing=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._before_commit),
        )
        if read_only:
            options = checkpoint_managers.CheckpointManagerOptions(read_only=True, create=False)
        self._manager = _Manager(self._place, options)

    def latest(self) -> int | None:
        """The last committed step, or None."""
        return messages.from_main("latest step", self._manager.latest_step)

    @property
    def is_saving(self) -> bool:
        """Whether a save has begun that is not committed yet."""
        return self._manager.is_saving_in_progress()

    @progress.phase("save")
    def save(self, step: int, state: Any, data_state: dict, score: float | None = None) -> None:
        """Starts an asynchronous save; a failure of this or the previous one is raised here, in
        `check` or in `wait`.

        Args:
          score: of this step's validation, by which the best steps are kept; None = not validated.

        Raises:
          CheckpointError: the disk is full or cannot be written; the last committed step stays
            readable.
          RetryError: the storage did not answer.
        """
        record = {"model": model_fingerprint(self._model), "step": step}
        try:
            append.flush_all()  # no row of a step before a checkpoint may be lost
            self.wait()
            self._saving, self._began = step, time.monotonic()
            self._manager.save(
                step,
                metrics=None if score is None else {SCORE: score},
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
                folder = os.path.join(self._folder, name)
                write_checksums(folder)
                size = sum(
                    storage.size(os.path.join(where, file))
                    for where, found in storage.walk(folder)
                    for file in found
                )
                self._place.commit(self._saving, folder)
                self.speed = SaveSpeed(size, time.monotonic() - self._began)

    def check(self) -> None:
        """Raises what a save in the background has met since; else nothing happens."""
        try:
            self._manager.check_for_errors()
        except (OSError, ValueError) as error:
            raise self._failed(self._saving, error) from error

    @progress.phase("save")
    def wait(self) -> None:
        """Blocks until the running save is committed."""
        try:
            self._manager.wait_until_finished()
            self._place.keep_only(self._manager.all_steps())
        except (OSError, ValueError) as error:
            raise self._failed(None, error) from error

    def restore(
        self, abstract: Any, resume: bool = False, only: int | None = None
    ) -> tuple[Any, dict, int]:
        """The last sound state in the layout of `abstract`, the data state, the step.

        Damaged checkpoints are passed over with a line on stderr each.

        Args:
          abstract: a state, or ShapeDtypeStructs with shardings.
          resume: training continues from it: damaged steps are renamed to damaged-STEP, since their
            numbers will be used again.
          only: the state of this step, and no other.

        Raises:
          CheckpointError: there is none, all are damaged, or it belongs to another model.
          RetryError: the storage does not answer, which is no damage.
        """
        # What the files say is decided by process 0 for all; each reads its own parts.
        steps = messages.from_main(
            "steps", lambda: sorted(map(int, self._manager.all_steps()), reverse=True)
        )
        if not steps:
            raise CheckpointError(
                "no checkpoint", where=self._name, hint="train first, or name another workdir"
            )
        if only is not None:
            if only not in steps:
                kept = ", ".join(map(str, reversed(steps)))
                raise CheckpointError(
                    f"no checkpoint of step {only}", where=self._name, hint=f"it has {kept}"
                )
            steps = [only]
        for step, before in zip(steps, [*steps[1:], None]):
            folder, named = (f"{place}/{step}" for place in (self._folder, self._name))
            self._place.fetch(step)
            wrong = messages.from_main("damage", functools.partial(damage, folder))
            if wrong is None:
                try:
                    return *self._read(step, abstract, resume), step
                except QoqError:
                    raise
                # Orbax and TensorStore raise whatever their parsers meet
                except Exception as error:
                    raise_what_may_pass(error, named)
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
                            where=named,
                            hint="use the config and the version of qoq_jax that wrote it",
                        ) from error
            if before is None:
                break
            kept = named
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
        alone = "" if only is not None else ", and there is no intact one before it"
        raise CheckpointError(
            f"the checkpoint is damaged ({wrong}){alone}",
            where=named,
            hint=f"restore the folder from a copy, or delete {self._name} and start the same "
            "command again: the stage then starts from its beginning",
        )

    def _read(self, step: int, abstract: Any, resume: bool) -> tuple[Any, dict]:
        record = self._manager.restore(
            step, args=ocp.args.Composite(record=ocp.args.JsonRestore())
        )["record"]
        if record["model"] != model_fingerprint(self._model):
            raise CheckpointError(
                "the checkpoint holds another model than the config describes",
                where=f"{self._name}/{step}",
                hint="use the config it was trained with, or another workdir",
            )
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), abstract
        )
        folder = pathlib.Path(self._folder, str(step), "state")
        metadata = functools.partial(ocp.StandardCheckpointHandler().metadata, folder)
        stored = stored_layout(shapes, metadata)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(stored), data=ocp.args.JsonRestore()
            ),
        )
        if resume and stored is not shapes:
            new = DOMAINS[stored.history.count.shape[0] :]
            hosts.say(f"{self._name}/{step}: the history of DRPO is empty for {', '.join(new)}")
        return with_new_domains(restored["state"], shapes), restored["data"]

    def close(self) -> None:
        """Waits for the running save and frees the manager's threads."""
        if not self._read_only:
            self.wait()
        self._manager.close()
        self._place.close()

    def _failed(self, step: int | None, error: Exception) -> Exception:
        if hosts.process_count() > 1 and leaving.is_lost_peer(error):
            return error
        what = "a checkpoint" if step is None else f"the checkpoint of step {step}"
        if "No space left on device" in str(error):
            # Of this machine: where a URL's checkpoints are made before they are uploaded.
            return CheckpointError(
                f"cannot write {what}: the disk is full",
                where=self._folder,
                hint="free disk space or choose another "
                + ("workdir" if self._folder == self._name else "QOQ_CACHE")
                + "; the last committed step is intact",
            )
        cause = str(error).partition("\n")[0]
        if exit_codes.is_transient(error):
            return RetryError(
                f"cannot write {what}: {cause}",
                where=self._name,
                hint="start the same command again; the last committed step is intact",
            )
        return CheckpointError(
            f"cannot write {what}: {cause}",
            where=self._name,
            hint="free disk space or choose another workdir; the last committed step is intact",
        )
