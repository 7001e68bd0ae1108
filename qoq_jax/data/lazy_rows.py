"""The rows of a file as a sequence that parses a row when it is asked for it.

Subsets, repeats and edits are views: arrays of row numbers, and functions that run on a row after
it was parsed. None of them reads the file.
"""

from __future__ import annotations

import hashlib
import json
import operator
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Self, overload

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data import index as indices
from qoq_jax.data import rows as schema
from qoq_jax.data.row_readers import Reader, reader

# An edit is a value: its repr says all that it does, since fingerprints go by it.
Edit = Callable[[schema.Row], schema.Row]


class _Store:
    """The sound rows of an indexed file, parsed at each call."""

    def __init__(self, index: indices.Index):
        self.index = index
        self._reader: Reader = reader(index.kind, index.body)
        self._reader.watch()

    def row(self, number: int) -> schema.Row:
        """Raises DataError when the file is another one than was opened."""
        if self._reader.changed():
            raise self._changed()
        columns, where = self.index.columns, self.index.where(number)
        content = self._reader.read(int(columns["start"][number]), int(columns["size"][number]))
        try:
            return schema.parse(content, where)
        except DataError:
            raise self._changed() from None

    def _changed(self) -> DataError:
        return DataError(
            "has changed since it was opened",
            where=str(self.index.path),
            hint="start again; do not write to a row file that is in use",
        )


class Rows(Sequence[schema.Row]):
    """Rows of an indexed file, or a part of them in any order, each after the same edits.

    Attributes:
      index: what is known of the whole file.
    """

    def __init__(
        self, store: _Store, chosen: np.ndarray | None = None, edits: tuple[Edit, ...] = ()
    ):
        self._store, self._chosen, self._edits = store, chosen, edits
        self.index = store.index

    def __len__(self) -> int:
        return len(self.index) if self._chosen is None else len(self._chosen)

    @overload
    def __getitem__(self, place: int) -> schema.Row: ...

    @overload
    def __getitem__(self, place: slice) -> Rows: ...

    def __getitem__(self, place: int | slice) -> schema.Row | Rows:
        if isinstance(place, slice):
            return self.take(np.arange(*place.indices(len(self))))
        number = operator.index(place)
        if not -len(self) <= number < len(self):
            raise IndexError(f"row {number} of {len(self)}")
        number %= len(self)
        row = self._store.row(number if self._chosen is None else int(self._chosen[number]))
        for edit in self._edits:
            row = edit(row)
        return row

    def __iter__(self) -> Iterator[schema.Row]:
        return (self[number] for number in range(len(self)))

    def __repr__(self) -> str:
        return f"Rows({str(self.index.path)!r}, {len(self)} rows)"

    def column(self, name: str) -> np.ndarray:
        """A column of the index (index.COLUMNS) for these rows, as it was before edits."""
        column = self.index.columns[name]
        return column if self._chosen is None else column[self._chosen]

    def take(self, places: np.ndarray) -> Self:
        """The rows at some places, in that order; a place may come more than once."""
        places = np.asarray(places, np.int64)
        if self._chosen is not None:
            places = self._chosen[places]
        small = len(self.index) <= np.iinfo(np.uint32).max
        return type(self)(self._store, places.astype(np.uint32 if small else np.int64), self._edits)

    def edited(self, edit: Edit) -> Self:
        """The rows after one more edit, which must leave id, domain, split and patient alone."""
        return type(self)(self._store, self._chosen, (*self._edits, edit))

    @property
    def fingerprint(self) -> str:
        """SHA-256 that stands for these rows and the sizes of their media, known without reading.

        For a whole file without edits it is `sources.fingerprint` of its rows.
        """
        if self._chosen is None and not self._edits:
            return self.index.fingerprint
        chosen = None if self._chosen is None else self._chosen.astype("<i8").tobytes()
        settings = [
            self.index.fingerprint,
            chosen and hashlib.sha256(chosen).hexdigest(),
            [repr(edit) for edit in self._edits],
        ]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()


def open_rows(path: str | os.PathLike) -> Rows:
    """The rows of a file that are sound; `Rows.index.faults` says why others are left out.

    Raises:
      DataError: see `index.open_index`.
    """
    return Rows(_Store(indices.open_index(path)))
