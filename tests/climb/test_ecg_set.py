"""The ECG data set: counts, patients, equal bytes from equal seeds, and what it refuses."""

from __future__ import annotations

import collections
import json
import pathlib

import pytest

from qoq_jax.base.errors import ConfigError
from qoq_jax.climb.mini import ecg_set
from qoq_jax.climb.mini.ecg_simulator import LABELS
from qoq_jax.data import ecgs


def test_rows_are_split_by_patient_with_even_labels():
    rows = ecg_set.specs(700, seed=1000)
    assert len(rows) == 700 == len({row.id for row in rows})
    by_split = collections.Counter(row.split for row in rows)
    assert 110 < by_split["test"] < 170
    patients = {split: {row.patient for row in rows if row.split == split} for split in by_split}
    assert not patients["train"] & patients["test"]
    counts = collections.Counter(label for row in rows for label in row.labels)
    assert set(counts) == set(LABELS) and min(counts.values()) > 60
    assert rows == ecg_set.specs(700, seed=1000) != ecg_set.specs(700, seed=1001)


def test_a_build_is_read_back_and_not_done_twice(tmp_path):
    first = ecg_set.build(tmp_path / "a", 50, 3)
    again = ecg_set.build(tmp_path / "b", 50, 3)

    def files(root):
        paths = [path for path in pathlib.Path(root).rglob("*") if path.is_file()]
        return {path.relative_to(root): path.read_bytes() for path in paths}

    assert files(first) == files(again)
    train, test = (ecgs.find(first, split) for split in ("train", "test"))
    assert (
        len(train) + len(test) == 50
        and set(train[0].vocabulary) == set(LABELS)
        and train[0].patient
    )
    assert ecgs.read_all(test[:2]).shape == (2, 8, 2500)
    before = (pathlib.Path(first) / "manifest.json").stat().st_mtime_ns
    ecg_set.build(tmp_path / "a", 50, 3)
    assert (pathlib.Path(first) / "manifest.json").stat().st_mtime_ns == before
    assert json.loads((pathlib.Path(first) / "manifest.json").read_text())["rows"] == {
        "train": len(train),
        "test": len(test),
    }
    with pytest.raises(ConfigError, match="too few"):
        ecg_set.build(tmp_path, 10, 3)
