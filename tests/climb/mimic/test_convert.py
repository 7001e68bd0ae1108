"""Inputs and rows of the tasks of MIMIC-IV, from made-up tables in the published layout."""

import filecmp
import gzip
import json
import shutil

import numpy as np
import pytest

from qoq_jax.base.errors import DataError
from qoq_jax.cli import main
from qoq_jax.climb.mimic import cohort, convert, events, media, record, synthetic, tables
from qoq_jax.climb.mimic.items import ITEMS
from qoq_jax.climb.mimic.tasks import HOUR, INPUTS, TASKS
from qoq_jax.data import rows as schema
from qoq_jax.evaluation.metrics import auroc

LACTATE = [item.name for item in ITEMS].index("lactate")
LABS = (
    "labevent_id,subject_id,hadm_id,specimen_id,itemid,order_provider_id,charttime,storetime,value,"
    "valuenum,valueuom,ref_range_lower,ref_range_upper,flag,priority,comments\n"
)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    root = tmp_path_factory.mktemp("hospital")
    synthetic.build(root, 150)
    assert main.main(["data", "convert", "mimic-iv", str(root)]) == 0
    return root


def lines_of(root):
    with gzip.open(root / record.INPUTS_FILE, "rt") as file:
        return [json.loads(line) for line in file]


def rows_of(root):
    return [row for split in schema.SPLITS for row in schema.read_jsonl(root / f"{split}.jsonl")]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """(layout, stay) of a hospital with one patient who stays for days."""
    root = tmp_path_factory.mktemp("one")
    synthetic.build(root, 1, seed=1)
    layout = tables.find(root)
    (stay,), _ = cohort.first_admissions(layout)
    assert all(cohort.label(stay, task)[0] for task in TASKS.values())
    return layout, stay


def lactates(one, tmp_path, *lines):
    """Values and counts where labevents holds these lines: (hadm, charted, stored, value), times in
    hours after admission.
    """
    layout, stay = one
    root = tmp_path / "hospital"
    shutil.copytree(layout.ehr, root)
    text = LABS
    for hadm, charted, stored, value in lines:
        times = [
            "" if at is None else tables.written(stay.admitted + round(at * HOUR))
            for at in (charted, stored)
        ]
        text += f"1,{stay.subject},{hadm},1,50813,,{','.join(times)},{value},{value},mmol/L,,,,,\n"
    path = root / "hosp/labevents.csv.gz"
    path.write_bytes(gzip.compress(text.encode()))
    found, left_out = events.collect(tables.find(root), [stay])
    counted = {why: count for why, count in left_out.items() if why.startswith("lab")}
    return found.value[:, 0, LACTATE], counted


def test_the_last_lowest_and_highest_value_at_each_prediction_time(one, tmp_path):
    lines = [("", 1, 2, 3), ("", 5, 5.9, 2), ("", 7, 8, 9), ("", 20, 21, 4)]
    found, _ = lactates(one, tmp_path, *lines)
    los, ihm = list(TASKS).index("los"), list(TASKS).index("ihm")
    assert found[ihm].tolist() == [2, 2, 3]
    assert found[los].tolist() == [4, 2, 9]


def test_the_order_of_the_file_decides_nothing(one, tmp_path):
    lines = [("", 1, 2, 3), ("", 1, 2, 5), ("", 1, 3, 4)]
    there, _ = lactates(one, tmp_path / "a", *lines)
    back, _ = lactates(one, tmp_path / "b", *reversed(lines))
    assert there.tolist() == back.tolist() == [[4, 3, 5]] * 2


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (("", 30, 31, 9), "known after the prediction time of los"),
        (("", 1, 30, 9), "known after the prediction time of los"),
        (("", 1, None, 9), "no charttime or storetime"),
        (("1", 1, 2, 9), "of another admission"),
        (("", -48, -47, 9), "before arrival"),
        (("", 1, 2, "___"), "not a number"),
    ],
)
def test_what_is_no_input_is_counted(one, tmp_path, line, why):
    found, left_out = lactates(one, tmp_path, line, ("", 2, 3, 1))
    assert found.tolist() == [[1, 1, 1]] * 2
    assert left_out[f"labevents: {why}"] == 1


def test_a_study_time_without_zeros_at_its_start():
    assert tables.written(media._study_time("21800506", "3502.5", "")) == "2180-05-06 00:35:02"


def test_media_lie_between_arrival_and_prediction_time(hospital):
    found = [line for line in lines_of(hospital) if line["ecg"] and line["xray"]]
    assert len(found) > 40
    for line in found:
        for medium in (line["ecg"], line["xray"]):
            assert line["arrived"] <= medium["time"] <= line["predicted"]
            assert (hospital / medium["path"]).is_file()


def test_a_medium_without_file_is_left_out_and_counted(tmp_path):
    synthetic.build(tmp_path, 3)
    for path in tmp_path.rglob("*.hea"):
        path.unlink()
    report = convert.convert(tmp_path)
    assert report["dropped"]["ECG: its file is not there"]["records"] > 0
    assert not any(line["ecg"] for line in lines_of(tmp_path))


def test_rows_of_each_choice_of_inputs(hospital):
    made = {row.id: row for row in rows_of(hospital)}
    lines = lines_of(hospital)
    for line in lines:
        has = {name: f"{line['task']}-{name}-{line['id']}" in made for name in INPUTS}
        ecg, xray = bool(line["ecg"]), bool(line["xray"])
        assert has == {"text": True, "ecg": ecg, "vision": xray, "full": ecg and xray}
    full = next(row for row in made.values() if row.dataset == "mimic-iv-ihm-full")
    assert full.problem.startswith("<image><ecg>Record: ")
    assert len(full.images) == len(full.time_series) == 1
    assert full.labels == ("No", "Yes")


def test_no_patient_is_in_two_splits_and_no_number_of_the_tables_in_a_text(hospital):
    split_of, numbers = {}, set()
    for subject, hadm in tables.lines(
        tables.find(hospital).table("hosp/admissions"), "subject_id", "hadm_id"
    ):
        numbers |= {subject, hadm}
    for row in rows_of(hospital):
        assert split_of.setdefault(row.patient, row.split) == row.split
        words = set(row.problem.replace(".", " ").split()) | {row.id, row.patient}
        assert not words & numbers
    assert set(split_of.values()) == set(schema.SPLITS)
    report = (hospital / "conversion.json").read_text()
    assert not any(number in report for number in numbers)


def test_the_same_bytes_again_and_one_data_set_alone(hospital, tmp_path, capsys):
    again = tmp_path / "hospital"
    shutil.copytree(hospital, again)
    convert.convert(again)
    names = ["train.jsonl", "test.jsonl", record.INPUTS_FILE, "conversion.json"]
    assert filecmp.cmpfiles(hospital, again, names, shallow=False)[0] == names
    assert main.main(["data", "convert", "mimic-iv-los-full", str(again)]) == 0
    assert "mimic-iv-los-full: " in capsys.readouterr().out
    assert {row.dataset for row in rows_of(again)} == {"mimic-iv-los-full"}
    # The text, the split and the wording are those of the conversion of all.
    rows = {row.id: row for row in rows_of(hospital)}
    assert all(rows[row.id] == row for row in rows_of(again))


def test_the_outcome_can_be_told_from_the_inputs(hospital):
    """Who dies has a higher lactate than who lives (ECG and X-ray tell the rest)."""
    found = {"Yes": [], "No": []}
    for line in lines_of(hospital):
        last = [value[2] for value in line["values"] if value[:2] == ["lactate", "last"]]
        if line["task"] == "ihm" and last:
            found[line["label"]] += last
    values = np.array([*found["Yes"], *found["No"]])
    assert auroc(values, np.arange(len(values)) < len(found["Yes"])) > 0.75


def test_no_admission_that_suits_is_an_error(tmp_path):
    synthetic.build(tmp_path, 1, seed=1)
    layout = tables.find(tmp_path)
    path = layout.table("hosp/patients")
    with gzip.open(path, "rt") as file:
        header = next(file)
    with gzip.open(path, "wt") as file:
        file.write(header)
    with pytest.raises(DataError, match="subject_id is not in patients"):
        convert.convert(tmp_path)
