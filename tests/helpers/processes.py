"""A program as several processes of one run on this machine, with gloo between them."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from helpers.flags import FASTER

REPOSITORY = pathlib.Path(__file__).parents[2]


def free_port() -> int:
    """A port of the loopback interface that nobody listens at."""
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return tried.getsockname()[1]


def environment(count: int, index: int, devices: int, port: int, cache: str = "") -> dict[str, str]:
    """That of process `index` of `count`, with so many CPU devices each."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "XLA_FLAGS": " ".join([flags, "--xla_llvm_disable_expensive_passes=true", *FASTER]),
        "QOQ_COORDINATOR": f"127.0.0.1:{port}",
        "QOQ_PROCESS_COUNT": str(count),
        "QOQ_PROCESS_INDEX": str(index),
        "QOQ_HEARTBEAT_SECONDS": "10",
        **(
            {
                "JAX_COMPILATION_CACHE_DIR": os.path.join(cache, str(index)),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            }
            if cache
            else {}
        ),
    }


class Processes:
    """Starts `python ARGUMENTS` so many times; ends whatever is left of them at the end.

    Args:
      arguments: of all processes, or a list for each.
      count, devices: processes, and devices of each.
      cache: folder of compiled programs, in which each process has one of its own; or none.

    Attributes:
      all: the processes, by index; their output goes to a pipe, stderr too.
    """

    def __init__(
        self,
        arguments: Sequence[str] | Sequence[Sequence[str]],
        count: int,
        devices: int,
        cache: str = "",
    ):
        port = free_port()
        each = [arguments] * count if isinstance(arguments[0], str) else arguments
        self.all = [
            subprocess.Popen(
                [sys.executable, *each[index]],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=REPOSITORY,
                env=environment(count, index, devices, port, cache),
            )
            for index in range(count)
        ]

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.all:
            process.kill()
            process.wait()

    def wait(self, limit: float) -> list[tuple[int, str]]:
        """(exit code, output) of each. When `limit` seconds are over, those that have not ended are
        aborted: their code is -6, and the output has the stacks of their threads.
        """
        end, found = time.monotonic() + limit, []
        for process in self.all:
            try:
                text, _ = process.communicate(timeout=max(end - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                for one in self.all:
                    one.send_signal(signal.SIGABRT)
                text, _ = process.communicate()
            found.append((process.returncode, text))
        return found


def run(
    arguments: Sequence[str], count: int, devices: int, limit: float, cache: str = ""
) -> list[str]:
    """Runs the processes to their end, which must be a good one; returns what each printed."""
    with Processes(arguments, count, devices, cache) as processes:
        found = processes.wait(limit)
    for index, (code, text) in enumerate(found):
        assert code == 0, f"process {index} of {count} ended with {code}:\n{text[-6000:]}"
    return [text for _, text in found]
