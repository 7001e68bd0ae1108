"""A run's responses as data sets of tensorflow-datasets: the same as for Hugging Face."""

import json
import math

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers import cases

from qoq_jax.base.errors import DataError
from qoq_jax.cli import main
from qoq_jax.data import sources, tfds_rows
from qoq_jax.report import traces, traces_card, traces_tfds


def run_of(root, made, split="test"):
    """A run with an evaluation after RL, and its rows."""
    data = cases.write_data(root / "data")
    (root / "data/test.jsonl").rename(root / f"data/{split}.jsonl")
    cases.write_evaluation(root / f"eval/rl{'' if split == 'test' else '-' + split}.json", made)
    (root / "data.json").write_text(json.dumps({"sources": {cases.SOURCE: {"root": str(data)}}}))
    return root


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A run evaluated before and after RL, and the data_dir of its data sets."""
    root = tmp_path_factory.mktemp("runs")
    run = run_of(root / "mine", cases.records())
    cases.write_evaluation(run / "eval/sft.json", cases.records(every=2))
    assert main.main(["report", str(run), "--traces", str(root / "tfds"), "--tfds"]) == 0
    return run, root / "tfds"


def plain(value):
    """An element's value as JSON has it."""
    value = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value.decode() if isinstance(value, bytes) else value


def test_elements_are_the_lines_of_the_other_form_in_their_order(prepared):
    run, data_dir = prepared
    for stage in ("rl", "sft"):
        name = f"qoq_traces/mine-{stage}"
        source = tfds.data_source(name, data_dir=data_dir, split="test")
        (part,) = [part for part in traces.collect(str(run))[0] if part.stage == stage]
        assert len(source) == len(part.rows) == 12
        for element, row in zip(source, part.rows, strict=True):
            element = {key: plain(value) for key, value in element.items()}
            iou, given = element.pop("iou"), row["iou"]
            assert math.isnan(iou) if given is None else iou == pytest.approx(given, abs=1e-7)
            assert element.pop("seed") == traces_tfds.NO_SEED
            assert element == {k: v for k, v in row.items() if k not in ("iou", "seed")}


def test_the_card_lies_beside_it_and_says_how_it_is_read(prepared):
    text = (prepared[1] / "qoq_traces/mine-rl/1.0.0/README.md").read_text("utf-8")
    assert 'tfds.data_source("qoq_traces/mine-rl", data_dir=DIR, split="test")' in text
    assert "Not for clinical use" in text and "| rl | test | 12 |" in text
    assert all(f"| `{name}` |" in text for name, _, _ in traces_card.FIELDS)
    assert "Licence: unknown" in text and str(prepared[0]) not in text


def test_data_extra_finds_it_and_refuses_it_as_no_rows(prepared):
    folder = tfds_rows.folder(f"tfds:qoq_traces/mine-rl@{prepared[1]}")
    with pytest.raises(DataError, match="responses of a model"):
        list(sources.load(folder, "test"))


def test_no_patient_gets_into_any_file(tmp_path):
    made = cases.records(6)
    made[1] |= {"patient": "Meier^Anna", "id": "meier_anna_01"}
    made[2] |= {"patient": "Meier^Anna", "text": f"<think>Anna Meier.</think>{made[2]['text']}"}
    made[3] |= {"attributes": {"sex": "female"}}
    run, out = run_of(tmp_path / "run", made, "validation"), tmp_path / "out"
    assert main.main(["report", str(run), "--traces", str(out), "--tfds"]) == 0
    source = tfds.data_source("qoq_traces/run-rl", data_dir=out, split="validation")
    ids = [element["id"].decode() for element in source]
    assert ids == ["row-0", "", "row-3", "row-4", "row-5"]
    for path in out.rglob("*.*"):
        content = path.read_bytes().lower() if path.is_file() else b""
        assert not any(word in content for word in (b"meier", b"anna", b"female"))


@pytest.mark.parametrize("box", [["x"], [float("nan")] * 4, [1.0, 2.0, 3.0]])
def test_a_broken_box_is_one_line_and_leaves_nothing(tmp_path, capsys, box):
    made = cases.records(3)
    made[0] |= {"boxes": [box]}
    run, out = run_of(tmp_path / "run", made), tmp_path / "out"
    assert main.main(["report", str(run), "--traces", str(out), "--tfds"]) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("qoq: ")
    assert not [path for path in out.rglob("*") if path.is_file()]


def test_one_that_is_there_already_is_kept(prepared, capsys):
    run, data_dir = prepared
    before = sorted(data_dir.rglob("*"))
    assert main.main(["report", str(run), "--traces", str(data_dir), "--tfds"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert sorted(data_dir.rglob("*")) == before and before


def test_tfds_without_traces_is_a_clear_error(prepared, capsys):
    assert main.main(["report", str(prepared[0]), "--tfds"]) == 2
    assert "add --traces DIR" in capsys.readouterr().err
