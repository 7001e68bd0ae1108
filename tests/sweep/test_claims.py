"""Several hosts share out the runs of a sweep: each run once, also when a host dies."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from helpers import sweep_hosts
from helpers.processes import environment

from qoq_jax.base import lock
from qoq_jax.sweep import claims
from qoq_jax.sweep import run as sweep

TABLES = ("report.md", "results.json", "curves-0.svg")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """(folder of a sweep of three hosts, the last of which was killed in its first run; their exit
    codes).
    """
    out = tmp_path_factory.mktemp("sweep") / "out"
    done = subprocess.run(
        [sys.executable, "-m", "helpers.sweep_hosts", str(out), "3"],
        env=environment(1, 0, 1, 1),
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=True,
    )
    return out, json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def runs(tmp_path):
    """A start and two runs behind it."""
    start = str(tmp_path / "start")
    return [
        sweep.Job("start", 0, start, ""),
        *(sweep.Job("grpo", seed, str(tmp_path / f"grpo/seed{seed}"), start) for seed in (0, 1)),
    ]


def begun(out: pathlib.Path) -> list[list[str]]:
    """[host, name, seed] of each run, in the order in which they were begun."""
    return [line.split() for line in sweep_hosts.lines(f"{out}.begun")]


def test_each_run_is_done_once_and_that_of_a_killed_host_again(shared):
    out, codes = shared
    assert codes == [0, 0, -9]
    count: dict[tuple, list[str]] = {}
    for host, *run in begun(out):
        count.setdefault(tuple(run), []).append(host)
    assert len(count) == 9
    twice = [hosts for hosts in count.values() if len(hosts) > 1]
    assert len(twice) == 1 and twice[0][0] == "2" and twice[0][1] in "01"


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """The folder of a sweep that is to run in this process."""
    monkeypatch.setattr(sweep, "load", lambda file: sweep_hosts.PLAN)
    monkeypatch.setattr(sweep, "_check_finished", lambda *_: None)
    monkeypatch.setattr(
        sweep, "_train", lambda file, job, *_: sweep_hosts.train(job, f"{tmp_path / 'out'}.begun")
    )
    return tmp_path / "out"


def test_the_tables_are_those_of_one_host_to_the_byte(shared, alone):
    assert sweep.run("evidence.py", str(alone)) == 0
    for name in TABLES:
        assert (shared[0] / name).read_bytes() == (alone / name).read_bytes()


def test_a_process_of_runs_over_all_processes_does_each_and_writes_no_report(alone, monkeypatch):
    for name, to in {
        "COORDINATOR": "10.0.0.5:84",
        "PROCESS_COUNT": "2",
        "PROCESS_INDEX": "1",
    }.items():
        monkeypatch.setenv(f"QOQ_{name}", to)
    monkeypatch.setattr(claims, "Claims", None)  # nothing is claimed
    assert sweep.run("evidence.py", str(alone)) == 0
    assert [line[1:] for line in begun(alone)][:3] == [["start", "0"], ["grpo", "0"], ["drpo", "0"]]
    assert len(begun(alone)) == 9 and not (alone / "report.md").exists()


def test_no_lock_is_left(shared):
    left = {path.name for path in shared[0].rglob("*") if "lock" in path.name}
    assert left == set()


def test_a_run_behind_a_start_waits_for_it(runs):
    here, there = claims.Board(runs, shared=True), claims.Board(runs, shared=True)
    job, claim = here.take(runs)
    with claim:
        assert job.name == "start" and there.take(runs) is None
        sweep_hosts.finish(job.folder, "sft", 0.5)
        here.ended(job, 0)
    job, claim = there.take(runs)
    with claim:
        assert job.seed == 0 and taken(here, runs).seed == 1


def test_a_failed_run_is_not_tried_again_before_the_next_start(runs):
    here, there = claims.Board(runs, shared=True), claims.Board(runs, shared=True)
    job, claim = here.take(runs)
    with claim:
        here.ended(job, 1)
    assert there.take(runs) is None and there.codes == {job.folder: 1}
    assert here.open() == there.open() == 0, "what starts from it cannot be begun"
    assert taken(claims.Board(runs, shared=True), runs) == job


def test_a_run_that_was_asked_to_leave_goes_to_another_host(runs):
    here, there = claims.Board(runs, shared=True), claims.Board(runs, shared=True)
    job, claim = here.take(runs)
    with claim:
        here.ended(job, 143)
    assert here.take(runs) is None and here.leaving
    assert taken(there, runs) == job


def test_a_run_whose_process_outlived_its_sweep_is_waited_for(runs):
    board = claims.Board(runs, shared=True)
    os.mkdir(runs[0].folder)
    with lock.hold(runs[0].folder):
        assert board.take(runs) is None and board.open() == 3
    assert taken(board, runs) == runs[0]


def taken(board: claims.Board, runs: list[sweep.Job]) -> sweep.Job:
    """The run that a process gets, which then lets it go."""
    job, claim = board.take(runs)
    claim.close()
    return job
