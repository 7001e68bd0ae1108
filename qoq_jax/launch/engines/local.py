"""Processes of one run on this machine, started and watched here."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from types import FrameType
from typing import BinaryIO

from qoq_jax.base import exit_codes
from qoq_jax.base.errors import ConfigError
from qoq_jax.launch import place, process
from qoq_jax.launch.spec import Job

_LOOK = 0.05  # seconds between two looks at the processes
_DRAIN = 2  # seconds for the last lines of a process that has ended


def processes(job: Job) -> int:
    """The number of processes: N of the topology "cpu:N".

    Raises:
      ConfigError: another topology.
    """
    at = place.of(job)
    if at.kind != "cpu":
        raise ConfigError(
            f"topology {job.topology!r}",
            hint='engine local has "cpu:N", N processes; they use what accelerators they find',
        )
    return at.devices


def variables(job: Job, index: int, port: int | str) -> dict[str, str]:
    """What process `index` has in its environment beside that of the launching shell, which also
    holds the secrets.

    Args:
      port: of process 0, for the others to find it. A single process needs none.
    """
    found, count = process.environment(job), processes(job)
    if count > 1:
        found[process.COORDINATOR] = f"localhost:{port}"
        found[process.COUNT], found[process.INDEX] = str(count), str(index)
    return found


def render(job: Job) -> str:
    """What `run` would start, as lines of a shell."""
    lines = []
    for index in range(processes(job)):
        given = variables(job, index, "FREE_PORT").items()
        words = [f"{name}={shlex.quote(value)}" for name, value in sorted(given)]
        lines.append(" ".join([*words, process.line(job)]))
    return "".join(f"{line}\n" for line in lines)


def run(job: Job, environment: Mapping[str, str] = os.environ) -> int:
    """Runs the job to its end, with its output on this process's, each line behind "[INDEX] ".

    SIGTERM and SIGINT go to all processes; a second one, or one that is not heeded for
    `job.grace` seconds, is a SIGKILL. When a process fails, the others get SIGTERM and the same
    grace. A run that ends with 42 is started again, `job.max_restarts` times at most.

    Returns:
      The exit code: 0, or that of the process that failed first; 128 + N for one that signal N
      ended.

    Raises:
      ConfigError: a topology of another engine, or a secret without a value.
    """
    processes(job)
    missing = [name for name in job.secrets if not environment.get(name)]
    if missing:
        raise ConfigError(f"secret {missing[0]} has no value", hint=f"export {missing[0]}=...")
    with _Signals() as signals:
        for restart in range(job.max_restarts + 1):
            code = _Attempt(job, environment, signals).run()
            if code != exit_codes.RETRY or signals.received:
                return code
            if restart < job.max_restarts:
                _say(f"exit code {code}: restart {restart + 1} of {job.max_restarts}")
        _say(f"exit code {code}: no restart is left")
    return code


class _Signals:
    """SIGTERM and SIGINT are kept in a list while this is open, if this is the main thread."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self._before: dict[int, object] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._keep)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _keep(self, number: int, _: FrameType | None) -> None:
        self.received.append(number)


class _Attempt:
    """All processes of the job, started once."""

    def __init__(self, job: Job, environment: Mapping[str, str], signals: _Signals) -> None:
        self._grace, self._signals = job.grace, signals
        self._passed = 0  # signals that the processes have got
        self._deadline: float | None = None  # of the grace, once it runs
        port = _free_port()
        self._all = []
        for index in range(processes(job)):
            # A session of its own: Ctrl-C reaches the processes once, through us, and what they
            # have started ends with them.
            self._all.append(
                subprocess.Popen(
                    ["/bin/sh", "-c", f"exec {process.line(job)}"],
                    env={**environment, **variables(job, index, port)},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        self._copies = [
            threading.Thread(target=_copy, args=(index, one.stdout), daemon=True)
            for index, one in enumerate(self._all)
        ]

    def run(self) -> int:
        """The exit code, when all have ended."""
        for copy in self._copies:
            copy.start()
        failed = 0
        try:
            while running := [one for one in self._all if one.poll() is None]:
                failed = failed or self._first_failure()
                if failed and self._deadline is None:
                    self._end(running, signal.SIGTERM)
                self._pass_on(running)
                if self._deadline is not None and time.monotonic() > self._deadline:
                    _say(f"{len(running)} did not end within {self._grace} s: SIGKILL")
                    self._send(running, signal.SIGKILL)
                    self._deadline = float("inf")
                time.sleep(_LOOK)
            return failed or self._first_failure()
        finally:
            self._send(self._all, signal.SIGKILL)  # what they have left behind
            for copy in self._copies:
                copy.join(_DRAIN)

    def _first_failure(self) -> int:
        """The code of the process with the lowest number among those that have failed: between two
        looks nothing says which came first.
        """
        for index, one in enumerate(self._all):
            if one.returncode:
                code = one.returncode
                ended = f"signal {-code}" if code < 0 else f"exit code {code}"
                _say(f"process {index} ended with {ended}")
                return 128 - code if code < 0 else code
        return 0

    def _pass_on(self, running: list[subprocess.Popen[bytes]]) -> None:
        while self._passed < len(self._signals.received):
            number = self._signals.received[self._passed]
            self._passed += 1
            self._end(running, number if self._passed == 1 else signal.SIGKILL)

    def _end(self, running: list[subprocess.Popen[bytes]], number: int) -> None:
        _say(f"{signal.Signals(number).name} to {len(running)} processes")
        self._send(running, number)
        if self._deadline is None:
            self._deadline = time.monotonic() + self._grace

    def _send(self, to: list[subprocess.Popen[bytes]], number: int) -> None:
        for one in to:
            # SIGKILL also to what a process has started; the rest it passes on as it likes.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if number == signal.SIGKILL:
                    os.killpg(one.pid, number)
                else:
                    one.send_signal(number)


def _copy(index: int, output: BinaryIO) -> None:
    with output:
        for line in output:
            # Whoever read our output may be gone; the process must not wait for a full pipe.
            with contextlib.suppress(BrokenPipeError):
                text = line.decode(errors="replace").rstrip("\n")
                sys.stdout.write(f"[{index}] {text}\n")
                sys.stdout.flush()


def _say(line: str) -> None:
    print(f"qoq: {line}", file=sys.stderr, flush=True)


def _free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("localhost", 0))
        return tried.getsockname()[1]
