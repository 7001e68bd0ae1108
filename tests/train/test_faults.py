"""What a run does when it is asked to leave, dies again and again, or its storage fails."""

from __future__ import annotations

import errno
import json
import os
import threading
import types
import urllib.error

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import object_store

from benchmarks import bit_flips
from qoq_jax.base import exit_codes, objects, progress
from qoq_jax.base.errors import ConfigError, Preempted, QoqError, RetryError
from qoq_jax.cli import main
from qoq_jax.models import sizes
from qoq_jax.parallel import preemption, watchdog
from qoq_jax.train import goodput, hooks, profiling, restarts
from qoq_jax.train.checkpoint import Checkpointer
from qoq_jax.train.loop import Loop, StepResult, run
from qoq_jax.train.sections import CheckpointConfig, ProfileConfig


def step(state, number):
    return StepResult(state + 1, {"update_finite": np.float32(1)}, {"tokens": 1.0})


class Data:
    """An iterator that has read as many batches as its state says."""

    def __init__(self):
        self.batches = 0

    def position(self):
        return {"batches": self.batches}

    def state_of(self, position):
        return position


class Checkpoints:
    """What `SaveCheckpoints` asks of a Checkpointer."""

    is_saving, speed = False, None

    def __init__(self):
        self.saved = []

    def save(self, step, state, data_state, score=None):
        self.saved.append((step, state, data_state["batches"]))

    def check(self):
        pass

    def wait(self):
        self.saved.append("committed")


@pytest.fixture
def notice():
    yield preemption._noticed.set
    preemption._noticed.clear()


def test_between_two_steps_the_last_one_is_saved(notice):
    def stepping(state, number):
        if number == 2:
            notice()
        return step(state, number)

    kept = Checkpoints()
    with pytest.raises(Preempted, match="sft step 3") as error:
        run(Loop("sft", 0, 9, 0), stepping, [hooks.SaveCheckpoints(kept, 100, Data())])
    assert kept.saved == [(3, 3, 0), "committed"] and error.value.exit_code == 143


def test_in_the_middle_of_a_step_the_one_before_is_saved_with_its_data(notice):
    data = Data()

    def stepping(state, number):
        data.batches += 1
        if number == 2:
            notice()
            preemption.poll()
        return step(state, number)

    kept = Checkpoints()
    with pytest.raises(Preempted):
        run(Loop("rl", 0, 9, 0), stepping, [hooks.SaveCheckpoints(kept, 100, data)])
    assert kept.saved == [(2, 2, 2), "committed"], "the third batch is read again"


def test_nothing_is_saved_twice(notice):
    def stepping(state, number):
        if number == 2:
            notice()
            preemption.poll()
        return step(state, number)

    kept = Checkpoints()
    with pytest.raises(Preempted):
        run(Loop("rl", 0, 9, 0), stepping, [hooks.SaveCheckpoints(kept, 2, Data())])
    assert kept.saved == [(2, 2, 0), "committed"]


def test_a_validation_in_a_loop_is_not_left_half_way(notice):
    notice()
    preemption.keep(lost := lambda: True)
    preemption.poll(within_loop=False)
    preemption.forget(lost)
    with pytest.raises(Preempted):
        preemption.poll(within_loop=False)


def test_a_loop_that_failed_keeps_nobody_waiting(notice):
    def stepping(state, number):
        raise ValueError("fails")

    with pytest.raises(ValueError):
        run(Loop("sft", 0, 9, 0), stepping, [hooks.SaveCheckpoints(Checkpoints(), 2, Data())])
    notice()
    with pytest.raises(Preempted):
        preemption.poll(within_loop=False)


def test_a_run_that_dies_without_progress_stops(tmp_path):
    for _ in range(3):
        with pytest.raises(ValueError), restarts.counted(str(tmp_path), 3):
            raise ValueError("dies")
    often = pytest.raises(QoqError, match="3 times without progress")
    with often as error, restarts.counted(str(tmp_path), 3):
        pass
    assert error.value.exit_code == 1
    (tmp_path / "checkpoints" / "sft" / "4").mkdir(parents=True)  # progress
    with restarts.counted(str(tmp_path), 3):
        pass


@pytest.mark.parametrize("end", [Preempted("SIGTERM"), ConfigError("no"), KeyboardInterrupt()])
def test_ends_that_are_no_crash_are_not_counted(end, tmp_path):
    for _ in range(5):
        with pytest.raises(type(end)), restarts.counted(str(tmp_path), 2):
            raise end


def test_seconds_of_steps_that_are_done_again_are_lost(tmp_path, monkeypatch):
    spent = {"step": 0.0}
    monkeypatch.setattr(goodput.progress, "seconds", lambda: dict(spent))
    first = goodput.Goodput(str(tmp_path))
    first.resumed("sft", 0)
    for number in (1, 2, 3):
        spent["step"] += 10.0
        first.stepped("sft", number)
    first.write()
    spent["step"] = 0.0  # a new process, from the checkpoint of step 1
    second = goodput.Goodput(str(tmp_path))
    second.resumed("sft", 1)
    spent["step"] += 5.0
    second.stepped("sft", 2)
    second.write()
    found = json.loads((tmp_path / "goodput.json").read_text())
    assert found["seconds"]["lost"] == 20.0 and found["seconds"]["useful"] == 15.0
    assert found["starts"] == 2 and found["lost_steps"] == 2 and found["goodput"] == 15 / 35


def test_the_first_steps_of_each_stage_may_compile():
    fresh = []

    def stepping(state, number):
        fresh.append(progress.is_fresh())
        return step(state, number)

    for stage in ("sft", "rl"):
        run(Loop(stage, 0, progress.FRESH + 1, 0), stepping, [])
    assert fresh == 2 * [*progress.FRESH * [True], False]


def test_signs_of_life_within_a_step_do_not_say_that_its_programs_are_compiled():
    def stepping(state, number):
        for _ in range(100):  # calls of the decode loop, rewards of workers
            progress.beat()
        fresh.append(progress.is_fresh())
        return step(state, number)

    fresh = []
    run(Loop("rl", 0, progress.FRESH + 1, 0), stepping, [])
    assert fresh == [*progress.FRESH * [True], False]


def test_seconds_of_inner_phases_are_not_those_of_the_outer_one():
    with progress.phase("step"):
        before = progress.seconds()
        with progress.phase("save"):
            progress.charge("compile", 2.0)
        after = progress.seconds()
    spent = {name: after[name] - before.get(name, 0.0) for name in ("step", "save", "compile")}
    assert spent["compile"] == 2.0 and -2.0 < spent["save"] < -1.0 and spent["step"] < 1.0


def test_which_steps_are_kept(tmp_path):
    keep = CheckpointConfig(keep_last=1, keep_best=1, keep_every=4)
    checkpoints = Checkpointer(str(tmp_path), sizes.get("nano"), keep)
    scores = {1: 0.2, 2: 0.9, 3: None, 4: 0.1, 5: 0.5, 6: None}
    for number, score in scores.items():
        checkpoints.save(number, {"a": jnp.ones(3) * number}, {}, score)
    checkpoints.close()
    assert checkpoints.speed.bytes > 0 and checkpoints.speed.seconds > 0
    kept = sorted(int(path.name) for path in tmp_path.iterdir() if path.name.isdigit())
    assert kept == [2, 4, 6]  # the best, every fourth, the last


def test_a_flipped_bit_is_detected(tmp_path):
    found = bit_flips.flips(tmp_path, 12)
    assert found["wrong"] == 0 and found["detected"] > 8


def test_a_slow_save_is_told_before_it_matters(capsys):
    kept = Checkpoints()
    kept.speed = types.SimpleNamespace(bytes=2_000_000_000, seconds=40.0)
    run_hooks = [hooks.SaveCheckpoints(kept, 100, Data(), grace=25.0)]
    kept.close = lambda: None
    run(Loop("sft", 0, 5, 0), step, run_hooks)
    said = capsys.readouterr().err
    assert "40.0 s (2,000 MB at 50 MB/s)" in said and said.count("faults.grace is 25 s") == 1


def traced(workdir):
    def stepping(state, number):
        return StepResult(state + 1, {"x": jnp.ones(3) * number}, {})

    cfg = ProfileConfig(start=1, steps=2)
    run(Loop("sft", 0, 4, 0), stepping, [profiling.ProfileSteps(workdir, cfg)])


def test_the_trace_of_a_workdir_that_is_a_url_is_uploaded(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    object_store.empty_memory()
    traced("memory://bucket/run")
    names = [os.path.basename(name) for name in objects.tree("memory://bucket/run/profile/sft")]
    assert "memory-0.prof" in names and sum(name.endswith(".xplane.pb") for name in names) == 1
    assert "is in memory://bucket/run/profile/sft" in capsys.readouterr().out
    assert not list(tmp_path.iterdir()), "no folder of this machine is called memory:"


def test_the_stacks_of_a_workdir_that_is_a_url_are_objects(monkeypatch):
    object_store.empty_memory()
    left = []
    monkeypatch.setattr(watchdog.interrupt, "leave", lambda *said: left.append(said))
    for _ in range(2):
        watchdog._end("memory://bucket/run/stacks-0.txt", 60.0)
    stacks = objects.read("memory://bucket/run/stacks-0.txt").decode()
    assert stacks.count("no progress for 60 s") == 2 and stacks.count("most recent call first") > 1
    assert [code for code, _ in left] == [42, 42]


def test_the_account_of_a_url_is_written_beside_the_steps(monkeypatch):
    object_store.empty_memory()
    account, free = goodput.Goodput("memory://bucket/run"), threading.Event()
    write = objects.write
    monkeypatch.setattr(objects, "write", lambda *args: (free.wait(30), write(*args)))
    account.write()  # these return, though the store does not
    account.write()
    free.set()
    account.write(wait=True)
    assert goodput.Goodput("memory://bucket/run").starts == 2

    def refuse(*_):
        raise OSError(errno.ETIMEDOUT, "timed out")

    monkeypatch.setattr(objects, "write", refuse)
    account.write(wait=True)  # no reason to end a run


def test_some_steps_are_traced_for_xprof(tmp_path):
    traced(str(tmp_path))
    folder = tmp_path / "profile" / "sft"
    assert len(list(folder.glob("plugins/profile/*/*.xplane.pb"))) == 1
    assert (folder / "memory-0.prof").stat().st_size > 0


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (TimeoutError(), 42, "storage or network: TimeoutError (hint"),
        (TimeoutError("timed out"), 42, "storage or network: timed out (hint"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 1, "/x: No space left on device"),
    ],
)
def test_an_error_without_a_text_is_named_by_its_kind(error, code, said, capsys):
    def fail(*_):
        raise error

    arguments = types.SimpleNamespace(command="report", run=fail)
    assert main._run(arguments) == code
    assert said in capsys.readouterr().err


def test_storage_that_does_not_answer_is_worth_another_try():
    assert exit_codes.is_transient(OSError(errno.EIO, "Input/output error"))
    assert exit_codes.is_transient(ValueError("UNAVAILABLE: 503 from storage"))
    assert exit_codes.is_transient(urllib.error.HTTPError("https://x", 503, "trouble", {}, None))
    assert exit_codes.is_transient(TimeoutError())
    wrapped = ValueError("cannot read")
    wrapped.__cause__ = OSError(errno.ECONNRESET, "Connection reset by peer")
    assert exit_codes.is_transient(wrapped)
    assert not exit_codes.is_transient(OSError(errno.ENOSPC, "No space left on device"))
    assert not exit_codes.is_transient(urllib.error.HTTPError("https://x", 404, "gone", {}, None))
    assert RetryError("x").exit_code == 42
