"""A folder belongs to one process: refused while that lives, taken over when it is dead."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from qoq_jax.base import files, lock
from qoq_jax.base.errors import ConfigError

REPOSITORY = pathlib.Path(__file__).parents[2]
HOLD = """
import sys, time
from qoq_jax.base import files, lock
from qoq_jax.base.errors import QoqError
try:
    with lock.hold(sys.argv[1]):
        print("held", flush=True)
        sys.stdin.read()
except QoqError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""


def start(folder) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )


@contextlib.contextmanager
def holder(folder):
    """A process that holds the folder."""
    with start(folder) as process:
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def refused(folder, message: str) -> None:
    with pytest.raises(ConfigError, match=message), lock.hold(str(folder)):
        pass


def of_another_machine(folder, **changes) -> lock.Holder:
    """Writes the lock of a process that this machine knows nothing of."""
    there = lock.Holder("far", "another boot", 17, "99", "yesterday", "abc")
    there = dataclasses.replace(there, **changes)
    files.write_json(folder / "lock", dataclasses.asdict(there))
    return there


def test_a_second_process_is_refused_at_once_and_told_who_holds_it(tmp_path):
    with holder(tmp_path) as first:
        begin = time.monotonic()
        with start(tmp_path) as second:
            said = second.stdout.read()
        assert second.returncode == 2
        assert f"is in use by process {first.pid} on " in said
        assert time.monotonic() - begin < 5


def test_the_same_process_is_refused_too(tmp_path):
    with lock.hold(str(tmp_path)):
        refused(tmp_path, f"in use by process {os.getpid()} on")


def test_the_lock_goes_with_its_holder(tmp_path):
    for _ in range(2):
        with lock.hold(str(tmp_path)):
            assert (tmp_path / "lock").exists()
        assert list(tmp_path.iterdir()) == []


def test_an_exception_releases_it(tmp_path):
    with pytest.raises(KeyboardInterrupt), lock.hold(str(tmp_path)):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_lock_left_by_a_killed_process_is_taken_over(tmp_path):
    with holder(tmp_path) as killed:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert (tmp_path / "lock").exists()
        with lock.hold(str(tmp_path)):
            assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_process_id_that_came_to_another_process_is_dead(tmp_path):
    of_another_machine(tmp_path, machine=lock._machine(), pid=os.getpid(), ticks="1")
    with lock.hold(str(tmp_path)):
        pass


def test_a_lock_of_another_machine_without_a_sign_of_life_is_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.04)
    monkeypatch.setattr(lock, "PATIENCE", 0.3)
    of_another_machine(tmp_path)
    with lock.hold(str(tmp_path)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_another_machine_with_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.04)
    there = of_another_machine(tmp_path)
    ended = threading.Event()
    beat = threading.Thread(target=lock._beat, args=(str(tmp_path / "lock"), there, ended))
    beat.start()
    try:
        refused(tmp_path, "in use by process 17 on far since yesterday")
    finally:
        ended.set()
        beat.join()


def test_a_lock_that_says_nothing_is_watched_as_one_of_another_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.04)
    monkeypatch.setattr(lock, "PATIENCE", 0.2)
    (tmp_path / "lock").write_text("")
    with lock.hold(str(tmp_path)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def no_link(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    with lock.hold(str(tmp_path)):
        refused(tmp_path, "is in use")
    assert list(tmp_path.iterdir()) == []


def test_of_many_that_take_over_one_gets_it(tmp_path):
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        of_another_machine(folder, machine=lock._machine(), pid=2**22 + 1)
        # A taker that died half-way: the chain goes on behind it.
        taker = lock.Holder("here", lock._machine(), 2**22 + 2, "5", "now", "def")
        (folder / "lock.after-abc").write_text(json.dumps(dataclasses.asdict(taker)))
        processes = [start(folder) for _ in range(6)]
        said = [process.stdout.readline() for process in processes]
        assert sorted(line == "held\n" for line in said) == [False] * 5 + [True]
        for process in processes:
            process.communicate("")
        assert list(folder.iterdir()) == []


def test_a_holder_that_was_taken_over_ends(tmp_path):
    script = "from qoq_jax.base import lock\nlock.BEAT = 0.05\n" + HOLD
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    ) as process:
        assert process.stdout.readline() == "held\n"
        of_another_machine(tmp_path)
        assert process.wait(10) == 1
        assert "was taken over by process 17 on far" in process.stderr.read()
    assert (tmp_path / "lock").exists(), "the other's lock stays"
