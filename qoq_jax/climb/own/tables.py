"""Folders of pictures by label, and tables of paths and labels, to rows."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.climb.convert.example import Dropped, Example
from qoq_jax.climb.convert.folder import Folder
from qoq_jax.climb.own import write as write_lib
from qoq_jax.climb.own.write import SPLIT_OF, Columns, Task
from qoq_jax.data.paths import split_member

_SUFFIXES = {
    "images": (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".dcm"),
    "videos": (".nii", ".nii.gz", ".nrrd", ".mhd", ".mha", ".mp4", ".avi", ".mov", ".mkv"),
    "time_series": (".hea", ".xml", ".npz", ".hdf5", ".h5", ".mat", ".csv", ".npy"),
}
_ECG_DOMAINS = ("ecg", "multimodal")


def from_folder(root: str | os.PathLike, task: Task, patient_pattern: str = "") -> dict[str, Any]:
    """Rows of LABEL/FILE or SPLIT/LABEL/FILE, as torchvision's ImageFolder has them.

    Args:
      root: the folder.
      patient_pattern: a regular expression for a file's path; its first group is the patient.

    Returns:
      the content of import.json.

    Raises:
      ConfigError: the pattern has no group, or fits no file.
      DataError: nothing becomes a row, or the folder holds rows from elsewhere.
    """
    folder = Folder(root)
    try:
        pattern = re.compile(patient_pattern)
    except re.error as error:
        raise ConfigError(
            f"the pattern of patients is no regular expression: {error}",
            hint=r'write one with a group, as "(patient\d+)_"',
        ) from None
    if patient_pattern and not pattern.groups:
        raise ConfigError(
            "the pattern of patients has no group", hint=r'write one, as "(patient\d+)_"'
        )
    return write_lib.write(folder, task, _of_folder(folder, task, pattern), bool(patient_pattern))


def _of_folder(folder: Folder, task: Task, pattern: re.Pattern) -> Iterator[Example | Dropped]:
    for path in sorted(folder.files):
        kind = _kind(path, task.domain)
        stem, _, ending = path.rpartition(".")
        if kind is None or (ending.lower() == "mat" and f"{stem}.hea" in folder.files):
            continue  # the signals of a WFDB header are no record of their own
        parts = path.split("/")
        split = SPLIT_OF.get(parts[0].lower(), "") if len(parts) > 2 else ""
        label = parts[1 if split else 0]
        if len(parts) == 1 or (len(parts) == 2 and label.lower() in SPLIT_OF):
            yield Dropped(path, "lies in no folder of a label")
            continue
        if not split and parts[1].lower() in SPLIT_OF:
            raise DataError(
                f"{parts[1]} in {parts[0]} looks like a split, not like a file of a label",
                where=folder.root,
                hint=f"give the folder {os.path.join(folder.root, parts[0])}",
            )
        patient = ""
        if pattern.pattern:
            found = pattern.search(path)
            if not found or not found[1]:
                yield Dropped(path, "the pattern of patients does not fit")
                continue
            patient = found[1]
        yield Example(path, (label,), patient, split, **{kind: (path,)})


def from_table(root: str | os.PathLike, table: str, task: Task, columns: Columns) -> dict[str, Any]:
    """Rows of a CSV or TSV file with one line per question.

    Args:
      root: the folder that the paths in the table are relative to.
      table: the file, relative to `root`.
      columns: names of its columns.

    Returns:
      the content of import.json.

    Raises:
      DataError: no such file or column, nothing becomes a row, or the folder holds rows from
        elsewhere.
    """
    folder, table = Folder(root), os.path.normpath(table).replace(os.sep, "/")
    if table not in folder.files:
        raise DataError(
            "there is no such table", where=os.path.join(folder.root, table), hint="name it --table"
        )
    return write_lib.write(
        folder, task, _of_table(folder, table, task, columns), bool(columns.patient)
    )


def _of_table(
    folder: Folder, table: str, task: Task, columns: Columns
) -> Iterator[Example | Dropped]:
    named = (*columns.media, columns.label, columns.patient, columns.split, columns.id)
    pattern = re.sub(r"([\[\]*?])", r"[\1]", table)
    for number, line in enumerate(folder.table(pattern, *filter(None, named)), 1):
        identity = line[columns.id] if columns.id else f"{table}:{number}"
        paths = [columns.files.replace("{}", line[name]) for name in columns.media if line[name]]
        kinds = [_kind(path, task.domain) for path in paths]
        cell = line[columns.label]
        labels = cell.split(columns.separator) if task.many else [cell]
        split = line[columns.split].lower() if columns.split else ""
        if not all(label.strip() for label in labels):
            yield Dropped(identity, "has no label")
        elif not paths:
            yield Dropped(identity, "names no file")
        elif None in kinds:
            yield Dropped(identity, "names a file of a kind that is not read")
        elif split and split not in SPLIT_OF:
            yield Dropped(identity, "names an unknown split")
        elif columns.patient and not line[columns.patient]:
            yield Dropped(identity, "names no patient")
        elif not {split_member(path)[0] for path in paths} <= folder.files:
            yield Dropped(identity, "a file is not there")
        else:
            media: dict[str, tuple[str, ...]] = {}
            for kind, path in zip(kinds, paths, strict=True):
                media[kind] = (*media.get(kind, ()), path)
            yield Example(
                identity,
                tuple(dict.fromkeys(label.strip() for label in labels)),
                line[columns.patient] if columns.patient else "",
                SPLIT_OF.get(split, ""),
                **media,
            )


def _kind(path: str, domain: str) -> str | None:
    """The field of `Example` for a file or a part of one, by its name."""
    name, part = split_member(path.lower())
    if part and name.endswith(".svs"):
        return "images"
    for kind, suffixes in _SUFFIXES.items():
        if name.endswith(suffixes) and (kind != "time_series" or domain in _ECG_DOMAINS):
            return kind
    return None
