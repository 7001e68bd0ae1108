"""Chest X-rays: MIMIC-CXR-JPG, CheXpert, VinDr-CXR, CoronaHack."""

from __future__ import annotations

from collections import defaultdict

from qoq_jax.base.errors import DataError
from qoq_jax.climb.convert.example import Converter, Dropped, Example, Found
from qoq_jax.climb.convert.folder import Folder, choice
from qoq_jax.climb.convert.folders import person
from qoq_jax.climb.labels import chest_xray as labels
from qoq_jax.climb.qa import Question
from qoq_jax.data.attributes import of_person

_CHEXPERT = labels.CHEXPERT
_MIMIC_SPLITS = {"train": "train", "validate": "validation", "test": "test"}


def _findings(row: dict[str, str]) -> tuple[str, ...] | str:
    """CheXpert labels that a row marks as present, or why there are none; uncertain ones count as
    absent, as in CLIMB.
    """
    try:
        return labels.chexpert(row).labels or "no finding is marked as present"
    except DataError as error:
        return error.what


def mimic_cxr(folder: Folder) -> Found:
    """One question per picture, with the labels of its study; the published split."""
    name = "*mimic-cxr-2.0.0-split.csv*"
    base, of_study = folder.parent(name), {}
    studies = folder.table("*mimic-cxr-2.0.0-chexpert.csv*", "subject_id", "study_id", *_CHEXPERT)
    for row in studies:
        of_study[row["subject_id"], row["study_id"]] = _findings(row)
    for row in folder.table(name, "dicom_id", "study_id", "subject_id", "split"):
        subject, study, dicom = row["subject_id"], row["study_id"], row["dicom_id"]
        found = of_study.get((subject, study), "its study has no labels")
        if isinstance(found, str):
            yield Dropped(dicom, found)
            continue
        yield Example(
            id=dicom,
            labels=found,
            patient=f"p{subject}",
            split=choice(row, "split", _MIMIC_SPLITS),
            images=(f"{base}files/p{subject[:2]}/p{subject}/s{study}/{dicom}.jpg",),
        )


def chexpert(folder: Folder) -> Found:
    """One question per picture. The 234 pictures that the source calls valid, which radiologists
    labelled, are the test split.
    """
    for name, split in (("train", "train"), ("valid", "test")):
        pattern = (f"{name}.csv", f"*/{name}.csv")
        if split == "test" and not folder.match(*pattern):
            continue
        base = folder.parent(*pattern)
        for row in folder.table(pattern, "Path", *_CHEXPERT):
            # CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg
            _, _, path = row["Path"].partition("/")
            found = _findings(row)
            if isinstance(found, str):
                yield Dropped(path, found)
                continue
            parts = path.split("/")
            if len(parts) != 4:
                raise DataError(
                    f"Path is {row['Path'][:80]!r}, not FOLDER/{name}/PATIENT/STUDY/FILE"
                )
            yield Example(
                id=path,
                labels=found,
                patient=parts[1],
                split=split,
                images=(base + path,),
                attributes=of_person(row.get("Sex", ""), row.get("Age", "")),
            )


def vindr_cxr(folder: Folder) -> Found:
    """One question per picture: its global labels by the majority of three readers, in the test
    split by their consensus. (The released CLIMB pairs pictures and rows by position.)
    """
    for split in ("train", "test"):
        pattern = f"*image_labels_{split}.csv"
        base = folder.parent(pattern).removesuffix("annotations/")
        readers: dict[str, list[dict[str, str]]] = defaultdict(list)
        for row in folder.table(pattern, "image_id"):
            readers[row["image_id"]].append(row)
        for image, rows in readers.items():
            found = labels.vindr(rows).labels
            if not found:
                yield Dropped(image, "its readers agree on no label")
                continue
            endings = (f"{base}{split}/{image}.dicom", f"{base}{split}/{image}.png")
            path = next((path for path in endings if path in folder.files), endings[0])
            yield Example(id=image, labels=found, patient=image, split=split, images=(path,))


def coronahack(folder: Folder) -> Found:
    """One question per picture; three of the four classes, as in CLIMB."""
    table = "*Chest_xray_Corona_Metadata.csv"
    columns = ("X_ray_image_name", "Label", "Dataset_type", "Label_1_Virus_category")
    pictures = {path.rpartition("/")[2]: path for path in folder.match("*.jp*g", "*.png")}
    for row in folder.table(table, *columns):
        name, kind = row["X_ray_image_name"], row["Label_1_Virus_category"]
        if row["Label"] == "Normal":
            label = "Normal"
        elif kind.lower() in ("bacteria", "virus"):
            label = "Bacterial Pneumonia" if kind.lower() == "bacteria" else "Viral Pneumonia"
        else:
            yield Dropped(name, f"its class is {kind or 'not given'}")
            continue
        split = choice(row, "Dataset_type", {"TRAIN": "train", "TEST": "test"})
        path = pictures.get(name, name)
        patient = person(name) or name
        yield Example(id=name, labels=(label,), patient=patient, split=split, images=(path,))


_XRAY = Question("a chest X-ray of a patient")
_FINDINGS = Question("a chest X-ray of a patient", "the diagnosis, with all findings", many=True)
CONVERTERS = (
    Converter("mimic-cxr", _FINDINGS, mimic_cxr),
    Converter("chexpert", _FINDINGS, chexpert),
    Converter("vindr-cxr", _FINDINGS, vindr_cxr),
    Converter("coronahack", _XRAY, coronahack),
)
