"""A published data set as a stream of records with splits."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

from qoq_jax.base.errors import DataError
from qoq_jax.climb.arrays import sets
from qoq_jax.climb.arrays.record import Form, Item, Record, Records, check
from qoq_jax.climb.catalogue import table
from qoq_jax.climb.convert import splits
from qoq_jax.climb.convert.example import Dropped, Example
from qoq_jax.climb.convert.folder import Folder


def records(name: str, root: str | os.PathLike, seed: int = 0) -> Records:
    """The records of a data set, read one by one, and what is left out, with the reason.

    A recording that cannot be read is left out; the others go on.

    Args:
      name: of the data set in the catalogue.
      root: the folder into which its published archives were unpacked.
      seed: of splits by patient, as for rows (docs/convert.md).

    Raises:
      ConfigError: no reader of that name.
      DataError: the folder is not laid out as published, or a file that all records need is
        damaged.
    """
    reader, vocabulary = sets.get(name), table.find(name).labels
    items, dropped = find(name, root)
    yield from dropped
    yield from in_splits(reader, vocabulary, items, seed)


def in_splits(form: Form, vocabulary: tuple[str, ...], items: list[Item], seed: int) -> Records:
    """The records of items, checked and with their splits; `seed` as for `records`."""
    chosen = assign(items, form.name, seed)
    for item in items:
        try:
            for one in item.read():
                if isinstance(one, Record):
                    check(one, form, vocabulary)
                    one = dataclasses.replace(one, split=chosen[item.id])
                yield one
        except DataError as error:
            yield Dropped(item.id, error.what)


def find(name: str, root: str | os.PathLike) -> tuple[list[Item], list[Dropped]]:
    """(items in reading order, what is left out before anything is read).

    Raises:
      DataError: as `records`; or there is no item, or one id twice.
    """
    folder = Folder(root)
    items: dict[str, Item] = {}
    dropped = []
    for one in sets.get(name).items(folder):
        if isinstance(one, Dropped):
            dropped.append(one)
        elif one.id in items:
            raise DataError(f"two recordings have the id {one.id!r}", where=folder.root)
        else:
            items[one.id] = one
    if not items:
        raise DataError(
            f"there is nothing of {name}",
            where=folder.root,
            hint="give the folder into which the published archives were unpacked",
        )
    return list(items.values()), dropped


def assign(items: list[Item], name: str, seed: int) -> dict[str, str]:
    """{id of an item: split}, by patient; the source's own split is kept."""

    def examples() -> Iterator[Example]:
        for item in items:
            yield Example(item.id, (), item.patient, item.split)

    return splits.assign(examples(), name, seed)
