"""A made-up hospital in the published layout of MIMIC-IV, MIMIC-CXR-JPG and MIMIC-IV-ECG: to try
the tasks, and their conversion, without credentials. It says nothing about real patients.

Each patient has three hidden severities in [0, 1): of what the record shows (vital signs and
laboratory tests), of the heart (heart rate of the ECG) and of the lungs (an opacity in the X-ray).
Their sum, as a rank in [0, 1), decides length of stay and death, so that a model can learn both,
and learns more from more modalities. Tables hold what a conversion has
to leave out as well: results that are stored late, later admissions and lines of theirs
in the time of the first, earlier visits, blank hadm_id and storetime, care units, ECGs and pictures
of later hours.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from qoq_jax.base import files
from qoq_jax.climb.mimic.items import CHART, FAHRENHEIT, ITEMS, LABS
from qoq_jax.climb.mimic.tables import written
from qoq_jax.climb.mimic.tasks import HOUR

_LEADS = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
_YEAR = 365 * 24 * HOUR
#: {item: (value of the well, value of the very ill)}.
_VALUES = {
    "heart rate": (72, 130),
    "systolic pressure": (130, 75),
    "diastolic pressure": (75, 45),
    "mean pressure": (93, 55),
    "respiratory rate": (15, 32),
    "temperature": (36.9, 38.8),
    "oxygen saturation": (98, 86),
    "GCS eye": (4, 1),
    "GCS verbal": (5, 1),
    "GCS motor": (6, 2),
    "lactate": (1, 9),
    "pH": (7.42, 7.12),
    "sodium": (140, 132),
    "potassium": (4.1, 5.6),
    "bicarbonate": (25, 13),
    "urea nitrogen": (14, 70),
    "creatinine": (0.9, 4.5),
    "glucose": (105, 240),
    "hemoglobin": (13.5, 8),
    "white cells": (8, 22),
    "platelets": (240, 80),
    "INR": (1.0, 2.6),
}


def build(
    root: str | os.PathLike, patients: int = 2000, seed: int = 0, with_media: int = 40
) -> None:
    """Writes mimiciv/3.1, mimic-cxr-jpg/2.1.0 and mimic-iv-ecg/1.0 below `root`.

    Args:
      patients: how many; one in five has a second admission.
      seed: the same gives the same tables.
      with_media: patients who have ECGs and X-rays, 0.4 MB each.
    """
    rng = np.random.default_rng(seed)
    subject = 10_000_000 + rng.choice(9_000_000, patients, replace=False)
    hadm = 20_000_000 + rng.choice(9_000_000, 2 * patients, replace=False).reshape(2, patients)
    measured, heart, lungs = rng.random((3, patients))
    severity = np.argsort(np.argsort(measured + heart + lungs)) / patients
    age, year = rng.integers(18, 90, patients), rng.integers(2110, 2200, patients)
    admitted = (year - 1970) * _YEAR + rng.integers(30, 330, patients) * 24 * HOUR
    admitted = admitted + rng.integers(0, 24 * 60, patients) * 60
    # A year has 365.25 days: the year of admission follows from the time.
    year = np.array([int(written(int(at))[:4]) for at in admitted])
    registered = admitted - rng.integers(1, 8 * 60, patients) * 60
    # The very ill may die in the first two days; who lives stays the longer the more ill.
    dies = severity + rng.normal(0, 0.05, patients) > 0.93
    hours = np.where(dies, rng.uniform(7, 47, patients), 0)
    days = 1.2 + 14 * severity**1.5 + rng.normal(0, 0.6, patients)
    hours = np.where(dies, hours, 24 * np.maximum(days, 0.3))
    discharged = admitted + (hours * 60).astype(np.int64) * 60
    ehr = os.path.join(os.fspath(root), "mimiciv", "3.1")

    def row_of(n: int, stay: int, start: int, end: int, death: bool) -> str:
        gone = written(end) if death else ""
        place = "DIED" if death else "HOME"
        edreg, edout = ("", "") if stay else (written(int(registered[n])), written(start))
        return (
            f"{subject[n]},{hadm[stay, n]},{written(start)},{written(end)},{gone},EW EMER.,P00ABC,"
            f"EMERGENCY ROOM,{place},Medicare,English,MARRIED,OTHER,{edreg},{edout},{int(death)}"
        )

    again = np.flatnonzero((np.arange(patients) % 5 == 0) & ~dies)
    lines = [
        row_of(n, 0, int(admitted[n]), int(discharged[n]), bool(dies[n])) for n in range(patients)
    ]
    later = discharged + 90 * 24 * HOUR
    lines += [row_of(n, 1, int(later[n]), int(later[n]) + 3 * 24 * HOUR, False) for n in again]
    _write(
        os.path.join(ehr, "hosp", "admissions.csv.gz"),
        "subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,admit_provider_id,"
        "admission_location,discharge_location,insurance,language,marital_status,race,edregtime,"
        "edouttime,hospital_expire_flag",
        lines,
    )
    sex = rng.choice(["F", "M"], patients)
    _write(
        os.path.join(ehr, "hosp", "patients.csv.gz"),
        "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod",
        [f"{subject[n]},{sex[n]},{age[n]},{year[n]},2011 - 2013," for n in range(patients)],
    )
    ill = np.flatnonzero(severity > 0.4)
    _write(
        os.path.join(ehr, "icu", "icustays.csv.gz"),
        "subject_id,hadm_id,stay_id,first_careunit,last_careunit,intime,outtime,los",
        [
            f"{subject[n]},{hadm[0, n]},{30_000_000 + n},Medical Intensive Care Unit (MICU),"
            f"Medical Intensive Care Unit (MICU),{written(int(admitted[n]) + int(n % 13) * HOUR)},"
            f"{written(int(discharged[n]))},{(discharged[n] - admitted[n]) / 24 / HOUR:.4f}"
            for n in ill
        ],
    )
    _write_items(ehr)
    people = (subject, hadm, measured, registered, discharged)
    _write_events(ehr, rng, np.arange(patients), people, again, later)
    _write_charts(ehr, rng, ill, people)
    media = np.arange(min(patients, with_media))
    people = (subject, hadm, heart, registered, discharged)
    _write_ecgs(os.path.join(os.fspath(root), "mimic-iv-ecg", "1.0"), rng, media, people)
    people = (subject, hadm, lungs, registered, discharged)
    _write_pictures(os.path.join(os.fspath(root), "mimic-cxr-jpg", "2.1.0"), rng, media, people)


def _write(path: str, header: str, lines: Iterable[str]) -> None:
    """A packed table, the same bytes for the same lines."""
    text = "\n".join([header, *lines]) + "\n"
    files.write_bytes(path, gzip.compress(text.encode(), compresslevel=1, mtime=0))


def _write_items(ehr: str) -> None:
    labs = [f"{item.ids[0]},{item.name},Blood,Chemistry" for item in ITEMS if item.table == LABS]
    _write(os.path.join(ehr, "hosp", "d_labitems.csv.gz"), "itemid,label,fluid,category", labs)
    _write(
        os.path.join(ehr, "icu", "d_items.csv.gz"),
        "itemid,label,abbreviation,linksto,category,unitname,param_type,lownormalvalue,"
        "highnormalvalue",
        [
            f"{number},{item.name},{item.name},chartevents,Vital Signs,{item.unit},Numeric,,"
            for item in ITEMS
            if item.table == CHART
            for number in item.ids
        ],
    )


def _draw(rng: np.random.Generator, name: str, severity: np.ndarray) -> np.ndarray:
    """Values of an item, one per severity."""
    well, ill = _VALUES[name]
    value = well + (ill - well) * severity + rng.normal(0, abs(ill - well) * 0.04, severity.shape)
    return np.round(value) if name.startswith("GCS") else value


def _write_events(
    ehr: str,
    rng: np.random.Generator,
    chosen: np.ndarray,
    people: Sequence[np.ndarray],
    again: np.ndarray,
    later: np.ndarray,
) -> None:
    """labevents: a visit of the day before, four rounds after arrival, a later admission."""
    subject, hadm, severity, registered, _ = people
    lines = []
    for item in ITEMS:
        if item.table != LABS or item.name not in _VALUES:
            continue
        for offset in (-30, 1, 6, 20, 44):
            value = _draw(rng, item.name, severity[chosen])
            at = registered[chosen] + offset * HOUR + rng.integers(0, 60, len(chosen)) * 60
            # Some results take a day; of one in fifty the time of storing is not there.
            wait = np.where(rng.random(len(chosen)) < 0.05, 24 * HOUR, 40 * 60)
            blank, known = rng.random(len(chosen)) < 0.02, rng.random(len(chosen)) < 0.7
            for n in range(len(chosen)):
                one = chosen[n]
                stay = hadm[0, one] if known[n] and offset > 0 else ""
                stored = "" if blank[n] else written(int(at[n] + wait[n]))
                lines.append(
                    f"{subject[one]},{stay},1,{item.ids[0]},P1,{written(int(at[n]))},{stored},"
                    f"{value[n]:.4g},{value[n]:.4g},{item.unit},,,,ROUTINE,"
                )
        lines += [
            f"{subject[n]},{hadm[1, n]},1,{item.ids[0]},P1,{written(at + HOUR)},"
            f"{written(at + 2 * HOUR)},{item.low + 1},{item.low + 1},{item.unit},,,,ROUTINE,"
            for n in again
            for at in (int(later[n]), int(registered[n]))
        ]
    _write(
        os.path.join(ehr, "hosp", "labevents.csv.gz"),
        "labevent_id,subject_id,hadm_id,specimen_id,itemid,order_provider_id,charttime,storetime,"
        "value,valuenum,valueuom,ref_range_lower,ref_range_upper,flag,priority,comments",
        [f"{number},{line}" for number, line in enumerate(lines)],
    )


def _write_charts(
    ehr: str, rng: np.random.Generator, chosen: np.ndarray, people: Sequence[np.ndarray]
) -> None:
    """chartevents of the patients in intensive care: five rounds, some entered too early."""
    subject, hadm, severity, registered, _ = people
    lines = []
    for item in ITEMS:
        if item.table != CHART:
            continue
        for offset in (2, 5, 9, 22, 40):
            value = _draw(rng, item.name, severity[chosen])
            number, unit = item.ids[0], item.unit
            if number == FAHRENHEIT:
                value, unit = value * 1.8 + 32, "°F"
            at = registered[chosen] + offset * HOUR + rng.integers(0, 60, len(chosen)) * 60
            wait = np.where(rng.random(len(chosen)) < 0.05, -4 * HOUR, 600)
            lines += [
                f"{subject[one]},{hadm[0, one]},{30_000_000 + one},7,{written(int(at[n]))},"
                f"{written(int(at[n] + wait[n]))},{number},{value[n]:.4g},{value[n]:.4g},{unit},0"
                for n, one in enumerate(chosen)
            ]
    _write(
        os.path.join(ehr, "icu", "chartevents.csv.gz"),
        "subject_id,hadm_id,stay_id,caregiver_id,charttime,storetime,itemid,value,valuenum,"
        "valueuom,warning",
        lines,
    )


def _write_ecgs(
    folder: str, rng: np.random.Generator, chosen: np.ndarray, people: Sequence[np.ndarray]
) -> None:
    """Three WFDB records per patient (500 Hz, 10 s, 200 per mV), the last one after discharge."""
    subject, _, severity, registered, discharged = people
    lines = []
    for n in chosen:
        for offset in (HOUR, 15 * HOUR, int(discharged[n] - registered[n]) + 24 * HOUR):
            study = 40_000_000 + len(lines)
            name = f"files/p{str(subject[n])[:4]}/p{subject[n]}/s{study}/{study}"
            at = written(int(registered[n]) + offset)
            lines.append(f"{subject[n]},{study},{study},{at},{name}")
            beats = np.arange(5000) / 500 * (60 + 80 * severity[n]) / 60
            phase = (beats + rng.random()) % 1
            beat = np.exp(-(((phase - 0.3) / 0.02) ** 2)) + 0.2 * np.exp(
                -(((phase - 0.6) / 0.06) ** 2)
            )
            signal = beat[:, None] * rng.uniform(0.5, 1.5, 12) + rng.normal(0, 0.02, (5000, 12))
            signal = np.round(signal * 200).astype("<i2")
            head = [f"{study} 12 500 5000"]
            for lead, column in zip(_LEADS, signal.T, strict=True):
                check = int(column.astype(np.int64).sum()) & 0xFFFF
                head.append(f"{study}.dat 16 200(0)/mV 16 0 {column[0]} {check} 0 {lead}")
            path = os.path.join(folder, *name.split("/"))
            files.write_text(f"{path}.hea", "\n".join(head) + "\n")
            files.write_bytes(f"{path}.dat", signal.tobytes())
    header = "subject_id,study_id,file_name,ecg_time,path"
    files.write_text(os.path.join(folder, "record_list.csv"), "\n".join([header, *lines]) + "\n")


def _chest(rng: np.random.Generator, severity: float) -> np.ndarray:
    """Two dark lungs, an opacity in one of them that is the denser the worse, and an exposure of
    its own; uint8 [96,96].
    """
    y, x = np.mgrid[:96, :96] / 96
    side, high = rng.choice([0.3, 0.7]), rng.uniform(0.35, 0.65)
    lungs = np.maximum(
        *(np.exp(-(((x - at) / 0.13) ** 4) - ((y - 0.5) / 0.33) ** 4) for at in (0.3, 0.7))
    )
    opacity = np.exp(-(((x - side) / 0.1) ** 2) - ((y - high) / 0.13) ** 2)
    pixels = 150 - 110 * lungs * (1 - severity * opacity)
    return (
        (pixels * rng.uniform(0.8, 1.2) + rng.normal(0, 8, (96, 96))).clip(0, 255).astype(np.uint8)
    )


def _write_pictures(
    folder: str, rng: np.random.Generator, chosen: np.ndarray, people: Sequence[np.ndarray]
) -> None:
    """Per patient two frontal pictures and a lateral one, and a frontal one after discharge."""
    subject, _, severity, registered, discharged = people
    lines = []
    for n in chosen:
        after = int(discharged[n] - registered[n]) + 24 * HOUR
        views = (("AP", 2), ("LATERAL", 3), ("PA", 16), ("PA", after // HOUR))
        for view, hours in views:
            study, dicom = 50_000_000 + len(lines), f"{rng.integers(1 << 62):016x}"
            date, time = written(int(registered[n]) + hours * HOUR).split(" ")
            # As published: a number, so zeros at its start are lost.
            clock = f"{int(time.replace(':', ''))}.0"
            lines.append(
                f"{dicom},{subject[n]},{study},{view},96,96,{date.replace('-', '')},{clock}"
            )
            pixels = _chest(rng, severity[n])
            path = os.path.join(folder, "files", f"p{str(subject[n])[:2]}", f"p{subject[n]}")
            path = os.path.join(path, f"s{study}", f"{dicom}.jpg")
            with files.replacing(path) as partial:
                Image.fromarray(pixels).save(partial, "JPEG")
    _write(
        os.path.join(folder, "mimic-cxr-2.0.0-metadata.csv.gz"),
        "dicom_id,subject_id,study_id,ViewPosition,Rows,Columns,StudyDate,StudyTime",
        lines,
    )
