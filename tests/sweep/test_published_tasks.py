"""Tasks of the registry, in a sweep and for a model: any number of devices, and after a kill."""

from __future__ import annotations

import dataclasses
import json

import jax
import pytest
from helpers import evaluation_sweep, vqa_layouts

from qoq_jax.base import files
from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.cli import main
from qoq_jax.climb.mini import build
from qoq_jax.evaluation import row_files
from qoq_jax.evaluation.tasks import evaluate, of_model, table
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.sweep import evaluations, result_table
from qoq_jax.sweep.evaluation_plan import Decoding, EvaluationSweep
from qoq_jax.train import setup as setup_lib
from qoq_jax.train.load import load


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Published files, and a run with its generated rows as the task climb-mini."""
    folder = tmp_path_factory.mktemp("published")
    vqa_layouts.write(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup_lib, "model_config", evaluation_sweep.model)
        evaluation_sweep.make_run(folder, steps=1)
        build.build(str(folder / "climb-mini"), seed=0, size=40)
        yield folder


@pytest.fixture(scope="module")
def sweep(root):
    return EvaluationSweep(
        {"one": str(root / "run")},
        tasks=("climb-mini", "vqa-rad"),
        data_root=str(root),
        decoding={"draws": Decoding(temperature=1.0)},
        limit=5,
        rows=4,
    )


@pytest.fixture(scope="module")
def on_one(sweep, tmp_path_factory):
    out = tmp_path_factory.mktemp("one")
    assert evaluations.run(sweep, str(out), devices=jax.devices()[:1]) == 0
    return out


class Killed(Exception):
    pass


def dies_at(monkeypatch, count):
    """Counts the lines that are written; the one of this number is not."""
    add, lines = row_files.RowFiles.add, []

    def until(self, record, sample):
        lines.append(record)
        if len(lines) == count:
            raise Killed
        add(self, record, sample)

    monkeypatch.setattr(row_files.RowFiles, "add", until)
    return lines


def test_a_killed_sweep_of_tasks_goes_on_with_the_same_table(sweep, on_one, tmp_path, monkeypatch):
    lines = dies_at(monkeypatch, 4)
    with pytest.raises(Killed):
        evaluations.run(sweep, str(tmp_path), devices=jax.devices()[:1])
    evaluations.run(sweep, str(tmp_path), devices=jax.devices()[:3])
    assert len(lines) == 1 + 5 + 2  # nothing that was there is done again
    assert (tmp_path / "table.csv").read_bytes() == (on_one / "table.csv").read_bytes()


def test_the_table_has_what_each_task_counts(on_one):
    rows = {(row["task"], row["domain"]): row for row in cells(on_one)}
    assert rows["climb-mini", ""]["metric"] == "macro_f1"
    asked = rows["vqa-rad", ""]
    assert (asked["metric"], asked["rows"]) == ("exact_match", 2)
    assert rows["vqa-rad", "closed"]["rows"] == rows["vqa-rad", "open"]["rows"] == 1
    assert "token_f1" in rows["vqa-rad", "open"] and asked["stderr"] is None  # one picture
    assert rows["climb-mini", ""]["stderr"] >= 0


def cells(out):
    return [row for path in out.glob("cells/*/table.json") for row in files.read_json(path)]


def test_metrics_of_answers_are_those_of_the_task():
    how = {"draws": Decoding(temperature=1.0, samples=2)}
    cell = evaluations.cells_of(EvaluationSweep({"a": "a"}, decoding=how), "a", "rl", [1])[0]
    about = {"source": "t", "kind": "yes_no", "labels": ["yes"], "predicted": ["Yes"]}
    made = [about | {"id": str(i // 2), "exact": i < 3, "patient": ""} for i in range(6)]
    (row,) = result_table.rows_of(cell, made)
    assert row["exact_match"] == row["value"] == 0.5 and row["unparseable"] == 0
    assert row["any_exact_match"] == pytest.approx(2 / 3) and row["rows"] == 3


def test_mistakes_are_said_before_any_work(sweep, tmp_path):
    with pytest.raises(ConfigError, match=r"no task 'vqa-rd'.*'vqa-rad'"):
        evaluations.dry_run(dataclasses.replace(sweep, tasks=("test", "vqa-rd")), str(tmp_path))
    elsewhere = dataclasses.replace(sweep, data_root=str(tmp_path))
    with pytest.raises(DataError, match=r"test.jsonl|no such|is not there"):
        evaluations.run(elsewhere, str(tmp_path / "out"))


def test_a_model_on_tasks_goes_on_where_it_was_killed(root, tmp_path, monkeypatch):
    """With scores, of another number of devices: the same results."""

    def run(out, devices):
        mesh = mesh_lib.make_mesh(-1, devices=jax.devices()[:devices])
        tasks = table.find(["climb-mini"])
        asked = evaluate.Evaluation("nano", tasks, str(root), limit=3)
        model = load(str(root / "run"), mesh)
        model.process = dataclasses.replace(model.process, max_response_tokens=8)
        of_model.run(asked, model, mesh, str(tmp_path / out), scores=True)
        return json.loads((tmp_path / out / "records.json").read_text())["records"]

    whole = run("whole", 1)
    lines = dies_at(monkeypatch, 5)
    with pytest.raises(Killed):
        run("killed", 1)
    found = run("killed", 3)
    # Three responses, and the labels of each; the fifth line was not written.
    assert len(lines) == 1 + 3 + 3
    for a, b in zip(whole, found, strict=True):
        ours, theirs = a.pop("scores", {}), b.pop("scores", {})
        assert a == b
        assert theirs == pytest.approx(ours, abs=5e-6)
    assert not (tmp_path / "killed" / "rows").exists()


def test_the_files_of_all_tasks_are_looked_for_first(root, capsys):
    command = ["evaluate", "nano", "--tasks", "vqa-rad,busi", "--data-root", str(root)]
    assert main.main(command) == 1
    assert "task busi needs test.jsonl" in capsys.readouterr().err
