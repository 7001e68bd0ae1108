"""Admissions as arrays."""

from __future__ import annotations

import gzip
import json
import shutil

import numpy as np
import pytest

from qoq_jax.base.errors import DataError
from qoq_jax.climb.mimic import admissions, convert, record, synthetic
from qoq_jax.evaluation.metrics import auroc


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("hospital")
    synthetic.build(root, 120, with_media=8)
    convert.convert(root)
    return str(root)


@pytest.fixture(scope="module")
def found(folder):
    return admissions.read(folder, "los")


def test_a_line_becomes_a_row_of_the_table(folder, found):
    (line,) = [
        line
        for line in record.lines(folder)
        if line["task"] == "los" and line["id"] == found.ids[5]
    ]
    n, at = 5, {name: k for k, name in enumerate(found.columns)}
    assert found.classes[found.labels[n]] == line["label"]
    assert found.values[n, at[f"sex: {line['sex']}"]] == 1
    told = {value[0] for value in line["values"]}
    known = {name.split(",")[0] for name, k in at.items() if found.known[n, k] and ", " in name}
    assert known == told


def test_training_admissions_alone_decide_the_scale(found):
    train = found.rows_of("train")
    column = found.columns.index("lactate, last")
    values = found.values[train, column][found.known[train, column]]
    assert values.mean() == pytest.approx(0, abs=1e-5) and values.std() == pytest.approx(1, 1e-4)
    assert np.isfinite(found.values).all() and (found.values[~found.known] == 0).all()


def test_media_are_where_a_line_names_them(found):
    assert 0 < sum(map(bool, found.ecg)) <= 8 and 0 < sum(map(bool, found.xray)) <= 8


def test_the_record_tells_something_of_the_stay_and_not_all(found):
    column = found.columns.index("lactate, last")
    known = found.known[:, column]
    score = auroc(found.values[known, column], found.labels[known] >= 2)
    assert 0.6 < score < 0.99


def test_a_patient_in_two_splits_is_refused(found):
    split = found.split.copy()
    patients = list(found.patients)
    patients[int(found.rows_of("test")[0])] = patients[int(found.rows_of("train")[0])]
    with pytest.raises(DataError, match="is in (train|test) and in (train|test)"):
        admissions.check_patients(patients, split, "here")


def test_admissions_without_validation_ones_are_refused(tmp_path, folder):
    """Fusions choose epoch, learning rate and the weights of heads by them."""
    for name in ("train.jsonl", "test.jsonl", record.INPUTS_FILE):
        shutil.copy(f"{folder}/{name}", tmp_path)
    with pytest.raises(DataError, match="los: no admission is for validation"):
        admissions.read(str(tmp_path), "los")


def test_a_folder_that_is_no_conversion_is_refused(tmp_path, folder):
    with pytest.raises(DataError, match="has no rows of mimic-iv-ihm-text"):
        admissions.read(str(tmp_path), "ihm")
    for name in ("train.jsonl", "test.jsonl"):
        shutil.copy(f"{folder}/{name}", tmp_path)
    with gzip.open(tmp_path / record.INPUTS_FILE, "wt") as file:
        file.write(json.dumps({"task": "los"}) + "\n")
    with pytest.raises(DataError, match="line 1 is not one of a conversion"):
        admissions.read(str(tmp_path), "los")
