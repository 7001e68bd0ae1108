"""SIGTERM and standing still: exit codes, what is saved first, and stacks."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).parents[2]
# argv: where the main thread is when the signal comes. "unsaved": a finished step is saved later.
SCRIPT = """
import pathlib, sys, time
from qoq_jax.base.errors import Preempted
from qoq_jax.parallel import preemption

where, done = sys.argv[1], pathlib.Path(sys.argv[2])
saved = []
try:
    with preemption.listen(grace=60 if where != "grace" else 2):
        if where in ("unsaved", "grace"):
            preemption.keep(lambda: not saved)
        print("ready", flush=True)
        time.sleep(2 if where == "unsaved" else 60)
        if preemption.is_noticed():
            done.touch()
            saved.append(1)
            raise Preempted("saved")
except Preempted as error:
    sys.exit(error.exit_code)
"""


def popen(*arguments):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "XLA_FLAGS": ""}
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start(*arguments):
    process = popen(*arguments)
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


@pytest.mark.parametrize(
    ("where", "said"),
    [("nothing", "nothing left to save"), ("unsaved", ""), ("grace", "2 s of grace are over")],
)
def test_sigterm_ends_with_143_in_time_and_waits_only_for_what_can_be_saved(where, said, tmp_path):
    process = start("-c", SCRIPT, where, str(tmp_path / "saved"))
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=50)  # less than the sleep, and than the grace
    assert process.returncode == 143 and said in error
    assert (tmp_path / "saved").exists() == (where == "unsaved")


def test_a_second_sigterm_ends_at_once_and_one_that_is_the_same_does_not(tmp_path):
    script = SCRIPT.replace('"grace"', '"never"').replace("sleep(2 if", "sleep(60 if")
    process = start("-c", script, "unsaved", str(tmp_path / "saved"))
    for wait in (0.1, 1.2):
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(wait)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=50)
    assert process.returncode == 143 and "second SIGTERM" in error
    assert not (tmp_path / "saved").exists()


STUCK = """
import sys, time
from qoq_jax.base import progress
from qoq_jax.parallel import watchdog

def a_collective_that_nobody_joins():
    time.sleep(60)

with watchdog.watching(sys.argv[1], limit=1.0, first_limit=2.0), progress.phase("step"):
    print("ready", flush=True)
    for _ in range(30):
        progress.finish_round()
        time.sleep(0.1)
    a_collective_that_nobody_joins()
"""


def test_a_process_that_stands_still_ends_with_42_and_its_stacks(tmp_path):
    process = start("-c", STUCK, str(tmp_path))
    _, error = process.communicate(timeout=50)
    assert process.returncode == 42 and "no progress for" in error and "in phase step" in error
    stacks = (tmp_path / "stacks-0.txt").read_text()
    assert "a_collective_that_nobody_joins" in stacks and "a_collective_that_nobody_joins" in error


PEER = """
import sys, time
from qoq_jax.base.errors import Preempted
from qoq_jax.parallel import hosts, preemption

index = int(sys.argv[2])
hosts.initialize(sys.argv[1], 2, index)
try:
    with preemption.listen(grace=60):
        hosts.barrier("begin")
        print("ready", flush=True)
        for number in range(1000):
            if preemption.is_noticed():
                print(number, flush=True)
                assert preemption.is_noticed()  # it stays so
                raise Preempted("saved")
            time.sleep(0.05)
except Preempted as error:
    sys.exit(error.exit_code)
"""


def test_sigterm_on_one_process_is_a_notice_to_all_at_the_same_poll():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    peers = [popen("-c", PEER, address, str(index)) for index in range(2)]
    for peer in peers:  # gloo says something first
        assert "ready\n" in iter(peer.stdout.readline, ""), peer.stderr.read()
    peers[1].send_signal(signal.SIGTERM)
    numbers = [peer.communicate(timeout=60)[0] for peer in peers]
    assert [peer.returncode for peer in peers] == [143, 143]
    assert numbers[0] == numbers[1] and int(numbers[0]) < 999
