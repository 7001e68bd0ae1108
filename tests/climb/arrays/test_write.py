"""Shards, index and report, and the source that Grain reads."""

import json
import pickle

import grain
import numpy as np
import pytest

from qoq_jax.base.errors import DataError
from qoq_jax.cli import main
from qoq_jax.climb.arrays import sets, write
from qoq_jax.climb.arrays.source import ArraySource
from tests.helpers import array_layouts
from tests.helpers.array_layouts import read_all


def content(folder):
    """All records that a folder of shards holds, by id."""
    report = json.loads((folder / "arrays.json").read_text())
    sources = [ArraySource(folder, split) for split in report["splits"]]
    return {
        record.id: record
        for source in sources
        for record in map(source.__getitem__, range(len(source)))
    }


@pytest.mark.parametrize("name", sets.READERS)
def test_what_is_written_is_what_was_read(name, tmp_path):
    array_layouts.WRITERS[name](tmp_path / "data")
    write.write(name, tmp_path / "data", tmp_path / "out")
    expected, _ = read_all(name, tmp_path / "data")
    found = content(tmp_path / "out")
    assert list(found) and set(found) == set(expected)
    for key, record in found.items():
        for array, values in expected[key].arrays.items():
            np.testing.assert_array_equal(record.arrays[array], values)
            assert record.arrays[array].dtype == values.dtype
        for field in ("id", "patient", "labels", "split", "names", "metadata"):
            assert getattr(record, field) == getattr(expected[key], field)


def test_the_report_counts_what_was_left_out(tmp_path):
    array_layouts.tuab(tmp_path)
    report = write.write("tuab", tmp_path)
    assert json.loads((tmp_path / "arrays/arrays.json").read_text()) == report
    assert sum(one["records"] for one in report["splits"].values()) == 4
    assert report["splits"]["test"]["labels"] == {"Normal": 1}
    assert report["dropped"]["is shorter than 10 s"] == {
        "records": 1,
        "as": ["aaaaashort_s001_t000"],
    }
    assert "left out: 1, has no electrode C3 (aaaaafew_s001_t000)" in write.summary(report)


def test_two_runs_write_the_same(tmp_path):
    array_layouts.hugadb(tmp_path)
    first = write.write("hugadb", tmp_path, tmp_path / "a", seed=3)
    second = write.write("hugadb", tmp_path, tmp_path / "b", seed=3)
    assert first == second


def test_shards_close_at_their_size_and_read_as_one(tmp_path):
    array_layouts.tuab(tmp_path / "data")
    out = tmp_path / "out"
    write.write("tuab", tmp_path / "data", out, shard_bytes=1)
    shards = sorted(path.name for path in out.glob("*.array_record"))
    assert len(shards) == 4
    assert set(content(out)) == set(read_all("tuab", tmp_path / "data")[0])
    # A second run with larger shards leaves none of these.
    report = write.write("tuab", tmp_path / "data", out)
    assert len(list(out.glob("*.array_record"))) == len(report["splits"])


def test_names_are_stored_once(tmp_path):
    array_layouts.hugadb(tmp_path)
    write.write("hugadb", tmp_path)
    assert len(list((tmp_path / "arrays/names").iterdir())) == 2  # sensors and muscles


@pytest.fixture
def source(tmp_path):
    array_layouts.geo(tmp_path)
    write.write("geo", tmp_path)
    report = json.loads((tmp_path / "arrays/arrays.json").read_text())
    return ArraySource(tmp_path / "arrays", next(iter(report["splits"])))


def test_grain_batches_records(tmp_path):
    array_layouts.iiic(tmp_path)
    report = write.write("iiic", tmp_path)
    split = max(report["splits"], key=lambda name: report["splits"][name]["records"])
    source = ArraySource(tmp_path / "arrays", split)
    vocabulary = source.report["labels"]
    dataset = (
        grain.MapDataset.source(source)
        .shuffle(seed=1)
        .map(lambda one: (one.arrays["signal"], vocabulary.index(one.labels[0])))
        .batch(2)
    )
    signal, label = dataset[0]
    assert signal.shape == (2, 16, 2000)
    assert label.shape == (2,)


def test_a_source_goes_to_other_processes(source):
    copy = pickle.loads(pickle.dumps(source))
    assert len(copy) == len(source)
    assert copy[0].id == source[0].id
    assert copy[-1].id == source[len(source) - 1].id
    with pytest.raises(IndexError):
        source[len(source)]


def test_the_index_has_labels_and_patients_by_number(source):
    assert source.index == [
        {"id": one.id, "patient": one.patient, "labels": list(one.labels)}
        for one in map(source.__getitem__, range(len(source)))
    ]


def test_an_interrupted_run_is_not_complete(tmp_path, monkeypatch):
    array_layouts.hugadb(tmp_path)
    write.write("hugadb", tmp_path)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "pack", stop)
    with pytest.raises(KeyboardInterrupt):
        write.write("hugadb", tmp_path)
    with pytest.raises(DataError, match=r"arrays\.json: cannot be read"):
        ArraySource(tmp_path / "arrays", "train")
    assert not list((tmp_path / "arrays").glob(".*partial"))


def test_nothing_to_write_is_an_error(tmp_path):
    array_layouts.edf(tmp_path / "edf/train/normal/a_s1_t0.edf", 3)
    with pytest.raises(DataError, match="no record of tuab can be read .1: is shorter than 10 s"):
        write.write("tuab", tmp_path)
    assert not (tmp_path / "arrays/arrays.json").exists()


@pytest.mark.parametrize("how", ["gone", "cut", "noise", "count", "format"])
def test_damaged_shards_are_named(how, source):
    import pathlib

    folder = pathlib.Path(source.folder)
    (shard,) = folder.glob(f"{source.split}-*.array_record")
    report = json.loads((folder / "arrays.json").read_text())
    if how == "gone":
        shard.unlink()
    elif how == "cut":
        shard.write_bytes(shard.read_bytes()[:-100])
    elif how == "noise":
        data = bytearray(shard.read_bytes())
        data[40:] = bytes(len(data) - 40)
        shard.write_bytes(data)
    elif how == "count":
        report["splits"][source.split]["records"] += 1
    else:
        report["format"] = 99
    (folder / "arrays.json").write_text(json.dumps(report))
    with pytest.raises(DataError):
        [one.id for one in map(ArraySource(folder, source.split).__getitem__, range(2))]


def test_another_split_has_a_hint(source):
    with pytest.raises(DataError, match="there is no split 'tran'"):
        ArraySource(source.folder, "tran")


def test_the_command(tmp_path, capsys):
    array_layouts.proteins(tmp_path)
    assert main.main(["data", "arrays", "proteins", str(tmp_path), str(tmp_path / "out")]) == 0
    assert "proteins:" in capsys.readouterr().out
    assert (tmp_path / "out/arrays.json").is_file()
    assert main.main(["data", "arrays", "list"]) == 0
    assert "tuab              signal float32 [channel, 2000]" in capsys.readouterr().out
    assert main.main(["data", "arrays", "proteins"]) == 2
    assert main.main(["data", "arrays", "protein", str(tmp_path)]) == 2
