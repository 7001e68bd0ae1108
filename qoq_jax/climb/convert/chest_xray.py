"""Chest X-rays: MIMIC-CXR-JPG, CheXpert, VinDr-CXR, CoronaHack."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from qoq_jax.base.errors import DataError
from qoq_jax.climb.convert.example import Converter, Dropped, Found, Record, Records
from qoq_jax.climb.convert.folder import Folder, choice
from qoq_jax.climb.convert.folders import person
from qoq_jax.climb.labels import chest_xray as labels
from qoq_jax.climb.qa import Question
from qoq_jax.data.attributes import of_person

_CHEXPERT = labels.CHEXPERT
_MIMIC_SPLITS = {"train": "train", "validate": "validation", "test": "test"}


def _cells(row: Mapping[str, str]) -> dict[str, str]:
    """The cells of CheXpert's labels."""
    return {name: row[name] for name in _CHEXPERT}


def _findings(row: Mapping[str, str]) -> tuple[str, ...] | str:
    """CheXpert labels that a row marks as present, or why there are none; uncertain ones count as
    absent, as in CLIMB.
    """
    try:
        return labels.chexpert(row).labels or "no finding is marked as present"
    except DataError as error:
        return error.what


def mimic_cxr_records(folder: Folder) -> Records:
    """Pictures, with what is said of their study; the published split."""
    name = "*mimic-cxr-2.0.0-split.csv*"
    base, of_study = folder.parent(name), {}
    studies = folder.table("*mimic-cxr-2.0.0-chexpert.csv*", "subject_id", "study_id", *_CHEXPERT)
    for row in studies:
        of_study[row["subject_id"], row["study_id"]] = _cells(row)
    for row in folder.table(name, "dicom_id", "study_id", "subject_id", "split"):
        subject, study, dicom = row["subject_id"], row["study_id"], row["dicom_id"]
        yield Record(
            id=dicom,
            patient=f"p{subject}",
            split=choice(row, "split", _MIMIC_SPLITS),
            facts={
                "study": of_study.get((subject, study)),
                "image": f"{base}files/p{subject[:2]}/p{subject}/s{study}/{dicom}.jpg",
            },
        )


def mimic_cxr(record: Record, folder: Folder) -> Found:
    """One question per picture, with the labels of its study."""
    study = record.facts["study"]
    found = "its study has no labels" if study is None else _findings(study)
    if isinstance(found, str):
        yield Dropped(record.id, found)
        return
    yield record.example(found, images=(record.facts["image"],))


def chexpert_records(folder: Folder) -> Records:
    """Pictures. The 234 that the source calls valid, which radiologists labelled, are the test
    split.
    """
    for name, split in (("train", "train"), ("valid", "test")):
        pattern = (f"{name}.csv", f"*/{name}.csv")
        if split == "test" and not folder.match(*pattern):
            continue
        base = folder.parent(*pattern)
        for row in folder.table(pattern, "Path", *_CHEXPERT):
            # CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg
            _, _, path = row["Path"].partition("/")
            parts = path.split("/")
            if len(parts) != 4:
                raise DataError(
                    f"Path is {row['Path'][:80]!r}, not FOLDER/{name}/PATIENT/STUDY/FILE"
                )
            person = {"sex": row.get("Sex", ""), "age": row.get("Age", "")}
            facts = {"cells": _cells(row), "image": base + path} | person
            yield Record(id=path, patient=parts[1], split=split, facts=facts)


def chexpert(record: Record, folder: Folder) -> Found:
    """One question per picture."""
    facts = record.facts
    found = _findings(facts["cells"])
    if isinstance(found, str):
        yield Dropped(record.id, found)
        return
    person = of_person(facts["sex"], facts["age"])
    yield record.example(found, images=(facts["image"],), attributes=person)


def vindr_cxr_records(folder: Folder) -> Records:
    """Pictures, with the lines of their readers: three, in the test split their consensus. (The
    released CLIMB pairs pictures and rows by position.)
    """
    for split in ("train", "test"):
        pattern = f"*image_labels_{split}.csv"
        base = folder.parent(pattern).removesuffix("annotations/")
        readers: dict[str, list[dict[str, str]]] = defaultdict(list)
        for row in folder.table(pattern, "image_id"):
            readers[row["image_id"]].append(row)
        for image, rows in readers.items():
            facts = {"readers": rows, "stem": f"{base}{split}/{image}"}
            yield Record(id=image, patient=image, split=split, facts=facts)


def vindr_cxr(record: Record, folder: Folder) -> Found:
    """One question per picture: its global labels by the majority of its readers."""
    found = labels.vindr(record.facts["readers"]).labels
    if not found:
        yield Dropped(record.id, "its readers agree on no label")
        return
    endings = (f"{record.facts['stem']}.dicom", f"{record.facts['stem']}.png")
    yield record.example(found, images=(next(filter(folder.has, endings), endings[0]),))


def coronahack_records(folder: Folder) -> Records:
    """Pictures, with their class."""
    table = "*Chest_xray_Corona_Metadata.csv"
    columns = ("X_ray_image_name", "Label", "Dataset_type", "Label_1_Virus_category")
    pictures = {path.rpartition("/")[2]: path for path in folder.match("*.jp*g", "*.png")}
    for row in folder.table(table, *columns):
        name = row["X_ray_image_name"]
        yield Record(
            id=name,
            patient=person(name) or name,
            split=choice(row, "Dataset_type", {"TRAIN": "train", "TEST": "test"}),
            facts={
                "label": row["Label"],
                "kind": row["Label_1_Virus_category"],
                "image": pictures.get(name, name),
            },
        )


def coronahack(record: Record, folder: Folder) -> Found:
    """One question per picture; three of the four classes, as in CLIMB."""
    kind = record.facts["kind"]
    if record.facts["label"] == "Normal":
        label = "Normal"
    elif kind.lower() in ("bacteria", "virus"):
        label = "Bacterial Pneumonia" if kind.lower() == "bacteria" else "Viral Pneumonia"
    else:
        yield Dropped(record.id, f"its class is {kind or 'not given'}")
        return
    yield record.example((label,), images=(record.facts["image"],))


_XRAY = Question("a chest X-ray of a patient")
_FINDINGS = Question("a chest X-ray of a patient", "the diagnosis, with all findings", many=True)
CONVERTERS = (
    Converter("mimic-cxr", _FINDINGS, mimic_cxr_records, mimic_cxr),
    Converter("chexpert", _FINDINGS, chexpert_records, chexpert),
    Converter("vindr-cxr", _FINDINGS, vindr_cxr_records, vindr_cxr),
    Converter("coronahack", _XRAY, coronahack_records, coronahack),
)
