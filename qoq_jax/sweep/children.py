"""The processes that a sweep starts. SIGTERM is passed on to them: a container's engine or
`qoq launch` gives it to the sweep's own process alone, and a run that gets it saves and leaves.

Where a scheduler signals all processes (SLURM), a run gets it twice within a moment, which counts
as once (parallel/preemption.py).
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from qoq_jax.base import exit_codes, interrupt

_running: set[subprocess.Popen] = set()
_asked = threading.Event()  # this process has got the signal


@contextlib.contextmanager
def passing_on(leave: Callable[[], None]) -> Iterator[None]:
    """Inside, SIGTERM calls `leave`, goes to all that runs, and lets `run` start nothing more.
    Outside the main thread, where signals cannot be handled, this does nothing.
    """
    _asked.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def act() -> None:
        _asked.set()
        leave()
        for child in list(_running):
            child.terminate()

    with interrupt.terminating(act):
        yield


def run(command: Sequence[str], **options: Any) -> int:
    """Exit code of a command; 143 when it had to leave before it could say so itself, or was not
    begun for that.

    Args:
      options: of subprocess.Popen.
    """
    if _asked.is_set():
        return exit_codes.PREEMPTED
    with subprocess.Popen(command, **options) as child:
        _running.add(child)
        try:
            if _asked.is_set():  # it came between the two
                child.terminate()
            code = child.wait()
        finally:
            _running.discard(child)
    return exit_codes.PREEMPTED if code == -signal.SIGTERM else code
