"""Rows as a data set of tensorflow-datasets: what is prepared is what was there."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import grain
import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers.metaimage import make_metaimage
from PIL import Image

from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.cli import main
from qoq_jax.climb import tfds_builder
from qoq_jax.data import check, readers, sources, tfds_rows
from qoq_jax.data import rows as schema


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "films"
    (folder / "deep").mkdir(parents=True)
    Image.fromarray(np.full((40, 80, 3), 90, np.uint8)).save(folder / "deep" / "a.png")
    Image.fromarray(np.full((40, 80), 255, np.uint8)).save(folder / "m.png")
    times = np.arange(1000) / 100
    signal = np.stack([np.sin(times * (2 + lead)) for lead in range(8)])
    (signal.T * 1000).astype("<i2").tofile(folder / "r.dat")
    names = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
    lines = [f"r.dat 16 1000/mV 16 0 0 0 0 {name}" for name in names]
    (folder / "r.hea").write_text("\n".join(["r 8 100 1000", *lines]) + "\n")
    common = {"problem": "One of: Normal, Ödem.", "labels": ["Normal", "Ödem"], "domain": "ct"}
    full = common | {
        "id": "full",
        "dataset": "films",
        "answer": "Ödem",
        "patient": "p1",
        "split": "train",
        "images": ["deep/a.png", "deep/a.png"],
        "time-series": ["r.hea"],
        "bbox": [[0.1, 2, 40.3, 30], [1, 2, 3, 4]],
        "bbox_labels": ["Ödem", "Ödem"],
        "bbox_images": [0, 1],
        "segmentation_path": "m.png",
        "difficulty": 2,
        "reasoning": "dense",
        "source": "x",
    }
    rows = {"train": [full, common | {"id": "bare", "answer": "Normal"}]}
    rows["test"] = [common | {"id": f"t{i}", "answer": "Normal"} for i in range(5)]
    for split, of_it in rows.items():
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, of_it)))
    return folder


def rounded(row):
    """tf.train.Example holds floats of 32 bits."""
    boxes = tuple(tuple(float(np.float32(x)) for x in box) for box in row.bbox)
    return dataclasses.replace(row, bbox=boxes)


def test_rows_and_media_come_back_as_they_were(root, tmp_path, capsys):
    out = tmp_path / "tfds"
    assert main.main(["data", "tfds", str(root), str(out)]) == 0
    assert "tfds:qoq_rows/films@" in capsys.readouterr().out
    folder = tfds_rows.folder(f"tfds:qoq_rows/films@{out}")
    for split in ("train", "test"):
        before = {row.id: rounded(row) for row in sources.load(root, split)}
        after = {row.id: row for row in sources.load(folder, split)}
        assert before == after and len(after) in (2, 5)
    with_media = next(r for r in sources.load(folder, "train") if r.id == "full")
    for path in with_media.images:
        assert np.array_equal(
            readers.read_image(schema.resolve(folder, path)), readers.read_image(root / path)
        )
    assert np.array_equal(
        readers.read_ecg(schema.resolve(folder, "r.hea"), root=folder),
        readers.read_ecg(root / "r.hea", root=root),
    )
    assert check.describe(f"tfds:qoq_rows/films@{out}") == 0


def test_files_that_belong_to_media_are_linked_and_no_others(root, tmp_path):
    make_metaimage(root / "v.1.mhd", np.zeros((8, 8, 4), np.uint8), packed=True)
    for number in (1, 2):
        shutil.copy(root / "deep" / "a.png", root / f"1.2.840.{number}.png")
    common = {"dataset": "films", "problem": "?", "answer": "A", "labels": ["A"], "domain": "ct"}
    rows = [
        common | {"id": "uid", "images": ["1.2.840.1.png"]},
        common | {"id": "volume", "videos": ["v.1.mhd"]},
    ]
    (root / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (root / "train.jsonl").unlink()
    out = pathlib.Path(tfds_builder.prepare(root, tmp_path / "tfds"))
    made = {path.name for path in out.iterdir() if ".array_record" not in path.name}
    facts = {name for name in made if name.endswith(".json")}
    assert made - facts == {"1.2.840.1.png", "v.1.mhd", "v.1.zraw"}


def test_validate_checks_each_split_of_it(root, tmp_path, capsys):
    out = tmp_path / "tfds"
    folder = tfds_builder.prepare(root, out)
    (root / "train.jsonl").unlink()
    for name in (f"tfds:qoq_rows/films@{out}", folder):
        assert main.main(["data", "validate", name]) == 0
        found = capsys.readouterr().out
        assert "train.array_record-00000-of-00001: 2 rows, 0 faults" in found
        assert "test.array_record-00000-of-00001: 5 rows, 0 faults" in found
    first = str(sources.find(folder, "test"))
    assert main.main(["data", "validate", first]) == 0
    assert "5 rows, 0 faults" in capsys.readouterr().out
    assert main.main(["data", "validate", str(tmp_path)]) != 0
    assert "no train.jsonl" in capsys.readouterr().err


def test_its_data_source_feeds_grain_without_tensorflow(root, tmp_path):
    tfds_builder.prepare(root, tmp_path / "tfds", "one")
    code = f"""
import sys, tensorflow_datasets as tfds
source = tfds.data_source("qoq_rows/one", data_dir={str(tmp_path / "tfds")!r}, split="test")
assert len(source) == 5 and "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    source = tfds.data_source("qoq_rows/one", data_dir=tmp_path / "tfds", split="test")
    elements = list(grain.MapDataset.source(source).shuffle(seed=1).repeat(2))
    ids = [element["id"].decode() for element in elements]
    assert sorted(ids) == sorted([f"t{i}" for i in range(5)] * 2)


def test_refusals_leave_nothing_behind(root, tmp_path):
    out = tmp_path / "tfds"
    tfds_builder.prepare(root, out)
    with pytest.raises(ConfigError, match="is there already"):
        tfds_builder.prepare(root, out)
    with pytest.raises(ConfigError, match="no name"):
        tfds_builder.prepare(root, out, "a/b")
    with pytest.raises(DataError, match="no train"):
        tfds_builder.prepare(tmp_path / "tfds", out, "none")
    (root / "deep" / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png"):
        tfds_builder.prepare(root, out, "broken")
    assert not (out / "qoq_rows" / "broken" / "1.0.0").exists()
