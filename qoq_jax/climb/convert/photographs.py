"""Pictures of skin and of the eye's fundus: ISIC-2020, HAM10000, PAD-UFES-20; Messidor-2, APTOS
2019, Jichi.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

from qoq_jax.base.errors import DataError
from qoq_jax.climb.convert.example import Converter, Dropped, Found, Record, Records
from qoq_jax.climb.convert.folder import Folder, number
from qoq_jax.climb.labels.read import value
from qoq_jax.climb.qa import Question

_HAM = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")


def by_name(folder: Folder, *patterns: str) -> dict[str, str]:
    """{name of a picture without its ending, in lower case: path}."""
    return {
        path.rpartition("/")[2].rpartition(".")[0].lower(): path for path in folder.match(*patterns)
    }


# --------------------------------------------------------------------------------------------- skin


def _shown(dataset: str, record: Record, folder: Folder) -> Found:
    """One question per picture: what the cell "value" stands for in the table of values."""
    found = (value(dataset, record.facts["value"]),)
    yield record.example(found, images=(record.facts["image"],))


def _facts(cell: str, image: str) -> dict[str, str]:
    return {"value": cell, "image": image}


def isic_2020(folder: Folder) -> Records:
    """Pictures of the training set, the only one with public labels, without the second of each
    pair of duplicates that the source lists.
    """
    pictures, second = by_name(folder, "*.jpg"), set()
    duplicates = "*ISIC_2020_Training_Duplicates.csv"
    if folder.match(duplicates):
        pairs = folder.table(duplicates, "image_name_1", "image_name_2")
        second = {pair["image_name_2"] for pair in pairs}
    tables = ("*ISIC_2020_Training_GroundTruth_v2.csv", "*ISIC_2020_Training_GroundTruth.csv")
    columns = ("image_name", "patient_id", "target")
    for row in folder.table((*tables, "train.csv", "*/train.csv"), *columns):
        image = row["image_name"]
        if image in second:
            yield Dropped(image, "a duplicate of another picture")
            continue
        facts = _facts(row["target"], pictures.get(image.lower(), f"{image}.jpg"))
        yield Record(id=image, patient=row["patient_id"] or image, facts=facts)


def ham10000(folder: Folder) -> Records:
    """Pictures, from the ISIC 2018 challenge's archives or the Dataverse's; splits are grouped by
    lesion, since patients are not given.
    """
    pictures = by_name(folder, "*.jpg")
    for image, kind, lesion in _ham_rows(folder):
        facts = _facts(kind, pictures.get(image.lower(), f"{image}.jpg"))
        yield Record(id=image, patient=lesion, facts=facts)


def _ham_rows(folder: Folder) -> Iterator[tuple[str, str, str]]:
    """(picture, class, lesion) of each picture of HAM10000."""
    # Kaggle's table, or the Dataverse's: as it was uploaded, or as it is shown, by tabs.
    metadata = ("*HAM10000_metadata.csv", "*HAM10000_metadata", "*HAM10000_metadata.tab")
    if folder.match(*metadata):
        for row in folder.table(metadata, "image_id", "lesion_id", "dx"):
            yield row["image_id"], row["dx"], row["lesion_id"]
        return
    groups = folder.table("*LesionGroupings.csv", "image", "lesion_id")
    lesions = {row["image"]: row["lesion_id"] for row in groups}
    for row in folder.table("*Task3_Training_GroundTruth.csv", "image", *_HAM):
        marked = [kind for kind in _HAM if number(row, kind) == 1]
        if len(marked) != 1:
            raise DataError(f"{len(marked)} of its classes are 1", where=row["image"])
        yield row["image"], marked[0], lesions.get(row["image"], row["image"])


def pad_ufes_20(folder: Folder) -> Records:
    """Photographs of a smartphone."""
    pictures = by_name(folder, "*.png")
    for row in folder.table("*metadata.csv", "img_id", "patient_id", "diagnostic"):
        image = row["img_id"]
        path = pictures.get(image.rpartition(".")[0].lower(), image)
        facts = _facts(row["diagnostic"], path)
        yield Record(id=image, patient=row["patient_id"], facts=facts)


# ------------------------------------------------------------------------------------------- fundus


def messidor_2_records(folder: Folder) -> Records:
    """Pictures, from either public copy. Both eyes of an examination are one patient where
    messidor-2.csv says which pictures are pairs.
    """
    pictures = by_name(folder, "*.png", "*.jpg", "*.JPG", "*.tif")
    examination = {}
    if folder.match("*messidor-2.csv"):
        for pair in folder.table("*messidor-2.csv"):
            eyes = [eye.strip() for cell in pair.values() for eye in cell.split(";") if eye]
            examination |= {_stem(eye): _stem(eyes[0]) for eye in eyes}
    table = "*messidor_data.csv"
    header = next(folder.table(table), {})
    image, grade = (
        ("id_code", "diagnosis") if "id_code" in header else ("image_id", "adjudicated_dr_grade")
    )
    for row in folder.table(table, image, grade):
        name = _stem(row[image])
        facts = _facts(row[grade], pictures.get(name, row[image]))
        yield Record(id=name, patient=examination.get(name, name), facts=facts)


def messidor_2(record: Record, folder: Folder) -> Found:
    """One question per gradable picture."""
    if record.facts["value"]:
        yield from _shown("messidor-2", record, folder)
    else:
        yield Dropped(record.id, "it is not gradable")


def _stem(name: str) -> str:
    return (name.rpartition(".")[0] or name).lower()


def aptos(folder: Folder) -> Records:
    """Pictures of the training set, the only one with public labels."""
    base = folder.parent("train.csv", "*/train.csv")
    for row in folder.table(("train.csv", "*/train.csv"), "id_code", "diagnosis"):
        image = row["id_code"]
        facts = _facts(row["diagnosis"], f"{base}train_images/{image}.png")
        yield Record(id=image, patient=image, facts=facts)


def jichi(folder: Folder) -> Records:
    """Pictures, each with its own modified Davis grade."""
    pictures = by_name(folder, "*.jpg", "*.JPG")
    column = "Davis_grading_of_one_figure"
    for row in folder.table("*list.csv", "Image", column):
        name = _stem(row["Image"])
        facts = _facts(row[column], pictures.get(name, row["Image"]))
        # patient_picture_side
        yield Record(id=name, patient=name.partition("_")[0], facts=facts)


_LESION = Question("a dermoscopic image of a skin lesion of a patient")
_FUNDUS = Question("a fundus photograph of a patient", "the grade of diabetic retinopathy")
_PHOTOGRAPH = Question("a photograph of a skin lesion of a patient")


def _of_values(name: str, question: Question, records: Callable[[Folder], Records]) -> Converter:
    return Converter(name, question, records, functools.partial(_shown, name))


CONVERTERS = (
    _of_values("isic-2020", _LESION, isic_2020),
    _of_values("ham10000", _LESION, ham10000),
    _of_values("pad-ufes-20", _PHOTOGRAPH, pad_ufes_20),
    Converter("messidor-2", _FUNDUS, messidor_2_records, messidor_2),
    _of_values("aptos2019", _FUNDUS, aptos),
    _of_values("jichi", _FUNDUS, jichi),
)
