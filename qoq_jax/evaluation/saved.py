"""Evaluations that a run has left: eval/*.json, by file or by the workdir of the run."""

from __future__ import annotations

import os
from typing import Any

from qoq_jax.base import files, storage
from qoq_jax.base.errors import DataError

STAGES = ("rl", "align", "sft")  # the last one first
FIELDS = ("id", "source", "domain", "dataset", "labels", "predicted")  # that every record has


def find(path: str) -> str:
    """The file itself, or that of a workdir's last evaluation of the test split.

    Raises:
      DataError: there is neither, or the workdir has none.
    """
    if storage.is_file(path):
        return path
    if not storage.is_dir(path):
        hint = "name the workdir of a run, or an eval/*.json of one"
        raise DataError("no such file or folder", where=path, hint=hint)
    names = (os.path.join(path, "eval", f"{stage}.json") for stage in STAGES)
    found = next(filter(storage.is_file, names), None)
    if found is None:
        raise DataError(
            "no evaluation of the test split is there", where=path, hint=f"qoq evaluate {path}"
        )
    return found


def read(path: str) -> dict[str, Any]:
    """The content of an evaluation: "split", "records" and more (runner.evaluate).

    Args:
      path: a file, or a workdir (`find`).

    Raises:
      DataError: it cannot be read, or has no records.
    """
    file = find(path)
    content = files.read_json(file, finite=False, hint="run the evaluation again")
    records = content.get("records") if isinstance(content, dict) else None
    if not isinstance(records, list):
        raise DataError("has no records", where=file, hint="name an eval/*.json of a run")
    return content


def check(records: list[dict]) -> None:
    """Raises DataError where one is no record of an evaluation."""
    for record in records:
        if not isinstance(record, dict) or any(name not in record for name in FIELDS):
            raise DataError(
                "holds what is no record of an evaluation",
                hint="a record has " + ", ".join(FIELDS),
            )


def by_row(records: list[dict]) -> dict[tuple[str, str], dict]:
    """(source, id) -> record.

    Raises:
      DataError: one is no record of an evaluation, or a row is there twice.
    """
    check(records)
    found: dict[tuple[str, str], dict] = {}
    for number, record in enumerate(records, 1):
        key = (record["source"], record["id"])
        if key in found:
            # Without its id, which may hold the patient's name.
            raise DataError(
                f"record {number} is of a row of {key[0]} that is there twice",
                hint="keep one of them",
            )
        found[key] = record
    return found
