"""What the main thread is doing, and since when: phases of a run with their seconds, and beats.

    with progress.phase("save"):        # or as a decorator
        ...
    progress.beat()                     # this phase has come further

The watchdog asks when the last beat was, goodput what the seconds went to. Phases nest, and an
inner one's seconds are not the outer one's. Other threads' phases and beats count for nothing: it
is the main thread that must not stand still.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator

SETUP = "setup"  # until the first loop or evaluation begins
OTHER = "other"  # outside of all phases, after that
FRESH = 2  # steps, or times in a phase, in which its programs may be compiling


@dataclasses.dataclass
class _Now:
    """Where the main thread stands.

    Attributes:
      phases: entered and not left, from the outside in; the first is SETUP or OTHER.
      seconds: of each phase, up to `switched`.
      rounds: how often each phase was done since the process began, or a step of it.
      switched: clock (time.monotonic) of the last change of phase.
      beat: number of beats and changes of phase.
    """

    phases: list[str] = dataclasses.field(default_factory=lambda: [SETUP])
    seconds: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    rounds: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    switched: float = dataclasses.field(default_factory=time.monotonic)
    beat: int = 0

    def settle(self) -> None:
        """Adds the seconds since the last change to the phase that they belong to."""
        now = time.monotonic()
        self.seconds[self.phases[-1]] += now - self.switched
        self.switched = now


_now = _Now()


def _on_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """What is done inside is `name`."""
    if not _on_main_thread():
        yield
        return
    _now.settle()
    _now.phases[0] = OTHER
    _now.phases.append(name)
    _now.beat += 1
    try:
        yield
    finally:
        _now.settle()
        _now.phases.pop()
        _now.rounds[name] += 1
        _now.beat += 1


def beat() -> None:
    """Says that the phase has come further."""
    if _on_main_thread():
        _now.beat += 1


def finish_round() -> None:
    """Says that a step of the phase is done: all programs of it are compiled. However often it has
    come further within one, others may still be.
    """
    if _on_main_thread():
        _now.rounds[_now.phases[-1]] += 1
        _now.beat += 1


def start_over(name: str) -> None:
    """The phase gets other programs, which are compiled in its first `FRESH` rounds."""
    if _on_main_thread():
        _now.rounds[name] = 0


def charge(name: str, seconds: float) -> None:
    """Moves seconds of the present phase to one of which only the end is told: compiling."""
    if _on_main_thread():
        _now.seconds[name] += seconds
        _now.seconds[_now.phases[-1]] -= seconds


def seconds() -> dict[str, float]:
    """Seconds of each phase since the process began, up to now."""
    _now.settle()
    return dict(_now.seconds)


def current() -> str:
    """The innermost phase."""
    return _now.phases[-1]


def beats() -> int:
    """A number that grows whenever something has come further."""
    return _now.beat


def is_fresh() -> bool:
    """Whether the present phase was done less than `FRESH` times: its programs may be compiling."""
    return _now.rounds[_now.phases[-1]] < FRESH
