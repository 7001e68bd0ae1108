"""Pictures of skin and of the eye's fundus: ISIC-2020, HAM10000, PAD-UFES-20; Messidor-2, APTOS
2019, Jichi.
"""

from __future__ import annotations

from collections.abc import Iterator

from qoq_jax.base.errors import DataError
from qoq_jax.climb.convert.example import Converter, Dropped, Example, Found
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


def isic_2020(folder: Folder) -> Found:
    """One question per picture of the training set, the only one with public labels, without the
    second of each pair of duplicates that the source lists.
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
        yield Example(
            id=image,
            labels=(value("isic-2020", row["target"]),),
            patient=row["patient_id"] or image,
            images=(pictures.get(image.lower(), f"{image}.jpg"),),
        )


def ham10000(folder: Folder) -> Found:
    """One question per picture, from the ISIC 2018 challenge's archives or the Dataverse's; splits
    are grouped by lesion, since patients are not given.
    """
    pictures = by_name(folder, "*.jpg")
    for image, label, lesion in _ham_rows(folder):
        yield Example(
            id=image,
            labels=(label,),
            patient=lesion,
            images=(pictures.get(image.lower(), f"{image}.jpg"),),
        )


def _ham_rows(folder: Folder) -> Iterator[tuple[str, str, str]]:
    """(picture, label, lesion) of each picture of HAM10000."""
    # Kaggle's table, or the Dataverse's: as it was uploaded, or as it is shown, by tabs.
    metadata = ("*HAM10000_metadata.csv", "*HAM10000_metadata", "*HAM10000_metadata.tab")
    if folder.match(*metadata):
        for row in folder.table(metadata, "image_id", "lesion_id", "dx"):
            yield row["image_id"], value("ham10000", row["dx"]), row["lesion_id"]
        return
    groups = folder.table("*LesionGroupings.csv", "image", "lesion_id")
    lesions = {row["image"]: row["lesion_id"] for row in groups}
    for row in folder.table("*Task3_Training_GroundTruth.csv", "image", *_HAM):
        marked = [kind for kind in _HAM if number(row, kind) == 1]
        if len(marked) != 1:
            raise DataError(f"{len(marked)} of its classes are 1", where=row["image"])
        yield row["image"], value("ham10000", marked[0]), lesions.get(row["image"], row["image"])


def pad_ufes_20(folder: Folder) -> Found:
    """One question per photograph of a smartphone."""
    pictures = by_name(folder, "*.png")
    for row in folder.table("*metadata.csv", "img_id", "patient_id", "diagnostic"):
        image = row["img_id"]
        yield Example(
            id=image,
            labels=(value("pad-ufes-20", row["diagnostic"]),),
            patient=row["patient_id"],
            images=(pictures.get(image.rpartition(".")[0].lower(), image),),
        )


# ------------------------------------------------------------------------------------------- fundus


def messidor_2(folder: Folder) -> Found:
    """One question per gradable picture, from either public copy. Both eyes of an examination are
    one patient where messidor-2.csv says which pictures are pairs.
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
        if not row[grade]:
            yield Dropped(name, "it is not gradable")
            continue
        yield Example(
            id=name,
            labels=(value("messidor-2", row[grade]),),
            patient=examination.get(name, name),
            images=(pictures.get(name, row[image]),),
        )


def _stem(name: str) -> str:
    return (name.rpartition(".")[0] or name).lower()


def aptos(folder: Folder) -> Found:
    """One question per picture of the training set, the only one with public labels."""
    base = folder.parent("train.csv", "*/train.csv")
    for row in folder.table(("train.csv", "*/train.csv"), "id_code", "diagnosis"):
        image = row["id_code"]
        yield Example(
            id=image,
            labels=(value("aptos2019", row["diagnosis"]),),
            patient=image,
            images=(f"{base}train_images/{image}.png",),
        )


def jichi(folder: Folder) -> Found:
    """One question per picture: the modified Davis grade of this picture."""
    pictures = by_name(folder, "*.jpg", "*.JPG")
    column = "Davis_grading_of_one_figure"
    for row in folder.table("*list.csv", "Image", column):
        name = _stem(row["Image"])
        yield Example(
            id=name,
            labels=(value("jichi", row[column]),),
            patient=name.partition("_")[0],  # patient_picture_side
            images=(pictures.get(name, row["Image"]),),
        )


_LESION = Question("a dermoscopic image of a skin lesion of a patient")
_FUNDUS = Question("a fundus photograph of a patient", "the grade of diabetic retinopathy")
CONVERTERS = (
    Converter("isic-2020", _LESION, isic_2020),
    Converter("ham10000", _LESION, ham10000),
    Converter(
        "pad-ufes-20",
        Question("a photograph of a skin lesion of a patient"),
        pad_ufes_20,
    ),
    Converter("messidor-2", _FUNDUS, messidor_2),
    Converter("aptos2019", _FUNDUS, aptos),
    Converter("jichi", _FUNDUS, jichi),
)
