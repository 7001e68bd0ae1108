"""Ultrasound: BUSI, COVID-BLUES, COVID-US."""

from __future__ import annotations

import glob
import re

from qoq_jax.climb.convert.example import Converter, Dropped, Found, Record, Records
from qoq_jax.climb.convert.folder import Folder, number
from qoq_jax.climb.labels.read import value, values
from qoq_jax.climb.qa import Question

_PICTURE = re.compile(r"(normal|benign|malignant) \(\d+\)\.png")
_CLIP = re.compile(r"patient_(?P<patient>\w+?)_[LR]\d(_\d+)?\.mp4")


def busi_records(folder: Folder) -> Records:
    """Pictures, without the masks."""
    for path in folder.match("*.png"):
        name = path.rpartition("/")[2]
        found = _PICTURE.fullmatch(name)
        if found:
            stem = name.removesuffix(".png")
            yield Record(id=stem, patient=stem, facts={"kind": found[1], "image": path})


def busi(record: Record, folder: Folder) -> Found:
    """One question per picture. A picture with one mask has it; of a picture with several, which
    are parts of one finding, none is given.
    """
    kind, path = record.facts["kind"], record.facts["image"]
    stem = path.removesuffix(".png")
    mask = f"{stem}_mask.png"
    lesion = kind != "normal" and not folder.has(f"{stem}_mask_1.png") and folder.has(mask)
    found = (value("busi", kind),)
    yield record.example(found, images=(path,), mask=mask if lesion else None)


def covid_blues_records(folder: Folder) -> Records:
    """Lung ultrasound videos, with the patient's PCR test."""
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
        stem, facts = name.removesuffix(".mp4"), {"test": result, "video": path}
        yield Record(id=stem, patient=found["patient"], facts=facts)


def covid_blues(record: Record, folder: Folder) -> Found:
    """One question per video: the patient's PCR test."""
    found = (value("covid-blues", record.facts["test"]),)
    yield record.example(found, videos=(record.facts["video"],))


def covid_us_records(folder: Folder) -> Records:
    """Lung ultrasound videos. The source publishes where videos were found, and not the videos: its
    notebook saves them as data/video/original/ID.mp4, and those and the other kinds (GIF, WMV)
    without their margins as data/video/cropped/ID_prc.avi.
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
        name = row["id"]
        yield Record(
            id=name,
            patient=row.get("patient") or name,
            facts={
                "kind": row["class"],
                "organ": row.get("type", ""),
                "video": videos.get(name) or videos.get(f"{name}_prc") or f"{name}.mp4",
            },
        )


def covid_us(record: Record, folder: Folder) -> Found:
    """One question per video of the lung, of three classes."""
    kind, organ = record.facts["kind"], record.facts["organ"]
    if kind not in values("covid-us"):
        yield Dropped(record.id, f"its class is {kind[:40] or 'not given'}")
    elif organ not in ("", "lung"):
        yield Dropped(record.id, "it does not show the lung")
    else:
        yield record.example((value("covid-us", kind),), videos=(record.facts["video"],))


_LUNG = "a lung ultrasound video of a patient"
CONVERTERS = (
    Converter(
        "busi",
        Question("a breast ultrasound image of a patient"),
        busi_records,
        busi,
    ),
    Converter("covid-blues", Question(_LUNG), covid_blues_records, covid_blues),
    Converter("covid-us", Question(_LUNG), covid_us_records, covid_us),
)
