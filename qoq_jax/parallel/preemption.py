"""SIGTERM: the machine will be taken away. Save what is worth it, and leave with code 143 in time.

A signal may come at any moment. In one process, a thread looks whether leaving would lose finished
steps that are not saved (`keep`): if not, the process ends at once, wherever it is. Else the main
thread comes to its next `poll` or step end, saves and leaves. After the grace, or at a second
SIGTERM, the process ends with what the last commit holds. Two within SAME seconds are one:
timeout(1) signals its command, and then the group that this is in.

Of several processes one alone may get the signal, and all must save the same step. They agree
through JAX's preemption service: `poll` is called at the same places by all, and tells all at the
same one (jax.experimental.multihost_utils.reached_preemption_sync_point).
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

from qoq_jax.base import exit_codes, interrupt, progress
from qoq_jax.base.errors import Preempted

CHECK = 0.05  # seconds between looks at what is unsaved
SAME = 1.0  # seconds within which signals are one
AGAIN = "the same command resumes from the last checkpoint"

_noticed = threading.Event()  # this process has got the signal
_agreed = threading.Event()  # all processes leave
_polls = itertools.count(1)  # the steps of JAX's preemption service
_unsaved: list[Callable[[], bool]] = []


@contextlib.contextmanager
def listen(grace: float) -> Iterator[None]:
    """Inside, SIGTERM is a notice. After JAX's distributed runtime has been joined, if at all.

    Args:
      grace: seconds from the first signal until the process ends whatever it is doing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _noticed.clear()
    _agreed.clear()
    tell_peers = _handler_in_c()
    calls, first = itertools.count(), [float("inf")]

    def act() -> None:
        if next(calls):
            if time.monotonic() - first[0] > SAME:
                interrupt.leave(exit_codes.PREEMPTED, f"second SIGTERM: left at once; {AGAIN}")
            return
        first[0] = time.monotonic()
        _noticed.set()
        tell_peers()
        _leave_in_time(grace)

    try:
        with interrupt.terminating(act):
            yield
    finally:
        # A notice stays one: the grace holds for the end of the process too.
        _unsaved.clear()


def _leave_in_time(grace: float) -> None:
    """Ends the process when nothing is worth waiting for, or the grace is over."""
    end, alone = time.monotonic() + grace, jax.process_count() == 1
    while time.monotonic() < end:
        if alone and not any(lost() for lost in list(_unsaved)):
            interrupt.leave(exit_codes.PREEMPTED, f"SIGTERM: nothing left to save; {AGAIN}")
        time.sleep(CHECK)
    interrupt.leave(
        exit_codes.PREEMPTED, f"SIGTERM: {grace:g} s of grace are over, not saved; {AGAIN}"
    )


def keep(lost: Callable[[], bool]) -> None:
    """From now on, `lost()` says whether leaving would lose something that can still be saved."""
    _unsaved.append(lost)


def forget(lost: Callable[[], bool]) -> None:
    """Takes `keep` back; nothing happens when it is not there."""
    with contextlib.suppress(ValueError):
        _unsaved.remove(lost)


def forget_all() -> None:
    """Takes every `keep` back: a loop has failed, and nothing of it can be saved any more."""
    _unsaved.clear()


def is_noticed() -> bool:
    """Whether all processes are to leave now; they must all ask, and as often as each other."""
    number = next(_polls)
    progress.beat()
    if jax.process_count() == 1:
        return _noticed.is_set()
    if multihost_utils.reached_preemption_sync_point(number):  # says so once
        _agreed.set()
    return _agreed.is_set()


def poll(within_loop: bool = True) -> None:
    """To be called within long phases, by all processes at the same places.

    Args:
      within_loop: False: while a training loop runs, nothing is raised. A validation comes to its
        end, since the step that it belongs to is saved after it.

    Raises:
      Preempted: the run is to leave. Nothing that it is doing now can be saved.
    """
    if is_noticed() and (within_loop or not _unsaved):
        raise Preempted("SIGTERM: left in the middle of a phase", hint=AGAIN)


def _handler_in_c() -> Callable[[], None]:
    """What calls the handler that JAX's preemption service has installed, in C++.

    Python's own handler takes its place, since Python knows nothing of it.
    """
    if jax.process_count() == 1:
        return lambda: None
    old = ctypes.create_string_buffer(256)  # a struct sigaction, which begins with the handler
    ctypes.CDLL(None).sigaction(int(signal.SIGTERM), None, old)
    address = ctypes.cast(old, ctypes.POINTER(ctypes.c_void_p))[0]
    if address in (None, 0, 1):  # SIG_DFL, SIG_IGN
        return lambda: None
    call = ctypes.CFUNCTYPE(None, ctypes.c_int)(address)
    return lambda: call(int(signal.SIGTERM))
