"""RQ3: fusions compared on made-up admissions."""

from __future__ import annotations

import csv
import dataclasses
import json
import pathlib

import numpy as np
import pytest

from qoq_jax.base.errors import CheckpointError, ConfigError
from qoq_jax.evaluation.metrics import auroc
from qoq_jax.models.fusion import FusionConfig
from qoq_jax.train import config as train_config
from qoq_jax.transfer import fusion, fusion_config, fusion_fit, fusion_inputs
from qoq_jax.transfer.fusion_scores import HeldOut


def parsed(**fields):
    raw = fusion_config.default()
    for name, value in fields.items():
        *sections, last = name.split("__")
        part = raw
        for section in sections:
            part = part[section]
        part[last] = value
    return fusion_config.parse(raw)


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    root = tmp_path_factory.mktemp("fusion")
    return parsed(
        workdir=str(root / "run"),
        data__root=str(root),
        data__patients=150,
        data__with_media=40,
        tasks=("los",),
        ecg__weights="climb-mini",
        fit__epochs=3,
        seeds=2,
    )


@pytest.fixture(scope="module")
def result(cfg):
    assert fusion.run(cfg) == 0
    return json.loads((pathlib.Path(cfg.workdir) / "los.json").read_text())


@pytest.fixture(scope="module")
def found(cfg, result):
    return fusion.admissions.read(fusion._folder(cfg.data), "los")


def test_all_fusions_are_compared_with_the_record_alone_and_with_random_encoders(result):
    rows = {(row["inputs"], row["method"], row["encoders"]): row for row in result["rows"]}
    methods = ("late", "concat", "attention")
    for start in ("random", "pretrained"):
        assert {("all", method, start) for method in methods} <= rows.keys()
        assert "all" not in rows["ecg", "head", start]  # it says nothing of those without an ECG
    assert ("over_random" in rows["all", "late", "pretrained"]) and (
        "over_random" not in rows["all", "late", "random"]
    )
    assert rows["record", "concat", ""]["all"]["value"] > 0.6
    for row in rows.values():
        low, high = row["complete"]["interval"]
        assert low <= row["complete"]["value"] <= high


def test_the_tables_say_what_the_results_say(cfg, result):
    folder = pathlib.Path(cfg.workdir)
    lines = list(csv.DictReader((folder / "fusion.csv").read_text().splitlines()))
    for line, row in zip(lines, result["rows"], strict=True):
        assert float(line["complete"]) == row["complete"]["value"]
        assert float(line["complete_low"]) == row["complete"]["interval"][0]
    text = (folder / "fusion.md").read_text()
    assert text.count("cross-attention") == 2 and "length of stay" in text


def test_a_finished_task_is_not_done_again_and_another_config_is_refused(cfg, result, monkeypatch):
    monkeypatch.setattr(fusion, "compare", None)
    assert fusion.run(cfg) == 0
    with pytest.raises(ConfigError, match=r"was begun with other seeds"):
        fusion.run(dataclasses.replace(cfg, seeds=3))


def test_a_seed_gives_the_same_scores_whatever_is_fitted_beside_it_and_the_best_rate(found):
    sizes, table = fusion_inputs.table(found)
    small = FusionConfig("concat", (sizes,), len(found.classes), width=8)
    how = fusion_fit.FitConfig(epochs=2)
    rows = fusion_fit.Rows(found.rows_of("train"), found.rows_of("validation"))
    patients = {"record": table}
    one = fusion_fit.fit(small, how, patients, found.labels, rows, [1])["fused"]
    two = fusion_fit.fit(small, how, patients, found.labels, rows, [0, 1])["fused"]
    np.testing.assert_allclose(two[1], one[0], atol=1e-5)
    assert np.abs(two[0] - two[1]).max() > 1e-3
    # a rate that learns nothing is not the one that is kept
    how = dataclasses.replace(how, rates=(0.0, *how.rates))
    again = fusion_fit.fit(small, how, patients, found.labels, rows, [1])["fused"]
    np.testing.assert_allclose(again, one, atol=1e-5)


def test_heads_count_by_their_validation_score():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200).astype(np.int32)
    good, bad = labels + rng.normal(0, 0.5, 200), rng.normal(size=200)
    heads = {name: np.stack([-x, x], axis=1) for name, x in (("good", good), ("bad", bad))}
    present = {"good": np.ones(200, bool), "bad": np.arange(200) < 100}
    validation = np.arange(150)
    weights = fusion_fit.head_weights(heads, present, labels, validation)
    assert weights["good"] == pytest.approx(auroc(good[:150], labels[:150] == 1) - 0.5)
    assert weights["bad"] < 0.15 < weights["good"]
    upside_down = {name: -head for name, head in heads.items()}
    assert fusion_fit.head_weights({"good": upside_down["good"]}, present, labels, validation) == {
        "good": 1.0
    }


def test_gains_are_paired(found):
    test = HeldOut(found, np.ones(len(found.ids), bool))
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(1, len(found.ids), 4))
    scores[0, np.arange(len(found.ids)), found.labels] += 1
    area = test.area(scores)
    same = area.over(test.area(scores.copy()))
    assert same == {"value": 0.0, "interval": [0.0, 0.0]}
    assert area.told()["value"] == pytest.approx(
        fusion_fit.macro_auroc(scores[0, test.rows], test.labels)
    )


def test_weights_that_are_not_there_are_said_first(cfg, tmp_path):
    data = dataclasses.replace(cfg.data, root=str(tmp_path / "data"))
    gone = dataclasses.replace(cfg.ecg, weights=str(tmp_path / "gone.safetensors"))
    with pytest.raises(CheckpointError, match="gone.safetensors"):
        fusion.run(dataclasses.replace(cfg, workdir=str(tmp_path / "run"), data=data, ecg=gone))
    assert not (tmp_path / "data").exists()


def test_an_encoder_of_another_kind_is_refused():
    with pytest.raises(ConfigError, match=r"xray.name = 'units' reads ecg"):
        parsed(xray__name="units")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("fit__epochs", 0, "fit.epochs = 0 must be positive"),
        ("fit__batch", 0, "fit.batch = 0 must be positive"),
        ("tasks", (), "tasks is empty"),
        ("methods", (), "methods is empty"),
        ("fit__rates", (), r"fit.rates = \(\)"),
        ("fit__rates", (-1e-3,), "fit.rates = "),
    ],
)
def test_what_compares_nothing_is_refused(field, value, message):
    with pytest.raises(ConfigError, match=message):
        parsed(**{field: value})


def test_no_test_admission_with_all_media_has_no_score(found):
    none = HeldOut(found, np.zeros(len(found.ids), bool))
    scores = np.zeros((1, len(found.ids), len(found.classes)))
    assert none.area(scores) is None
    assert none.sensitivity_and_specificity(scores, np.ones(len(found.classes))) == {}


def test_rates_are_read_from_the_command_line():
    assert train_config._read_value("(0.01,0.001)", (1e-3,), "fit.rates") == (0.01, 0.001)
