"""Validation while training: macro-F1 every N steps, the best weights kept apart, a stage that
stops when nothing improves.

    WORKDIR/validation-STAGE.json          [[step, macro-F1], ...], in order
    WORKDIR/checkpoints/STAGE-best/STEP    the weights that the stage trains, at the best of these
                                           steps (the first of equals)

A resumed run drops the scores after its checkpoint and finds them again with the same bits.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp

from qoq_jax.base import files, storage
from qoq_jax.base.errors import CheckpointError, QoqError
from qoq_jax.evaluation import runner
from qoq_jax.parallel import hosts, messages
from qoq_jax.train import checkpoint_store
from qoq_jax.train.checksums import damage, raise_what_may_pass, write_checksums, write_seal
from qoq_jax.train.config import EvalConfig
from qoq_jax.train.loop import Hook, Loop


class Validation:
    """The scores of one stage.

    Args:
      workdir, stage: where the files are.
      cfg: section eval.
      start: the step that the stage continues from.
    """

    def __init__(self, workdir: str, stage: str, cfg: EvalConfig, start: int | None = None):
        self._path = os.path.join(workdir, f"validation-{stage}.json")
        self._folder = storage.absolute(os.path.join(workdir, "checkpoints", f"{stage}-best"))
        self._cfg = cfg

        def read() -> list[list]:
            scores = files.read_json(self._path, [], finite=False)
            kept = [step for step, _ in scores if storage.is_dir(self._of(step))]
            return [scores, kept]

        # What the files say decides when a stage stops: one process reads them for all.
        found, kept = messages.from_main("scores", read)
        self.scores = [(step, score) for step, score in found if start is None or step <= start]
        self._kept = set(kept)

    @property
    def best_step(self) -> int | None:
        """The step of the highest score whose weights are kept, or None before the first one.

        A run that continues from a checkpoint may find that better weights of a later step have
        taken the place of its best.
        """
        kept = [item for item in self.scores if item[0] in self._kept]
        return max(kept, key=lambda item: item[1])[0] if kept else None

    @property
    def stopped(self) -> bool:
        """Whether the last `eval.patience` scores brought no new best."""
        since = [
            step for step, _ in self.scores if self.best_step is not None and step > self.best_step
        ]
        return bool(self._cfg.patience) and len(since) >= self._cfg.patience

    def due(self, step: int, last: bool) -> bool:
        """Whether weights after `step` steps are to be scored."""
        return bool(self._cfg.every) and (step % self._cfg.every == 0 or last)

    def run(self, setup: Any, step: int, weights: Any, trained: Any) -> dict[str, float]:
        """Scores all weights of the model, keeps the trained ones when they are the best so far;
        returns what to log.
        """
        records = runner.answer(setup, weights, "validation", self._cfg.validation_rows)
        score = messages.from_main("score", lambda: runner.macro_f1(records))
        best = dict(self.scores).get(self.best_step)
        self.scores.append((step, score))
        if best is None or score > best:
            path = self._of(step)
            self._kept.add(step)
            with checkpoint_store.writing(path) as made:
                with ocp.StandardCheckpointer() as saver:
                    saver.save(made, trained, force=True)
                if hosts.is_main():
                    write_checksums(made)
                    write_seal(made)
        if hosts.is_main():
            files.write_json(self._path, self.scores, indent=None)
            for name in storage.names(self._folder):
                if name != str(self.best_step):
                    storage.remove_tree(os.path.join(self._folder, name))
        self._kept &= {self.best_step}
        return {"validation/macro_f1": score, "validation/best_step": float(self.best_step)}

    def restore_best(self, layout: Any) -> Any:
        """The best trained weights, laid out as `layout`.

        Raises:
          CheckpointError: there are none, or they are damaged.
          PeerError: another process has failed. RetryError: the storage does not answer.
        """
        if self.best_step is None:
            raise CheckpointError(
                "no validation has been made",
                where=self._path,
                hint="set eval.every, or eval.best=false",
            )
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), layout
        )
        folder = self._of(self.best_step)
        try:
            with checkpoint_store.reading(folder) as read:
                wrong = messages.from_main("damage of the best", functools.partial(damage, read))
                if wrong is None:
                    with ocp.StandardCheckpointer() as saver:
                        return saver.restore(read, shapes)
        except QoqError:
            raise
        except Exception as error:  # Orbax and TensorStore raise whatever their parsers meet
            raise_what_may_pass(error, folder)
            wrong = (
                f"cannot be read: {type(error).__name__}: {str(error).partition(chr(10))[0][:160]}"
            )
        raise CheckpointError(
            f"the best weights are damaged ({wrong})",
            where=folder,
            hint="restore the folder from a copy; the last weights are in the other checkpoints",
        )

    def _of(self, step: int) -> str:
        return os.path.join(self._folder, str(step))


class Validate(Hook):
    """Adds the scores of the validation rows to the row of the steps in which they are due.

    Args:
      validation: of the stage.
      setup: train.setup.Setup.
      all_weights: state -> all weights of the model.
    """

    def __init__(self, validation: Validation, setup: Any, all_weights: Callable[[Any], Any]):
        self._validation, self._setup, self._all_weights = validation, setup, all_weights

    def due(self, loop: Loop) -> bool:
        """Whether the weights after the last step are to be scored."""
        return self._validation.due(loop.done, loop.done == loop.steps)

    def after_step(self, loop: Loop) -> None:
        if self.due(loop):
            weights = self._all_weights(loop.state)
            loop.row |= self._validation.run(self._setup, loop.done, weights, loop.state.params)


class StopEarly(Hook):
    """Ends the loop when the last `eval.patience` scores brought no new best."""

    def __init__(self, validation: Validation):
        self._validation = validation

    def after_step(self, loop: Loop) -> None:
        if self._validation.stopped:
            loop.stop = True
            hosts.say(
                f"{loop.name}: no better validation since step {self._validation.best_step}, "
                f"stopped at step {loop.done}"
            )
