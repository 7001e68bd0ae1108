"""The admissions of a task as arrays, for models that fuse a patient's modalities: the record as a
table of numbers, and where ECG and X-ray are.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.climb.mimic import record
from qoq_jax.climb.mimic.events import KINDS
from qoq_jax.climb.mimic.items import ITEMS
from qoq_jax.climb.mimic.tasks import TASKS, dataset
from qoq_jax.data import rows as schema
from qoq_jax.data import sources

_CATEGORIES = ("sex", "age", "admission_type", "admission_location")
# Standardised values are cut here: one mistyped result must not outweigh a record.
_MOST = 5.0


@dataclasses.dataclass(frozen=True)
class Admissions:
    """The admissions of a task, in the order of their ids.

    Attributes:
      ids: of admissions, as in rows.
      patients: of each.
      split: "train", "validation" or "test" of each.
      labels: int32 [n], places in `classes`.
      classes: the task's labels.
      columns: names of the table's columns.
      values: float32 [n, columns], standardised by the training admissions; 0 where not known.
      known: bool [n, columns].
      ecg, xray: paths, "" where there is none.
    """

    ids: tuple[str, ...]
    patients: tuple[str, ...]
    split: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    columns: tuple[str, ...]
    values: np.ndarray
    known: np.ndarray
    ecg: tuple[str, ...]
    xray: tuple[str, ...]

    def rows_of(self, split: str) -> np.ndarray:
        """Numbers of the admissions of a split."""
        return np.flatnonzero(self.split == split)


def read(folder: str, task: str) -> Admissions:
    """The admissions that a folder's rows ask about (`qoq data convert mimic-iv`).

    Args:
      task: "los" or "ihm".

    Raises:
      DataError: the folder is not one of a conversion, a patient is in two splits, or a split or a
        class has no admissions to learn from.
    """
    split_of = _splits(folder, task)
    lines = [
        line for line in record.lines(folder) if line["task"] == task and line["id"] in split_of
    ]
    lines.sort(key=lambda line: line["id"])
    patients = tuple(line["patient"] for line in lines)
    split = np.array([split_of[line["id"]] for line in lines])
    check_patients(patients, split, folder)
    classes = TASKS[task].labels
    labels = np.array([classes.index(line["label"]) for line in lines], np.int32)
    train = split == "train"
    missing = [one for n, one in enumerate(classes) if not (labels[train] == n).any()]
    wanting = [f"no training admission is {one!r}" for one in missing]
    wanting += [f"no admission is for {one}" for one in ("validation", "test") if one not in split]
    if wanting:
        what = wanting[0]
        raise DataError(f"{task}: {what}", where=folder, hint="more patients are needed")
    columns, values, known = _table(lines, train)
    return Admissions(
        tuple(line["id"] for line in lines),
        patients,
        split,
        labels,
        classes,
        columns,
        values,
        known,
        *(
            tuple(os.path.join(folder, line[name]["path"]) if line[name] else "" for line in lines)
            for name in ("ecg", "xray")
        ),
    )


def check_patients(patients: Sequence[str], split: np.ndarray, where: str) -> None:
    """Raises DataError when a patient is in two splits."""
    seen: dict[str, str] = {}
    for patient, name in zip(patients, split, strict=True):
        if seen.setdefault(patient, name) != name:
            raise DataError(
                f"patient {patient} is in {seen[patient]} and in {name}",
                where=where,
                hint="convert the tables again: splits are by patient",
            )


def _splits(folder: str, task: str) -> dict[str, str]:
    """{id of an admission: its split}, from the rows with the record alone."""
    wanted, found = dataset(task, "text"), {}
    for split in schema.SPLITS:
        if sources.find(folder, split) is None:
            continue
        for row in sources.load(folder, split):
            if row.dataset == wanted:
                found[row.id.removeprefix(f"{task}-text-")] = split
    if not found:
        raise DataError(
            f"has no rows of {wanted}", where=folder, hint="qoq data convert mimic-iv FOLDER"
        )
    return found


def _table(
    lines: Sequence[Mapping[str, Any]], train: np.ndarray
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """(columns, values, known): last, lowest and highest of each item that a training record has,
    then each category of a training record as 0 or 1.
    """
    names = [f"{item.name}, {kind}" for item in ITEMS for kind in KINDS]
    at = {name: n for n, name in enumerate(names)}
    values = np.full((len(lines), len(names)), np.nan)
    for n, line in enumerate(lines):
        for item, kind, value, *_ in line["values"]:
            values[n, at[f"{item}, {kind}"]] = value
    # the lowest and the highest are written only where they are not the last
    for item in ITEMS:
        last = values[:, at[f"{item.name}, last"]]
        for kind in KINDS[1:]:
            column = values[:, at[f"{item.name}, {kind}"]]
            np.copyto(column, last, where=np.isnan(column))
    kept = (~np.isnan(values[train])).sum(axis=0) >= 2
    values, names = values[:, kept], [name for name, keep in zip(names, kept) if keep]
    mean, spread = np.nanmean(values[train], axis=0), np.nanstd(values[train], axis=0)
    known = ~np.isnan(values)
    values = np.where(known, (values - mean) / np.maximum(spread, 1e-6), 0)
    flags = []
    for field in (*_CATEGORIES, "unit"):
        told = [
            (line["unit"] or {}).get("name", "") if field == "unit" else line[field]
            for line in lines
        ]
        for one in sorted({told[n] for n in np.flatnonzero(train)}):
            names.append(f"{field}: {one}")
            flags.append([value == one for value in told])
    flags = np.array(flags, np.float64).T
    values = np.concatenate([np.clip(values, -_MOST, _MOST), flags], axis=1)
    known = np.concatenate([known, np.ones(flags.shape, bool)], axis=1)
    return tuple(names), values.astype(np.float32), known
