"""What is asked about data of one's own, and the row files made of it.

train.jsonl, validation.jsonl and test.jsonl lie beside the media, and import.json: what became a
row, what was left out and why. A label is used as it is written. What this does not fit (boxes,
several questions per picture) is written as rows directly, see docs/data.md.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qoq_jax.base import files
from qoq_jax.base.errors import ConfigError, DataError, did_you_mean
from qoq_jax.climb import qa
from qoq_jax.climb.convert import splits
from qoq_jax.climb.convert import write as convert_lib
from qoq_jax.climb.convert.example import LEADS_OUT, Dropped, Example, check_text
from qoq_jax.climb.convert.folder import Folder
from qoq_jax.climb.convert.row import row_of
from qoq_jax.data import rows as schema
from qoq_jax.data.labels import split_labels

REPORT = "import.json"
SHOWN = {
    "ecg": "the ECG of a patient",
    "chest_xray": "a chest X-ray of a patient",
    "mammography": "a mammogram of a patient",
    "dermoscopy": "a picture of a skin lesion",
    "fundus": "a picture of the fundus of an eye",
    "pathology": "a picture of a tissue section",
    "ct": "a CT scan of a patient",
    "mri": "an MRI scan of a patient",
    "ultrasound": "an ultrasound of a patient",
    "multimodal": "the findings of a patient",
    "endoscopy": "an endoscopy of a patient",
}
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
SPLIT_OF = {name: split for split, names in _SPLITS.items() for name in names}
_NO_PATIENTS = "no patients are known: pictures of one patient may be in several splits"


@dataclasses.dataclass(frozen=True)
class Task:
    """What is asked about the media.

    Attributes:
      name: of the data set, in the rows.
      domain: one of `schema.DOMAINS`.
      shown: the media in words, with article; "" = those of `SHOWN`.
      asked: what is to be named, with article.
      labels: the allowed ones; () = all that are found, sorted.
      many: whether several labels may be right at once.
      seed: of splits, wordings and the order of labels.

    Raises:
      ConfigError: an unknown domain.
    """

    name: str
    domain: str
    shown: str = ""
    asked: str = "the diagnosis"
    labels: tuple[str, ...] = ()
    many: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.domain not in schema.DOMAINS:
            raise ConfigError(
                f"unknown domain {self.domain!r}",
                hint=did_you_mean(
                    self.domain, schema.DOMAINS, "use one of " + ", ".join(schema.DOMAINS)
                ),
            )


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of the columns of a table or of a Hugging Face data set.

    Attributes:
      media: of files (of pictures, in a Hugging Face data set); of several, all belong to a row.
      label: of the label; of several labels in a cell see `separator`.
      patient, split, id: optional.
      files: the path of a file below the folder, "{}" standing for the cell: "images/{}.png".
      separator: between the labels of a cell where `Task.many`.
    """

    media: tuple[str, ...] = ("image",)
    label: str = "label"
    patient: str = ""
    split: str = ""
    id: str = ""
    files: str = "{}"
    separator: str = ";"


def check_free(root: str) -> None:
    """Rows that something else has written are not replaced."""
    there = [f"{split}.jsonl" for split in schema.SPLITS]
    there = [name for name in there if os.path.exists(os.path.join(root, name))]
    if there and not os.path.exists(os.path.join(root, REPORT)):
        raise DataError(
            f"{there[0]} is there and was not written by an import",
            where=root,
            hint="move it away, or give another folder",
        )


def write(
    folder: Folder, task: Task, found: Iterable[Example | Dropped], patients: bool
) -> dict[str, Any]:
    """Writes the row files and import.json into the folder; returns the content of the latter.

    Args:
      found: what the folder holds.
      patients: whether examples name their patients; else each is one of its own.

    Raises:
      DataError: nothing becomes a row, a file's name is not UTF-8, an id is there twice, labels
        that no question can list, or rows are there that no import has written.
    """
    check_free(folder.root)
    examples: dict[str, Example] = {}
    dropped: dict[str, list[str]] = {}
    for one in found:
        check_text(one, folder)
        if isinstance(one, Example) and any(map(folder.leads_out, one.media)):
            one = Dropped(one.id, LEADS_OUT)
        if isinstance(one, Dropped):
            dropped.setdefault(one.reason, []).append(one.id)
        elif task.labels and not set(one.labels) <= set(task.labels):
            dropped.setdefault("its label is not among those given", []).append(one.id)
        elif one.id in examples:
            raise DataError(f"two rows have the id {one.id!r}", where=folder.root)
        else:
            examples[one.id] = one
    if not examples:
        why = "; ".join(f"{len(ids)} {reason}" for reason, ids in dropped.items())
        raise DataError("nothing becomes a row" + (f": {why}" if why else ""), where=folder.root)
    labels = task.labels or tuple(sorted({x for one in examples.values() for x in one.labels}))
    _check_labels(labels, folder.root)
    grouped = [
        one if one.patient else dataclasses.replace(one, patient=one.id)
        for one in examples.values()
    ]
    chosen = splits.assign(grouped, task.name, task.seed)
    question = qa.Question(task.shown or SHOWN[task.domain], task.asked, task.many)
    counts: dict[str, Counter[str]] = {}
    for split in schema.SPLITS:
        ids = sorted(identity for identity, its in chosen.items() if its == split)
        path = os.path.join(folder.root, f"{split}.jsonl")
        if not ids:
            if os.path.exists(path):  # of an earlier import
                os.unlink(path)
            continue
        about = (task.name, task.domain, question, labels)
        made = [row_of(examples[one], *about, split, task.seed) for one in ids]
        schema.write_jsonl(path, made)
        counts[split] = Counter(answer for row in made for answer in row.answers)
    report = {
        "dataset": dataclasses.asdict(task) | {"labels": list(labels)},
        "rows": {split: sum(1 for its in chosen.values() if its == split) for split in counts},
        "labels": {split: dict(sorted(found.items())) for split, found in counts.items()},
        "patients": len({one.patient for one in examples.values()}) if patients else _NO_PATIENTS,
        "splits_sha256": splits.fingerprint(chosen),
        "dropped": convert_lib.dropped_facts(dropped),
    }
    files.write_json(os.path.join(folder.root, REPORT), report)
    return report


def _check_labels(labels: Sequence[str], where: str) -> None:
    """Raises DataError for labels that no question can list."""
    if len(labels) < 2:
        raise DataError(
            f"only the label {labels[0]!r} is found, which is no question",
            where=where,
            hint="give the folder whose folders are labels, or all allowed labels: --labels",
        )
    for label in labels:
        if split_labels(label) != (label,):
            raise DataError(
                f"the label {label!r} would be read as several ones",
                where=where,
                hint='write it without ",", ";", "&" and "and"',
            )
    folded = Counter(label.casefold() for label in labels)
    for label in labels:
        if folded[label.casefold()] > 1:
            raise DataError(
                f"the label {label!r} is there in another case too",
                where=where,
                hint="spell it in one way",
            )


def summary(report: Mapping[str, Any]) -> str:
    """The report in a few lines."""
    known, task = report["patients"], report["dataset"]
    patients = f"{known} patients" if isinstance(known, int) else known
    labels = "  labels: " + ", ".join(task["labels"])
    return convert_lib.lines(task["name"], patients, report, labels)
