"""Folders of row files."""

import pytest

from qoq_jax.base.errors import DataError
from qoq_jax.data import rows as schema
from qoq_jax.data import sources


def _row(number, **change):
    return schema.Row(
        **{
            "id": f"r{number}",
            "dataset": "busi",
            "domain": "ultrasound",
            "problem": "What?",
            "answer": "Benign",
            "labels": ("Benign", "Normal"),
            "images": (f"{number}.png",),
            "split": "train",
            "source": "real",
            **change,
        }
    )


def test_load_fingerprint_and_counts(tmp_path):
    rows = [
        _row(1),
        _row(2, answer="Normal"),
        _row(3, domain="ct", dataset="lndb", answer="Benign, Normal"),
    ]
    schema.write_jsonl(tmp_path / "train.jsonl", rows)
    assert list(sources.load(tmp_path, "train")) == rows
    counts = sources.describe(rows)
    assert counts["domain"] == {"ct": 1, "ultrasound": 2}
    assert counts["label"] == {
        "busi/Benign": 1,
        "busi/Normal": 1,
        "lndb/Benign": 1,
        "lndb/Normal": 1,
    }
    assert sources.domains(rows) == ("ct", "ultrasound") and len(sources.domains()) == 11
    mark = sources.fingerprint(rows)
    assert mark == sources.fingerprint(sources.load(tmp_path, "train")) and len(mark) == 64
    assert mark != sources.fingerprint(rows[::-1]) != sources.fingerprint(rows[:2])


def test_wrong_folders(tmp_path):
    with pytest.raises(DataError, match="no such row file"):
        sources.load(tmp_path, "test")
    with pytest.raises(DataError, match="unknown split"):
        sources.load(tmp_path, "dev")
    schema.write_jsonl(tmp_path / "test.jsonl", [_row(1)])
    with pytest.raises(DataError, match="says split 'train'"):
        sources.load(tmp_path, "test")
