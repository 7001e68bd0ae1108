"""Media of several files: shards have all of them, and notice a change in any."""

import json

import numpy as np
import pytest
from helpers import object_store
from helpers.metaimage import make_metaimage
from helpers.rows import TOKENIZER, config

from qoq_jax.base import objects
from qoq_jax.climb.shards import plan, write
from qoq_jax.data import check, sources
from qoq_jax.data.readers import parts
from qoq_jax.data.sample import process

LEADS = ["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"]
FILES = {
    "volume": ["a/v.1.mhd", "a/v.1.raw", "a/m.mhd", "a/m.zraw"],
    "other": ["a/odd.mhd", "a/numbers.bin"],
    "two": ["e/two.hea", "e/two.dat", "e/two.xyz"],
    "name": ["e/two.hea", "e/two.dat", "e/two.xyz"],
    "segments": ["e/s.hea", "e/s_1.hea", "e/s_1.dat"],
    "own": ["e/x.npy", "e/x.npy.json"],
    "shared": ["e/y.npy", "e/ecg.json"],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("QOQ_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "data"
    (root / "a").mkdir(parents=True)
    (root / "e").mkdir()
    rng = np.random.default_rng(0)
    values = rng.integers(0, 255, (48, 48, 6)).astype("u1")
    make_metaimage(root / "a" / "v.1.mhd", values)
    make_metaimage(root / "a" / "m.mhd", (values > 99).astype("u1"), packed=True)
    odd = make_metaimage(root / "a" / "odd.mhd", values, ElementDataFile="numbers.bin")
    odd.with_suffix(".raw").rename(root / "a" / "numbers.bin")
    ecg(root / "e")
    common = {"dataset": "d", "problem": "One of: A, B.", "answer": "A", "labels": ["A", "B"]}
    ct, heart = common | {"domain": "ct"}, common | {"domain": "ecg"}
    rows = [
        ct | {"id": "volume", "videos": ["a/v.1.mhd"], "segmentation_path": "a/m.mhd"},
        ct | {"id": "other", "videos": ["a/odd.mhd"]},
        heart | {"id": "two", "time-series": ["e/two.hea"]},
        heart | {"id": "name", "time-series": ["e/two"]},
        heart | {"id": "segments", "time-series": ["e/s.hea"]},
        heart | {"id": "own", "time-series": ["e/x.npy"]},
        heart | {"id": "shared", "time-series": ["e/y.npy"]},
    ]
    (root / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def ecg(to):
    """A record of two signal files, one of two segments of which 10 s need the first, two arrays
    with their JSON files.
    """
    signal = np.random.default_rng(1).normal(0, 0.3, (1100, 8)).astype("f4")
    stored = (signal * 1000).astype("<i2")

    def lines(name, leads):
        return [f"{name} 16 1000/mV 16 0 0 0 0 {lead}" for lead in leads]

    stored[:, :2].tofile(to / "two.dat")
    stored[:, 2:].tofile(to / "two.xyz")
    head = ["two 8 100 1100", *lines("two.dat", LEADS[:2]), *lines("two.xyz", LEADS[2:])]
    (to / "two.hea").write_text("\n".join(head) + "\n")
    (to / "s.hea").write_text("s/2 8 100 2200\ns_1 1100\ns_2 1100\n")
    for name in ("s_1", "s_2"):
        stored.tofile(to / f"{name}.dat")
        head = [f"{name} 8 100 1100", *lines(f"{name}.dat", LEADS)]
        (to / f"{name}.hea").write_text("\n".join(head) + "\n")
    facts = json.dumps({"rate": 100, "unit": "mV", "leads": LEADS})
    for name in ("x.npy", "y.npy"):
        np.save(to / name, signal)
    (to / "x.npy.json").write_text(facts + " ")
    (to / "ecg.json").write_text(facts)


def test_rows_are_valid_from_the_shards_as_from_the_folder(folder, tmp_path):
    out = tmp_path / "out"
    tasks = plan.plan(str(folder), str(out), 1)
    for task in tasks:
        write.shard(task, str(folder), str(out))
    write.finish(tasks, str(out))
    assert check.run(str(folder)) == check.run(str(out)) == 0
    for row in sources.load(folder, "train"):
        assert parts.files_of(row, folder) == parts.files_of(row, out)
        here, there = (process(row, root, TOKENIZER, config()) for root in (folder, out))
        for key in here.keys() - {"meta"}:
            assert np.array_equal(here[key], there[key]), (row.id, key)


@pytest.mark.parametrize("at_url", [False, True])
def test_the_files_of_each_kind(folder, at_url):
    root = folder
    if at_url:
        object_store.empty_memory()
        objects.upload_tree(str(folder), "memory://bucket/data")
        root = "memory://bucket/data"
    found = {row.id: parts.files_of(row, root) for row in sources.load(root, "train")}
    assert {key: sorted(value) for key, value in found.items()} == {
        key: sorted(value) for key, value in FILES.items()
    }


@pytest.mark.parametrize("name", sorted({name for names in FILES.values() for name in names}))
def test_another_size_of_any_file_is_another_shard(folder, tmp_path, name):
    def hashes():
        return [task.sha256 for task in plan.plan(str(folder), str(tmp_path / "out"), 1)]

    before = hashes()
    with open(folder / name, "ab") as file:
        file.write(b"\n")
    changed = [a != b for a, b in zip(before, hashes(), strict=True)]
    assert changed == [name in names for names in FILES.values()]


def test_voxels_count_for_the_size_of_a_shard(folder, tmp_path):
    header = (folder / "a" / "v.1.mhd").stat().st_size + (folder / "a" / "m.mhd").stat().st_size
    first = plan.plan(str(folder), str(tmp_path / "out"), header + 1000)[0]
    assert (folder / "train.jsonl").read_bytes()[: first.end].count(b"\n") <= 1


def test_a_missing_file_is_told_by_the_worker(folder, tmp_path):
    (folder / "a" / "v.1.raw").unlink()
    out = str(tmp_path / "out")
    task = plan.plan(str(folder), out, 1)[0]
    write.shard(task, str(folder), out)
    known = json.loads((tmp_path / "out" / write.PARTS / f"{task.name}.json").read_text())
    assert "'v.1.raw'" in known["error"][0]
