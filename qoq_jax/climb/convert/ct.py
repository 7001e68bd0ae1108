"""CT: RSPECT, INSPECT, KiTS23 and the hemorrhage set CT-ICH."""

from __future__ import annotations

import os

from qoq_jax.base import files
from qoq_jax.base.errors import DataError
from qoq_jax.climb.convert import ct_ich
from qoq_jax.climb.convert.example import Converter, Dropped, Example, Found
from qoq_jax.climb.convert.folder import Folder, choice, whole
from qoq_jax.climb.labels import ct as labels
from qoq_jax.climb.labels.read import value
from qoq_jax.climb.qa import Question

_INSPECT_SPLITS = {"train": "train", "valid": "validation", "test": "test"}


def rspect(folder: Folder) -> Found:
    """One question per slice; a study, which is one patient's, is in one split (the released CLIMB
    draws slices). Slices of an examination with acute and chronic emboli have both labels.
    """
    table = ("train.csv", "*/train.csv")
    base = folder.parent(*table)
    study, series, slice_ = "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"
    columns = (study, series, slice_, "pe_present_on_image", "chronic_pe", "acute_and_chronic_pe")
    for row in folder.table(table, *columns):
        yield Example(
            id=row[slice_],
            labels=labels.rspect(row),
            patient=row[study],
            images=(f"{base}train/{row[study]}/{row[series]}/{row[slice_]}.dcm",),
        )


def inspect(folder: Folder) -> Found:
    """One question per CT pulmonary angiogram, a volume; the official split where its table is
    there.
    """
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
    kinds = ("pe_positive", "pe_acute", "pe_subsegmentalonly")
    table = "*Final_Impressions_labels.csv"
    for row in folder.table(table, "impression_id", *kinds):
        key = row["impression_id"]
        name = images.get(key, key)
        yield Example(
            id=key,
            labels=(labels.inspect(row),),
            patient=patients.get(key, key),
            split=own.get(key, ""),
            videos=(volumes.get(name, f"{name}.nii.gz"),),
        )


def kits23(folder: Folder) -> Found:
    """One question per kidney CT with a known histology, a volume."""
    path = folder.one("*kits23.json")
    base = folder.parent("*kits23.json")
    cases = files.read_json(os.path.join(folder.root, path))
    if not isinstance(cases, list) or not all(isinstance(case, dict) for case in cases):
        raise DataError("is not a list of cases", where=os.path.join(folder.root, path))
    for case in cases:
        name, malignant = str(case.get("case_id")), case.get("malignant")
        if not isinstance(malignant, bool):
            yield Dropped(name, "whether it is malignant is not known")
            continue
        yield Example(
            id=name,
            labels=(value("kits23", malignant),),
            patient=name,
            videos=(f"{base}{name}/imaging.nii.gz",),
        )


def hemorrhage(folder: Folder) -> Found:
    """One question per slice in the brain window, with the mask of the hemorrhage where there is
    one: the pictures of version 1.0.0, or those that ct_ich.py cuts from a later one.
    """
    if ct_ich.is_raw(folder):
        yield from ct_ich.examples(folder)
        return
    table = "*hemorrhage_diagnosis.csv"
    base = folder.parent(table)
    for row in folder.table(table, "PatientNumber", "SliceNumber", "No_Hemorrhage"):
        patient, number = f"{whole(row, 'PatientNumber'):03d}", whole(row, "SliceNumber")
        label = value("hemorrhage", whole(row, "No_Hemorrhage"))
        brain = f"{base}Patients_CT/{patient}/brain/{number}"
        mask = f"{brain}_HGE_Seg.jpg"
        bleeding = label == "Has Hemorrhage" and mask in folder.files
        yield Example(
            id=f"{patient}-{number}",
            labels=(label,),
            patient=patient,
            images=(f"{brain}.jpg",),
            mask=mask if bleeding else None,
        )


_PE = "the kind of pulmonary embolism"
CONVERTERS = (
    Converter(
        "rspect",
        Question("a slice of a CT pulmonary angiogram", "the kinds of pulmonary embolism", True),
        rspect,
    ),
    Converter(
        "inspect",
        Question("a CT pulmonary angiogram of a patient", _PE),
        inspect,
    ),
    Converter(
        "kits23",
        Question("an abdominal CT of a patient with a kidney tumor", "the kind of tumor"),
        kits23,
    ),
    Converter(
        "hemorrhage",
        Question("a slice of a head CT of a patient"),
        hemorrhage,
        ct_ich.cut,
    ),
)
