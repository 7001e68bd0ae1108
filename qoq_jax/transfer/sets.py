"""Labelled data sets for one encoder: rows of its kind by data set, their labels as columns of one
vocabulary, and how a sample is read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from qoq_jax.base.errors import ConfigError, DataError, did_you_mean
from qoq_jax.climb.arrays.record import Record
from qoq_jax.climb.arrays.source import ArraySource
from qoq_jax.climb.catalogue import table
from qoq_jax.climb.labels import union
from qoq_jax.climb.mini.render import DATASETS as MINI
from qoq_jax.data import rows as schema
from qoq_jax.data import sources
from qoq_jax.data.index import Rows

Inputs = dict[str, np.ndarray]  # the arrays of one sample, without the batch axis


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """The samples of one split of a data set.

    Attributes:
      gold: bool [n, K], which of the set's labels a sample has.
      patients: uint64 [n], a hash; 0 = not known.
      names: sample -> what errors call it.
      read: sample -> its arrays; a DataError for one that cannot be read.
      fingerprint: of the samples, their order and the sizes of their media.
    """

    gold: np.ndarray
    patients: np.ndarray
    names: Callable[[int], str]
    read: Callable[[int], Inputs]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.gold)


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledSet:
    """A data set as a classification task.

    Attributes:
      labels: K of them, in the set's spelling and order.
      exclusive: a sample has exactly one.
      form: sets of one form have arrays of the same shapes; only they share a batch.
      splits: "train", "validation", "test", those that there are.
    """

    name: str
    domain: str
    labels: tuple[str, ...]
    exclusive: bool
    form: tuple[int, ...]
    splits: Mapping[str, Split]

    @property
    def classes(self) -> tuple[tuple[str, str], ...]:
        """The class of each label in the vocabulary of all sets."""
        return union.classes(self.name, self.domain, self.labels)


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The classes of all sets together: V = union of V_k.

    Attributes:
      classes: (domain, label) of each column.
    """

    classes: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, sets: Iterable[LabelledSet]) -> Vocabulary:
        """In order of the sets and of their labels."""
        return cls(tuple(dict.fromkeys(one for found in sets for one in found.classes)))

    def __len__(self) -> int:
        return len(self.classes)

    def columns(self, one: LabelledSet) -> np.ndarray:
        """int [K]: the column of each label of a set."""
        return np.array([self.classes.index(name) for name in one.classes])


# ----------------------------------------------------------------------------------------- checks


def check_patients(sets: Iterable[LabelledSet]) -> None:
    """Raises DataError where a patient of a set is in two of its splits."""
    for one in sets:
        seen: dict[str, np.ndarray] = {}
        for name, split in one.splits.items():
            known = np.unique(split.patients[split.patients != 0])
            for other, theirs in seen.items():
                if len(shared := np.intersect1d(known, theirs)):
                    raise DataError(
                        f"{len(shared)} patients are in both {other} and {name}",
                        where=one.name,
                        hint="split by patient",
                    )
            seen[name] = known


def chosen(sets: Mapping[str, LabelledSet], names: Sequence[str]) -> list[LabelledSet]:
    """The sets of these names; () = all.

    Raises:
      ConfigError: there is no such set.
    """
    for name in names:
        if name not in sets:
            raise ConfigError(
                f"there is no data set {name!r} of the encoder's kind",
                hint=did_you_mean(name, sets, f"there are {', '.join(sets)}"),
            )
    return [sets[name] for name in names or sets]


def train_counts(sets: Iterable[LabelledSet]) -> dict[str, int]:
    """Training samples of each set, by name.

    Raises:
      DataError: one has none.
    """
    sets = list(sets)
    for one in sets:
        if "train" not in one.splits:
            raise DataError("has no training split", where=one.name, hint="leave it out")
    return {one.name: len(one.splits["train"]) for one in sets}


def fingerprint(sets: Iterable[LabelledSet]) -> str:
    """SHA-256 of the training samples and labels of the sets."""
    parts = [
        [one.name, one.labels, one.exclusive, one.form, one.splits["train"].fingerprint]
        for one in sets
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


# ------------------------------------------------------------------------------------------- rows

RowReader = Callable[[schema.Row, str, tuple[int, ...]], Inputs]


def of_rows(
    roots: Mapping[str, str],
    form_of: Callable[[schema.Row], tuple[int, ...] | None],
    read: RowReader,
) -> dict[str, LabelledSet]:
    """The data sets of folders of rows, by name.

    Args:
      roots: source -> folder of {split}.jsonl.
      form_of: the form of a row, None for one of another kind.
      read: (row, folder, form of its set) -> arrays.

    Raises:
      DataError: a set is in two folders, its rows disagree about its labels, or it has none.
    """
    found: dict[str, LabelledSet] = {}
    for source, root in roots.items():
        drafts: dict[str, _Draft] = {}
        for split in schema.SPLITS:
            if sources.find(root, split) is None:
                continue
            rows = sources.load(root, split)
            for place, row in enumerate(rows):
                if (form := form_of(row)) is not None:
                    draft = drafts.setdefault(row.dataset, _Draft(row))
                    draft.add(split, place, row, form)
            for draft in drafts.values():
                draft.close(split, rows)
        for name, draft in drafts.items():
            if name in found:
                raise DataError("is in two folders", where=f"{source}: {name}", hint="keep one")
            found[name] = draft.finish(root, read)
    return found


class _Draft:
    """A data set while the rows of its folder are passed once; a row leaves a place and its labels,
    since there may be millions.
    """

    def __init__(self, first: schema.Row):
        self._name, self._labels, self._domain = first.dataset, first.labels, first.domain
        self._form: tuple[int, ...] = ()
        self._places: dict[str, list[int]] = {}
        self._gold: dict[str, list[list[bool]]] = {}
        self._rows: dict[str, Rows] = {}

    def add(self, split: str, place: int, row: schema.Row, form: tuple[int, ...]) -> None:
        if not row.labels or row.labels != self._labels or row.domain != self._domain:
            raise DataError(
                "its rows do not all have one domain and one list of labels",
                where=f"{self._name}: row {row.id!r}",
                hint="give all rows of a data set the same `labels`, or drop it",
            )
        self._form = max(self._form, form)
        self._places.setdefault(split, []).append(place)
        self._gold.setdefault(split, []).append([one in row.answers for one in self._labels])

    def close(self, split: str, rows: Rows) -> None:
        if split in self._places:
            self._rows[split] = rows.take(np.array(self._places[split]))

    def finish(self, root: str, read: RowReader) -> LabelledSet:
        made = {split: self._split(split, rows, root, read) for split, rows in self._rows.items()}
        exclusive = is_exclusive(self._name, made)
        return LabelledSet(self._name, self._domain, self._labels, exclusive, self._form, made)

    def _split(self, split: str, rows: Rows, root: str, read: RowReader) -> Split:
        return Split(
            gold=np.array(self._gold[split]),
            patients=rows.column("patient"),
            names=lambda number: f"{self._name}/{rows[number].id}",
            read=lambda number: read(rows[number], root, self._form),
            fingerprint=rows.fingerprint,
        )


def is_exclusive(name: str, splits: Mapping[str, Split]) -> bool:
    """Whether a sample of a set has exactly one label: by the catalogue or climb-mini where these
    know the set, else whether all its samples have one label.

    Raises:
      DataError: a sample of an exclusive set has not.
    """
    if name in table.load():
        exclusive = table.load()[name].task == "single-label"
    elif name in MINI:
        exclusive = not MINI[name].pairs
    else:
        return all((split.gold.sum(axis=1) == 1).all() for split in splits.values())
    for split in splits.values():
        if exclusive and len(bad := np.flatnonzero(split.gold.sum(axis=1) != 1)):
            raise DataError(
                "its labels exclude each other, and this sample has not exactly one",
                where=split.names(int(bad[0])),
            )
    return exclusive


# ----------------------------------------------------------------------------------------- arrays


Prepare = Callable[[ArraySource], tuple[tuple[int, ...], Callable[[Record], Inputs]]]


def of_arrays(folder: str, domain: str, prepare: Prepare) -> LabelledSet:
    """The data set that `qoq data arrays` wrote to a folder.

    Args:
      domain: of a set that the catalogue does not have.
      prepare: training records -> (form of the set, Record -> arrays of fixed shape).

    Raises:
      DataError: the folder is not complete, or its set has no labels.
    """
    first = ArraySource(folder, "train")
    report = first.report
    name, labels = report["dataset"], tuple(report["labels"])
    if not labels:
        raise DataError(f"{name} has no labels of records", where=folder)
    form, read = prepare(first)
    made = {}
    for split in report["splits"]:
        source = ArraySource(folder, split)
        made[split] = Split(
            gold=np.array([[label in one["labels"] for label in labels] for one in source.index]),
            patients=np.array([_hash(one["patient"]) for one in source.index], np.uint64),
            names=lambda number, source=source: f"{name}/{source.index[number]['id']}",
            read=lambda number, source=source: read(source[number]),
            fingerprint=report["splits"][split]["sha256"],
        )
    domain = table.load()[name].domain if name in table.load() else domain
    return LabelledSet(name, domain, labels, is_exclusive(name, made), form, made)


def _hash(patient: str) -> int:
    return int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "little") if patient else 0
