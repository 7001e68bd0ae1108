"""An evaluation in a notebook: its cases as a table, and drawn."""

from __future__ import annotations

import sys

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
from helpers import cases

import qoq_jax
from qoq_jax.base.errors import ConfigError, DataError

mpl.use("Agg")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return cases.write_workdir(tmp_path_factory.mktemp("runs") / "mine")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_a_frame_has_a_row_for_each_response(run):
    results = qoq_jax.results(run)
    frame = results.to_frame()
    assert len(frame) == len(results) == 12
    assert frame.right.tolist() == [case.right for case in results]
    assert frame.right.sum() == (frame.labels == frame.predicted).sum() == 9
    assert frame[frame.domain == "ecg"].iou.isna().all() and frame.confidence.max() == 0.8


def test_a_case_is_drawn_with_its_boxes_beside_its_text(run):
    results = qoq_jax.results(run)
    picture, text = results[3].plot()
    assert len(picture.images) == 1 and picture.images[0].get_extent() == [0, 32, 24, 0]
    assert {patch.get_bbox().bounds for patch in picture.patches} == {
        (4, 4, 16, 16),
        (5, 5, 17, 17),
    }
    said = "\n".join(one.get_text() for one in text.texts)
    assert "gold: Pneumonia" in said and "model: Pneumonia (right" in said
    assert len(results[1].plot()) == 4 + 1  # the frames of a volume
    paper, _ = results[2].plot()
    assert len(paper.lines) == 8  # leads


def test_text_with_dollar_signs_is_no_formula(tmp_path):
    made = cases.record(2, False, text="$\\frac{ costs $5 $ \\boxed{Normal}")
    path = cases.write_evaluation(tmp_path / "eval.json", [made])
    results = qoq_jax.results(path)
    empty, text = results[0].plot()
    text.figure.canvas.draw()
    assert "no data set holds this row" in empty.texts[0].get_text() and not results[0].right


def test_media_come_from_the_run_that_is_named(run, tmp_path, monkeypatch):
    path = cases.write_evaluation(tmp_path / "evaluation.json", cases.records())
    monkeypatch.chdir(tmp_path)  # where a data.json is no run's
    (tmp_path / "data.json").write_text("[]")
    assert not qoq_jax.results(path)[3].media().pictures
    assert len(qoq_jax.results(path, data=run)[3].media().pictures) == 1
    assert len(qoq_jax.results(path, data={cases.SOURCE: run / "data"})[3].media().pictures) == 1


def test_mistakes_are_named(run, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no evaluation"):
        qoq_jax.results(tmp_path)
    path = cases.write_evaluation(tmp_path / "evaluation.json", cases.records())
    for data in (tmp_path / "nowhere", {cases.SOURCE: tmp_path / "nowhere"}):
        with pytest.raises(ConfigError, match="no such folder"):
            qoq_jax.results(path, data=data)
    with pytest.raises(ConfigError, match="no row is of the source 'other'"):
        qoq_jax.results(path, data={"other": tmp_path})
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match="needs the package pandas"):
        qoq_jax.results(run).to_frame()
