"""Inertial sensors: HuGaDB. Layout: docs/datasets/gait.md."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.climb.arrays import text
from qoq_jax.climb.arrays.record import Array, Item, Reader, Record, Records
from qoq_jax.climb.convert.example import Dropped
from qoq_jax.climb.convert.folder import Folder
from qoq_jax.climb.labels.read import values

RATE = 58.8  # samples per second: 2,111,962 samples in 35,903 s (README)
PLACES = ("RF", "RS", "RT", "LF", "LS", "LT")  # right and left foot, shin, thigh
SENSORS = tuple(
    f"{place}_{kind}_{axis}" for place in PLACES for kind in ("acc", "gyro") for axis in "xyz"
)
ACTIVITIES = 12  # numbers of them; CLIMB keeps those that version 2 labels anew
_ACC, _GYRO = 2.0, 2000.0  # g and degrees per second at the end of the int16 range
_EMG = ("EMG_R", "EMG_L")
_NAME = re.compile(r"(?:HuGaDB|HGD)_v\d+_.+_(?P<person>\d+)_\d+\.txt")
_SHORTEST = round(RATE)  # samples of a stretch


def hugadb(folder: Folder) -> Iterator[Item]:
    """One item per recording, one record per stretch of one activity in it."""
    for path in folder.match("*.txt"):
        name = path.rpartition("/")[2]
        found = _NAME.fullmatch(name)
        if found is None:
            continue
        where, stem = os.path.join(folder.root, path), name.removesuffix(".txt")
        person = str(int(found["person"]))

        def read(where: str = where, stem: str = stem, person: str = person) -> Records:
            table = _table(where)
            activity = table[:, -1]
            scale = np.tile(np.repeat([_ACC, _GYRO], 3), len(PLACES)) / 2**15
            motion = (table[:, : len(SENSORS)] * scale).astype(np.float32)
            emg = table[:, len(SENSORS) : -1].astype(np.uint8)
            names = {"sensor": SENSORS, "muscle": _EMG}
            cuts = [0, *(np.flatnonzero(np.diff(activity)) + 1), len(table)]
            for start, stop in itertools.pairwise(cuts):
                number, identity = str(activity[start]), f"{stem}:{start}"
                if number not in values("hugadb"):
                    yield Dropped(identity, f"its activity is number {number}")
                elif stop - start < _SHORTEST:
                    yield Dropped(identity, "it is shorter than 1 s")
                else:
                    arrays = {"motion": motion[start:stop], "emg": emg[start:stop]}
                    yield Record(identity, person, (values("hugadb")[number],), arrays, names)

        yield Item(stem, person, read)


def _table(path: str) -> np.ndarray:
    """int64 [sample, 39] of a recording.

    Raises:
      DataError: a column is not where the README says, or a number is outside its range.
    """
    header, rows = None, []
    width = len(SENSORS) + len(_EMG) + 1
    for number, line in enumerate(text.lines(path), 1):
        if line.startswith("#") or not line.strip():
            continue
        cells = line.rstrip("\t ").split("\t")
        if header is None:
            header = cells
            _check_header(header, path)
            continue
        try:
            rows.append([int(float(cell)) for cell in cells])
        except (ValueError, OverflowError):
            raise DataError(f"line {number} holds what is no number", where=path) from None
        if len(cells) != width:
            raise DataError(f"line {number} has {len(cells)} columns, not {width}", where=path)
    if not rows:
        raise DataError("holds no sample", where=path)
    try:
        table = np.array(rows, np.int64)
    except OverflowError:
        raise DataError("holds a number that is no int16", where=path) from None
    motion, emg, activity = table[:, : len(SENSORS)], table[:, len(SENSORS) : -1], table[:, -1]
    if motion.min() < -(2**15) or motion.max() >= 2**15:
        raise DataError("holds a number of a sensor that is no int16", where=path)
    if emg.min() < 0 or emg.max() > 255:
        raise DataError("holds an EMG that is no uint8", where=path)
    if activity.min() < 1 or activity.max() > ACTIVITIES:
        raise DataError(f"holds an activity that is not 1 to {ACTIVITIES}", where=path)
    still = np.ptp(motion, axis=0) == 0
    if still.any() and len(table) >= _SHORTEST:
        stuck = ", ".join(name for name, one in zip(SENSORS, still) if one)
        raise DataError(f"a sensor never moves: {stuck}"[:120], where=path)
    return table


def _check_header(header: list[str], path: str) -> None:
    """README and files put the parts of a name in another order: RT_acc_z, acc_rt_z."""
    expected = [set(name.lower().split("_")) for name in (*SENSORS, *_EMG)]
    found = [set(name.strip().lower().split("_")) for name in header]
    for column, (want, got) in enumerate(zip(expected, found), 1):
        if want != got:
            what = f"column {column} is {header[column - 1][:40]!r}, not {'_'.join(sorted(want))}"
            raise DataError(what, where=path)
    if len(found) != len(expected) + 1 or not header[-1].strip().lower().startswith("act"):
        what = f"has {len(found)} columns, not {len(expected) + 1} with the activity at the end"
        raise DataError(what, where=path)


READERS = (
    Reader(
        "hugadb",
        {
            "motion": Array(
                ("time", "sensor"), "float32", "g, degrees/s", f"six sensors at {RATE} Hz"
            ),
            "emg": Array(("time", "muscle"), "uint8", "of the converter", "right and left thigh"),
        },
        hugadb,
    ),
)
