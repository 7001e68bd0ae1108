"""Made-up data sets of arrays, whose labels are visible in the signal: EEG, connectomes, gait, ECG.

    report = build("eeg-mini", "data/eeg-mini", seed=0)      # as `qoq data arrays eeg-mini DIR`

They are written as those of the catalogue are (docs/arrays.md) and have patients, splits by
patient, and what real sets have: channels that are missing, sites, stretches of any length. A
record depends on (seed, data set, patient) alone. They say nothing of real patients, and are made
to try encoders and their training without credentials.

A kind has one larger set (of ECGs that of climb-mini) and two smaller ones, of other labels, people
and recorders, with a quarter of their patients for training: what learning from several sets should
help with. To add a set: its row in `SETS`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from qoq_jax.base.errors import ConfigError, did_you_mean
from qoq_jax.climb.arrays import gait, montage, read, write
from qoq_jax.climb.arrays.record import Array, Form, Item, Record
from qoq_jax.climb.mini import (
    connectome_simulator,
    ecg_simulator,
    eeg_simulator,
    gait_simulator,
)
from qoq_jax.data.readers import leads

_MAIN = 0.75  # probability that a recording shows its patient's main pattern
_LOST = 0.15  # probability that a recording lacks an electrode, or a scan a region
_SECONDS = (2.0, 6.0)  # of a stretch of one activity
_TRAINING = 4  # of a small set, one patient in so many is for training, the others for testing
Records = Iterator[Record]
Shows = Mapping[str, tuple[str, ...]]  # label -> what the simulator shows for it, one of these


@dataclasses.dataclass(frozen=True)
class MadeUp:
    """A data set.

    Attributes:
      form: name, and the arrays of a record.
      labels: the vocabulary.
      patients: how many by default.
      records: yields the records of a patient: (id of the patient, random stream).
      small: most patients are for testing; else a fifth, as of sets without splits of their own.
    """

    form: Form
    labels: tuple[str, ...]
    patients: int
    records: Callable[[str, np.random.Generator], Records]
    small: bool = False


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

    def records() -> Records:
        rng = np.random.default_rng([seed, zlib.crc32(one.form.name.encode()), number])
        return one.records(patient, rng)

    own = ("test" if number % _TRAINING else "train") if one.small else ""
    return Item(patient, patient, records, own)


def _one_of(shown: tuple[str, ...], rng: np.random.Generator) -> str:
    return str(shown[0] if len(shown) == 1 else rng.choice(shown))


# --------------------------------------------------------------------------------------------- EEG


def _eeg(
    shows: Shows,
    recorder: eeg_simulator.Recorder,
    channels: tuple[str, ...],
    patient: str,
    rng: np.random.Generator,
) -> Records:
    """One to four recordings, most of the label that the patient has."""
    who, labels = eeg_simulator.head(rng), tuple(shows)
    main = rng.choice(labels)
    for i in range(rng.integers(1, 5)):
        label = str(main if rng.random() < _MAIN else rng.choice(labels))
        signal = eeg_simulator.simulate(_one_of(shows[label], rng), who, rng, recorder)
        signal = montage.choose(signal, eeg_simulator.ELECTRODES, channels)
        kept = np.ones(len(signal), bool)
        if rng.random() < _LOST:
            kept[rng.integers(len(kept))] = False
        names = tuple(name for name, there in zip(channels, kept, strict=True) if there)
        arrays = {"signal": signal[kept]}
        yield Record(f"{patient}:{i}", patient, (label,), arrays, {"channel": names})


def _eeg_set(
    name: str,
    shows: Shows,
    patients: int,
    recorder: eeg_simulator.Recorder = eeg_simulator.USUAL,
    channels: tuple[str, ...] = eeg_simulator.ELECTRODES,
) -> MadeUp:
    seconds, rate = eeg_simulator.SECONDS, eeg_simulator.RATE
    note = f"{seconds} s at {rate} Hz against a distant reference"
    form = Form(name, {"signal": Array(("channel", seconds * rate), "float32", "µV", note)})
    records = functools.partial(_eeg, shows, recorder, channels)
    return MadeUp(form, tuple(shows), patients, records, recorder is not eeg_simulator.USUAL)


# The temporal chains, as a headband for emergencies has them.
_HEADBAND = ("FP1", "F7", "T3", "T5", "O1", "FP2", "F8", "T4", "T6", "O2")
_EEG = (
    _eeg_set("eeg-mini", {label: (label,) for label in eeg_simulator.LABELS}, 200),
    _eeg_set(
        "eeg-routine-mini",
        {"Abnormal": ("LPD", "GPD", "LRDA", "GRDA"), "Normal": ("Other",)},
        100,
        eeg_simulator.Recorder(mains=50.0, noise=1.5, size=0.4),
    ),
    _eeg_set(
        "eeg-headband-mini",
        {"Seizure": ("SZ",), "No seizure": ("LPD", "LRDA", "Other")},
        100,
        eeg_simulator.Recorder(noise=3.0, size=0.6),
        _HEADBAND,
    ),
)


# -------------------------------------------------------------------------------------- connectomes


def _connectome(
    labels: tuple[str, ...],
    sites: tuple[connectome_simulator.Site, ...],
    patient: str,
    rng: np.random.Generator,
) -> Records:
    """One scan; some have a region without signal."""
    label = str(rng.choice(labels))
    site = sites[rng.integers(len(sites))]
    adjacency = connectome_simulator.simulate(label, site, rng)
    present = np.ones(len(adjacency), bool)
    if rng.random() < _LOST:
        present[rng.integers(len(present))] = False
        adjacency = adjacency * present * present[:, None]
    arrays = {"adjacency": adjacency.astype(np.float32), "present": present}
    yield Record(patient, patient, (label,), arrays, metadata={"site": site.name})


def _connectome_set(
    name: str,
    labels: tuple[str, ...],
    patients: int,
    sites: tuple[connectome_simulator.Site, ...] = connectome_simulator.SITES,
) -> MadeUp:
    n = connectome_simulator.REGIONS
    arrays = {
        "adjacency": Array((n, n), "float32", "", "Pearson correlation of regions"),
        "present": Array((n,), "bool", "", "whether the region has a signal"),
    }
    records = functools.partial(_connectome, labels, sites)
    small = sites is not connectome_simulator.SITES
    return MadeUp(Form(name, arrays), labels, patients, records, small)


_CONNECTOMES = (
    _connectome_set("connectome-mini", ("Case", "Control"), 400),
    _connectome_set(
        "connectome-age-mini", ("Older", "Younger"), 160, connectome_simulator.OTHER_SITES
    ),
    _connectome_set(
        "connectome-motor-mini", ("Parkinson", "Comparison"), 160, connectome_simulator.OTHER_SITES
    ),
)


# --------------------------------------------------------------------------------------------- gait


def _gait(
    shows: Shows, cohort: gait_simulator.Cohort, patient: str, rng: np.random.Generator
) -> Records:
    """A stretch of each label, in an order of its own."""
    who = gait_simulator.walker(rng, cohort)
    for i, label in enumerate(rng.permutation(tuple(shows)).tolist()):
        activity = _one_of(shows[label], rng)
        motion = gait_simulator.simulate(activity, who, rng, rng.uniform(*_SECONDS))
        yield Record(f"{patient}:{i}", patient, (label,), {"motion": motion}, _SENSORS)


def _stroke(cohort: gait_simulator.Cohort, patient: str, rng: np.random.Generator) -> Records:
    """Three stretches of walking, of a person one of whose legs may move less."""
    label = str(rng.choice(tuple(_LEGS)))
    legs = np.array(_LEGS[label]) * rng.normal(1, 0.08, 2)
    who = dataclasses.replace(gait_simulator.walker(rng, cohort), legs=tuple(legs.tolist()))
    for i in range(3):
        motion = gait_simulator.simulate("Walking", who, rng, rng.uniform(*_SECONDS))
        yield Record(f"{patient}:{i}", patient, (label,), {"motion": motion}, _SENSORS)


# Size of movements of the right and of the left leg.
_LEGS = {"Weak left": (1.0, 0.75), "Weak right": (0.75, 1.0), "Even": (1.0, 1.0)}
_SENSORS = {"sensor": gait.SENSORS}


def _gait_set(
    name: str,
    labels: tuple[str, ...],
    patients: int,
    records: Callable[[str, np.random.Generator], Records],
    small: bool = True,
) -> MadeUp:
    note = f"six sensors at {gait.RATE} Hz"
    form = Form(name, {"motion": Array(("time", "sensor"), "float32", "g, degrees/s", note)})
    return MadeUp(form, labels, patients, records, small)


_ACTIVITIES = {label: (label,) for label in gait_simulator.LABELS}
_ON_A_WARD = {
    "Walking": ("Walking",),
    "Stairs": ("Going up", "Going down"),
    "Resting": ("Sitting", "Standing"),
}
# Sensors on the outside of the legs, a quarter turn from the usual, and slow people.
_WARD = gait_simulator.Cohort(pace=0.8, size=0.6, turned=90.0, noise=2.0)
_SLOW = gait_simulator.Cohort(pace=0.75, size=0.8, noise=2.0)
_GAIT = (
    _gait_set(
        "gait-mini",
        gait_simulator.LABELS,
        80,
        functools.partial(_gait, _ACTIVITIES, gait_simulator.USUAL),
        small=False,
    ),
    _gait_set("gait-ward-mini", tuple(_ON_A_WARD), 40, functools.partial(_gait, _ON_A_WARD, _WARD)),
    _gait_set("gait-stroke-mini", tuple(_LEGS), 60, functools.partial(_stroke, _SLOW)),
)


# --------------------------------------------------------------------------------------------- ECG


def _ecg(
    shows: Mapping[str, tuple[str, str]], noise_mv: float, patient: str, rng: np.random.Generator
) -> Records:
    """One recording; `shows`: label -> diagnosis of the simulator, and its variant."""
    label = str(rng.choice(tuple(shows)))
    diagnosis, variant = shows[label]
    kinds = {diagnosis: variant} if variant else {}
    heart = ecg_simulator.heart(rng, (diagnosis,), float(rng.uniform(0.3, 0.9)), kinds)
    heart = dataclasses.replace(heart, noise_mv=noise_mv, wander_mv=4 * noise_mv)
    signal = ecg_simulator.simulate(heart, rng).signal
    kept = [ecg_simulator.LEADS.index(lead) for lead in leads.NEEDED]
    yield Record(patient, patient, (label,), {"ecg": signal[kept]}, {"lead": leads.NEEDED})


def _ecg_set(name: str, shows: Mapping[str, tuple[str, str]], noise_mv: float) -> MadeUp:
    form = Form(name, {"ecg": Array(("lead", 2500), "float32", "mV", "10 s at 250 Hz")})
    records = functools.partial(_ecg, shows, noise_mv)
    return MadeUp(form, tuple(shows), 160, records, small=True)


# Beside the ecg-mini of climb-mini, which has seven classes.
_ECG = (
    _ecg_set(
        "ecg-rhythm-mini",
        {
            "Sinus rhythm": ("Normal", ""),
            "Atrial fibrillation": ("A. Fib/Aflutter", "fibrillation"),
            "Atrial flutter": ("A. Fib/Aflutter", "flutter"),
            "Premature beats": ("Other", "premature beats"),
        },
        0.06,
    ),
    _ecg_set(
        "ecg-conduction-mini",
        {
            "No block": ("Normal", ""),
            "LBBB": ("CD", "left bundle branch block"),
            "RBBB": ("CD", "right bundle branch block"),
        },
        0.1,
    ),
)


SETS: dict[str, MadeUp] = {one.form.name: one for one in (*_EEG, *_CONNECTOMES, *_GAIT, *_ECG)}
