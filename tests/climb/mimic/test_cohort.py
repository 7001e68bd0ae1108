"""Which admissions are asked about, at which time, with which answer; how tables are read."""

import gzip
import math

import pytest

from qoq_jax.base.errors import DataError
from qoq_jax.climb.mimic import cohort, items, tables
from qoq_jax.climb.mimic.tasks import TASKS, length_of_stay

PATIENTS = """subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod
1,F,91,2150,2011 - 2013,
2,M,63,2150,2011 - 2013,2150-03-02
3,F,17,2150,2011 - 2013,
4,M,50,2150,2011 - 2013,
5,F,50,2150,2011 - 2013,
6,F,50,2150,2011 - 2013,
"""
HEADER = (
    "subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,admit_provider_id,"
    "admission_location,discharge_location,insurance,language,marital_status,race,edregtime,"
    "edouttime,hospital_expire_flag\n"
)


def admission(subject, hadm, admitted, discharged, died="", registered="", flag=0):
    return (
        f"{subject},{hadm},{admitted},{discharged},{died},EW EMER.,P1,EMERGENCY ROOM,HOME,Other,"
        f"English,,WHITE,{registered},,{flag}\n"
    )


ADMISSIONS = HEADER + "".join(
    [
        admission(1, 12, "2151-01-01 00:00:00", "2151-01-03 00:00:00"),
        admission(1, 11, "2150-01-01 06:00:00", "2150-01-06 00:00:00", "", "2150-01-01 01:00:00"),
        admission(
            2, 21, "2150-03-01 00:00:00", "2150-03-02 08:00:00", "2150-03-02 08:00:00", flag=1
        ),
        admission(3, 31, "2150-01-01 00:00:00", "2150-01-09 00:00:00"),
        admission(4, 41, "2150-01-01 00:00:00", "2150-01-09 00:00:00", flag=1),
        admission(5, 51, "2150-01-01 00:00:00", "2150-01-01 12:00:00"),
        # Some deaths are hours before the discharge that the table has.
        admission(
            6, 61, "2150-01-01 00:00:00", "2150-01-03 00:00:00", "2150-01-01 20:00:00", flag=1
        ),
        admission(9, 91, "2150-01-01 00:00:00", "2150-01-01 12:00:00"),
    ]
)


@pytest.fixture
def layout(tmp_path):
    folder = tmp_path / "physionet.org/files/mimiciv/3.1/hosp"
    folder.mkdir(parents=True)
    (folder / "patients.csv.gz").write_bytes(gzip.compress(PATIENTS.encode()))
    (folder / "admissions.csv.gz").write_bytes(gzip.compress(ADMISSIONS.encode()))
    icu = folder.parent / "icu"
    icu.mkdir()
    (icu / "icustays.csv").write_text(
        "subject_id,hadm_id,stay_id,first_careunit,last_careunit,intime,outtime,los\n"
        "1,11,7,Second,Second,2150-01-03 00:00:00,2150-01-04 00:00:00,1\n"
        "1,11,6,First,First,2150-01-01 09:00:00,2150-01-02 00:00:00,1\n"
        "1,12,8,Other,Other,2151-01-01 09:00:00,2151-01-02 00:00:00,1\n"
    )
    return tables.find(tmp_path)


def stays(layout):
    return {stay.hadm: stay for stay in cohort.first_admissions(layout)[0]}


def test_the_first_admission_of_each_patient_and_every_other_one_is_counted(layout):
    found, left_out = cohort.first_admissions(layout)
    assert [stay.hadm for stay in found] == ["11", "21", "41", "51", "61"]
    assert left_out == {
        "a later admission of the same patient": 1,
        "subject_id is not in patients": 1,
        "under 18 years": 1,
    }


def test_the_clock_starts_at_admission_and_inputs_at_registration(layout):
    stay = stays(layout)["11"]
    assert tables.written(stay.arrived) == "2150-01-01 01:00:00"
    assert tables.written(stay.predicted(TASKS["los"])) == "2150-01-02 06:00:00"
    assert tables.written(stay.predicted(TASKS["ihm"])) == "2150-01-01 12:00:00"


def test_ages_over_89_are_one_group(layout):
    found = stays(layout)
    assert (found["11"].age_group, found["21"].age_group) == ("90 or older", "60-69")


def test_labels_and_who_is_not_asked_about(layout):
    found = stays(layout)
    answers = {
        (hadm, task): cohort.label(stay, TASKS[task])
        for hadm, stay in found.items()
        for task in TASKS
    }
    assert answers == {
        ("11", "los"): ("5-8 days", ""),
        ("11", "ihm"): ("No", ""),
        ("21", "los"): ("0-4 days", ""),
        ("21", "ihm"): ("Yes", ""),
        ("41", "los"): ("", "died in hospital at an unknown time"),
        ("41", "ihm"): ("", "died in hospital at an unknown time"),
        ("51", "los"): ("", "discharged at the prediction time"),
        ("51", "ihm"): ("No", ""),
        ("61", "los"): ("", "dead at the prediction time"),
        ("61", "ihm"): ("Yes", ""),
    }


@pytest.mark.parametrize(
    ("days", "name"),
    [(4.49, "0-4 days"), (4.5, "5-8 days"), (8.5, "9-12 days"), (12.5, ">12 days")],
)
def test_days_are_rounded_to_whole_ones(days, name):
    assert length_of_stay(1000, 1000 + round(days * 86400)) == name


def test_the_first_care_unit_by_time(layout):
    found = cohort.care_units(layout, {"11": 0})
    assert {hadm: unit for hadm, (_, unit) in found.items()} == {"11": "First"}


def test_a_part_twice_or_not_at_all_is_an_error(layout, tmp_path):
    (tmp_path / "copy/hosp").mkdir(parents=True)
    (tmp_path / "copy/hosp/admissions.csv").write_text(HEADER)
    with pytest.raises(DataError, match="twice"):
        tables.find(tmp_path)
    with pytest.raises(DataError, match="is not there"):
        tables.find(tmp_path / "copy/hosp")


def test_errors_name_file_and_line_and_no_cell(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('a,b\n1,"x, y"\n\n2\n')
    assert next(tables.lines(str(path), "a", "b")) == ("1", "x, y")
    assert next(tables.lines(str(path), "b")) == ("x, y",)
    with pytest.raises(DataError, match="line 4 has 1 cells"):
        list(tables.lines(str(path), "a", "b"))
    with pytest.raises(DataError, match="no column 'c'"):
        list(tables.lines(str(path), "c"))
    packed = tmp_path / "t.csv.gz"
    packed.write_bytes(gzip.compress(b"a\n1\n" * 1000)[:-20])
    with pytest.raises(DataError, match="damaged"):
        list(tables.lines(str(packed), "a"))


def test_units_and_ranges_of_readings():
    lactate, temperature = items.BY_NAME["lactate"], items.BY_NAME["temperature"]
    assert items.reading(lactate, "50813", "2.1", "mmol/L") == (2.1, "")
    assert items.reading(lactate, "50813", "19", "mg/dL")[1] == "in another unit"
    assert items.reading(lactate, "50813", "___", "mmol/L")[1] == "not a number"
    assert items.reading(temperature, "223761", "98.6", "°F") == (37.0, "")
    value, why = items.reading(items.BY_NAME["heart rate"], "220045", "999", "bpm")
    assert math.isnan(value) and why == "outside of the plausible range"


def test_an_admission_whose_name_is_no_number_is_refused_without_telling_it(layout, tmp_path):
    path = tmp_path / "physionet.org/files/mimiciv/3.1/hosp/admissions.csv.gz"
    path.write_bytes(gzip.compress(ADMISSIONS.replace("1,11,", "1,Jane,").encode()))
    with pytest.raises(DataError, match="a hadm_id is no number") as refused:
        cohort.first_admissions(layout)
    assert "Jane" not in str(refused.value)
