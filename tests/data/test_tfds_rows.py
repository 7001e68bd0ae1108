"""A data set of tensorflow-datasets as a source of rows: data.extra = ("tfds:NAME@DIR",)."""

import os
import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from qoq_jax.base import files
from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.data import check, index, sources, tfds_rows
from qoq_jax.train import datasets
from qoq_jax.train.config import Config, DataConfig

ROWS = {
    "a": {"answer": "Benign", "images": ["a.png"], "bbox": [[1, 2, 3, 4]], "difficulty": 2},
    "b": {"answer": "Normal", "images": ["b.png"], "bbox": [], "difficulty": 0},
    "c": {"answer": "Normal", "images": ["a.png"], "bbox": [], "difficulty": 1},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder in which a data set was prepared: three training and two test rows, in two shards
    each.
    """
    features, text = tfds.features, tfds.features.Text()

    class TinyRows(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = None

        def _info(self):
            named = {
                **dict.fromkeys(("id", "dataset", "problem", "answer", "reasoning"), text),
                "images": features.Sequence(text),
                "labels": features.Sequence(text),
                "bbox": features.Sequence(features.Tensor(shape=(4,), dtype=np.float32)),
                "difficulty": features.Scalar(np.int64),
            }
            return tfds.core.DatasetInfo(builder=self, features=features.FeaturesDict(named))

        def _split_generators(self, dl_manager):
            return {
                "train": self._generate_examples("abc"),
                "test": self._generate_examples("bc"),
            }

        def _generate_examples(self, ids):
            for one in ids:
                row = {"id": one, "dataset": "busi", "problem": "What?", "reasoning": ""}
                yield one, row | {"labels": ["Benign", "Normal"]} | ROWS[one]

    folder = tmp_path_factory.mktemp("prepared")
    TinyRows(data_dir=folder, file_format="array_record").download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=2)
    )
    for name in ("a", "b"):
        Image.new("RGB", (64, 64)).save(folder / "tiny_rows" / "1.0.0" / f"{name}.png")
    return folder


@pytest.fixture
def copy(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "copy")
    return tmp_path / "copy"


def entry(folder):
    return f"tfds:tiny_rows@{folder}"


def test_rows_are_read_by_number_without_tensorflow(prepared):
    rows = sources.load(tfds_rows.folder(entry(prepared)), "train")
    assert isinstance(rows, index.Rows) and len(rows) == 3
    by_id = {row.id: row for row in rows}
    assert by_id["a"].bbox == ((1.0, 2.0, 3.0, 4.0),) and by_id["a"].difficulty == 2
    assert by_id["b"].bbox == () and by_id["b"].difficulty is None
    assert by_id["b"].domain == "ultrasound" and by_id["b"].reasoning is None
    assert rows[-1] == list(rows)[2] and "tensorflow" not in sys.modules


def test_the_fingerprint_is_that_of_the_same_rows_elsewhere(prepared):
    root = tfds_rows.folder(entry(prepared))
    rows = sources.load(root, "train")
    assert rows.fingerprint == sources.fingerprint(rows, root)


def test_the_index_is_kept_until_a_shard_changes(copy, monkeypatch):
    root = tfds_rows.folder(entry(copy))
    first = sources.load(root, "train").fingerprint
    monkeypatch.setattr(tfds_rows.Elements, "read", None)  # the index answers
    assert sources.load(root, "train").fingerprint == first
    monkeypatch.undo()
    last = tfds_rows.shards(sources.find(root, "train"))[-1]
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 255
    last.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read|cannot open"):
        list(sources.load(root, "train"))


def test_a_missing_shard_is_named(copy):
    root = tfds_rows.folder(entry(copy))
    last = tfds_rows.shards(sources.find(root, "train"))[-1]
    last.unlink()
    with pytest.raises(DataError, match=last.name):
        sources.load(root, "train")


def test_a_run_writes_the_data_set_down(prepared, tmp_path):
    data = DataConfig(mini_rows=0, real=False, extra=(entry(prepared),))
    cfg = Config(workdir=str(tmp_path), data=data)
    datasets.check_extra(data)
    record = datasets.Record(str(tmp_path), training=True)
    roots, notes = datasets.prepare(cfg, record, ["train", "test"])
    assert roots == {"tiny_rows": str(prepared / "tiny_rows" / "1.0.0")} and not notes
    rows = sources.load(roots["tiny_rows"], "train")
    record.check("tiny_rows", "train", rows, roots["tiny_rows"])
    known = files.read_json(tmp_path / "data.json")["sources"]["tiny_rows"]
    assert known["splits"] == {"train": {"rows": 3, "sha256": rows.fingerprint}}


def test_missing_data_sets(prepared, tmp_path):
    for wrong in ("tfds:not_there", "tfds:tiny_rows"):
        with pytest.raises(ConfigError, match="finds no prepared data set"):
            tfds_rows.folder(f"{wrong}@{tmp_path}")
    with pytest.raises(DataError, match="no such row file"):
        sources.load(tfds_rows.folder(entry(prepared)), "validation")


def test_two_sources_of_one_name(prepared):
    data = DataConfig(extra=(entry(prepared), entry(prepared)))
    with pytest.raises(ConfigError, match="two sources are called 'tiny_rows'"):
        datasets.check_extra(data)


def test_it_is_described_and_validated(prepared, capsys):
    assert check.describe(entry(prepared)) == 0
    assert "train: 3 rows\n  ultrasound: 3 (100.0%)\n    busi: Benign 1, Normal 2" in (
        capsys.readouterr().out
    )
    path = sources.find(tfds_rows.folder(entry(prepared)), "train")
    assert check.run(os.fspath(path)) == 0


def test_the_name_of_a_source():
    assert tfds_rows.source_name("tfds:name/config:1.0.0@folder") == "name-config"
    assert tfds_rows.source_name("some/folder/") == "folder"
