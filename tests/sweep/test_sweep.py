"""The sweep: which runs it makes, that it goes on where it was, the statistics of its tables."""

import concurrent.futures
import dataclasses
import json
import math
import os
import pathlib
import signal
import sys
import time

import numpy as np
import pytest
from helpers.sweep_hosts import finish
from scipy import stats

from qoq_jax.base.errors import ConfigError
from qoq_jax.sweep import run as sweep
from qoq_jax.sweep import subsets
from qoq_jax.sweep import tables as sweep_report
from qoq_jax.train import config as config_lib

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
PLAN = sweep.Sweep(
    runs={"seeing": "", "start": "seeing", "grpo": "start", "drpo": "start"},
    baseline="grpo",
    seeds=3,
)
SCORES = {"grpo": [0.40, 0.44, 0.42], "drpo": [0.46, 0.47, 0.51]}


def test_every_run_is_made_once_from_its_start(tmp_path, monkeypatch):
    made = []

    def train(file, job, out, place, overrides, number):
        assert set(place.cores) <= os.sched_getaffinity(0) and not place.devices
        made.append(job)
        finish(
            job.folder, "rl" if job.name in SCORES else "sft", SCORES.get(job.name, [0.3])[job.seed]
        )
        return 0

    monkeypatch.setattr(sweep, "load", lambda file: PLAN)
    monkeypatch.setattr(sweep, "_train", train)
    # a test of its own, below
    monkeypatch.setattr(sweep, "_check_finished", lambda *arguments: None)
    out = str(tmp_path / "out")
    assert sweep.run("evidence.py", out, seeds=2) == 0
    assert [(job.name, job.seed) for job in made] == [
        ("seeing", 0),
        ("start", 0),
        ("grpo", 0),
        ("drpo", 0),
        ("grpo", 1),
        ("drpo", 1),
    ]
    start = os.path.join(out, "start")
    assert [job.start for job in made] == [
        "",
        os.path.join(out, "seeing"),
        start,
        start,
        start,
        start,
    ]
    made.clear()
    assert sweep.run("evidence.py", out) == 0  # the file's three seeds: only what is missing
    assert [(job.name, job.seed) for job in made] == [("grpo", 2), ("drpo", 2)]
    with open(os.path.join(out, "results.json"), encoding="utf-8") as f:
        # from the start's last score
        assert json.load(f)["drpo"]["0"]["curve"] == [[0, 0.3], [10, 0.23], [30, 0.46]]
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| drpo | 3 | 0.580 ± 0.066 | 0.480 ± 0.066 |" in text and "5.0%" in text
    gains = text.split("## Macro-F1 by domain less the baseline's")[1]
    assert "| drpo | +0.060 ± 0.075 | +0.060 ± 0.075 |" in gains and "| grpo |" not in gains
    assert "IoU by domain" not in text  # no run has boxes
    assert (tmp_path / "out" / "curves-0.svg").read_text().startswith(
        "<svg"
    ) and "(curves-0.svg)" in text


def test_curves_begin_with_the_start_only_on_the_same_rows(tmp_path):
    finish(str(tmp_path / "start"), "sft", 0.3)
    for name, seed in (("same", 0), ("other", 1)):
        finish(str(tmp_path / name), "rl", 0.4, seed)
        curve = sweep_report.read_run(str(tmp_path / name), "rl", str(tmp_path / "start"))["curve"]
        assert curve == [[0, 0.3]] * (name == "same") + [[10, 0.2], [30, 0.4]]


def test_finished_runs_of_another_config_are_refused(tmp_path):
    out, file = str(tmp_path / "out"), str(CONFIGS / "evidence.py")
    job = sweep.jobs(sweep.load(file), out, ["grpo"])[1][0]
    finish(job.folder, "rl", 0.5)
    config = config_lib.override(config_lib.load(f"{file}:grpo"), sweep.assignments(job, out))
    for lr, wrong in ((config.rl.lr, False), (0.5, True)):
        config.rl.lr = lr
        with open(os.path.join(job.folder, "config.json"), "w", encoding="utf-8") as f:
            json.dump(dataclasses.asdict(config_lib.parse(config)), f)
        if wrong:
            with pytest.raises(ConfigError, match="another rl.lr"):
                sweep.run(file, out, ["grpo"], seeds=1)
        else:
            sweep._check_finished(file, job, out, ())


def test_a_failed_start_ends_the_sweep(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "load", lambda file: PLAN)
    monkeypatch.setattr(sweep, "_train", lambda *arguments: 1)
    assert sweep.run("evidence.py", str(tmp_path)) == 1
    assert capsys.readouterr().out.count("failed with exit code 1") == 1


@pytest.mark.parametrize(
    ("codes", "wanted"),
    [
        ([], 0),
        ([42, 1], 1),
        ([2], 1),
        ([143, 42], 143),
        ([42, -9], 42),
        ([-6], 42),
        ([130], 130),
    ],
)
def test_a_sweep_says_whether_another_start_may_help(codes, wanted):
    assert sweep.exit_code(codes) == wanted


def test_a_sweep_whose_run_was_preempted_begins_no_other(tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(sweep, "load", lambda file: dataclasses.replace(PLAN, runs={"grpo": ""}))
    monkeypatch.setattr(sweep.sweep_report, "show", lambda *_: None)
    monkeypatch.setattr(sweep, "_train", lambda *arguments: (begun.append(arguments[1]), 143)[1])
    assert sweep.run("evidence.py", str(tmp_path), ["grpo"], seeds=3) == 143 and len(begun) == 1


def test_a_run_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="no run gspo in the sweep"):
        sweep.jobs(PLAN, "out", ["gspo"])


def test_runs_side_by_side_share_no_core():
    cores = sorted(os.sched_getaffinity(0))
    shares = sweep.core_shares(len(cores))
    assert sorted(core for share in shares for core in share) == cores and all(shares)
    assert sweep.core_shares(len(cores) + 1) == [tuple(cores)] * (len(cores) + 1)


def test_runs_side_by_side_see_their_own_devices(tmp_path):
    gpus = subsets.of_runs(4, {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, str(tmp_path))
    assert [one["CUDA_VISIBLE_DEVICES"] for one in gpus] == ["0,1", "2,3", "4,5", "6,7"]
    forced = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--a --xla_force_host_platform_device_count=8"}
    flags = "--a --xla_force_host_platform_device_count=2"
    assert subsets.of_runs(4, forced, str(tmp_path)) == [{"XLA_FLAGS": flags}] * 4
    assert subsets.of_runs(2, {}, str(tmp_path)) == [{}, {}]
    assert subsets.of_runs(1, forced, str(tmp_path)) == [{"XLA_FLAGS": forced["XLA_FLAGS"]}]
    for chip in range(8):
        (tmp_path / f"accel{chip}").touch()
    chips = subsets.of_runs(2, {}, str(tmp_path))
    assert [one["TPU_VISIBLE_CHIPS"] for one in chips] == ["0,1,2,3", "4,5,6,7"]
    assert {one["TPU_CHIPS_PER_PROCESS_BOUNDS"] for one in chips} == {"2,2,1"}
    assert chips[0]["TPU_MESH_CONTROLLER_PORT"] != chips[1]["TPU_MESH_CONTROLLER_PORT"]
    alone = subsets.of_runs(1, {}, str(tmp_path))[0]  # a host of a slice, as one of its own
    assert alone["TPU_CHIPS_PER_PROCESS_BOUNDS"] == "2,4,1"
    assert alone["TPU_PROCESS_BOUNDS"] == "1,1,1" and alone["TPU_WORKER_HOSTNAMES"] == "localhost"
    with pytest.raises(ConfigError, match="--jobs 9 with 8 TPU chips"):
        subsets.of_runs(9, {}, str(tmp_path))


def test_a_run_is_started_at_its_place(tmp_path, monkeypatch):
    started = []

    monkeypatch.setattr(
        sweep.children, "run", lambda command, env, **more: started.append(env) or 0
    )
    others = {
        "QOQ_COORDINATOR": "10.0.0.5:8476",
        "QOQ_PROCESS_COUNT": "2",
        "QOQ_PROCESS_INDEX": "1",
    }
    for name, to in (others | {"SLURM_PROCID": "1", "TPU_WORKER_HOSTNAMES": "a,b"}).items():
        monkeypatch.setenv(name, to)
    job = sweep.Job("grpo", 0, str(tmp_path / "grpo" / "seed0"), "")
    for place in (sweep.Place(devices={"CUDA_VISIBLE_DEVICES": "2,3"}, apart=True), sweep.Place()):
        assert sweep._train("evidence.py", job, str(tmp_path), place, (), 3) == 0
    apart, together = started
    assert apart["CUDA_VISIBLE_DEVICES"] == "2,3" and "PATH" in apart
    assert not {*others, "SLURM_PROCID", "TPU_WORKER_HOSTNAMES"} & {*apart}
    assert together["QOQ_COORDINATOR"] == "10.0.0.5:8479" and together["SLURM_PROCID"] == "1"
    # what all processes of a run write goes to a log of each
    assert sorted(path.name for path in (tmp_path / "grpo").iterdir()) == [
        "seed0.log",
        "seed0.process1.log",
    ]


def test_sigterm_goes_on_to_what_runs_and_nothing_more_is_begun(tmp_path):
    left, ready = [], tmp_path / "ready"
    program = (
        "import pathlib, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); "
        "pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(ready)]
    with (
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        sweep.children.passing_on(lambda: left.append(True)),
    ):
        code = pool.submit(sweep.children.run, command)
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        assert code.result(30) == 7 and left == [True]
        assert sweep.children.run(command) == 143


def test_intervals_and_areas():
    values = np.array([0.46, 0.47, 0.51])
    mean, half = sweep_report.interval(values.tolist())
    low, high = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    np.testing.assert_allclose([mean - half, mean + half], [low, high], rtol=1e-12)
    assert math.isinf(sweep_report.interval([0.4])[1])
    assert sweep_report.area([[0, 0.0], [10, 1.0], [30, 1.0]]) == pytest.approx(25 / 30)
    assert sweep_report.area([[5, 0.3]]) is None


def test_runs_of_other_data_have_their_own_baseline():
    plan = sweep.Sweep(
        {"start": "", **dict.fromkeys(("grpo", "drpo", "even-grpo", "even-drpo"), "start")},
        "grpo",
        baselines={"even-grpo": "even-grpo", "even-drpo": "even-grpo"},
    )
    assert [plan.baseline_of(name) for name in plan.runs] == ["", "", "grpo", "", "even-grpo"]

    def make(*scores):
        empty = {"domains": {}, "area": None, "seconds_a_step": None, "reward_share": None}
        return {
            str(i): empty | {"overall": {"macro_f1": score, "exact_match": score}}
            for i, score in enumerate(scores)
        }

    table = sweep_report.overall_table(
        plan,
        {
            "grpo": make(0.5, 0.5),
            "drpo": make(0.6, 0.6),
            "even-grpo": make(0.1, 0.3),
            "even-drpo": make(0.4, 0.6),
        },
    )
    assert "| drpo | 2 | 0.600 ± 0.000 | 0.600 ± 0.000 | grpo | +0.100 ± 0.000 |" in table
    assert "| even-drpo | 2 | 0.500 ± 1.271 | 0.500 ± 1.271 | even-grpo | +0.300 ± 0.000 |" in table
    assert "| even-grpo | 2 | 0.200 ± 1.271 | 0.200 ± 1.271 |  |  |" in table


def test_boxes_are_in_the_tables_where_responses_have_them(tmp_path):
    for name in ("seeing", "start"):
        finish(str(tmp_path / name), "sft", 0.3)
    for name, iou in (("grpo", 0.25), ("drpo", 0.5)):
        folder = str(tmp_path / name / "seed0")
        finish(folder, "rl", 0.4)
        path = os.path.join(folder, "eval", "rl.json")
        with open(path, encoding="utf-8") as f:
            found = json.load(f)
        group = found["summary"]["sources"]["climb-mini"]
        group["overall"]["iou"] = group["domains"]["ct"]["iou"] = iou
        with open(path, "w", encoding="utf-8") as f:
            json.dump(found, f)
    sweep_report.write(PLAN, str(tmp_path))
    text = (tmp_path / "report.md").read_text()
    assert "| grpo | +0.000 | 0.500 | +0.250 |" in text  # macro-F1 less that, IoU, IoU less that
    boxes = text.split("## IoU by domain")[1].split("##")[0]
    assert "| run | ct |" in boxes and "| grpo | 0.250 |" in boxes  # ECGs have no boxes


def test_differences_are_paired_by_seed():
    def make(scores):
        return {str(i): {"overall": {"macro_f1": v}, "area": None} for i, v in enumerate(scores)}

    found = sweep_report.paired(make([0.5, 0.6, 0.7]), make([0.4, 0.55]), "macro_f1")
    np.testing.assert_allclose(found, [0.1, 0.05])
