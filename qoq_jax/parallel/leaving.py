"""How a process of several ends: with which exit code, and how the others come to know.

A process that fails tells the others its exit code before it ends. Whoever waits for its message
finds it there (parallel/messages.py); a process inside a collective, which waits for good on some
devices and fails on others, is ended by a thread. So all leave with the code of the failure itself,
and a scheduler that restarts on RETRY does not start what would fail again.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable

import jax

from qoq_jax.base import exit_codes, interrupt
from qoq_jax.parallel import messages

_leaving = threading.Event()  # this process has failed by itself
_LOOKS = 6  # that may fail one after the other, with pauses that double: two minutes of LOOK = 2


def leave(command: Callable[[], int]) -> int:
    """Runs a command to its end and returns its exit code. A process of several that has failed
    ends here: it tells the others, and does not wait for them as JAX would.

    A collective that failed since another process is gone is no failure of this one: the code is
    that of the other, or RETRY where it has told none.
    """
    try:
        code = command()
    except BaseException as error:
        if not jax.distributed.is_initialized() or isinstance(error, SystemExit):
            raise
        code = _code_of(error)
    if (
        code == exit_codes.DONE
        or not jax.distributed.is_initialized()
        or not messages.are_several()
    ):
        return code
    _leaving.set()
    # The messages end with process 0, and the others look for them every other second.
    ending = threading.Timer(10 * messages.LOOK, os._exit, [code])
    ending.daemon = True
    ending.start()
    with contextlib.suppress(Exception):  # there may be nobody to tell
        found = messages.failure() if code == exit_codes.RETRY else None
        if found is not None:
            print(f"qoq: {_said(*found)}", file=sys.stderr)
            code = found[1]
        messages.report_failure(code)
        if messages.process_index() == 0:
            time.sleep(4 * messages.LOOK)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def watch() -> None:
    """From now on, this process ends when another one tells that it has failed. After joining.

    A process that was asked to leave (SIGTERM) tells so too; the others then save by themselves.
    """
    if messages.are_several():
        threading.Thread(target=_watch, name="peers", daemon=True).start()


def _watch() -> None:
    failed = 0  # looks, since the last one that succeeded
    while not _leaving.wait(messages.LOOK * 2**failed):
        try:
            found = messages.failure()
        except jax.errors.JaxRuntimeError as error:
            failed += 1
            if failed == _LOOKS:  # process 0 is gone for good, which JAX itself notices
                print(
                    f"qoq: process {messages.process_index()}: no longer looks whether others have "
                    f"failed: process 0 does not answer ({_first_line(error)})",
                    file=sys.stderr,
                )
                return
            continue
        failed = 0
        if found is None or found[1] == exit_codes.PREEMPTED:
            continue
        if not _leaving.wait(messages.LOOK):  # the main thread may say more
            interrupt.leave(found[1], f"qoq: {_said(*found)}")
        return


def _code_of(error: BaseException) -> int:
    """The exit code for an exception that nobody has caught, after printing it."""
    if not messages.are_several() or not is_lost_peer(error):
        traceback.print_exception(error)
        return exit_codes.FAILED
    print(
        f"qoq: process {messages.process_index()}: another process of the run is gone "
        f"({_first_line(error)}) "
        "(hint: see its log; the same command resumes from the last checkpoint)",
        file=sys.stderr,
    )
    return exit_codes.RETRY


# What gRPC and JAX's coordination service write when a process does not answer ...
_GONE = (
    "closed by peer",
    "heartbeat",
    "coordination service",
    "UNAVAILABLE",
    "ABORTED",
    "DEADLINE_EXCEEDED",
)
# ... and XLA of a collective over gloo, which is a ValueError where JAX waits for an array.
_OPERATIONS = (
    "all-reduce|all-to-all|AllGather|ReduceScatter|collective permute|context initialization"
)
_GLOO = re.compile(rf"[A-Z_]+: Gloo ({_OPERATIONS}) failed: ")
_OF_PYTHON = "Traceback (most recent call last)"  # what a callback from the device has raised


def is_lost_peer(error: BaseException) -> bool:
    """Whether a collective failed since another process is gone: an error of JAX's runtime that
    says so, or a ValueError in the very form of gloo's. Errors of other kinds may use such words
    for anything. Orbax raises a TimeoutError from that of the runtime.
    """
    if error.__cause__ is not None and is_lost_peer(error.__cause__):
        return True
    if not isinstance(error, (jax.errors.JaxRuntimeError, ValueError)):
        return False
    said = str(error).partition(_OF_PYTHON)[0]
    if _GLOO.search(said):
        return True
    return isinstance(error, jax.errors.JaxRuntimeError) and any(word in said for word in _GONE)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:160]


def _said(process: int, code: int) -> str:
    return f"process {process} has ended with exit code {code} (hint: its own output says more)"
