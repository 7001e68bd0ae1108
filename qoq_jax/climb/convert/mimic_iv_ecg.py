"""MIMIC-IV-ECG by the statements that the machines printed, which no physician has read."""

from __future__ import annotations

from qoq_jax.base.errors import DataError
from qoq_jax.climb.convert.example import Converter, Dropped, Found, Record, Records
from qoq_jax.climb.convert.folder import Folder
from qoq_jax.climb.labels import ecg_statements
from qoq_jax.climb.qa import Question

_STATEMENTS = tuple(f"report_{number}" for number in range(18))


def records(folder: Folder) -> Records:
    """Recordings with what the machine printed: lines of both tables that have one study_id."""
    table = "*record_list.csv"
    base = folder.parent(table)
    listed: dict[str, tuple[str, str]] = {}
    for row in folder.table(table, "subject_id", "study_id", "path"):
        if row["study_id"] in listed:
            raise DataError(f"study_id {row['study_id']} has two lines", hint="download it again")
        listed[row["study_id"]] = row["subject_id"], row["path"]
    for row in folder.table("*machine_measurements.csv", "study_id", *_STATEMENTS):
        patient, path = listed.pop(row["study_id"], ("", ""))
        if not path:
            yield Dropped(row["study_id"], "the list of records has no line of it, or the second")
            continue
        statements = [row[name] for name in _STATEMENTS if row[name]]
        facts = {"statements": statements, "stem": f"{base}{path}"}
        yield Record(id=row["study_id"], patient=patient, facts=facts)
    for identity in listed:
        yield Dropped(identity, "the table of measurements has no line of it")


def examples(record: Record, folder: Folder) -> Found:
    """One question per recording."""
    try:
        found = ecg_statements.classes(record.facts["statements"])
    except DataError as error:
        yield Dropped(record.id, error.what)
        return
    stem = record.facts["stem"]
    if folder.has(f"{stem}.dat"):
        yield record.example(found, time_series=(f"{stem}.hea",))
    else:
        yield Dropped(record.id, "its signals are not there")


CONVERTERS = (
    Converter(
        "mimic-iv-ecg",
        Question("a 12-lead ECG of a patient", "the diagnosis, with all that applies", many=True),
        records,
        examples,
    ),
)
