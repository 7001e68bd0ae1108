"""Whole commands as two processes and as one, on the same four devices: the same files and numbers.

test_many_hosts.py looks at single stages.
"""

from __future__ import annotations

import json
import pathlib
import re
import shlex

import pytest
from helpers import many_hosts, processes

from qoq_jax.base import files
from qoq_jax.train import config

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "pods.md"
LIMIT = 560.0  # seconds: what hangs fails
QUICKSTART = {
    "data.real": "False",
    "data.mini_rows": "40",
    "data.media_rows": "4",
    "model.ecg_weights": "",  # they are nano's; the tests' model is smaller
    "mesh.data": "2",
    "mesh.fsdp": "2",
    "sft.steps": "3",
    "sft.warmup": "1",
    "rl.steps": "2",
    "rl.questions": "8",
    "rl.rollouts": "3",
    "rl.response_tokens": "8",
    "eval.rows": "8",
    "eval.limit_per_domain": "2",
    "eval.every": "2",
    "eval.validation_rows": "2",
    "log.tensorboard": "False",
}
ECG = {
    "mesh.data": "4",
    "ecg.rows": "60",
    "ecg.steps": "3",
    "ecg.warmup": "1",
    "ecg.batch": "8",
    "log.every": "1",
    "log.tensorboard": "False",
}
COMMANDS = {"configs/quickstart.py:smoke": QUICKSTART, "configs/ecg_jepa.py": ECG}
COUNTS = (1, 2)


def test_the_commands_of_the_page_fit_their_processes():
    """Each block of docs/pods.md, with one device a process."""
    page = PAGE.read_text().replace("\\\n", "")
    for block in page.split("\n\n"):
        counts = re.findall(r"(?:--ntasks|QOQ_PROCESS_COUNT)=(\d+)", block)
        for command in re.findall(r"qoq train .*", block):
            words = [word for word in shlex.split(command) if word.startswith("--config")]
            raw = config.load(words[0].partition("=")[2])
            cfg = config.parse(config.override(raw, words[1:]))
            assert [str(cfg.mesh.data)] == sorted(set(counts)), command
            assert cfg.data.media_rows % cfg.mesh.data == 0, command
    assert page.count("qoq train --config") + page.count("qoq train --distributed") == 3


@pytest.fixture(scope="module", params=COMMANDS)
def runs(request, tmp_path_factory):
    """The workdirs of `qoq train` as one process and as two."""
    folder = tmp_path_factory.mktemp("commands")
    shared = {"data.root": folder / "data", "compile_cache": folder / "compiled"}
    found = []
    for count in COUNTS:
        options = COMMANDS[request.param] | shared | {"workdir": folder / f"as-{count}"}
        command = ["-m", "helpers.tiny_cli", "train", f"--config={request.param}"]
        command += [f"--config.{name}={value}" for name, value in options.items()]
        processes.run(command, count, 4 // count, LIMIT, str(folder / "compiled"))
        found.append(folder / f"as-{count}")
    return found


def names(workdir: pathlib.Path) -> set[str]:
    return {
        str(path.relative_to(workdir))
        for path in workdir.rglob("*")
        if path.is_file() and "checkpoints" not in path.parts
    }


def report_without_times(workdir: pathlib.Path) -> list[str]:
    """Tags and texts of the report, without the run's facts (times, devices, folders), its date and
    its speed.
    """
    page = (workdir / "report.html").read_text()
    shown = page.partition("<header>")[2].partition('<section id="facts">')[0]
    shown = re.sub(r"\b\d{4}-\d\d-\d\d\b", "DATE", shown.replace(workdir.name, "RUN"))
    figures = re.split(r"(?=<figure>)", shown)
    kept = "".join(
        re.sub(r".*</figure>", "", part, flags=re.DOTALL) if "Tokens per second" in part else part
        for part in figures
    )
    return kept.split("<")


@pytest.mark.slow
def test_files_metrics_and_evaluations_are_the_same(runs):
    one, two = runs
    assert names(one) == names(two) and "lock" not in names(two)
    assert many_hosts.rows(one) == many_hosts.rows(two)
    evaluations = sorted(path.name for path in (one / "eval").iterdir())
    assert evaluations in (["ecg.json"], ["rl.json", "sft.json"])
    for name in evaluations:
        assert files.read_json(one / "eval" / name) == files.read_json(two / "eval" / name)
    if "rl.json" in evaluations:  # ECG pretraining has no report
        reports = [report_without_times(run) for run in runs]
        assert len(reports[0]) == len(reports[1])
        assert not [pair for pair in zip(*reports) if len(set(pair)) > 1][:3]
        told = "<".join(reports[0])
        assert "macro-F1" in told and "Gradient norm" in told and "Tokens per second" not in told
    encoder = "ecg_encoder.safetensors"
    if (one / encoder).exists():
        assert (one / encoder).read_bytes() == (two / encoder).read_bytes()


@pytest.mark.slow
def test_a_checkpoint_is_evaluated_by_two_processes(runs):
    """`qoq evaluate --scores`; a run of ECGs has nothing to evaluate, and both processes say so."""
    command = ["-m", "helpers.tiny_cli", "evaluate", "--split", "validation", "--scores"]
    compiled = str(runs[1].parent / "compiled")
    workdir = runs[1]
    with processes.Processes([*command, str(workdir)], 2, 2, compiled) as started:
        found = started.wait(LIMIT)
    if "ecg" in json.loads((workdir / "config.json").read_text())["stages"]:
        assert all(code == 2 and "answers no questions" in text for code, text in found), found
        return
    assert [code for code, _ in found] == [0, 0], found
    content = files.read_json(workdir / "eval" / "rl-validation.json")
    assert content["split"] == "validation" and len(content["records"]) > 10
    assert found[1][1].count("macro-F1") == 0, "process 0 alone prints"
    assert content["calibration"]["count"] == len(content["records"])
    with processes.Processes([*command, str(runs[0])], 1, 4, compiled) as started:
        assert [code for code, _ in started.wait(LIMIT)] == [0]
    alone = files.read_json(runs[0] / "eval" / "rl-validation.json")
    assert [r["scores"] for r in alone["records"]] == [r["scores"] for r in content["records"]]


@pytest.mark.slow
def test_processes_with_other_configs_are_told(tmp_path):
    """Two commands that differ in one field: both end with code 2 and name it."""
    command = ["-m", "helpers.tiny_cli", "train", "--config=configs/quickstart.py:smoke"]
    command += [f"--config.workdir={tmp_path / 'run'}", "--config.rl.lr=1e-3"]
    other = [*command[:-1], "--config.rl.lr=2e-3"]
    with processes.Processes([command, other], count=2, devices=2) as started:
        found = started.wait(60)
    assert [code for code, _ in found] == [2, 2], found
    assert all("was started with another rl.lr" in text for _, text in found)
    assert not (tmp_path / "run").exists()
