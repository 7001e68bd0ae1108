"""The training loop of every stage: a step, again and again, and hooks for all beside it.

What a stage learns is its step; logging, validation, checkpoints and the like are hooks
(train/hooks.py), which is where a profiler or a fault tolerance belongs too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from qoq_jax.base import progress
from qoq_jax.base.errors import Preempted
from qoq_jax.parallel import hosts, preemption
from qoq_jax.train.checkpoint import Checkpointer

Row = dict[str, Any]  # numbers, and the label counts of train/domains.py


class StepResult(NamedTuple):
    """What one step gives.

    Attributes:
      state: of the next step.
      metrics: scalars on the device, fetched when a row is logged; "update_finite" among them. In
        RL also the sums of train/domains.py.
      facts: numbers of the host for the log, and in RL label counts.
      ids: of the data rows that the step learned from; those of this process.
    """

    state: Any
    metrics: dict[str, jax.Array]
    facts: dict[str, Any]
    ids: Sequence[str] = ()


@dataclasses.dataclass
class Loop:
    """Where a loop stands; the hooks read it, and write what is said to be theirs.

    Attributes:
      name: the stage's, as in metrics.jsonl.
      start: steps that were finished before this process, by its checkpoint.
      steps: of the stage in all.
      state: what the next step takes over; a step donates it.
      done: finished steps.
      last: result of the last step; its state is None, since `state` holds it.
      row: what is logged of this step, made by a hook and added to by later ones; None when none
        is due.
      window_began: clock (time.perf_counter) at which the first step that `row` is about began.
      stop: set by a hook: the loop ends after this step.
    """

    name: str
    start: int
    steps: int
    state: Any
    done: int = 0
    last: StepResult | None = None
    row: Row | None = None
    window_began: float = 0.0
    stop: bool = False

    @property
    def is_last(self) -> bool:
        """Whether no step follows the last one."""
        return self.done == self.steps or self.stop


class Hook:
    """What happens beside the steps. All methods do nothing here; a hook overrides those it needs.

    Hooks are called in the order of the list that `run` is given, `around_step` from the outside
    in. An exception in a hook or a step ends the loop at once, without `end`; but for the notice
    that the process has to leave, which `preempted` is told.
    """

    def begin(self, loop: Loop) -> None:
        """Before the first step of this process."""

    def around_step(self, loop: Loop) -> contextlib.AbstractContextManager[Any]:
        """A context that the step runs in."""
        del loop
        return contextlib.nullcontext()

    def after_step(self, loop: Loop) -> None:
        """After every step; `loop.done` counts it."""

    def end(self, loop: Loop) -> None:
        """After the last step of a stage that came to its end."""

    def preempted(self, loop: Loop) -> None:
        """The process has to leave, after `loop.done` steps or in the middle of the next one, whose
        update has not begun: `loop.state` is that after `loop.done`.
        """


@progress.phase("step")
def run(loop: Loop, step: Callable[[Any, int], StepResult], hooks: Sequence[Hook]) -> Any:
    """Runs `step(state, number from 0)` until the loop's last step; returns the state reached.

    Raises:
      Preempted: the process has to leave; what could be saved is saved.
    """
    loop.done, loop.window_began = loop.start, time.perf_counter()
    progress.start_over("step")
    for hook in hooks:
        hook.begin(loop)
    try:
        while not loop.is_last:
            _step(loop, step, hooks)
    except Preempted:
        for hook in hooks:
            hook.preempted(loop)
        where = f"{loop.name} step {loop.done}"
        raise Preempted("SIGTERM: left", where=where, hint=preemption.AGAIN) from None
    except BaseException:
        preemption.forget_all()  # another run may follow in this process
        raise
    for hook in hooks:
        hook.end(loop)
    return loop.state


def _step(loop: Loop, step: Callable[[Any, int], StepResult], hooks: Sequence[Hook]) -> None:
    """One step, and what is beside it."""
    with contextlib.ExitStack() as around:
        for hook in hooks:
            around.enter_context(hook.around_step(loop))
        result = step(loop.state, loop.done)
    loop.state, loop.last, loop.row = result.state, result._replace(state=None), None
    del result  # the next step donates its state
    loop.done += 1
    progress.finish_round()
    for hook in hooks:
        hook.after_step(loop)


def resume(
    checkpoints: Checkpointer, state: Any, name: str, steps: int
) -> tuple[Any, dict | None, int]:
    """(state, state of the data iterator or None, finished steps) from a stage's last checkpoint,
    or `state` itself at step 0 when there is none.

    Raises:
      CheckpointError: all checkpoints are damaged, or belong to another model.
    """
    if checkpoints.latest() is None:
        return state, None, 0
    state, data_state, start = checkpoints.restore(state, resume=True)
    if start < steps:
        hosts.say(f"{name}: resuming from step {start} of {steps}")
    return state, data_state, start
