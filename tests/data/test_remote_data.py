"""A data folder at a URL: the same rows, fingerprints, samples and refusals as on a disk."""

from __future__ import annotations

import json
import pathlib
import shutil

import numpy as np
import pytest
from helpers import object_store
from helpers.rows import TOKENIZER, config
from PIL import Image

from qoq_jax.base import objects
from qoq_jax.base.errors import DataError
from qoq_jax.data import check, ecgs, index, media, sources
from qoq_jax.data import rows as schema
from qoq_jax.data.sample import process

URL = "memory://bucket/data"


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.setenv("QOQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(objects, "FIRST_WAIT", 0.001)
    object_store.empty_memory()


def row(number: int, **change) -> dict:
    return {
        "id": f"r{number}",
        "dataset": "d",
        "domain": "ecg",
        "problem": "Answer with one of: A, B.",
        "answer": "A",
        "labels": ["A", "B"],
    } | change


@pytest.fixture
def folder(tmp_path):
    """A folder with pictures, an ECG as .npz and one as a WFDB record, and two splits."""
    root = tmp_path / "data"
    (root / "media").mkdir(parents=True)
    rng = np.random.default_rng(0)
    signal = rng.normal(0, 0.3, (12, 5000)).astype(np.float32)
    leads = ["I", "II", "III", "aVR", "aVL", "aVF", *(f"V{i}" for i in range(1, 7))]
    np.savez(root / "media" / "a.npz", signal=signal, fs=500.0, leads=leads)
    (signal.T * 1000).astype("<i2").tofile(root / "media" / "r.dat")
    lines = [f"r.dat 16 1000/mV 16 0 0 0 0 {lead}" for lead in leads]
    (root / "media" / "r.hea").write_text("\n".join(["r 12 500 5000", *lines]) + "\n")
    pixels = rng.integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(root / "media" / "b.png")
    rows = [
        row(0, **{"time-series": ["media/a.npz"]}),
        row(1, **{"time-series": ["media/r"]}),
        row(2, domain="ct", images=["media/b.png"]),
    ]
    for split in ("train", "test"):
        lines = [json.dumps(one) + "\n" for one in rows]
        (root / f"{split}.jsonl").write_text("".join(lines))
    return root


@pytest.fixture
def url(folder):
    objects.upload_tree(str(folder), URL)
    return URL


def made(root, one):
    return process(one, root, TOKENIZER, config(), with_answer=True)


def test_rows_fingerprint_and_samples_are_those_of_the_folder(folder, url):
    local, remote = sources.load(folder, "train"), sources.load(url, "train")
    assert list(local) == list(remote) and local.fingerprint == remote.fingerprint
    assert remote.fingerprint == sources.fingerprint(remote, url)
    for one in local:
        here, there = made(folder, one), made(url, one)
        assert here.keys() == there.keys()
        for name in here:
            same = repr(here[name]) == repr(there[name])  # SampleMeta is compared by identity
            assert np.array_equal(here[name], there[name]) if name != "meta" else same


def test_a_row_file_is_fetched_once_and_again_when_it_changes(url, monkeypatch):
    fetched, download = [], objects.download
    monkeypatch.setattr(
        objects, "download", lambda *args: (fetched.append(args[0]), download(*args))
    )
    for _ in range(2):
        assert len(sources.load(url, "train")) == 3
    assert fetched == [f"{url}/train.jsonl"]
    objects.write(f"{url}/train.jsonl", json.dumps(row(7)).encode())
    assert [one.id for one in sources.load(url, "train")] == ["r7"] and len(fetched) == 2


def test_media_that_changed_make_another_fingerprint(url):
    before = sources.load(url, "train").fingerprint
    objects.write(f"{url}/media/b.png", b"shorter")
    assert sources.load(url, "train").fingerprint != before


def test_a_medium_costs_two_requests(folder):
    """Its size, which may be too much, and its bytes."""
    with object_store.s3_server():
        object_store.make_bucket("bucket")
        objects.upload_tree(str(folder), "s3://bucket/data")
        rows = sources.load("s3://bucket/data", "train")
        with object_store.counting() as requests:
            made("s3://bucket/data", rows[2])
    assert requests == [f"{method} /bucket/data/media/b.png" for method in ("HEAD", "GET")]


def test_a_medium_is_read_once_and_not_kept(url, monkeypatch):
    rows, reads, read = sources.load(url, "train"), [], objects.read
    monkeypatch.setattr(objects, "read", lambda name, *part: (reads.append(name), read(name))[1])
    made(url, rows[2])
    made(url, rows[1])
    assert reads == [f"{url}/media/{name}" for name in ("b.png", "r.hea", "r.dat")]
    assert not list(pathlib.Path(objects.cache_folder("media")).iterdir())


@pytest.mark.parametrize(
    "damage, message",
    [
        (objects.remove, r"memory://bucket/data/media/b\.png: no such file"),
        (lambda url: objects.write(url, b""), r"memory://bucket/data/media/b\.png: the file is em"),
        (
            lambda url: objects.write(url, b"\x89PNG\r\n\x1a\nx"),
            r"data/media/b\.png: is a PNG picture",
        ),
    ],
    ids=["missing", "empty", "damaged"],
)
def test_a_bad_medium_is_named_by_its_url(url, damage, message):
    bad = sources.load(url, "train")[2]
    damage(f"{url}/media/b.png")
    with pytest.raises(DataError, match=r"row 'r2', images.*" + message):
        made(url, bad)


def test_a_medium_that_the_store_refuses_is_named_by_its_url(url, monkeypatch):
    bad, real = sources.load(url, "train")[2], objects.read

    def refused(name, *part):
        if name.endswith(".png"):
            raise PermissionError(13, "access denied", name)
        return real(name, *part)

    monkeypatch.setattr(objects, "read", refused)
    with pytest.raises(DataError, match=r"data/media/b\.png: cannot be read \(access denied\)"):
        made(url, bad)


def test_a_large_medium_is_refused_before_it_is_read(url, monkeypatch):
    one = sources.load(url, "train")[2]
    monkeypatch.setattr(media, "MAX_FILE_BYTES", 10)
    monkeypatch.setattr(objects, "read", lambda *_: pytest.fail("it was read"))
    with pytest.raises(DataError, match=r"data/media/b\.png: the file is over 2 GiB"):
        made(url, one)


@pytest.mark.parametrize(
    "path",
    ["../other/x.png", "/x.png", "media/../../x.png", "s3://other/x.png", "memory://bucket/x.png"],
)
def test_a_path_does_not_leave_the_folder_of_the_url(url, path):
    objects.write("memory://bucket/other/x.png", b"x")
    with pytest.raises(DataError, match="unsafe path"), media.opened(url) as root:
        schema.resolve(root, path)


def test_a_header_does_not_lead_out_of_the_folder_of_the_url(url):
    objects.write("memory://bucket/other/r.dat", b"x" * 120_000)
    header = objects.read(f"{url}/media/r.hea").replace(b"r.dat", b"../../other/r.dat")
    objects.write(f"{url}/media/r.hea", header)
    with pytest.raises(DataError, match="unsafe file"):
        made(url, sources.load(url, "train")[1])


def test_no_row_file_and_no_bucket_are_named_by_the_url(url):
    with pytest.raises(DataError, match=r"^memory://bucket/none/train\.jsonl: no such row file"):
        sources.load("memory://bucket/none", "train")
    with pytest.raises(
        DataError, match=r"^memory://bucket/none/t\.jsonl: cannot be read \(no such"
    ):
        index.open_rows("memory://bucket/none/t.jsonl")
    assert sources.has_rows(url) and not sources.has_rows("memory://bucket/none")


def test_ecgs_of_a_data_set_and_of_a_tree_are_those_of_the_folder(folder, url):
    def read(root):
        found = ecgs.find(root, "train")
        return [ecgs._read(one, "refuse")[0] for one in found], ecgs._sizes(found)

    for here, there in zip(read(str(folder)), read(url), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(here, there, strict=True))
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").unlink()
        objects.remove(f"{url}/{split}.jsonl")
    here, there = read(str(folder)), read(url)
    assert len(here[0]) == 2 and here[1] == there[1]
    assert all(np.array_equal(a, b) for a, b in zip(here[0], there[0], strict=True))


def test_validate_and_describe_say_the_same(folder, url, capsys):
    def said(root):
        assert check.run(f"{root}/test.jsonl") == 0 and check.describe(str(root)) == 0
        return capsys.readouterr().out.replace(str(root), "")

    assert said(folder) == said(url)


def test_a_folder_of_a_killed_process_is_removed_when_it_is_old(url, monkeypatch):
    left = pathlib.Path(objects.cache_folder("media")) / "left"
    left.mkdir()
    monkeypatch.setattr(media, "_scratch", {})
    monkeypatch.setattr(media, "_OLD", -1.0)
    with media.opened(url):
        assert not left.exists()
    shutil.rmtree(objects.cache_folder("media"))
