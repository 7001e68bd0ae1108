"""Ctrl-C ends a command within two seconds, whatever its threads, compilers and child processes are
at.

Python raises KeyboardInterrupt in the main thread only when that gets back from compiled code, and
then waits for all other threads. A run survives being killed at any moment, so nothing has to be
waited for.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import multiprocessing.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from qoq_jax.base import exit_codes, terminal

CODE = exit_codes.INTERRUPTED
GRACE = 1.0  # seconds that the main thread has to end by itself
_children: set[subprocess.Popen] = set()
_starting = threading.Lock()  # held while a child starts and is put among them, and from `leave` on
_acts: dict[int, Callable[[], None]] = {}  # signal number -> what the thread below calls
_watching_since: list[float] = []  # when the thread below was started, while it is there
_last_words: list[Callable[[int], None]] = []


@contextlib.contextmanager
def quick(message: str) -> Iterator[None]:
    """Inside, SIGINT ends this process with `message` on stderr and code 130.

    KeyboardInterrupt is raised in the main thread as ever. GRACE seconds later the process ends,
    wherever its threads are. Outside the main thread, where signals cannot be handled, this does
    nothing.
    """

    def end_soon() -> None:
        time.sleep(GRACE)
        leave(CODE, message)

    try:
        with handling(signal.SIGINT, end_soon):
            yield
    except KeyboardInterrupt:
        # The main thread may have come here before the thread of signals took the byte: then
        # nothing else would end a process whose other threads do not.
        threading.Thread(target=end_soon, name="interrupt", daemon=True).start()
        say(message)
        raise


@contextlib.contextmanager
def handling(number: int, act: Callable[[], None]) -> Iterator[None]:
    """Inside, a thread calls `act` as soon as the signal comes, wherever the main thread is.

    Python must have a handler of the signal (`signal.signal`), which runs as ever. Outside the main
    thread this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _watching():
        before = _acts.get(number)
        _acts[number] = act
        try:
            yield
        finally:
            if before is None:
                del _acts[number]
            else:
                _acts[number] = before


@contextlib.contextmanager
def terminating(act: Callable[[], None]) -> Iterator[None]:
    """Inside, SIGTERM makes a thread call `act`, and does nothing else; for the main thread."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        with handling(signal.SIGTERM, act):
            yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


@contextlib.contextmanager
def _watching() -> Iterator[None]:
    """One thread for all signals, which are bytes that Python writes as they come."""
    if _watching_since:
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def watch() -> None:
        while byte := os.read(read, 1):
            if act := _acts.get(byte[0]):
                # A thread of its own: a second signal may come while it works.
                threading.Thread(target=act, name="signal", daemon=True).start()
        os.close(read)

    threading.Thread(target=watch, name="interrupt", daemon=True).start()
    _watching_since.append(time.monotonic())
    try:
        yield
    finally:
        _watching_since.clear()
        signal.set_wakeup_fd(before)
        os.close(write)  # ends the thread, unless a signal has come


_said = threading.Lock()


def say(message: str) -> None:
    """Prints the message once in the life of the process, in the place of progress bars."""
    if _said.acquire(blocking=False):
        wipe = threading.Thread(target=terminal.close, daemon=True)
        wipe.start()
        wipe.join(GRACE / 4)  # a thread that stands still may hold the terminal
        print(f"\n{message}", file=sys.stderr, flush=True)


def block() -> None:
    """For a background thread: processes that it starts do not get the terminal's Ctrl-C, and print
    no tracebacks of their own.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """The same for the calling thread while inside; in the main thread, only `quick` then ends the
    command.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run(command: Sequence[str], timeout: float, **options: Any) -> subprocess.CompletedProcess:
    """subprocess.run with text output captured, for a child that must not outlive an interrupted
    command.

    Raises:
      subprocess.TimeoutExpired: after killing it.
    """
    with _starting:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        _children.add(child)
    try:
        out, err = child.communicate(timeout=timeout)
    except BaseException:
        child.kill()
        child.communicate()
        raise
    finally:
        _children.discard(child)
    return subprocess.CompletedProcess(command, child.returncode, out, err)


@contextlib.contextmanager
def last_words(call: Callable[[int], None]) -> Iterator[None]:
    """Inside, `leave` calls `call(exit code)`, and waits a moment for it."""
    _last_words.append(call)
    try:
        yield
    finally:
        _last_words.remove(call)


def end(code: int) -> NoReturn:
    """Ends this process as Python does, threads waited for and `atexit` run, but for taking the
    interpreter apart: a daemon thread that comes back from compiled code meanwhile ends the process
    with SIGABRT or SIGSEGV in the place of `code` (seen with threads in JAX's runtime; until
    Python 3.14 such a thread is unwound through frames of C++).
    """
    threading._shutdown()
    atexit._run_exitfuncs()
    _flush()
    os._exit(code)


def leave(code: int, message: str | None = None) -> NoReturn:
    """Ends this process at once, and its children; waits for no thread and runs no clean-up but
    `last_words`. Prints the message unless one was printed before.
    """
    _starting.acquire(timeout=GRACE)
    for child in list(_children):
        child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            # else it stays a zombie where the first process of a container takes no orphans
            child.wait(GRACE / 4)
    for process in multiprocessing.active_children():
        process.kill()
    # Unlinks the semaphores of process pools; else Python's resource tracker does, with a warning
    # after our line.
    unlink = threading.Thread(target=multiprocessing.util._run_finalizers, args=(0,), daemon=True)
    unlink.start()
    unlink.join(GRACE / 4)
    for call in list(_last_words):
        speak = threading.Thread(target=call, args=(code,), daemon=True)
        speak.start()
        speak.join(GRACE / 2)  # a file system may stand still
    if message is not None:
        say(message)
    _flush()
    os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the reader may be gone
            stream.flush()
