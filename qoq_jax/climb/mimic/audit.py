"""Does a row of MIMIC-IV tell what was not known at its prediction time?

`qoq data validate` runs this where mimic_inputs.jsonl.gz lies. It trusts neither the rows nor the
conversion: sources, times and admissions of all inputs are checked against the rules of the task,
labels are computed again, and each row is made again from its line and has to be the same.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from qoq_jax.base import files
from qoq_jax.base.errors import DataError
from qoq_jax.climb.convert import write
from qoq_jax.climb.mimic import cohort, media, record, tables
from qoq_jax.climb.mimic.cohort import Stay
from qoq_jax.climb.mimic.events import KINDS
from qoq_jax.climb.mimic.items import BY_NAME
from qoq_jax.climb.mimic.tasks import HOUR, INPUTS, TASKS
from qoq_jax.data import rows as schema
from qoq_jax.data import sources
from qoq_jax.data.rows import Row

_SHOWN = 20
_MISSHAPEN = (KeyError, TypeError, ValueError, AttributeError, DataError)
#: What a record does not say before its patient has left. (The question says "dies".)
_AFTERWARDS = re.compile(
    r"discharg|expired|deceased|\bdied\b|\bdead\b|death|hospice|\bDN[RI]\b|comfort measures", re.I
)
_PATIENT = re.compile(r"/p(\d{8})/")


def due(folder: str) -> bool:
    """Whether a folder holds rows of MIMIC-IV with their inputs."""
    return os.path.isfile(os.path.join(folder, record.INPUTS_FILE))


def run(folder: str) -> int:
    """Prints the faults of a folder that `qoq data convert mimic-iv` wrote; 1 when there is one."""
    found = list(faults(folder))
    for fault in found[:_SHOWN]:
        print(fault)
    if len(found) > _SHOWN:
        print(f"... and {len(found) - _SHOWN} more")
    path = os.path.join(folder, record.INPUTS_FILE)
    print(f"{path}: {len(found)} leaks and other faults of the inputs")
    return 1 if found else 0


def faults(folder: str) -> Iterator[str]:
    """What is wrong, in one line each, which names rows and admissions as the rows do.

    Raises:
      DataError: the inputs or conversion.json cannot be read.
    """
    report = files.read_json(os.path.join(folder, write.REPORT), hint="convert the tables again")
    names, seed = record.wanted(report["dataset"]), report["seed"]
    # Of a row its split and hashes are held, not the row: there may be a million.
    found: dict[str, tuple[str, str, int, int]] = {}
    for split in schema.SPLITS:
        if sources.find(folder, split) is None:
            continue
        for row in sources.load(folder, split):
            if row.id in found:
                yield f"row {row.id!r} is in two splits"
            found[row.id] = (split, row.answer, hash(row.problem), hash(row))
    split_of: dict[str, str] = {}
    for line in record.lines(folder):
        where = f"{line['task']} of admission {line['id']}"
        wrong = list(_line_faults(line))
        yield from (f"{where}: {fault}" for fault in wrong)
        task = line["task"]
        ids = [f"{task}-{inputs}-{line['id']}" for inputs in INPUTS]
        splits = {found[identity][0] for identity in ids if identity in found}
        for split in sorted(splits):
            if split_of.setdefault(line["patient"], split) != split:
                yield f"{where}: its patient is in {split_of[line['patient']]} and in {split}"
            try:
                made = list(record.rows(line, split, seed, names))
            except _MISSHAPEN as error:
                if not wrong:  # else it is told above
                    yield f"{where}: gives no row ({type(error).__name__})"
                continue
            for row in made:
                if row.id in found and found[row.id][0] == split:
                    yield from _row_faults(row, *found.pop(row.id))
    for identity in found:
        yield f"row {identity!r}: no line of {record.INPUTS_FILE} gives it"


def _row_faults(row: Row, split: str, answer: str, problem: int, whole: int) -> Iterator[str]:
    """How a row differs from `row`, which was made again."""
    if answer != row.answer:
        yield f"row {row.id!r}: its answer is {answer!r}, by its inputs {row.answer!r}"
    elif problem != hash(row.problem):
        yield f"row {row.id!r}: its text is not that of its inputs"
    elif whole != hash(row):
        yield f"row {row.id!r}: media, patient or another field are not those of its inputs"


def _line_faults(line: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(set(line) - record.FIELDS):
        yield f"a field {json.dumps(name)[:40]} that is no input"
    try:
        arrived, admitted, predicted = (
            _time(line[name]) for name in ("arrived", "admitted", "predicted")
        )
        task = TASKS[line["task"]]
        if predicted != admitted + task.hours * HOUR:
            yield f"the prediction time is not {task.hours} hours after admission"
        if arrived > admitted:
            yield "arrival is after admission"
        span = (arrived, predicted)
        for value in line["values"]:
            yield from _value_faults(value, line["id"], span)
        for name, source in (("unit", record.UNITS), ("ecg", media.ECG), ("xray", media.XRAY)):
            if line[name]:
                yield from _medium_faults(name, line[name], source, line["patient"], span)
        yield from _label_faults(line, arrived, admitted)
        # Once more in words: a field that is allowed may still say it.
        word = _AFTERWARDS.search(record.text(line))
        if word:
            yield f"its text tells what comes later: {word[0]!r}"
    except _MISSHAPEN as error:
        yield f"the line is not as a conversion writes it ({type(error).__name__})"


def _time(text: str) -> int:
    found = tables.seconds(text)
    if found is None:
        raise ValueError("no time")
    return found


def _value_faults(value: list[Any], admission: str, span: tuple[int, int]) -> Iterator[str]:
    item, kind, _, source, charttime, storetime, of = value
    if item not in BY_NAME or kind not in KINDS:
        yield "a value of an item that is not listed"
    elif source != BY_NAME[item].table:
        yield f"{item}: from {json.dumps(source)[:40]}, which is not its table"
    if of not in ("", admission):
        yield f"{str(item)[:40]}: of another admission"
    charted, stored = _time(charttime), _time(storetime)
    if charted < span[0]:
        yield f"{str(item)[:40]}: measured before arrival"
    if charted > span[1]:
        yield f"{str(item)[:40]}: measured after the prediction time"
    elif stored > span[1]:
        yield f"{str(item)[:40]}: stored after the prediction time"


def _medium_faults(
    name: str, medium: Mapping[str, str], source: str, patient: str, span: tuple[int, int]
) -> Iterator[str]:
    if medium["source"] != source:
        yield f"{name}: from {json.dumps(medium['source'])[:40]}, not from {source}"
    at = _time(medium["time"])
    if at > span[1]:
        yield f"{name}: after the prediction time"
    elif at < span[0]:
        yield f"{name}: before arrival"
    if "path" in medium:
        found = _PATIENT.search(f"/{medium['path']}")
        if found is None or record.hidden("patient", found[1]) != patient:
            yield f"{name}: of another patient"


def _label_faults(line: Mapping[str, Any], arrived: int, admitted: int) -> Iterator[str]:
    died = line["outcome"]["died"]
    stay = Stay(
        subject="",
        hadm="",
        sex=line["sex"],
        age=0,
        arrived=arrived,
        admitted=admitted,
        discharged=_time(line["outcome"]["discharged"]),
        died=None if died is None else _time(died),
        flagged=died is not None,
        kind="",
        place="",
    )
    label, why = cohort.label(stay, TASKS[line["task"]])
    if why:
        yield f"it has no answer: {why}"
    elif label != line["label"]:
        yield f"its label is {json.dumps(line['label'])[:40]}, by its times {label!r}"
