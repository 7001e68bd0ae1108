"""Pictures of skin and of the eye's fundus: ISIC-2020, HAM10000, PAD-UFES-20; Messidor-2, APTOS
2019, Jichi.
"""

from __future__ import annotations

from collections.abc import Iterator

from qoq_jax.base.errors import DataError
from qoq_jax.climb.convert.example import Converter, Dropped, Example, Found
from qoq_jax.climb.convert.folder import Folder, number
from qoq_jax.climb.qa import Question

SKIN = ("MEL", "NV", "BCC", "AKIEC", "OTHER")
_HAM = {"MEL": "MEL", "NV": "NV", "BCC": "BCC", "AKIEC": "AKIEC"} | dict.fromkeys(
    ("BKL", "DF", "VASC"), "OTHER"
)
_PAD = {
    "MEL": "MEL",
    "NEV": "NV",
    "BCC": "BCC",
    "ACK": "AKIEC",
    "SCC": "AKIEC",
    "SEK": "OTHER",
}
MESSIDOR = ("None", "Mild DR", "Moderate DR", "Severe DR", "PDR")
APTOS = ("No DR", "Mild", "Moderate", "Severe", "Proliferative DR")
JICHI = {"sdr": "SDR", "ppdr": "PPDR", "pdr": "PDR"}


def by_name(folder: Folder, *patterns: str) -> dict[str, str]:
    """{name of a picture without its ending, in lower case: path}."""
    return {
        path.rpartition("/")[2].rpartition(".")[0].lower(): path for path in folder.match(*patterns)
    }


# --------------------------------------------------------------------------------------------- skin


def isic_2020(folder: Folder) -> Found:
    """One question per picture of the training set, the only one with public labels."""
    pictures = by_name(folder, "*.jpg")
    tables = ("*ISIC_2020_Training_GroundTruth_v2.csv", "*ISIC_2020_Training_GroundTruth.csv")
    columns = ("image_name", "patient_id", "target")
    for row in folder.table((*tables, "train.csv", "*/train.csv"), *columns):
        image = row["image_name"]
        yield Example(
            id=image,
            labels=("Malignant" if number(row, "target", "target") == 1 else "Benign",),
            patient=row["patient_id"] or image,
            images=(pictures.get(image.lower(), f"{image}.jpg"),),
        )


def ham10000(folder: Folder) -> Found:
    """One question per picture, from the ISIC 2018 challenge's archives or the Dataverse's; splits
    are grouped by lesion, since patients are not given.
    """
    pictures = by_name(folder, "*.jpg")
    for image, kind, lesion in _ham_rows(folder):
        yield Example(
            id=image,
            labels=(_HAM[kind],),
            patient=lesion,
            images=(pictures.get(image.lower(), f"{image}.jpg"),),
        )


def _ham_rows(folder: Folder) -> Iterator[tuple[str, str, str]]:
    """(picture, class, lesion) of each picture of HAM10000."""
    if folder.match("*HAM10000_metadata*"):
        metadata = ("*HAM10000_metadata.csv", "*HAM10000_metadata")
        for row in folder.table(metadata, "image_id", "lesion_id", "dx"):
            yield row["image_id"], _known(row["dx"].upper(), _HAM), row["lesion_id"]
        return
    groups = folder.table("*LesionGroupings.csv", "image", "lesion_id")
    lesions = {row["image"]: row["lesion_id"] for row in groups}
    for row in folder.table("*Task3_Training_GroundTruth.csv", "image", *_HAM):
        marked = [kind for kind in _HAM if number(row, kind, "GroundTruth") == 1]
        if len(marked) != 1:
            raise DataError(f"{len(marked)} classes", where=f"GroundTruth.csv: {row['image']}")
        yield row["image"], marked[0], lesions.get(row["image"], row["image"])


def pad_ufes_20(folder: Folder) -> Found:
    """One question per photograph of a smartphone."""
    pictures = by_name(folder, "*.png")
    for row in folder.table("*metadata.csv", "img_id", "patient_id", "diagnostic"):
        image = row["img_id"]
        yield Example(
            id=image,
            labels=(_PAD[_known(row["diagnostic"], _PAD)],),
            patient=row["patient_id"],
            images=(pictures.get(image.rpartition(".")[0].lower(), image),),
        )


def _known(kind: str, classes: dict[str, str]) -> str:
    if kind not in classes:
        raise DataError(f"unknown class {kind[:40]!r}", hint=f"known: {', '.join(classes)}")
    return kind


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
        value = number(row, grade, "messidor_data.csv")
        if value is None:
            yield Dropped(name, "it is not gradable")
            continue
        yield Example(
            id=name,
            labels=(MESSIDOR[int(value)],),
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
            labels=(APTOS[int(number(row, "diagnosis", "train.csv") or 0)],),
            patient=image,
            images=(f"{base}train_images/{image}.png",),
        )


def jichi(folder: Folder) -> Found:
    """One question per picture: the modified Davis grade of this picture; pictures without
    retinopathy are left out, as in the paper's three classes.
    """
    pictures = by_name(folder, "*.jpg", "*.JPG")
    column = "Davis_grading_of_one_figure"
    for row in folder.table("*list.csv", "Image", column):
        name, grade = _stem(row["Image"]), row[column].lower()
        if grade not in JICHI:
            yield Dropped(name, f"its grade is {grade or 'not given'}")
            continue
        yield Example(
            id=name,
            labels=(JICHI[grade],),
            patient=name.partition("_")[0],  # patient_picture_side
            images=(pictures.get(name, row["Image"]),),
        )


_LESION = Question("a dermoscopic image of a skin lesion of a patient")
_FUNDUS = Question("a fundus photograph of a patient", "the grade of diabetic retinopathy")
CONVERTERS = (
    Converter("isic-2020", "dermoscopy", ("Malignant", "Benign"), _LESION, isic_2020),
    Converter("ham10000", "dermoscopy", SKIN, _LESION, ham10000),
    Converter(
        "pad-ufes-20",
        "dermoscopy",
        SKIN,
        Question("a photograph of a skin lesion of a patient"),
        pad_ufes_20,
    ),
    Converter("messidor-2", "fundus", MESSIDOR, _FUNDUS, messidor_2),
    Converter("aptos-2019", "fundus", APTOS, _FUNDUS, aptos),
    Converter("jichi", "fundus", tuple(JICHI.values()), _FUNDUS, jichi),
)
