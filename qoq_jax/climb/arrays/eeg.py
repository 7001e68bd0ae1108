"""EEG: TUAB and TUEV from EDF files, IIIC from arrays. Layouts: docs/datasets/eeg.md."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.climb.arrays import edf, montage, text
from qoq_jax.climb.arrays.record import Array, Item, Reader, Record, Records, label_of
from qoq_jax.climb.convert.example import Dropped
from qoq_jax.climb.convert.folder import Folder
from qoq_jax.climb.labels.eeg import IIIC
from qoq_jax.climb.labels.eeg import iiic as most_votes
from qoq_jax.climb.labels.read import values

TUAB_SECONDS, TUEV_SECONDS, IIIC_SECONDS = 10, 5, 10
_SPLITS = {"train": "train", "eval": "test"}


def tuab(folder: Folder) -> Iterator[Item]:
    """One item per recording, one record per 10 s of it; what is left at its end is not used."""
    for path in folder.match("*.edf"):
        *above, name = path.split("/")
        kind = next((part for part in above if part in ("normal", "abnormal")), None)
        split = next((_SPLITS[part] for part in above if part in _SPLITS), None)
        if kind is None or split is None:
            continue
        stem = name.removesuffix(".edf")
        where = os.path.join(folder.root, path)

        def read(
            stem: str = stem, where: str = where, label: str = label_of("tuab", kind, where)
        ) -> Iterator[Record]:
            names, signal = edf.read(where)
            length = TUAB_SECONDS * edf.RATE
            if signal.shape[1] < length:
                raise DataError(f"is shorter than {TUAB_SECONDS} s", where=where)
            for i in range(signal.shape[1] // length):
                window = signal[:, i * length : (i + 1) * length]
                identity = f"{stem}:{i * TUAB_SECONDS}s"
                yield _record(identity, _person(stem), (label,), window, names)

        yield Item(stem, _person(stem), read, split)


def tuev(folder: Folder) -> Iterator[Item]:
    """One item per recording, one record per event: 5 s round it, wrapped round the ends of the
    recording as BIOT does.

    A .rec file has a line per channel, so an event repeats; here it is one record, with every label
    that its channels have.
    """
    for path in folder.match("*.edf"):
        *above, name = path.split("/")
        split = next((_SPLITS[part] for part in above if part in _SPLITS), None)
        if split is None:
            continue
        stem, where = name.removesuffix(".edf"), os.path.join(folder.root, path)
        # Recordings of the evaluation part share their names: bckg_032_a_, ...
        identity = f"{above[-1]}/{stem}"

        def read(identity: str = identity, where: str = where, person: str = above[-1]) -> Records:
            events = _events(where.removesuffix(".edf") + ".rec")
            names, signal = edf.read(where)
            for (start, stop), labels in events.items():
                if not 0 <= start <= stop <= signal.shape[1] / edf.RATE + 1:
                    reason = "an event is outside its recording"
                    yield Dropped(f"{identity}:{start:g}s", reason)
                    continue
                first = round(((start + stop) / 2 - TUEV_SECONDS / 2) * edf.RATE)
                places = np.arange(first, first + TUEV_SECONDS * edf.RATE) % signal.shape[1]
                yield _record(
                    f"{identity}:{start:g}-{stop:g}s",
                    person,
                    tuple(label for label in values("tuev").values() if label in labels),
                    signal[:, places],
                    names,
                )

        yield Item(identity, above[-1], read, split)


def _events(path: str) -> dict[tuple[float, float], set[str]]:
    """{(start, stop) in s: labels} of a .rec file, whose lines are channel, start, stop, label."""
    found: dict[tuple[float, float], set[str]] = {}
    for _, start, stop, label in text.numbers(path, delimiter=",", columns=4):
        event = label_of("tuev", float(label), path)
        found.setdefault((float(start), float(stop)), set()).add(event)
    return found


def iiic(folder: Folder) -> Iterator[Item]:
    """One item per patient, one record per segment of 10 s, labelled by most votes.

    The layout of the release is not public. Read are the arrays that published loaders take, X.npy
    [n, 16, 2000] and Y.npy [n, 6] votes, and patients.npy [n], without which segments of a patient
    would be on both sides of a split.
    """
    where = os.path.join(folder.root, folder.one("X.npy", "*/X.npy"))
    shape = (None, len(montage.BIPOLAR), IIIC_SECONDS * edf.RATE)
    signals = text.open_npy(where, shape, "fiu")
    beside = os.path.dirname(where)
    votes = text.open_npy(os.path.join(beside, "Y.npy"), (len(signals), len(IIIC)), "fiu")
    people = text.open_npy(os.path.join(beside, "patients.npy"), (len(signals),), "iuUS")
    segments: dict[str, list[int]] = {}
    for i, person in enumerate(people.tolist()):
        name = person.decode("latin-1") if isinstance(person, bytes) else str(person)
        segments.setdefault(name, []).append(i)
    for person, mine in sorted(segments.items()):

        def read(person: str = person, mine: list[int] = mine) -> Records:
            for i in mine:
                signal = np.asarray(signals[i], np.float32)
                if not np.isfinite(signal).all():
                    yield Dropped(f"{person}:{i}", "has samples that are not numbers")
                    continue
                try:
                    label = most_votes(votes[i].tolist())
                except DataError:
                    yield Dropped(f"{person}:{i}", "has no votes for the six patterns")
                    continue
                yield _record(f"{person}:{i}", person, (label,), signal, montage.BIPOLAR)

        yield Item(person, person, read)


def _person(stem: str) -> str:
    return stem.partition("_")[0]


def _record(
    identity: str,
    person: str,
    labels: tuple[str, ...],
    signal: np.ndarray,
    names: tuple[str, ...],
) -> Record:
    return Record(identity, person, labels, {"signal": signal}, {"channel": names})


def _form(seconds: int, channels: int | str, reference: str) -> dict[str, Array]:
    axes = (channels, seconds * edf.RATE)
    return {"signal": Array(axes, "float32", "µV", f"{seconds} s at {edf.RATE} Hz, {reference}")}


_REFERENCE = "electrodes against the recording's reference"
READERS = (
    Reader("tuab", _form(TUAB_SECONDS, "channel", _REFERENCE), tuab),
    Reader("tuev", _form(TUEV_SECONDS, "channel", _REFERENCE), tuev),
    Reader("iiic", _form(IIIC_SECONDS, len(montage.BIPOLAR), "bipolar channels"), iiic),
)
