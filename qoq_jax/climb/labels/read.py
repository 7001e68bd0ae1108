"""Tables of labels, and the sets where one value of the source is one label.

value("aptos2019", 2)          # "Moderate DR"
value("pad-ufes-20", "SCC")    # "AKIEC"
"""

from __future__ import annotations

import csv
import functools
import importlib.resources
import types
from collections.abc import Mapping

from qoq_jax.base.errors import DataError, did_you_mean

_FOLDER = importlib.resources.files("qoq_jax.climb.labels") / "tables"


@functools.cache
def rows(name: str) -> tuple[Mapping[str, str], ...]:
    """The lines of tables/NAME.csv by column."""
    with (_FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return tuple(types.MappingProxyType(row) for row in csv.DictReader(file))


@functools.cache
def column(table: str, key: str, value: str) -> Mapping[str, str]:
    """One column of a table by another, without the lines that leave it empty."""
    return types.MappingProxyType({row[key]: row[value] for row in rows(table) if row[value]})


@functools.cache
def values(dataset: str) -> Mapping[str, str]:
    """{value: label} of a data set.

    Raises:
      DataError: it has no such table.
    """
    found = {row["value"]: row["label"] for row in rows("values") if row["dataset"] == dataset}
    if not found:
        known = {row["dataset"] for row in rows("values")}
        raise DataError("has no table of values", where=dataset, hint=did_you_mean(dataset, known))
    return types.MappingProxyType(found)


def value(dataset: str, raw: str | int | float | bool) -> str:
    """The unified label of a value as the data set's own files have it.

    Numbers may come as text, as int or as a whole float ("2", 2, 2.0), true and false as such.

    Raises:
      DataError: a value that the table does not have; nothing is guessed.
    """
    known, text = values(dataset), _text(raw)
    if text not in known:
        raise DataError(
            f"no label for {text[:60]!r}", where=dataset, hint=did_you_mean(text, known)
        )
    return known[text]


def _text(raw: str | int | float | bool) -> str:
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, float) and raw.is_integer():
        return str(int(raw))
    text = str(raw).strip()
    whole, dot, rest = text.partition(".")
    return whole if dot and whole.isdigit() and not rest.strip("0") else text
