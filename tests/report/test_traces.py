"""A run's responses as a data set: what is in it, that it loads, and that no patient is."""

import json
import re

import pytest
from helpers import cases

from qoq_jax.cli import main
from qoq_jax.report import traces, traces_card

CANARY = "Meier^Anna"


def run_of(root, made, split="test"):
    """A run with an evaluation before and after RL, its rows, and what says where it comes from."""
    data = cases.write_data(root / "data")
    name = "rl" if split == "test" else f"rl-{split}"
    cases.write_evaluation(root / f"eval/{name}.json", made)
    sources = {cases.SOURCE: {"root": str(data), "splits": {"test": {"sha256": "f00d"}}}}
    (root / "data.json").write_text(json.dumps({"sources": sources}))
    (root / "config.json").write_text(json.dumps({"seed": 3, "workdir": str(root)}))
    (root / "run.json").write_text(json.dumps({"versions": {"jax": "9.8.7"}, "command": str(root)}))
    return root


def lines_of(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run evaluated before and after RL, and its data set."""
    root = tmp_path_factory.mktemp("runs") / "mine"
    run = run_of(root, cases.records())
    cases.write_evaluation(run / "eval/sft.json", cases.records(every=2))
    assert main.main(["report", str(run), "--traces", str(root / "out")]) == 0
    return run, root / "out"


def test_each_row_has_its_question_response_and_verdict(written):
    rows = lines_of(written[1] / "rl/test.jsonl")
    assert [row["id"] for row in rows] == [one["id"] for one in cases.records()]
    for row, record in zip(rows, cases.records(), strict=True):
        assert list(row) == [name for name, _, _ in traces_card.FIELDS]
        assert row["question"] == f"What is it? {cases.EVIL}" and row["response"] == record["text"]
        assert row["reasoning"] == f"It shows {cases.EVIL}"
        assert row["gold_labels"] == record["labels"] and row["answer"] == record["predicted"]
        assert row["correct"] == (record["labels"] == record["predicted"])
        assert row["boxes"] == record["boxes"] and row["iou"] == record["iou"]
        assert (row["stage"], row["seed"]) == ("rl", 3)
    assert {row["stage"] for row in lines_of(written[1] / "sft/test.jsonl")} == {"sft"}


def test_hugging_face_loads_the_files_and_the_folder(written, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    rows, cache = lines_of(written[1] / "rl/test.jsonl"), str(tmp_path)
    files = {"test": str(written[1] / "rl/test.jsonl")}
    by_file = datasets.load_dataset("json", data_files=files, cache_dir=cache)
    by_card = datasets.load_dataset(str(written[1]), cache_dir=cache)
    assert list(by_file) == list(by_card) == ["test"]
    assert by_file["test"].to_list() == by_card["test"].to_list() == rows
    assert by_card["test"].features["boxes"].feature.feature.dtype == "float64"
    before = datasets.load_dataset(str(written[1]), "sft", cache_dir=cache)
    assert before["test"].to_list() == lines_of(written[1] / "sft/test.jsonl")


def test_the_card_says_where_it_comes_from_and_what_it_is_not_for(written):
    import yaml

    from qoq_jax.base import files

    run, out = written
    _, front, text = (out / "README.md").read_text("utf-8").split("---\n", 2)
    head = yaml.safe_load(front)
    assert head["license"] == "unknown" and head["size_categories"] == ["n<1K"]
    assert [one["config_name"] for one in head["configs"] if one["default"]] == ["rl"]
    assert files.sha256(run / "config.json") in text and files.sha256(run / "eval/rl.json") in text
    assert "jax 9.8.7" in text and "f00d" in text and "Not for clinical use" in text
    assert all(f"| `{name}` |" in text for name, _, _ in traces_card.FIELDS)
    assert str(run) not in text and "Of 24 of 24 rows no patient is known" in text


def test_no_patient_gets_into_any_file_and_the_card_counts_what_was_left_out(tmp_path, capsys):
    planted = {"patient": CANARY}
    made = cases.records()
    made[0] |= planted | {"attributes": {"sex": "female"}}  # nowhere but in its own field
    made[1] |= planted | {"id": "scan_MEIER-anna_01"}
    made[2] |= planted | {"text": f"<think>Of meier, anna.</think>{made[2]['text']}"}
    made[3] |= planted | {"box_labels": ["Anna Meier"]}
    made[4] |= planted | {"vocabulary": ["Normal", CANARY]}
    made[5] |= {"patient": "7", "text": "<think>7 mm</think>\\boxed{Normal}"}
    made[6] |= {"patient": "7", "text": "<think>17 mm</think>\\boxed{Normal}"}
    made[7] |= {"patient": "what_is_it"}  # in the question
    run, out = run_of(tmp_path / "run", made), tmp_path / "out"
    assert main.main(["report", str(run), "--traces", str(out)]) == 0
    ids = [row["id"] for row in lines_of(out / "rl/test.jsonl")]
    assert ids == ["row-0", "", "row-6", "row-8", "row-9", "row-10", "row-11"]
    said = capsys.readouterr().out
    for text in (said, *(path.read_text("utf-8") for path in out.rglob("*.*"))):
        assert not re.search(r"meier|anna|female", text, re.IGNORECASE)
    card = (out / "README.md").read_text("utf-8")
    assert "7 rows, 5 left out" in said and "- 5 rows in whose texts" in card
    assert "- 1 ids in which" in card and "Of 4 of 7 rows no patient is known" in card


def test_a_set_that_may_not_be_passed_on_is_named(tmp_path, capsys):
    made = [one | {"dataset": "mimic-cxr"} for one in cases.records(3)]
    run, out = run_of(tmp_path / "run", made), tmp_path / "out"
    assert main.main(["report", str(run), "--traces", str(out)]) == 0
    assert "check the terms of mimic-cxr" in capsys.readouterr().out
    card = (out / "README.md").read_text("utf-8")
    assert "| mimic-cxr | 3 | " in card and "Check the terms of mimic-cxr" in card


def test_validation_is_a_split_of_its_own_and_the_licence_is_as_given(tmp_path):
    run = run_of(tmp_path / "run", cases.records(), "validation")
    (run / "data/test.jsonl").rename(run / "data/validation.jsonl")
    arguments = ["report", str(run), "--traces", str(tmp_path / "out"), "--license", "cc-by-4.0"]
    assert main.main(arguments) == 0
    assert len(lines_of(tmp_path / "out/rl/validation.jsonl")) == 12
    assert 'license: "cc-by-4.0"' in (tmp_path / "out/README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--license", "MIT\nx"), "--license"),
        (("--against", "b"), "--against does not go with --traces"),
        (("--out", "b"), "--out does not go with --traces"),
    ],
)
def test_wrong_options_are_one_line_and_write_nothing(tmp_path, capsys, options, said):
    run, out = run_of(tmp_path / "run", cases.records()), tmp_path / "out"
    assert main.main(["report", str(run), "--traces", str(out), *options]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error and not out.exists()


@pytest.mark.parametrize("change", [{"boxes": [["x"]]}, {"boxes": [[float("nan")] * 4]}])
def test_a_broken_record_is_one_line_without_its_id_and_writes_nothing(tmp_path, capsys, change):
    made = cases.records()
    made[3] |= change
    run, out = run_of(tmp_path / "run", made), tmp_path / "out"
    assert main.main(["report", str(run), "--traces", str(out)]) == 1
    error = capsys.readouterr().err.strip()
    assert "row-3" not in error and "\n" not in error and not out.exists()


def test_a_run_without_an_evaluation_and_a_folder_that_is_not_empty_are_refused(tmp_path, capsys):
    run = run_of(tmp_path / "run", cases.records())
    assert main.main(["report", str(run), "--traces", str(run)]) == 1
    assert "already exists" in capsys.readouterr().err
    (run / "eval/rl.json").unlink()
    assert main.main(["report", str(run), "--traces", str(tmp_path / "out")]) == 1
    assert "no responses to write" in capsys.readouterr().err
    assert main.main(["report", str(run), "--license", "mit"]) == 2
    assert "add --traces" in capsys.readouterr().err


def test_half_of_a_surrogate_pair_becomes_a_character_that_readers_take():
    made = traces.trace(cases.record(0, True, text="a\ud800b"), "", "rl", 0)
    assert made["response"] == "a?b"
