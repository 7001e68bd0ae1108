"""The hooks of the training loop. A list of them keeps this order:

    TraceSteps         names the step in a profile
    ProfileSteps       (train/profiling.py) traces some steps
    AccountSeconds     (train/goodput.py) adds the seconds of what is beside the steps
    GuardTransfers     forbids unseen copies to the device
    MeanRow            makes the row of a step that is due to be logged
    CountCompilations  adds "recompiles"
    CountSkipped...    add "skipped_samples" and "skipped_updates"
    Validate           (train/validation.py) adds the scores of the validation rows
    WriteRow           metrics.jsonl, TensorBoard, Weights & Biases
    ShowProgress       the bar on the terminal, the line in a log
    StopWhenNotFinite  gives up after too many dropped updates
    StopEarly          (train/validation.py) ends a stage that no longer improves
    SaveCheckpoints    the state, after everything that may end the loop

Those after `MeanRow` that add to the row do nothing in a step without one.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from qoq_jax.base import append
from qoq_jax.base.errors import Preempted, QoqError
from qoq_jax.parallel import hosts, memory, preemption
from qoq_jax.train.checkpoint import Checkpointer, SaveSpeed
from qoq_jax.train.log import CompileCounter, MetricWriter, Progress, rate
from qoq_jax.train.loop import Hook, Loop, Row

WARMUP_STEPS = 2  # steps of a process in which compilations are expected


class Batches(Protocol):
    """What the hooks ask of a data iterator.

    quarantined: bad samples that were left out, name -> reason.
    """

    quarantined: dict[str, str]

    def count_ecg_lengths(self) -> dict[str, int]:
        """{"ecgs_cut": n, "ecgs_repeated": n}, since this process began."""

    def position(self) -> dict[str, Any]:
        """Where the data of this process stands; JSON."""

    def state_of(self, position: dict[str, Any]) -> dict[str, Any]:
        """What `set_state` needs to continue from there; all processes must ask."""


class TraceSteps(Hook):
    """Names each step in a profile (jax.profiler)."""

    def around_step(self, loop: Loop) -> contextlib.AbstractContextManager[Any]:
        return jax.profiler.StepTraceAnnotation(loop.name, step_num=loop.done)


class GuardTransfers(Hook):
    """A numpy array that slips into a device operation would cross to the device unseen, at every
    step: here it is an error. Copies that the code asks for (jax.device_put) are not.
    """

    def around_step(self, loop: Loop) -> contextlib.AbstractContextManager[Any]:
        del loop
        return jax.transfer_guard_host_to_device("disallow")


class MeanRow(Hook):
    """Makes `loop.row` in every `every`-th step, the first and the last step of a process, and when
    `also_due` says so: what the steps since the row before it gave, joined by `summarise`.

    Args:
      every: steps between rows.
      summarise: ([metrics and facts of each step], seconds that they took) -> row.
      also_due: loop -> whether a row is due for another reason.
    """

    def __init__(
        self,
        every: int,
        summarise: Callable[[list[Row], float], Row],
        also_due: Callable[[Loop], bool] = lambda loop: False,
    ):
        self._every, self._summarise, self._also_due = every, summarise, also_due
        self._window: list[tuple[dict[str, jax.Array], dict[str, float]]] = []

    def after_step(self, loop: Loop) -> None:
        self._window.append((loop.last.metrics, loop.last.facts))
        first_or_last = loop.done in (loop.start + 1, loop.steps)
        if not (first_or_last or loop.done % self._every == 0 or self._also_due(loop)):
            return
        # Steps run ahead of the host: this waits for them, so that the time is of what is done,
        # not of what is asked for.
        jax.block_until_ready(loop.last.metrics)
        seconds = time.perf_counter() - loop.window_began
        steps = [hosts.gather(metrics) | facts for metrics, facts in self._window]
        loop.row, self._window = self._summarise(steps, seconds), []


class CountCompilations(Hook):
    """Adds "recompiles": XLA compilations inside the steps after the first `WARMUP_STEPS`.

    What the hooks compile (a validation its sampler, Orbax its copies) is not counted.
    """

    def __init__(self) -> None:
        self._counter, self._count = CompileCounter(), 0

    @contextlib.contextmanager
    def around_step(self, loop: Loop) -> Iterator[None]:
        self._counter.reset()
        yield
        if loop.done >= loop.start + WARMUP_STEPS:
            self._count += self._counter.count

    def after_step(self, loop: Loop) -> None:
        if loop.row is not None:
            loop.row["recompiles"] = self._count


class CountSkippedSamples(Hook):
    """Adds "skipped_samples": bad samples that the data iterator has left out so far; "ecgs_cut"
    and "ecgs_repeated": ECGs that were not 10 s long.
    """

    def __init__(self, data: Batches):
        self._data = data

    def after_step(self, loop: Loop) -> None:
        if loop.row is not None:
            loop.row["skipped_samples"] = len(self._data.quarantined)
            loop.row |= self._data.count_ecg_lengths()


class CountSkippedUpdates(Hook):
    """Adds "skipped_updates": steps since the row before that dropped an update because it was not
    finite. WORKDIR/skipped_updates.jsonl gets the ids of their data rows.

    Args:
      share: the rows of this process.
    """

    def __init__(self, workdir: str, share: hosts.Share = hosts.WHOLE):
        self._lines = append.Lines(os.path.join(workdir, "skipped_updates.jsonl"))
        self._share = share
        self._window: list[tuple[int, jax.Array, Sequence[str]]] = []

    def after_step(self, loop: Loop) -> None:
        finite = loop.last.metrics["update_finite"]
        self._window.append((loop.done, finite, loop.last.ids))
        if loop.row is None:
            return
        values = hosts.gather([finite for _, finite, _ in self._window])
        dropped = [
            {"stage": loop.name, "step": step, "ids": self._of_all(ids)}
            for (step, _, ids), value in zip(self._window, values, strict=True)
            if value < 1
        ]
        if dropped and hosts.is_main():
            self._lines.write("".join(json.dumps(line) + "\n" for line in dropped))
        loop.row["skipped_updates"], self._window = len(dropped), []

    def _of_all(self, ids: Sequence[str]) -> list[str]:
        return [name for part in self._share.join("ids", list(ids)) for name in part]


class WriteRow(Hook):
    """Writes `loop.row`; the next window begins then. Rows of steps that a resumed process does
    again are dropped first.
    """

    def __init__(self, open_writer: Callable[[], MetricWriter]):
        self._open = open_writer

    def begin(self, loop: Loop) -> None:
        self._writer = self._open()
        self._writer.resume(loop.name, loop.start)

    def after_step(self, loop: Loop) -> None:
        if loop.row is not None:
            self._writer.write(loop.name, loop.done, loop.row)
            loop.window_began = time.perf_counter()

    def end(self, loop: Loop) -> None:
        del loop
        self._writer.close()


class ShowProgress(Hook):
    """The progress bar, or line: what `headline` makes of a row, and the reward of each domain, or
    its loss where there is no reward.
    """

    def __init__(self, headline: Callable[[Row], dict[str, str]]):
        self._headline = headline

    def begin(self, loop: Loop) -> None:
        self._progress = Progress(loop.name, loop.steps, loop.start)

    def after_step(self, loop: Loop) -> None:
        self._progress.advance(loop.done)
        if loop.row is not None:
            row, said = loop.row, self._headline(loop.row)
            what = next((one for one in ("reward", "loss") if _by_domain(row, one)), "")
            about = "  ".join(filter(None, (rate(row.get("seconds/step")), memory.line())))
            self._progress.show(loop.done, said, _by_domain(row, what), what, about)

    def end(self, loop: Loop) -> None:
        del loop
        self._progress.close()


def _by_domain(row: Row, what: str) -> dict[str, float]:
    """{domain: value} of the row's WHAT/domain/DOMAIN."""
    prefix = f"{what}/domain/"
    return {key.removeprefix(prefix): x for key, x in row.items() if key.startswith(prefix)}


class StopWhenNotFinite(Hook):
    """Looks, at each row, how many updates in a row were dropped (`state.skipped`).

    Raises:
      QoqError: `limit` or more.
    """

    def __init__(self, limit: int):
        self._limit = limit

    def after_step(self, loop: Loop) -> None:
        if loop.row is not None and (skipped := int(loop.state.skipped)) >= self._limit:
            raise QoqError(
                f"{skipped} updates in a row were not finite",
                where=f"{loop.name} step {loop.done}",
                hint="lower the learning rate; parameters are those of the last finite step",
            )


class SaveCheckpoints(Hook):
    """Saves the state and that of the data iterator every `every` steps, after the last one, and
    when the process has to leave.

    Args:
      checkpoints: closed at the end, when the last one is committed.
      every: steps between checkpoints.
      data: the iterator.
      to_save: what of a state is saved.
      score: loop -> the score of the last step's validation, None when there was none.
      grace: seconds that a process has to leave (parallel/preemption.py).
    """

    def __init__(
        self,
        checkpoints: Checkpointer,
        every: int,
        data: Batches,
        to_save: Callable[[Any], Any] = lambda state: state,
        score: Callable[[Loop], float | None] = lambda loop: None,
        grace: float = math.inf,
    ):
        self._checkpoints, self._every, self._data = checkpoints, every, data
        self._to_save, self._score, self._grace = to_save, score, grace
        self._warned = False

    def begin(self, loop: Loop) -> None:
        self._saved = loop.start
        self._lost = lambda: loop.done > self._saved or self._checkpoints.is_saving
        preemption.keep(self._lost)

    def around_step(self, loop: Loop) -> contextlib.AbstractContextManager[Any]:
        """Remembers where the data stood: a step that is left half-way has read its batch."""
        self._before = self._data.position()
        return contextlib.nullcontext()

    def after_step(self, loop: Loop) -> None:
        leaving = preemption.is_noticed()
        if loop.done % self._every == 0 or loop.is_last or leaving:
            self._save(loop, self._data.position())
        else:
            self._checkpoints.check()
            self._warn_of_grace()
        if leaving:
            raise Preempted("SIGTERM")

    def preempted(self, loop: Loop) -> None:
        speed = self._checkpoints.speed
        if self._saved < loop.done:
            if speed is not None and hosts.is_main():
                print(f"{loop.name}: saving step {loop.done}, which takes about {_said(speed)}")
            self._save(loop, self._before)
        self._checkpoints.wait()
        preemption.forget(self._lost)

    def end(self, loop: Loop) -> None:
        self._checkpoints.close()
        preemption.forget(self._lost)

    def _save(self, loop: Loop, position: dict[str, Any]) -> None:
        state, data_state = self._to_save(loop.state), self._data.state_of(position)
        self._checkpoints.save(loop.done, state, data_state, self._score(loop))
        self._saved = loop.done

    def _warn_of_grace(self) -> None:
        """Once, as soon as a save has taken longer than the process will have."""
        speed = self._checkpoints.speed
        if self._warned or speed is None or speed.seconds <= self._grace:
            return
        self._warned = True
        print(
            f"qoq: a save takes {_said(speed)}, and faults.grace is {self._grace:g} s: a preempted "
            "run goes back to the last checkpoint (hint: raise faults.grace and the scheduler's "
            "own limit, or save more often)",
            file=sys.stderr,
        )


def _said(speed: SaveSpeed) -> str:
    rate = speed.bytes / max(speed.seconds, 1e-3) / 1e6
    return f"{speed.seconds:.1f} s ({speed.bytes / 1e6:,.0f} MB at {rate:,.0f} MB/s)"


def mean_of_steps(steps: list[Row], maxima: Sequence[str] = ()) -> Row:
    """Means over the steps that have a number, in float64; of `maxima` the largest, 0 where no step
    has one.
    """
    names = sorted({name for step in steps for name in step})
    row = {
        name: float(np.mean([float(step[name]) for step in steps if name in step]))
        for name in names
    }
    return row | {
        name: max((float(step.get(name, 0.0)) for step in steps), default=0.0) for name in maxima
    }
