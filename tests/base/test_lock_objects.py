"""The lock of a workdir in an object store; the protocol itself is tested in test_lock.py."""

from __future__ import annotations

import dataclasses
import json
import threading
import time

import pytest
from helpers import object_store

from qoq_jax.base import lock, objects, storage
from qoq_jax.base.errors import ConfigError


@pytest.fixture(scope="module")
def s3():
    with object_store.s3_server():
        object_store.make_bucket("bucket")
        yield "s3://bucket"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 1.5)
    monkeypatch.setattr(lock, "BEAT", 0.2)
    monkeypatch.setattr(lock, "OBJECT_BEAT", 0.2)
    object_store.empty_memory()


@pytest.fixture(params=["memory", "s3"])
def folder(request):
    root = "memory://bucket" if request.param == "memory" else request.getfixturevalue("s3")
    objects.remove_tree(f"{root}/run")
    return f"{root}/run"


def left_by(folder, **change):
    """A lock that a process with these properties has left."""
    holder = dataclasses.replace(lock._this_process(), **change)
    objects.write(f"{folder}/lock", json.dumps(dataclasses.asdict(holder)).encode())
    return holder


def test_a_second_process_is_refused_and_nothing_is_left(folder):
    with (
        lock.hold(folder),
        pytest.raises(ConfigError, match=r"is in use by process \d+"),
        lock.hold(folder),
    ):
        pass
    assert storage.names(folder) == []


def test_the_lock_of_a_dead_process_of_this_machine_is_taken_over(folder):
    left_by(folder, pid=2**22 + 1)
    with lock.hold(folder):
        assert json.loads(objects.read(f"{folder}/lock"))["pid"] != 2**22 + 1
    assert storage.names(folder) == []


def test_a_process_of_another_machine_that_shows_no_life_is_dead(folder, capfd):
    holder = left_by(folder, machine="another", host="far")
    objects.write(f"{folder}/lock.beat-{holder.token}", b"the last one")
    with lock.hold(folder):
        pass
    assert "the last run here was process" in capfd.readouterr().err
    assert storage.names(folder) == []


def test_a_process_of_another_machine_that_shows_life_holds_it(folder):
    holder, ended = left_by(folder, machine="another", host="far"), threading.Event()

    def live():
        while not ended.wait(0.1):
            lock._show_life(f"{folder}/lock", holder)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(ConfigError, match="is in use by process .* on far"), lock.hold(folder):
            pass
    finally:
        ended.set()
        thread.join()


def test_a_holder_shows_life(folder):
    with lock.hold(folder):
        mine = lock._read(f"{folder}/lock")
        seen = set()
        for _ in range(20):
            seen.add(lock._changed(f"{folder}/lock", mine))
            time.sleep(0.1)
        assert len(seen) > 2
