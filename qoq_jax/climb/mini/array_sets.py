"""Made-up data sets of arrays, whose labels are visible in the signal: EEG, connectomes, gait.

    report = build("eeg-mini", "data/eeg-mini", seed=0)      # as `qoq data arrays eeg-mini DIR`

They are written as those of the catalogue are (docs/arrays.md) and have patients, splits by
patient, and what real sets have: channels that are missing, sites, stretches of any length. A
record depends on (seed, data set, patient) alone. They say nothing of real patients, and are made
to try encoders and their training without credentials.
"""

from __future__ import annotations

import dataclasses
import os
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from qoq_jax.base.errors import ConfigError, did_you_mean
from qoq_jax.climb.arrays import gait, read, write
from qoq_jax.climb.arrays.record import Array, Form, Item, Record
from qoq_jax.climb.mini import connectome_simulator, eeg_simulator, gait_simulator

_MAIN = 0.75  # probability that a recording shows its patient's main pattern
_LOST = 0.15  # probability that a recording lacks an electrode, or a scan a region
_SECONDS = (2.0, 6.0)  # of a stretch of one activity


@dataclasses.dataclass(frozen=True)
class MadeUp:
    """A data set.

    Attributes:
      form: name, and the arrays of a record.
      labels: the vocabulary.
      patients: how many by default.
      records: yields the records of a patient: (id of the patient, random stream).
    """

    form: Form
    labels: tuple[str, ...]
    patients: int
    records: Callable[[str, np.random.Generator], Iterator[Record]]


def build(name: str, out: str | os.PathLike, patients: int = 0, seed: int = 0) -> dict[str, Any]:
    """Writes a data set; returns the report, as `arrays.write.write` does.

    Args:
      name: of `SETS`.
      patients: how many; 0 = as the set has by default.
      seed: of the patients and of the splits.

    Raises:
      ConfigError: there is no such set, or `patients` is negative.
    """
    one = get(name)
    if patients < 0:
        raise ConfigError(f"{patients} patients", where=name, hint="use 1 or more")
    items = [item(one, number, seed) for number in range(patients or one.patients)]
    records = read.in_splits(one.form, one.labels, items, seed)
    return write.write_records(one.form, one.labels, records, os.fspath(out), seed)


def get(name: str) -> MadeUp:
    """The set of a name.

    Raises:
      ConfigError: there is none.
    """
    if name not in SETS:
        hint = did_you_mean(name, SETS, f"there are {', '.join(SETS)}")
        raise ConfigError(f"no made-up data set {name!r}", hint=hint)
    return SETS[name]


def item(one: MadeUp, number: int, seed: int) -> Item:
    """A patient of a set: its records depend on the seed, the set and the number alone."""
    patient = f"p{number:05d}"

    def records() -> Iterator[Record]:
        rng = np.random.default_rng([seed, zlib.crc32(one.form.name.encode()), number])
        return one.records(patient, rng)

    return Item(patient, patient, records)


# --------------------------------------------------------------------------------------------- EEG


def _eeg(patient: str, rng: np.random.Generator) -> Iterator[Record]:
    """One to four recordings, most of the pattern that the patient has."""
    who, main = eeg_simulator.head(rng), rng.choice(eeg_simulator.LABELS)
    for i in range(rng.integers(1, 5)):
        label = str(main if rng.random() < _MAIN else rng.choice(eeg_simulator.LABELS))
        signal = eeg_simulator.simulate(label, who, rng)
        kept = np.ones(len(signal), bool)
        if rng.random() < _LOST:
            kept[rng.integers(len(kept))] = False
        names = tuple(name for name, there in zip(eeg_simulator.ELECTRODES, kept) if there)
        arrays = {"signal": signal[kept]}
        yield Record(f"{patient}:{i}", patient, (label,), arrays, {"channel": names})


# -------------------------------------------------------------------------------------- connectomes


def _connectome(patient: str, rng: np.random.Generator) -> Iterator[Record]:
    """One scan; some have a region without signal."""
    label = str(rng.choice(connectome_simulator.LABELS))
    site = connectome_simulator.SITES[rng.integers(len(connectome_simulator.SITES))]
    adjacency = connectome_simulator.simulate(label, site, rng)
    present = np.ones(len(adjacency), bool)
    if rng.random() < _LOST:
        present[rng.integers(len(present))] = False
        adjacency = adjacency * present * present[:, None]
    arrays = {"adjacency": adjacency.astype(np.float32), "present": present}
    yield Record(patient, patient, (label,), arrays, metadata={"site": site.name})


# --------------------------------------------------------------------------------------------- gait


def _gait(patient: str, rng: np.random.Generator) -> Iterator[Record]:
    """A stretch of each activity, in an order of its own."""
    who, names = gait_simulator.walker(rng), {"sensor": gait.SENSORS}
    for i, label in enumerate(rng.permutation(gait_simulator.LABELS).tolist()):
        motion = gait_simulator.simulate(label, who, rng, rng.uniform(*_SECONDS))
        yield Record(f"{patient}:{i}", patient, (label,), {"motion": motion}, names)


_REGIONS = connectome_simulator.REGIONS
_EEG_AXES = ("channel", eeg_simulator.SECONDS * eeg_simulator.RATE)
_REFERENCE = f"{eeg_simulator.SECONDS} s at {eeg_simulator.RATE} Hz against a distant reference"
SETS: dict[str, MadeUp] = {
    one.form.name: one
    for one in (
        MadeUp(
            Form("eeg-mini", {"signal": Array(_EEG_AXES, "float32", "µV", _REFERENCE)}),
            eeg_simulator.LABELS,
            200,
            _eeg,
        ),
        MadeUp(
            Form(
                "connectome-mini",
                {
                    "adjacency": Array(
                        (_REGIONS, _REGIONS), "float32", "", "Pearson correlation of regions"
                    ),
                    "present": Array((_REGIONS,), "bool", "", "whether the region has a signal"),
                },
            ),
            connectome_simulator.LABELS,
            400,
            _connectome,
        ),
        MadeUp(
            Form(
                "gait-mini",
                {
                    "motion": Array(
                        ("time", "sensor"),
                        "float32",
                        "g, degrees/s",
                        f"six sensors at {gait.RATE} Hz",
                    )
                },
            ),
            gait_simulator.LABELS,
            80,
            _gait,
        ),
    )
}
