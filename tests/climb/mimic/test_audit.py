"""Planted leaks are found by `qoq data validate`, and a fresh conversion has none."""

import gzip
import json
import shutil

import pytest

from qoq_jax.base.errors import DataError
from qoq_jax.cli import main
from qoq_jax.climb.mimic import audit, convert, record, synthetic

LATE = "2299-01-01 00:00:00"


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    root = tmp_path_factory.mktemp("converted")
    synthetic.build(root, 30)
    convert.convert(root)
    return root


@pytest.fixture
def folder(converted, tmp_path):
    """The files of a conversion without tables and media, to be spoilt."""
    for name in ("train", "validation", "test"):
        shutil.copy(converted / f"{name}.jsonl", tmp_path)
    for name in (record.INPUTS_FILE, "conversion.json"):
        shutil.copy(converted / name, tmp_path)
    return tmp_path


def change_line(folder, change, suits=lambda line: True):
    """Changes the first line that suits, and its rows with it: the leak itself is what is seen."""
    path = folder / record.INPUTS_FILE
    with gzip.open(path, "rt") as file:
        lines = [json.loads(line) for line in file]
    line = next(line for line in lines if suits(line))
    change(line)
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    for split in ("train", "validation", "test"):
        made = {row.id: row for row in record.rows(line, split, 0, record.wanted("mimic-iv"))}
        change_rows(folder, split, lambda row, made=made: made[row["id"]].to_dict(), made)


def change_rows(folder, split, change, ids=None):
    path = folder / f"{split}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [change(row) if ids is None or row["id"] in ids else row for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def found(folder):
    return list(audit.faults(str(folder)))


def test_a_fresh_conversion_has_no_fault(converted, capsys):
    assert main.main(["data", "validate", str(converted)]) == 0
    assert "0 leaks" in capsys.readouterr().out


def test_validate_of_one_row_file_audits_the_folder(folder, capsys):
    change_line(folder, lambda line: line["values"][0].__setitem__(4, LATE))
    main.main(["data", "validate", str(folder / "test.jsonl")])
    assert "measured after the prediction time" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("column", "content", "fault"),
    [
        (4, LATE, "measured after the prediction time"),
        (5, LATE, "stored after the prediction time"),
        (6, "0123456789abcdef", "of another admission"),
        (4, "2000-01-01 00:00:00", "measured before arrival"),
        (3, "note/discharge", 'from "note/discharge", which is not its table'),
        (3, "hosp/diagnoses_icd", 'from "hosp/diagnoses_icd", which is not its table'),
        (5, "", "not as a conversion writes it"),
    ],
)
def test_a_value_that_was_not_known(folder, column, content, fault):
    change_line(folder, lambda line: line["values"][0].__setitem__(column, content))
    (one,) = found(folder)
    assert fault in one


@pytest.mark.parametrize("medium", ["ecg", "xray"])
def test_a_medium_after_the_prediction_time(folder, medium):
    change_line(
        folder, lambda line: line[medium].update(time=LATE), lambda line: line[medium] is not None
    )
    (one,) = found(folder)
    assert f"{medium}: after the prediction time" in one


def test_a_medium_of_another_patient(folder):
    def change(line):
        line["ecg"]["path"] = "mimic-iv-ecg/1.0/files/p1000/p10000032/s40000000/40000000.hea"

    change_line(folder, change, lambda line: line["ecg"] is not None)
    (one,) = found(folder)
    assert "ecg: of another patient" in one


def test_a_care_unit_that_is_entered_later(folder):
    change_line(folder, lambda line: line["unit"].update(time=LATE), lambda line: line["unit"])
    (one,) = found(folder)
    assert "unit: after the prediction time" in one


def test_a_prediction_time_that_is_not_the_task_s(folder):
    change_line(folder, lambda line: line.update(predicted=LATE))
    (one,) = found(folder)
    assert "hours after admission" in one


def test_a_field_that_is_no_input(folder):
    change_line(folder, lambda line: line.update(discharge_location="HOSPICE"))
    (one,) = found(folder)
    assert 'a field "discharge_location"' in one


def test_discharge_information_in_a_field_that_is_allowed(folder):
    change_line(folder, lambda line: line.update(admission_location="DISCHARGED TO HOSPICE"))
    (one,) = found(folder)
    assert "tells what comes later" in one


def test_discharge_information_in_the_text_of_a_row(folder):
    def change(row):
        return row | {"problem": row["problem"].replace("Record:", "Record: stays 12 days;")}

    first = json.loads((folder / "test.jsonl").read_text().splitlines()[0])["id"]
    change_rows(folder, "test", change, {first})
    (one,) = found(folder)
    assert first in one and "its text is not that of its inputs" in one


def test_a_label_that_was_changed_in_the_row(folder):
    def other(row):
        return row | {"answer": next(one for one in row["labels"] if one != row["answer"])}

    first = json.loads((folder / "test.jsonl").read_text().splitlines()[0])["id"]
    change_rows(folder, "test", other, {first})
    (one,) = found(folder)
    assert first in one and "its answer is" in one


def test_a_label_that_its_times_do_not_give(folder):
    def change(line):
        line["label"] = "Yes" if line["label"] == "No" else "No"

    change_line(folder, change, lambda line: line["task"] == "ihm")
    (one,) = found(folder)
    assert "its label is" in one and "by its times" in one


def test_a_patient_in_two_splits(folder):
    """Also where the row that was moved has another name for its patient."""
    path = folder / "train.jsonl"
    lines = path.read_text().splitlines()
    moved = json.loads(lines.pop(0)) | {"split": "test"}
    path.write_text("".join(f"{line}\n" for line in lines))
    with open(folder / "test.jsonl", "a") as file:
        file.write(json.dumps(moved | {"patient": "somebody else"}) + "\n")
    faults = found(folder)
    assert any("its patient is in" in fault for fault in faults)
    assert any(moved["id"] in fault and "patient or another field" in fault for fault in faults)


def test_a_row_that_no_line_gives(folder):
    first = json.loads((folder / "test.jsonl").read_text().splitlines()[0])["id"]
    change_rows(folder, "test", lambda row: row | {"id": "los-text-0"}, {first})
    (one,) = found(folder)
    assert "'los-text-0': no line" in one


def test_a_line_that_gives_no_row(folder):
    path = folder / record.INPUTS_FILE
    with gzip.open(path, "rt") as file:
        first, *others = file.read().splitlines()
    line = json.loads(first) | {"values": [["lactate"]]}
    with gzip.open(path, "wt") as file:
        file.write("\n".join([json.dumps(line), *others]) + "\n")
    assert f"admission {line['id']}: the line is not as a conversion writes it" in found(folder)[0]


def test_inputs_that_cannot_be_read_are_an_error(folder):
    (folder / record.INPUTS_FILE).write_bytes(gzip.compress(b'{"id": 1}\n'))
    with pytest.raises(DataError, match="line 1 is not one of a conversion"):
        found(folder)
