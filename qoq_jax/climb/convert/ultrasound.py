"""Ultrasound: BUSI, COVID-BLUES, COVID-US."""

from __future__ import annotations

import re

from qoq_jax.climb.convert.example import Converter, Dropped, Example, Found
from qoq_jax.climb.convert.folder import Folder, number
from qoq_jax.climb.labels.read import value, values
from qoq_jax.climb.qa import Question

_PICTURE = re.compile(r"(normal|benign|malignant) \(\d+\)\.png")
_CLIP = re.compile(r"patient_(?P<patient>\w+?)_[LR]\d(_\d+)?\.mp4")


def busi(folder: Folder) -> Found:
    """One question per picture. A picture with one mask has it; of a picture with several, which
    are parts of one finding, none is given.
    """
    for path in folder.match("*.png"):
        name = path.rpartition("/")[2]
        found = _PICTURE.fullmatch(name)
        if not found:
            continue
        stem = path.removesuffix(".png")
        several = f"{stem}_mask_1.png" in folder.files
        mask = f"{stem}_mask.png"
        lesion = found[1] != "normal" and not several and mask in folder.files
        yield Example(
            id=name.removesuffix(".png"),
            labels=(value("busi", found[1]),),
            patient=name.removesuffix(".png"),
            images=(path,),
            mask=mask if lesion else None,
        )


def covid_blues(folder: Folder) -> Found:
    """One question per lung ultrasound video: the patient's PCR test."""
    tests = {
        row["patient_id"]: number(row, "cov_test", "clinical_variables.csv")
        for row in folder.table("*clinical_variables.csv", "patient_id", "cov_test")
    }
    for path in folder.match("*lus_videos/*.mp4"):
        name = path.rpartition("/")[2]
        found = _CLIP.fullmatch(name)
        result = tests.get(found["patient"]) if found else None
        if result is None:
            yield Dropped(name, "the table has no test of its patient")
            continue
        yield Example(
            id=name.removesuffix(".mp4"),
            labels=(value("covid-blues", result),),
            patient=found["patient"],
            videos=(path,),
        )


def covid_us(folder: Folder) -> Found:
    """One question per lung ultrasound video of three classes. The source publishes where videos
    were found, and not the videos.
    """
    videos = {path.rpartition("/")[2]: path for path in folder.match("*.mp4")}
    table = ("*COVIDx-US*_4class.csv", "*COVIDx-US*_3class.csv")
    for row in folder.table(table, "id", "source", "class"):
        kind, source = row["class"], row["source"].lower()
        name = f"{row['id']}_{source}_{kind.lower()}.mp4"
        if kind not in values("covid-us"):
            yield Dropped(name, f"its class is {kind or 'not given'}")
            continue
        patient = row.get("patient", "")
        yield Example(
            id=name.removesuffix(".mp4"),
            labels=(value("covid-us", kind),),
            patient=f"{source}-{patient}" if patient else row["id"],
            videos=(videos.get(name, name),),
        )


_LUNG = "a lung ultrasound video of a patient"
CONVERTERS = (
    Converter(
        "busi",
        Question("a breast ultrasound image of a patient"),
        busi,
    ),
    Converter("covid-blues", Question(_LUNG), covid_blues),
    Converter("covid-us", Question(_LUNG), covid_us),
)
