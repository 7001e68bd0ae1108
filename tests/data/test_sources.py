"""Folders of row files."""

import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

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
    assert sources.domains(rows) == ("ct", "ultrasound") and len(sources.domains()) == 10
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


def test_from_tfds_without_tensorflow(tmp_path):
    """A tiny array_record data set, written and read by tensorflow-datasets alone."""
    f = tfds.features
    text = f.Text()

    class TinyRows(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = None

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=f.FeaturesDict(
                    {
                        "id": text,
                        "dataset": text,
                        "problem": text,
                        "answer": text,
                        "images": f.Sequence(text),
                        "labels": f.Sequence(text),
                        "bbox": f.Sequence(f.Tensor(shape=(4,), dtype=np.float32)),
                        "difficulty": f.Scalar(np.int64),
                        "reasoning": text,
                    }
                ),
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            shared = {
                "dataset": "busi",
                "problem": "What?",
                "labels": ["Benign", "Normal"],
                "reasoning": "",
            }
            yield (
                "a",
                {
                    **shared,
                    "id": "a",
                    "answer": "Benign",
                    "images": ["a.png"],
                    "bbox": [[1, 2, 3, 4]],
                    "difficulty": 2,
                },
            )
            yield (
                "b",
                {
                    **shared,
                    "id": "b",
                    "answer": "Normal",
                    "images": ["b.png"],
                    "bbox": [],
                    "difficulty": 0,
                },
            )

    TinyRows(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    rows = {row.id: row for row in sources.from_tfds("tiny_rows", "train", tmp_path)}
    assert rows["a"].bbox == ((1.0, 2.0, 3.0, 4.0),) and rows["a"].difficulty == 2
    assert (
        rows["b"].bbox == () and rows["b"].difficulty is None and rows["b"].domain == "ultrasound"
    )
    assert "tensorflow" not in sys.modules
    with pytest.raises(DataError, match="cannot open it"):
        sources.from_tfds("not_there", "train", tmp_path)
