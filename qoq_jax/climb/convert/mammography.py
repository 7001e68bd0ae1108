"""Mammograms: VinDr-Mammo, CBIS-DDSM, CMMD."""

from __future__ import annotations

import os
import posixpath
from collections import defaultdict
from collections.abc import Iterator

from qoq_jax.base.errors import DataError
from qoq_jax.climb.convert.example import Converter, Dropped, Example, Found, Record, Records
from qoq_jax.climb.convert.folder import Folder, choice, number
from qoq_jax.climb.labels.read import value, values
from qoq_jax.climb.qa import Question
from qoq_jax.data.readers import dicom, files

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def vindr_mammo_records(folder: Folder) -> Records:
    """Pictures, with the category of their breast and the boxes of findings of this category, which
    is what the answer rests on.
    """
    table = "*breast-level_annotations.csv"
    base, boxes = folder.parent(table), defaultdict(list)
    for row in folder.table("*finding_annotations.csv", "image_id", "finding_birads", *_CORNERS):
        corners = [number(row, corner) for corner in _CORNERS]
        if None not in corners and corners[0] < corners[2] and corners[1] < corners[3]:
            box = [max(corner, 0.0) for corner in corners]
            boxes[row["image_id"], row["finding_birads"]].append(box)
    for row in folder.table(table, "study_id", "image_id", "breast_birads", "split"):
        image, category = row["image_id"], row["breast_birads"]
        yield Record(
            id=image,
            patient=row["study_id"],
            split=choice(row, "split", {"training": "train", "test": "test"}),
            facts={
                "category": category,
                "image": f"{base}images/{row['study_id']}/{image}.dicom",
                "boxes": boxes[image, category],
            },
        )


def vindr_mammo(record: Record, folder: Folder) -> Found:
    """One question per picture: the BI-RADS category of its breast."""
    category, boxes = record.facts["category"], tuple(map(tuple, record.facts["boxes"]))
    if category in values("vindr-mammo"):
        yield record.example((category,), images=(record.facts["image"],), boxes=boxes)
    else:
        yield Dropped(record.id, f"its category is {category or 'not given'}")


def cbis_ddsm_records(folder: Folder) -> Records:
    """Full mammograms, with the highest assessment of their lesions; 0 (incomplete) where there is
    no other, which the released CLIMB leaves out.

    The paths in the tables of lesions are not those of a download from TCIA: the folder of a
    picture is found by the first part, which is its Subject ID in metadata.csv. A patient who is in
    the training table of masses and in the test table of calcifications goes to test.
    """
    where = {}
    base = folder.parent("metadata.csv", "*/metadata.csv")
    metadata = folder.table(("metadata.csv", "*/metadata.csv"), "Subject ID", "File Location")
    for row in metadata:
        location = row["File Location"].replace("\\", "/")
        where[row["Subject ID"]] = base + posixpath.normpath(location).lstrip("/")
    grades: dict[str, int] = {}
    about: dict[str, tuple[str, str]] = {}
    for kind in ("mass", "calc"):
        for split in ("train", "test"):
            table = f"{kind}_case_description_{split}_set.csv"
            columns = ("patient_id", "assessment", "image file path")
            for row in folder.table((table, f"*/{table}"), *columns):
                subject = row["image file path"].partition("/")[0].strip()
                # "Mass-Training_P_00001_LEFT_CC": the same picture may have masses and
                # calcifications, under two names.
                picture = subject.partition("_")[2]
                grade = int(number(row, "assessment") or 0)  # 0: incomplete
                grades[picture] = max(grades.get(picture, 0), grade)
                before = about.get(picture)
                if before is None or split == "test":
                    about[picture] = (subject if before is None else before[0], split)
    for picture, grade in sorted(grades.items()):
        subject, split = about[picture]
        place = where.get(subject)
        found = [path for path in folder.directly_in(place or "?") if path.endswith(".dcm")]
        patient = "_".join(picture.split("_")[:2])
        facts = {"grade": grade, "files": found}
        yield Record(id=picture, patient=patient, split=split, facts=facts)


def cbis_ddsm(record: Record, folder: Folder) -> Found:
    """One question per mammogram: the highest assessment of its lesions."""
    found = record.facts["files"]
    if len(found) == 1:
        yield record.example((value("cbis-ddsm", record.facts["grade"]),), images=(found[0],))
    else:
        yield Dropped(record.id, f"{len(found)} files of its series are there")


def cmmd_records(folder: Folder) -> Records:
    """Patients: the pictures of both breasts, and what the table says of each breast."""
    table = folder.one("*CMMD_clinicaldata_revision.xlsx", "*CMMD_clinicaldata_revision.csv")
    if table.endswith(".csv"):
        rows = folder.table(table, "ID1", "LeftRight", "classification")
    else:
        rows = _sheet(os.path.join(folder.root, table), "ID1", "LeftRight", "classification")
    pictures: dict[str, list[str]] = defaultdict(list)
    for path in folder.match("*/D[12]-[0-9][0-9][0-9][0-9]/*.dcm"):
        person = next(part for part in path.split("/") if part[:3] in ("D1-", "D2-"))
        pictures[person].append(path)
    breasts: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        person, side = row["ID1"], row["LeftRight"]
        if side in breasts[person]:
            yield Dropped(f"{person}-{side}", "the table has the breast twice")
            continue
        breasts[person][side] = value("cmmd", row["classification"])
    for person in sorted({*pictures, *breasts}):
        facts = {"files": pictures[person], "breasts": breasts[person]}
        yield Record(id=person, patient=person, facts=facts)


def cmmd(record: Record, folder: Folder) -> Found:
    """One question per breast, with all its views. The table says left or right, the side of a
    picture is in its header (the released CLIMB gives a patient's pictures of both sides to each
    row).
    """
    views = defaultdict(list)
    for path in record.facts["files"]:
        side = _laterality(folder, path)
        if side not in ("L", "R"):
            yield Dropped(path, "its header does not say the side")
        views[side].append(path)
    for side, label in record.facts["breasts"].items():
        identity = f"{record.id}-{side}"
        if views[side]:
            yield Example(identity, (label,), record.patient, images=tuple(views[side]))
        else:
            yield Dropped(identity, "no picture of this side is there")


def _laterality(folder: Folder, path: str) -> str:
    """ "L" or "R" of a DICOM file (Image Laterality, 0020,0062), or what else it says."""
    where = files.check_file(folder.medium(path))
    with files.decoding(where, "DICOM", ("a DICOM file",)):
        return str(dicom.load(where, ("ImageLaterality",)).get("ImageLaterality", "")).strip()


def _sheet(path: str, *columns: str) -> Iterator[dict[str, str]]:
    """Rows of the first sheet of an Excel file."""
    openpyxl = files.need("openpyxl", "excel", path, "reading an Excel file")
    with files.decoding(path, "an Excel file", ("a zip archive",)):
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        rows = [
            ["" if cell is None else str(cell).strip() for cell in row]
            for row in book.worksheets[0].iter_rows(values_only=True)
        ]
    header = rows[0] if rows else []
    for column in columns:
        if column not in header:
            raise DataError(
                f"there is no column {column!r}",
                where=path,
                hint=f"it has {', '.join(header)[:200]}",
            )
    for row in rows[1:]:
        if any(row):
            yield dict(zip(header, row, strict=False))


_MAMMOGRAM = Question("a mammogram of a patient", "the BI-RADS category of the breast")
CONVERTERS = (
    Converter("vindr-mammo", _MAMMOGRAM, vindr_mammo_records, vindr_mammo),
    Converter("cbis-ddsm", _MAMMOGRAM, cbis_ddsm_records, cbis_ddsm),
    Converter(
        "cmmd",
        Question("the mammograms of one breast of a patient"),
        cmmd_records,
        cmmd,
        at_once=100,
    ),
)
