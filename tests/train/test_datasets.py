"""The data sets of a run: written down at its start, and the same ones after every restart."""

from __future__ import annotations

import json

import pytest

from qoq_jax.base.errors import DataError
from qoq_jax.data import sources
from qoq_jax.train import datasets
from qoq_jax.train.config import Config, DataConfig


def write_rows(folder, *splits, count=3):
    folder.mkdir(parents=True, exist_ok=True)
    for split in splits:
        (folder / f"{split}-0.png").write_bytes(b"123")
        rows = [
            {
                "id": f"{split}-{i}",
                "dataset": "d",
                "domain": "ct",
                "problem": "Answer with one of: A, B.",
                "answer": "A",
                "labels": ["A", "B"],
                "images": [f"{split}-0.png"],
                "bbox": [[1, 2, 3, 4]],
            }
            for i in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture
def world(tmp_path, monkeypatch):
    """(config, network): climb-mini is made at once, and the real samples come as the network has
    it.
    """
    network = {"real": True}

    def fetch(root):
        if not network["real"]:
            raise DataError("no network")
        write_rows(tmp_path / "cache/real", "train", "test")

    monkeypatch.setattr(datasets.real_samples, "fetch", fetch)
    monkeypatch.setattr(
        datasets.synthetic,
        "build",
        lambda root, **_: write_rows(tmp_path / root, "train", "test", count=9),
    )
    cfg = Config(workdir=str(tmp_path / "run"), data=DataConfig(root=str(tmp_path / "cache")))
    (tmp_path / "run").mkdir()
    return cfg, network


def start(cfg, training=True):
    """What `qoq train` does with the data until the first step; returns (names of the data sets,
    notes).
    """
    record = datasets.Record(cfg.workdir, training)
    roots, notes = datasets.prepare(cfg, record, ("train", cfg.eval.split))
    for name, root in roots.items():
        for split in ("train", "test"):
            record.check(name, split, sources.load(root, split), root)
    return list(roots), notes


def checkpoint(cfg, tmp_path):
    (tmp_path / "run/checkpoints/sft/2").mkdir(parents=True)


def test_a_run_that_began_without_network_stays_without_the_real_samples(world, tmp_path, capsys):
    cfg, network = world
    network["real"] = False
    names, notes = start(cfg)
    assert (
        names == ["climb-mini"]
        and "generated data alone" in notes[0]
        and notes[0] in capsys.readouterr().out
    )
    network["real"] = True
    assert start(cfg)[0] == ["climb-mini", "real"], "nothing was trained: the run may begin anew"
    network["real"] = False
    start(cfg)
    checkpoint(cfg, tmp_path)
    network["real"] = True
    assert start(cfg) == (names, notes), (
        "the same data and the same note after a restart with network"
    )


def test_data_that_are_missing_or_changed_are_one_clear_line(world, tmp_path, monkeypatch, capsys):
    cfg, network = world
    start(cfg)
    record = json.loads((tmp_path / "run/data.json").read_text())
    assert record["sources"]["real"]["splits"]["train"]["rows"] == 3
    checkpoint(cfg, tmp_path)
    assert start(cfg)[0] == ["climb-mini", "real"]
    network["real"] = False
    with pytest.raises(
        DataError,
        match=r"began with the data set real \(3 train rows, 3 test rows\), which is not there now",
    ):
        start(cfg)
    network["real"] = True
    (tmp_path / "cache/real/test-0.png").write_bytes(b"1234")  # the size of a medium
    monkeypatch.setattr(datasets.real_samples, "fetch", lambda root: None)
    with pytest.raises(
        DataError,
        match=r"real/test.jsonl: the rows or their media have changed since the run began",
    ):
        start(cfg)
    assert start(cfg, training=False)[0] == ["climb-mini", "real"], "an evaluation goes on"
    assert "not comparable" in capsys.readouterr().err
    (tmp_path / "cache/real/test-0.png").write_bytes(b"123")
    file = tmp_path / "cache/real/train.jsonl"
    text = file.read_text()
    file.write_text(text.replace("[1, 2, 3, 4]", "[1, 2, 3, 5]", 1))  # a box
    with pytest.raises(DataError, match="real/train.jsonl: the rows or their media have changed"):
        start(cfg)
    file.write_text(text.partition("\n")[0])
    with pytest.raises(DataError, match="the run began with 3 rows, now there are 1"):
        start(cfg)


def test_a_missing_split_is_found_at_the_start(world, tmp_path):
    cfg, _ = world
    write_rows(tmp_path / "mine", "train")
    mine = Config(
        workdir=cfg.workdir,
        data=DataConfig(mini_rows=0, real=False, extra=(str(tmp_path / "mine"),)),
    )
    with pytest.raises(DataError, match="no source has a test split"):
        datasets.prepare(mine, None, ("train", "test"))
    with pytest.raises(DataError, match="no data source"):
        datasets.prepare(Config(data=DataConfig(mini_rows=0, real=False)))
