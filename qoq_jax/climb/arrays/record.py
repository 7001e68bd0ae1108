"""The one form of a record that trains an encoder: arrays by name, with labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.climb.convert.example import Dropped
from qoq_jax.climb.convert.folder import Folder
from qoq_jax.climb.labels.read import value


@dataclasses.dataclass(frozen=True)
class Array:
    """What an array of a data set's records is.

    Attributes:
      axes: the length of each axis, or its name where the length differs between records; axes of
        one name are of one length in a record.
      dtype: as NumPy spells it.
      unit: of its values, "" where they have none.
      what: in words.
    """

    axes: tuple[int | str, ...]
    dtype: str
    unit: str
    what: str


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no single truth value
class Record:
    """One labelled piece of a data set.

    Attributes:
      id: unique in the data set, and the same whenever it is read.
      patient: what splits are grouped by; where the source knows no patients, the nearest thing
        that it knows (graph, experiment).
      labels: in the catalogue's spelling and order; () where the set has no label of a record (PPI
        labels nodes, in an array).
      arrays: by name, as `Form.arrays` says.
      names: of the places along an axis: names["channel"][i] is what place i is.
      metadata: what else the source tells about the record, as text.
      split: train, validation or test; "" before splits are drawn.
    """

    id: str
    patient: str
    labels: tuple[str, ...]
    arrays: Mapping[str, np.ndarray]
    names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    split: str = ""


Records = Iterator[Record | Dropped]


@dataclasses.dataclass(frozen=True)
class Item:
    """What is read in one go and lies in one split: a recording, a graph, a table.

    Attributes:
      id: unique in the data set; ids of its records begin with it.
      patient: as in `Record`.
      split: the source's own, train, validation or test; "" = it has none.
      read: yields its records, and what had to be left out.
    """

    id: str
    patient: str
    read: Callable[[], Records]
    split: str = ""


@dataclasses.dataclass(frozen=True)
class Form:
    """What the records of a data set are.

    Attributes:
      name: of the data set.
      arrays: the form of each array of a record.
    """

    name: str
    arrays: Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Reader(Form):
    """How a data set of the catalogue as it is published becomes records.

    Attributes:
      items: takes the folder and yields what is in it, in an order that is always the same.
    """

    items: Callable[[Folder], Iterator[Item | Dropped]]


def label_of(dataset: str, raw: str | int | float, where: str) -> str:
    """The label of a value as the data set's files have it (labels/tables/values.csv).

    Raises:
      DataError: an unknown value; it names the file `where`.
    """
    try:
        return value(dataset, raw)
    except DataError as error:
        raise DataError(error.what, where=where, hint=error.hint) from None


def check(record: Record, form: Form, vocabulary: tuple[str, ...] = ()) -> None:
    """Whether a record is of its data set's form.

    Args:
      vocabulary: labels of the data set, () where it has none.

    Raises:
      DataError: an array is missing, of another dtype or shape, or not finite where only numbers
        are expected; a label is unknown.
    """

    def fail(what: str) -> None:
        raise DataError(what, where=f"{form.name}: {record.id}")

    if set(record.arrays) != set(form.arrays):
        fail(f"has the arrays {sorted(record.arrays)}, not {sorted(form.arrays)}")
    lengths: dict[Any, int] = {axis: len(places) for axis, places in record.names.items()}
    for name, expected in form.arrays.items():
        array = record.arrays[name]
        if array.dtype != np.dtype(expected.dtype) or array.ndim != len(expected.axes):
            wanted = f"{expected.dtype} {expected.axes}"
            fail(f"{name} is {array.dtype} {list(array.shape)}, not {wanted}")
        for axis, length in zip(expected.axes, array.shape):
            if length != lengths.setdefault(axis, axis if isinstance(axis, int) else length):
                fail(f"{name} has {length} along {axis}, not {lengths[axis]}")
    for label in record.labels:
        if vocabulary and label not in vocabulary:
            fail(f"{label!r} is not among its labels")
