"""MIMIC-IV-ECG by the statements that the machines printed, which no physician has read."""

from __future__ import annotations

from qoq_jax.base.errors import DataError
from qoq_jax.climb.convert.example import Converter, Dropped, Example, Found
from qoq_jax.climb.convert.folder import Folder
from qoq_jax.climb.labels import ecg_statements
from qoq_jax.climb.qa import Question

_STATEMENTS = tuple(f"report_{number}" for number in range(18))


def records(folder: Folder) -> Found:
    """One question per record of record_list.csv, with the statements of the same study."""
    table = "*record_list.csv"
    base = folder.parent(table)
    labels = _labels(folder)
    for row in folder.table(table, "subject_id", "study_id", "path"):
        identity, stem = row["study_id"], f"{base}{row['path']}"
        found = labels.get(identity, "the table of measurements has no line of it")
        if isinstance(found, str):
            yield Dropped(identity, found)
        elif f"{stem}.dat" not in folder.files:
            yield Dropped(identity, "its signals are not there")
        else:
            yield Example(
                id=identity,
                labels=found,
                patient=row["subject_id"],
                time_series=(f"{stem}.hea",),
            )


def _labels(folder: Folder) -> dict[str, tuple[str, ...] | str]:
    """{study: its classes, or why it has none}."""
    found: dict[str, tuple[str, ...] | str] = {}
    for row in folder.table("*machine_measurements.csv", "study_id", *_STATEMENTS):
        identity = row["study_id"]
        if identity in found:
            raise DataError(f"study_id {identity} has two lines", hint="download the file again")
        try:
            found[identity] = ecg_statements.classes(row[name] for name in _STATEMENTS if row[name])
        except DataError as error:
            found[identity] = error.what
    return found


CONVERTERS = (
    Converter(
        "mimic-iv-ecg",
        Question("a 12-lead ECG of a patient", "the diagnosis, with all that applies", many=True),
        records,
    ),
)
