"""`qoq data validate` lists every fault of a file in one go."""

import json

import numpy as np
import pytest
from PIL import Image

from qoq_jax.cli import main
from qoq_jax.data import check


def test_validate_lists_every_fault(tmp_path, capsys):
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.full((40, 60), 255, np.uint8)).save(tmp_path / "mask.png")
    Image.fromarray(np.full((30, 30), 255, np.uint8)).save(tmp_path / "small.png")
    row = {
        "dataset": "cases",
        "domain": "chest_xray",
        "problem": "Answer with one of: Normal, Pneumonia.",
        "answer": "Pneumonia",
        "labels": ["Normal", "Pneumonia"],
        "images": ["a.png"],
    }
    lines = [
        row | {"id": "good", "bbox": [[1, 2, 60, 40]], "segmentation_path": "mask.png"},
        row | {"id": "outside", "bbox": [[1, 2, 61, 40]]},
        row | {"id": "mask", "segmentation_path": "small.png"},
        row | {"id": "missing", "images": ["b.png"]},
        row | {"id": "label", "answer": "Asthma"},
        row | {"id": "good"},
    ]
    file = tmp_path / "test.jsonl"
    file.write_text("\n".join([json.dumps(line) for line in lines] + ["{broken"]), encoding="utf-8")
    assert check.run(str(file)) == 1
    out = capsys.readouterr().out
    assert out.strip().endswith("7 rows, 6 faults")
    for word in (
        "leaves the image of 60 x 40",
        "the mask is 30 x 30",
        "b.png",
        "Asthma",
        "is used by",
        "not valid JSON",
    ):
        assert word in out, out
    file.write_text(json.dumps(lines[0]), encoding="utf-8")
    assert check.run(str(file)) == 0


def test_validate_looks_at_splits_patients_and_gold_answers(tmp_path, capsys):
    row = {
        "dataset": "cases",
        "domain": "chest_xray",
        "problem": "Answer with one of: Normal, Pneumonia.",
        "answer": "Pneumonia",
        "labels": ["Normal", "Pneumonia"],
    }
    other = [row | {"id": "a", "patient": "p1"}, row | {"id": "b", "patient": "p2"}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, other)), encoding="utf-8")
    lines = [
        row | {"id": "c", "patient": "p2"},
        row | {"id": "d", "split": "train"},
        row | {"id": "e", "reasoning": "see \\boxed{B}"},
    ]
    file = tmp_path / "test.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert check.run(str(file)) == 1
    out = capsys.readouterr().out
    assert "3 rows, 3 faults" in out and "which is part of the answer format" in out
    assert (
        "patient 'p2' is in train.jsonl too" in out
        and "row 'd', split: 'train' in test.jsonl" in out
    )


def test_validate_takes_a_folder_and_checks_each_split(tmp_path, capsys):
    row = {
        "dataset": "cases",
        "domain": "ct",
        "problem": "Answer with one of: A, B.",
        "answer": "A",
        "labels": ["A", "B"],
    }
    (tmp_path / "train.jsonl").write_text(json.dumps(row | {"id": "a", "answer": "C"}))
    (tmp_path / "test.jsonl").write_text(json.dumps(row | {"id": "b"}))
    assert main.main(["data", "validate", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "train.jsonl: 1 rows, 1 faults" in out and "test.jsonl: 1 rows, 0 faults" in out
    (tmp_path / "train.jsonl").unlink()
    assert main.main(["data", "validate", str(tmp_path)]) == 0
    (tmp_path / "test.jsonl").unlink()
    assert main.main(["data", "validate", str(tmp_path)]) == 1
    assert "no train.jsonl, validation.jsonl or test.jsonl there" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--samples", "--looked-at"])
def test_stats_refuses_numbers_of_rows_under_0(tmp_path, capsys, option):
    row = {"id": "a", "dataset": "d", "domain": "ct", "problem": "?", "answer": "A"}
    (tmp_path / "train.jsonl").write_text(json.dumps(row | {"labels": ["A", "B"]}))
    assert main.main(["data", "stats", str(tmp_path), option, "0"]) == 0
    capsys.readouterr()
    assert main.main(["data", "stats", str(tmp_path), option, "-1"]) != 0
    assert f"{option} -1 (hint: name 0 or more rows)" in capsys.readouterr().err
