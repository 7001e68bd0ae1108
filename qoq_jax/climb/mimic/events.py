"""What is known of each admission at its prediction time: one pass over each large table.

A value is known from the later of charttime (when it was measured) and storetime (when it was
entered): a culture of the first hour that is read out the next day is not an input of that hour.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.climb.mimic import tables
from qoq_jax.climb.mimic.cohort import Stay
from qoq_jax.climb.mimic.items import CHART, ITEMS, LABS, by_number, reading
from qoq_jax.climb.mimic.tables import Layout
from qoq_jax.climb.mimic.tasks import TASKS

#: Of the values of an item: the last by charttime, the lowest, the highest.
KINDS = ("last", "lowest", "highest")
_LAST, _LOWEST, _HIGHEST = range(3)


@dataclasses.dataclass(frozen=True)
class Values:
    """Values of items, axes [task, stay, item, kind] in the order of TASKS, stays, ITEMS and KINDS.

    Attributes:
      value: float32, NaN where there is none.
      charted, stored: int32, seconds after the stay's arrival.
      hadm: int32, hadm_id of the line; 0: it has none, and was linked by patient and time.
    """

    value: np.ndarray
    charted: np.ndarray
    stored: np.ndarray
    hadm: np.ndarray


def collect(layout: Layout, stays: Sequence[Stay]) -> tuple[Values, Counter[str]]:
    """(values of all stays, lines of their patients that were left out by reason).

    A line that is known in time for one task only is an input of that task and counts as left out
    of the other: reasons name the task there.

    Raises:
      DataError: a table is not there or is not as published.
    """
    shape = (len(TASKS), len(stays), len(ITEMS), len(KINDS))
    found = Values(
        np.full(shape, np.nan, np.float32),
        np.zeros(shape, np.int32),
        np.zeros(shape, np.int32),
        np.zeros(shape, np.int32),
    )
    left_out: Counter[str] = Counter()
    place_of = {stay.subject: place for place, stay in enumerate(stays)}
    for table in (LABS, CHART):
        _read(layout, table, stays, place_of, found, left_out)
    return found, left_out


def _read(
    layout: Layout,
    table: str,
    stays: Sequence[Stay],
    place_of: Mapping[str, int],
    found: Values,
    left_out: Counter[str],
) -> None:
    path, numbers = layout.table(table), by_number(table)
    columns = ("subject_id", "hadm_id", "itemid", "charttime", "storetime", "valuenum", "valueuom")
    until = {name: [stay.predicted(task) for stay in stays] for name, task in TASKS.items()}
    name = table.rpartition("/")[2]
    for subject, hadm, number, charttime, storetime, cell, unit in tables.lines(path, *columns):
        item = numbers.get(number)
        if item is None:
            continue
        place = place_of.get(subject)
        if place is None:
            continue
        stay = stays[place]
        if hadm and hadm != stay.hadm:
            left_out[f"{name}: of another admission"] += 1
            continue
        if not charttime or not storetime:
            left_out[f"{name}: no charttime or storetime"] += 1
            continue
        try:
            charted, stored = tables.seconds(charttime), tables.seconds(storetime)
            of = int(hadm or 0)
        except DataError as error:
            raise DataError(error.what, where=path, hint=error.hint) from None
        except ValueError:
            raise DataError(
                "a hadm_id is no number", where=path, hint="download it again"
            ) from None
        if charted < stay.arrived:
            left_out[f"{name}: before arrival"] += 1
            continue
        known = max(charted, stored)
        tasks = [n for n, times in enumerate(until.values()) if known <= times[place]]
        if len(tasks) < len(TASKS):
            for n, task in enumerate(TASKS):
                if n not in tasks:
                    left_out[f"{name}: known after the prediction time of {task}"] += 1
            if not tasks:
                continue
        value, why = reading(ITEMS[item], number, cell, unit)
        if why:
            left_out[f"{name}: {why}"] += 1
            continue
        times = (charted - stay.arrived, stored - stay.arrived)
        for n in tasks:
            _put(found, (n, place, item), value, times, of)


def _put(
    found: Values,
    at: tuple[int, int, int],
    value: float,
    times: tuple[int, int],
    hadm: int,
) -> None:
    """Keeps a value where it is the last, the lowest or the highest. Ties go to the earlier times
    (of the last: to the later time of storing, then to the lower value), so the order of the file
    decides nothing.
    """
    for kind in range(len(KINDS)):
        place = (*at, kind)
        held = float(found.value[place])
        if held == held:
            held_times = (int(found.charted[place]), int(found.stored[place]))
            if kind == _LAST:
                better = (*times, -value) > (*held_times, -held)
            else:
                sign = 1 if kind == _LOWEST else -1
                better = (sign * value, *times) < (sign * held, *held_times)
            if not better:
                continue
        found.value[place], found.hadm[place] = value, hadm
        found.charted[place], found.stored[place] = times
