"""Labels of chest X-rays: CheXpert's fourteen with its uncertain ones, VinDr-CXR's readers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from qoq_jax.base.errors import DataError
from qoq_jax.climb.labels.read import column

# In the order of CheXpert's train.csv; MIMIC-CXR-JPG has the same names in alphabetical order.
CHEXPERT = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
VINDR = ("Lung tumor", "Pneumonia", "Tuberculosis", "COPD", "Other diseases", "No finding")
Uncertain = Literal["zero", "one", "ignore"]
_NO_DISEASE = ("No Finding", "Support Devices")
_STATES = {"": 0, "0": 0, "0.0": 0, "1": 1, "1.0": 1, "-1": -1, "-1.0": -1}


@dataclasses.dataclass(frozen=True)
class Findings:
    """Attributes:
    labels: what is there, in order of the vocabulary.
    ignored: what is uncertain and must not be counted either way; () but for "ignore".
    """

    labels: tuple[str, ...]
    ignored: tuple[str, ...] = ()


def chexpert(row: Mapping[str, str], uncertain: Uncertain = "zero", where: str = "row") -> Findings:
    """The findings of one row of CheXpert or MIMIC-CXR-JPG, read by the names of its columns.

    1 is there, 0 and blank (not mentioned) are not, -1 is uncertain: "zero" counts it as absent, as
    CLIMB does (U-Zeros of Irvin et al., 2019), "one" as there, "ignore" leaves it out. "No Finding"
    beside a finding other than a device is an error.

    Raises:
      DataError: a column that is missing, or a state that is none of these.
    """
    states = {name: _state(row, name, where) for name in CHEXPERT}
    counted = (1, -1) if uncertain == "one" else (1,)
    labels = tuple(name for name, state in states.items() if state in counted)
    certain = [name for name, state in states.items() if state == 1 and name not in _NO_DISEASE]
    if states["No Finding"] == 1 and certain:
        raise DataError(f"No Finding beside {certain[0]}", where=where)
    ignored = tuple(name for name, state in states.items() if state == -1)
    return Findings(labels, ignored if uncertain == "ignore" else ())


def _state(row: Mapping[str, str], name: str, where: str) -> int:
    if name not in row:
        raise DataError("the column is missing", where=f"{where}: {name}")
    text = (row[name] or "").strip()
    if text not in _STATES:
        raise DataError(f"{text[:20]!r} is none of 1, 0, -1, blank", where=f"{where}: {name}")
    return _STATES[text]


@dataclasses.dataclass(frozen=True)
class Reading:
    """Attributes:
    labels: by majority, in order of the vocabulary.
    agreement: share of readers and labels that agree with it, 0 to 1.
    """

    labels: tuple[str, ...]
    agreement: float


def vindr(
    readers: Sequence[Mapping[str, str]], view: Literal["vindr", "chexpert"] = "vindr"
) -> Reading:
    """The labels of one VinDr-CXR image from its rows of image_labels_{train,test}.csv.

    Train has three rows an image, one a radiologist, and the majority decides (more than half);
    test has one row, the consensus. Without a majority for any label, what one reader saw counts as
    no label, and `labels` is ().

    Args:
      readers: rows of 0 and 1 by column; other columns (image_id, rad_id) are left alone.
      view: the six labels for the whole image, or all 28 columns as CheXpert's.

    Raises:
      DataError: no row, or one without a column of that view.
    """
    to_label = column("vindr_cxr", "column", "label" if view == "vindr" else "chexpert")
    names = VINDR if view == "vindr" else CHEXPERT
    if not readers:
        raise DataError("no reader", where="image_labels")
    votes = dict.fromkeys(names, 0)
    for row in readers:
        seen = {
            to_label[name] for name in row if name in to_label and _state(row, name, "row") == 1
        }
        if not any(name in row for name in to_label):
            raise DataError("no column of labels", where="image_labels")
        for label in seen:
            votes[label] += 1
    labels = tuple(name for name in names if 2 * votes[name] > len(readers))
    used = [name for name in names if name in to_label.values()]
    agreeing = sum(votes[name] if name in labels else len(readers) - votes[name] for name in used)
    return Reading(labels, agreeing / (len(used) * len(readers)))
