"""Shards: the same samples as from files, the same bytes at every run, continued after a kill."""

import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import types
import zipfile

import grain
import numpy as np
import pytest
from helpers import object_store
from helpers.rows import TOKENIZER, config
from PIL import Image

from qoq_jax.base import objects
from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.cli import main
from qoq_jax.climb.shards import pipeline, plan, write
from qoq_jax.data import check, index, media, shards, sources
from qoq_jax.data.sample import process

ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.setenv("QOQ_CACHE", str(tmp_path / "cache"))


def row(number, **change):
    return {
        "id": f"r{number}",
        "dataset": "d",
        "domain": "ct",
        "problem": "Answer with one of: A, B.",
        "answer": "A",
        "labels": ["A", "B"],
        "patient": f"p{number}",
    } | change


@pytest.fixture
def folder(tmp_path):
    """Two splits: pictures, one with a mask, a WFDB record without extension, an .npz."""
    root = tmp_path / "data"
    (root / "media").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(4):
        pixels = rng.integers(0, 256, (60 + number, 80, 3), np.uint8)
        Image.fromarray(pixels).save(root / "media" / f"{number}.png")
    mask = np.zeros((61, 80), np.uint8)
    mask[10:30, 20:60] = 255
    Image.fromarray(mask).save(root / "media" / "mask.png")
    leads = ["I", "II", "III", "aVR", "aVL", "aVF", *(f"V{i}" for i in range(1, 7))]
    signal_ = rng.normal(0, 0.3, (12, 5000)).astype(np.float32)
    np.savez(root / "media" / "a.npz", signal=signal_, fs=500.0, leads=leads)
    (signal_.T * 1000).astype("<i2").tofile(root / "media" / "r.dat")
    lines = [f"r.dat 16 1000/mV 16 0 0 0 0 {lead}" for lead in leads]
    (root / "media" / "r.hea").write_text("\n".join(["r 12 500 5000", *lines]) + "\n")
    write_rows(
        root,
        train=[
            row(0, images=["media/0.png"]),
            row(1, images=["media/1.png"], segmentation_path="media/mask.png"),
            row(2, images=["media/2.png", "media/0.png"]),
            row(3, domain="ecg", **{"time-series": ["media/r"]}),
        ],
        test=[row(4, domain="ecg", **{"time-series": ["media/a.npz"]})],
    )
    return root


def write_rows(root, **splits):
    for split, rows in splits.items():
        (root / f"{split}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))


def made(root, out, size=1, **options):
    return pipeline.run(str(root), str(out), size, **options)


def made_here(root, out, size=1):
    """The same without Beam, for what comes after."""
    tasks = plan.plan(str(root), str(out), size)
    for task in tasks:
        write.shard(task, str(root), str(out))
    return write.finish(tasks, str(out))


def contents(out):
    """{name: bytes} of what a run leaves for training."""
    return {
        path.name: path.read_bytes()
        for path in out.iterdir()
        if path.is_file() and not path.name.startswith(".")
    }


def same(first, second):
    assert first.keys() == second.keys()
    for key in first:
        if key == "meta":
            assert repr(first[key]) == repr(second[key])
        else:
            assert np.array_equal(first[key], second[key]), key


def test_samples_and_fingerprints_are_those_of_the_folder(folder, tmp_path):
    out = tmp_path / "out"
    manifest = made(folder, out)
    assert [one["records"] for one in manifest["shards"]] == [1] * 5
    for split in ("train", "test"):
        here, there = sources.load(folder, split), sources.load(out, split)
        assert list(here) == list(there) and here.fingerprint == there.fingerprint
        assert sources.fingerprint(there, out) == there.fingerprint
        for one in here:
            same(
                process(one, folder, TOKENIZER, config(), with_answer=True),
                process(one, out, TOKENIZER, config(), with_answer=True),
            )
        assert check.run(str(out / f"{split}.jsonl")) == 0


def test_grain_reads_the_records_without_this_package(folder, tmp_path):
    made_here(folder, tmp_path / "out", size=10**9)
    paths = sorted(map(str, (tmp_path / "out").glob("train-*.array_record")))
    assert len(paths) == 1
    source = grain.sources.ArrayRecordDataSource(paths)
    with zipfile.ZipFile(io.BytesIO(source[1])) as archive:
        assert archive.namelist() == ["row.json", "media/media/1.png", "media/media/mask.png"]
        assert json.loads(archive.read("row.json"))["id"] == "r1"
        found = archive.read("media/media/1.png")
    assert found == (folder / "media" / "1.png").read_bytes()


def test_two_runs_give_the_same_bits(folder, tmp_path):
    made(folder, tmp_path / "one", size=20_000)
    made(folder, tmp_path / "two", size=20_000)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


KILLED = """
import os, signal, sys
from qoq_jax.climb.shards import pipeline, plan, write
record, seen = write.record, []
def dying(row, root, frames):
    seen.append(row.id)
    if len(seen) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return record(row, root, frames)
write.record = dying
pipeline.run(sys.argv[1], sys.argv[2], 1)
"""


def test_a_killed_run_goes_on_and_ends_in_the_same_bits(folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    found = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), str(out)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=120,
    )
    assert found.returncode == -signal.SIGKILL, found.stderr.decode()[-500:]
    assert len(list((out / "parts").glob("*.json"))) == 2 and shards.find(out) is None
    calls, shard = [], write.shard
    monkeypatch.setattr(
        write, "shard", lambda task, *folders: (calls.append(task.name), shard(task, *folders))[1]
    )
    made(folder, out)
    assert len(calls) == 3
    made_here(folder, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")
    assert not list(out.glob(".*.partial"))
    calls.clear()
    made(folder, out)
    assert calls == []


def test_a_bad_medium_is_named_and_the_other_shards_are_kept(folder, tmp_path, monkeypatch):
    out, bad = tmp_path / "out", folder / "media" / "2.png"
    content = bad.read_bytes()
    bad.write_bytes(b"")
    with pytest.raises(DataError, match=r"2\.png: the file is empty .*finished shards are kept"):
        made(folder, out)
    assert shards.find(out) is None
    bad.write_bytes(content)
    calls, shard = [], write.shard
    monkeypatch.setattr(
        write, "shard", lambda task, *folders: (calls.append(task.number), shard(task, *folders))[1]
    )
    made(folder, out)
    assert calls == [2]


def test_other_rows_replace_the_shards_that_they_are_in(folder, tmp_path):
    out = tmp_path / "out"
    made(folder, out)
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    write_rows(folder, train=rows[:2])
    made(folder, out)
    assert sorted(path.name for path in out.glob("*.array_record")) == [
        "test-00000-of-00001.array_record",
        "train-00000-of-00002.array_record",
        "train-00001-of-00002.array_record",
    ]
    assert len(sources.load(out, "train")) == 2 and len(shards.find(out)) == 3


def test_a_damaged_shard_is_an_error_that_names_it(folder, tmp_path):
    out = tmp_path / "out"
    made_here(folder, out)
    path = out / "train-00000-of-00004.array_record"
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 100] ^= 1
    path.write_bytes(content)
    one = sources.load(out, "train")[0]
    with pytest.raises(DataError, match=r"train-00000-of-00004\.array_record\[0\]"):
        process(one, out, TOKENIZER, config())


@pytest.mark.parametrize(
    "members, compression",
    [
        ([("row.json", b"{}"), ("media/a", b"0" * 999)], zipfile.ZIP_DEFLATED),
        ([("media/a", b"")], zipfile.ZIP_STORED),
        ([], None),
    ],
)
def test_what_is_no_record_is_refused(members, compression):
    out = io.BytesIO(b"no archive")
    if compression is not None:
        with zipfile.ZipFile(out, "w", compression) as archive:
            for name, content in members:
                archive.writestr(name, content)
    with pytest.raises(DataError, match="x: is no record"):
        shards.decode(out.getvalue(), "x")


def test_a_record_writes_nothing_outside_of_its_folder(folder, tmp_path, monkeypatch):
    made_here(folder, tmp_path / "out")
    found = shards.find(tmp_path / "out")
    inside = {"media/0.png": b"x", "../../out.png": b"x"}
    monkeypatch.setattr(found, "record", lambda number: (b"{}", inside))
    with pytest.raises(DataError, match="leads out"):
        found.extract("media/0.png", tmp_path / "scratch" / "a")
    assert not (tmp_path / "out.png").exists()


def test_a_file_of_many_recordings_is_refused(folder, tmp_path):
    write_rows(folder, test=[row(9, domain="ecg", **{"time-series": ["media/e.hdf5#3"]})])
    with pytest.raises(DataError, match="one recording of a file of many"):
        made_here(folder, tmp_path / "out")


def test_shards_at_a_url(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "FIRST_WAIT", 0.001)
    object_store.empty_memory()
    shards._at_url.cache_clear()
    made_here(folder, tmp_path / "out")
    objects.upload_tree(str(tmp_path / "out"), "memory://bucket/shards")
    here, there = (sources.load(root, "train") for root in (folder, "memory://bucket/shards"))
    assert here.fingerprint == there.fingerprint
    for one in here:
        same(
            process(one, folder, TOKENIZER, config()),
            process(one, "memory://bucket/shards", TOKENIZER, config()),
        )


def test_an_index_notices_other_media(folder, tmp_path):
    out = tmp_path / "out"
    made_here(folder, out)
    before = index.open_rows(out / "train.jsonl").fingerprint
    Image.new("RGB", (33, 33)).save(folder / "media" / "0.png")
    made_here(folder, out)
    after = index.open_rows(out / "train.jsonl").fingerprint
    assert after == sources.load(folder, "train").fingerprint != before


def test_the_command(folder, tmp_path, capsys):
    out = tmp_path / "out"
    code = main.main(["data", "shards", str(folder), str(out), "--shard-size", "1GB"])
    assert code == 0 and "5 rows in 2 shards" in capsys.readouterr().out
    assert main.main(["data", "shards", str(out), str(tmp_path / "more")]) != 0
    assert "from a folder of files into another folder" in capsys.readouterr().err


def test_without_beam_the_command_says_what_to_install(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ConfigError, match=r"pip install \"qoq_jax\[beam\]\""):
        made(folder, tmp_path / "out")


def test_an_unknown_runner_is_one_line(folder, tmp_path):
    with pytest.raises(ConfigError, match="refuses the runner 'NoSuchRunner'"):
        made(folder, tmp_path / "out", runner="NoSuchRunner")


@pytest.mark.parametrize("free", [0, 1 << 40])
def test_samples_are_made_in_memory_where_there_is_room(folder, tmp_path, monkeypatch, free):
    made_here(folder, tmp_path / "out")
    monkeypatch.setattr(media, "_scratch", {})
    monkeypatch.setattr(media, "_MEMORY", str(tmp_path))
    monkeypatch.setattr(media.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=free))
    with media.opened(tmp_path / "out") as made:
        media.fetched(f"{made}/media/0.png")
        assert os.listdir(f"{made}/media") == ["0.png"]
        parent = tmp_path / f"qoq-{os.getuid()}" if free else objects.cache_folder("media")
        assert os.path.dirname(made) == str(parent)
    assert os.listdir(parent) == []


def test_a_split_that_the_source_has_no_longer_goes(folder, tmp_path):
    out = tmp_path / "out"
    made(folder, out)
    assert sources.load(out, "test") and (out / ".test.jsonl.index").exists()
    (folder / "test.jsonl").unlink()
    made(folder, out)
    assert sources.find(out, "test") is None and len(sources.load(out, "train")) == 4
    assert not [path.name for path in out.iterdir() if "test" in path.name]


def test_an_open_quotation_mark_in_the_options_is_one_line(folder, tmp_path, capsys):
    code = main.main(["data", "shards", str(folder), str(tmp_path / "o"), "--runner-options", '"a'])
    assert code != 0
    assert '--runner-options "a: No closing quotation' in capsys.readouterr().err
