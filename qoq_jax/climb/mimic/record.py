"""A line of mimic_inputs.jsonl.gz, all that is known of an admission at the prediction time of a
task, and the rows of a line: text and media follow from the line alone.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from qoq_jax.base import files
from qoq_jax.base.errors import DataError
from qoq_jax.climb.convert.example import Example
from qoq_jax.climb.convert.row import row_of
from qoq_jax.climb.mimic.items import BY_NAME, CHART, LABS
from qoq_jax.climb.mimic.tasks import DATASETS, DOMAIN, INPUTS, NAME, TASKS, dataset
from qoq_jax.data.rows import Row

INPUTS_FILE = "mimic_inputs.jsonl.gz"
UNITS = "icu/icustays"
ADMISSION = "hosp/admissions"
#: Columns of `values` in a line.
COLUMNS = ("item", "kind", "value", "source", "charttime", "storetime", "admission")

#: All fields of a line; another one would be an input that the audit has not looked at.
FIELDS = frozenset(
    (
        *("id", "patient", "task", "label", "arrived", "admitted", "predicted", "outcome"),
        *("sex", "age", "admission_type", "admission_location", "unit", "ecg", "xray", "values"),
    )
)


def lines(folder: str) -> Iterator[dict[str, Any]]:
    """The lines of INPUTS_FILE in a folder that a conversion wrote.

    Raises:
      DataError: the file is not there, is damaged, or a line lacks a field.
    """
    path = os.path.join(folder, INPUTS_FILE)
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                line = files.parse_json(text)
                if not isinstance(line, dict) or not FIELDS.issubset(line):
                    raise ValueError(f"line {number} is not one of a conversion")
                if line["task"] not in TASKS:
                    raise ValueError(f"line {number} is of an unknown task")
                yield line
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(
            f"cannot be read: {error}", where=path, hint="convert the tables again"
        ) from error


def hidden(kind: str, identity: str) -> str:
    """The name of a patient or an admission in rows and files. Eight digits can be tried out one by
    one, so this hides numbers from the eye, not from somebody who looks for them.
    """
    return hashlib.sha256(f"{NAME}\t{kind}\t{identity}".encode()).hexdigest()[:16]


def text(line: Mapping[str, Any]) -> str:
    """The record in words: "Record: female, 60-69 years; ...", in the units of ITEMS."""
    parts = [f"{line['sex']}, {line['age']} years"]
    parts.append(f"admission {line['admission_type']} from {line['admission_location']}")
    if line["unit"]:
        parts.append(f"in {line['unit']['name']}")
    found = [f"Record: {'; '.join(parts)}."]
    for table, title in ((CHART, "Vital signs"), (LABS, "Laboratory")):
        shown: dict[str, dict[str, float]] = {}
        for item, kind, value, *_ in line["values"]:
            if BY_NAME[item].table == table:
                shown.setdefault(item, {})[kind] = value
        if shown:
            found.append(f"{title}: {'; '.join(_item(*one) for one in shown.items())}.")
        else:
            found.append(f"{title}: none.")
    return " ".join(found)


def _item(item: str, values: Mapping[str, float]) -> str:
    """ "lactate 2.1 mmol/L (1.8 to 4)": the last value, and the lowest and highest."""
    last = values["last"]
    low, high = values.get("lowest", last), values.get("highest", last)
    unit = BY_NAME[item].unit
    told = f"{item} {last:.4g}" + (f" {unit}" if unit else "")
    return told if low == high else f"{told} ({low:.4g} to {high:.4g})"


def rows(line: Mapping[str, Any], split: str, seed: int, names: tuple[str, ...]) -> Iterator[Row]:
    """The rows of a line: of its task, one per choice of inputs whose media are there.

    Args:
      line: of mimic_inputs.jsonl.gz.
      split: of its patient.
      seed: of wording and order of labels, the same for all inputs.
      names: data sets that are wanted, of `DATASETS`.
    """
    task = TASKS[line["task"]]
    for inputs, (with_ecg, with_image) in INPUTS.items():
        name = dataset(task.name, inputs)
        if name not in names or (with_ecg and not line["ecg"]) or (with_image and not line["xray"]):
            continue
        example = Example(
            id=f"{task.name}-{inputs}-{line['id']}",
            labels=(line["label"],),
            patient=line["patient"],
            images=(line["xray"]["path"],) if with_image else (),
            time_series=(line["ecg"]["path"],) if with_ecg else (),
            text=text(line),
            attributes=(
                ("sex", line["sex"]),
                ("age_band", line["age"].replace(" or older", "+")),
            ),
        )
        yield row_of(example, name, DOMAIN, task.question, task.labels, split, seed)


def wanted(name: str) -> tuple[str, ...]:
    """The data sets of a name: all of "mimic-iv", or one."""
    return tuple(DATASETS) if name == NAME else (name,)
