"""CT: RSPECT, INSPECT, KiTS23 and the hemorrhage set CT-ICH."""

from __future__ import annotations

import os

from qoq_jax.base import files
from qoq_jax.base.errors import DataError
from qoq_jax.climb.convert import ct_ich
from qoq_jax.climb.convert.example import Converter, Dropped, Found, Record, Records
from qoq_jax.climb.convert.folder import Folder, choice, whole
from qoq_jax.climb.labels import ct as labels
from qoq_jax.climb.labels.read import value
from qoq_jax.climb.qa import Question

_RSPECT = ("pe_present_on_image", "chronic_pe", "acute_and_chronic_pe")
_INSPECT = ("pe_positive", "pe_acute", "pe_subsegmentalonly")
_INSPECT_SPLITS = {"train": "train", "valid": "validation", "test": "test"}


def rspect_records(folder: Folder) -> Records:
    """Slices; a study, one patient's, is in one split (the released CLIMB draws slices)."""
    table = ("train.csv", "*/train.csv")
    base = folder.parent(*table)
    study, series, slice_ = "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"
    for row in folder.table(table, study, series, slice_, *_RSPECT):
        path = f"{base}train/{row[study]}/{row[series]}/{row[slice_]}.dcm"
        facts = {"cells": {name: row[name] for name in _RSPECT}, "image": path}
        yield Record(id=row[slice_], patient=row[study], facts=facts)


def rspect(record: Record, folder: Folder) -> Found:
    """One question per slice. Those of an examination with acute and chronic emboli have both
    labels.
    """
    yield record.example(labels.rspect(record.facts["cells"]), images=(record.facts["image"],))


def inspect_records(folder: Folder) -> Records:
    """CT pulmonary angiograms; the official split where its table is there."""
    volumes = {
        path.rpartition("/")[2].removesuffix(".nii.gz"): path for path in folder.match("*.nii.gz")
    }
    images, own, patients = {}, {}, {}
    for path in folder.match("*.csv"):
        header = next(folder.table(path), {})
        if "impression_id" not in header:
            continue
        for row in folder.table(path):
            key = row["impression_id"]
            if row.get("image_id"):
                images[key] = row["image_id"].removesuffix(".nii.gz")
            if row.get("split"):
                own[key] = choice(row, "split", _INSPECT_SPLITS)
            for column in ("PatientID", "person_id"):
                if row.get(column):
                    patients[key] = row[column]
    table = "*Final_Impressions_labels.csv"
    for row in folder.table(table, "impression_id", *_INSPECT):
        key = row["impression_id"]
        name = images.get(key, key)
        yield Record(
            id=key,
            patient=patients.get(key, key),
            split=own.get(key, ""),
            facts={
                "cells": {name: row[name] for name in _INSPECT},
                "volume": volumes.get(name, f"{name}.nii.gz"),
            },
        )


def inspect(record: Record, folder: Folder) -> Found:
    """One question per angiogram, a volume."""
    found = (labels.inspect(record.facts["cells"]),)
    yield record.example(found, videos=(record.facts["volume"],))


def kits23_records(folder: Folder) -> Records:
    """Kidney CTs."""
    path = folder.one("*kits23.json")
    base = folder.parent("*kits23.json")
    cases = files.read_json(os.path.join(folder.root, path))
    if not isinstance(cases, list) or not all(isinstance(case, dict) for case in cases):
        raise DataError("is not a list of cases", where=os.path.join(folder.root, path))
    for case in cases:
        name = str(case.get("case_id"))
        facts = {"malignant": case.get("malignant"), "volume": f"{base}{name}/imaging.nii.gz"}
        yield Record(id=name, patient=name, facts=facts)


def kits23(record: Record, folder: Folder) -> Found:
    """One question per CT with a known histology, a volume."""
    malignant = record.facts["malignant"]
    if isinstance(malignant, bool):
        yield record.example((value("kits23", malignant),), videos=(record.facts["volume"],))
    else:
        yield Dropped(record.id, "whether it is malignant is not known")


def hemorrhage_records(folder: Folder) -> Records:
    """Slices in the brain window (version 1.0.0, JPEG), or the scans of a later version."""
    if ct_ich.is_raw(folder):
        yield from ct_ich.records(folder)
        return
    table = "*hemorrhage_diagnosis.csv"
    base = folder.parent(table)
    for row in folder.table(table, "PatientNumber", "SliceNumber", "No_Hemorrhage"):
        patient, number = f"{whole(row, 'PatientNumber'):03d}", whole(row, "SliceNumber")
        facts = {
            "without": whole(row, "No_Hemorrhage"),
            "stem": f"{base}Patients_CT/{patient}/brain/{number}",
        }
        yield Record(id=f"{patient}-{number}", patient=patient, facts=facts)


def hemorrhage(record: Record, folder: Folder) -> Found:
    """One question per slice, with the mask of the hemorrhage where there is one."""
    if "scan" in record.facts:
        yield from ct_ich.examples(record, folder)
        return
    label, stem = value("hemorrhage", record.facts["without"]), record.facts["stem"]
    mask = f"{stem}_HGE_Seg.jpg"
    bleeding = label == "Has Hemorrhage" and folder.has(mask)
    yield record.example((label,), images=(f"{stem}.jpg",), mask=mask if bleeding else None)


_PE = "the kind of pulmonary embolism"
CONVERTERS = (
    Converter(
        "rspect",
        Question("a slice of a CT pulmonary angiogram", "the kinds of pulmonary embolism", True),
        rspect_records,
        rspect,
    ),
    Converter(
        "inspect",
        Question("a CT pulmonary angiogram of a patient", _PE),
        inspect_records,
        inspect,
    ),
    Converter(
        "kits23",
        Question("an abdominal CT of a patient with a kidney tumor", "the kind of tumor"),
        kits23_records,
        kits23,
    ),
    Converter(
        "hemorrhage",
        Question("a slice of a head CT of a patient"),
        hemorrhage_records,
        hemorrhage,
        at_once=8,  # scans; slices of version 1.0.0 take no time
    ),
)
