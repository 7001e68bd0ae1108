"""A sweep of evaluations: the same table on any number of devices and after a kill."""

from __future__ import annotations

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
from helpers import evaluation_sweep, processes

from qoq_jax.base import files
from qoq_jax.base.errors import ConfigError
from qoq_jax.evaluation import row_files
from qoq_jax.sweep import evaluations, result_table
from qoq_jax.train import setup as setup_lib


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluations")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup_lib, "model_config", evaluation_sweep.model)
        yield evaluation_sweep.sweep_of(evaluation_sweep.make_run(folder, steps=1))


@pytest.fixture(scope="module")
def on_one(sweep, tmp_path_factory):
    out = tmp_path_factory.mktemp("one")
    assert evaluations.run(sweep, str(out), devices=jax.devices()[:1]) == 0
    return out


def records(out: pathlib.Path) -> dict[str, list[dict]]:
    return {
        path.parent.name: files.read_json(path)["records"]
        for path in sorted(out.glob("cells/*/evaluation.json"))
    }


def assert_same(one: pathlib.Path, other: pathlib.Path) -> None:
    """The same responses and the same table; probabilities of labels round in other places."""
    theirs = records(other)
    for name, found in records(one).items():
        for a, b in zip(found, theirs[name], strict=True):
            scores = a.pop("scores")
            np.testing.assert_allclose(
                list(b.pop("scores").values()), list(scores.values()), atol=5e-6
            )
            assert a == b
    assert (one / "table.csv").read_bytes() == (other / "table.csv").read_bytes()


def test_eight_devices_give_the_responses_and_the_table_of_one(sweep, on_one, tmp_path):
    evaluations.run(sweep, str(tmp_path), devices=jax.devices())
    assert_same(on_one, tmp_path)


@pytest.mark.slow
def test_two_processes_give_them_too(sweep, on_one, tmp_path):
    command = ["-m", "helpers.evaluation_sweep", sweep.runs["one"], str(tmp_path / "out")]
    processes.run(command, 2, 2, 300, str(on_one / "compile_cache"))
    assert_same(on_one, tmp_path / "out")


def test_each_row_is_counted_once_for_each_sample(on_one):
    for name, found in records(on_one).items():
        keys = [(r["source"], r["id"], r["sample"]) for r in found]
        assert len(keys) == len(set(keys)) == 10 * (2 if "draws" in name else 1)


class Killed(Exception):
    pass


def test_a_killed_sweep_goes_on_with_the_same_table(sweep, on_one, tmp_path, monkeypatch):
    """Killed at the 25th line, which is torn; it goes on with other devices."""
    add, lines = row_files.RowFiles.add, []

    def until(self, record, sample):
        lines.append(record)
        if len(lines) == 25:
            with open(self._mine, "a", encoding="utf-8") as file:
                file.write('{"id": "half')
            raise Killed
        add(self, record, sample)

    monkeypatch.setattr(row_files.RowFiles, "add", until)
    with pytest.raises(Killed):
        evaluations.run(sweep, str(tmp_path), devices=jax.devices()[:1])
    assert len(list(tmp_path.glob("cells/*/rows-0.jsonl"))) == 1
    evaluations.run(sweep, str(tmp_path), devices=jax.devices()[:3])
    # Every line is written once: nothing that was there is done again.
    assert len(lines) == 1 + 2 * sum(map(len, list(records(on_one).values())))
    assert (tmp_path / "table.csv").read_bytes() == (on_one / "table.csv").read_bytes()


def test_another_sweep_does_not_go_on_there(sweep, on_one):
    other = dataclasses.replace(sweep, limit=2)
    with pytest.raises(ConfigError, match="begun with other rows"):
        evaluations.run(other, str(on_one), devices=jax.devices()[:1])


def test_wide_tables_of_the_page_scroll_by_keyboard(on_one):
    page = (on_one / "table.html").read_text()
    assert page.count('class="scroll"') == page.count('class="scroll" tabindex="0"') > 0


def test_the_best_checkpoint_is_that_of_validation():
    row = {"run": "a", "stage": "rl", "decoding": "greedy", "domain": "", "source": ""}
    scores = {1: (0.2, 0.4), 2: (0.5, 0.5), 3: (0.6, 0.4)}
    rows = [
        row | {"step": step, "task": "validation", "macro_f1": one}
        for step, both in scores.items()
        for one in both
    ]
    rows.append(row | {"step": 1, "task": "test", "macro_f1": 0.9})
    assert result_table.best_steps(rows) == {("a", "rl", "greedy"): 2}
