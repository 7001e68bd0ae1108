"""A run that stands still ends, and says where it stood.

A peer that hangs holds every other process in a collective for good, and a stuck file system or
device does the same to one. A thread looks at `base.progress`: when nothing has come further within
the limit, the stacks of all threads go to stderr and to WORKDIR/stacks-PROCESS.txt, and the process
ends with the code that schedulers restart on.
"""

from __future__ import annotations

import contextlib
import datetime
import faulthandler
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

import jax

from qoq_jax.base import append, exit_codes, interrupt, progress

WRITING = 5.0  # seconds for the stacks to be written


@contextlib.contextmanager
def watching(workdir: str, limit: float, first_limit: float) -> Iterator[None]:
    """Inside, the process ends with code 42 when it stands still.

    Set-up is not watched: a data set may be downloaded for hours, and JAX has a limit of its own
    for joining the processes.

    Args:
      limit: seconds between two signs of progress; 0 = watch nothing.
      first_limit: the same while the programs of a phase may be compiling.
    """
    if not limit:
        yield
        return
    done = threading.Event()
    path = os.path.join(workdir, f"stacks-{jax.process_index()}.txt")
    arguments = (done, path, limit, max(limit, first_limit))
    threading.Thread(target=_watch, args=arguments, name="watchdog", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _watch(done: threading.Event, path: str, limit: float, first_limit: float) -> None:
    tick = min(limit / 10, 5.0)
    seen, idle, last = -1, 0.0, time.monotonic()
    while not done.wait(tick):
        now, beats = time.monotonic(), progress.beats()
        # A process that was stopped, or a laptop that slept, wakes after hours: its own long ticks
        # count as short ones.
        idle = 0.0 if beats != seen else idle + min(now - last, 2 * tick)
        seen, last = beats, now
        allowed = first_limit if progress.is_fresh() else limit
        if progress.current() != progress.SETUP and idle > allowed:
            _end(path, idle)


def _end(path: str, idle: float) -> None:
    what = f"no progress for {idle:.0f} s in phase {progress.current()}"
    when = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    faulthandler.dump_traceback(sys.stderr, all_threads=True)

    def write() -> None:
        with contextlib.suppress(OSError), tempfile.TemporaryFile("w+", encoding="utf-8") as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            lines = append.Lines(path)
            lines.write(f"{when} {what}\n{file.read()}\n")
            lines.flush()

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    writer.join(WRITING)  # the file system may be what stands still
    interrupt.leave(exit_codes.RETRY, f"watchdog: {what}; the stacks are in {path}")
