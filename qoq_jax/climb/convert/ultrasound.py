"""Ultrasound: BUSI, COVID-BLUES, COVID-US."""

from __future__ import annotations

import glob
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
        row["patient_id"]: number(row, "cov_test")
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
    were found, and not the videos: its notebook saves them as data/video/original/ID.mp4, and
    those and the other kinds (GIF, WMV) without their margins as data/video/cropped/ID_prc.avi.
    """
    videos = {
        path.rpartition("/")[2].rpartition(".")[0]: path
        for path in folder.match("*.mp4", "*.mov", "*.avi")
    }
    # Of the two tables that of four classes names patients. Both have spaces of Latin-1.
    tables = ("*COVIDx-US*_4class.csv", "*COVIDx-US*_3class.csv")
    latest = (max(folder.match(table), default="") for table in tables)
    table = tuple(glob.escape(path) for path in latest if path) or tables
    for row in folder.table(table, "id", "class", encoding="latin-1"):
        name, kind, organ = row["id"], row["class"], row.get("type", "")
        if kind not in values("covid-us"):
            yield Dropped(name, f"its class is {kind[:40] or 'not given'}")
            continue
        if organ not in ("", "lung"):
            yield Dropped(name, "it does not show the lung")
            continue
        yield Example(
            id=name,
            labels=(value("covid-us", kind),),
            patient=row.get("patient") or name,
            videos=(videos.get(name) or videos.get(f"{name}_prc") or f"{name}.mp4",),
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
