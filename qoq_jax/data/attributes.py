"""Attributes of a row for fairness by subgroup: coarse values, never identifiers.

    {"sex": "female", "age_band": "51-75", "site": "hospital B", "device": "portable"}

sex is female, male or other. age_band is "LOW-HIGH" of five years or more, or "LOW+"; ages from 90
on, which identify by themselves, are in no band that ends. site and device are short names without
long numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from qoq_jax.base.errors import DataError, did_you_mean

NAMES = ("sex", "age_band", "site", "device")
SEXES = ("female", "male", "other")
MOST_VALUES = 50  # of one attribute in a file; more would be identifiers
_BAND = re.compile(r"(\d{1,2})(?:-(\d{1,3})|\+)")
_LEAST_YEARS, _OLDEST, _MOST_LETTERS = 5, 90, 40
_BANDS = ((25, "0-25"), (50, "26-50"), (75, "51-75"))
_MOST_YEARS = 300  # PTB-XL writes 300 for people over 89
_LONG_NUMBER = re.compile(r"\d{5}|\d+[-/.]\d+[-/.]\d+")  # of a record or a date

Attributes = tuple[tuple[str, str], ...]


def parse(value: Any, where: str, identifiers: Iterable[str] = ()) -> Attributes:
    """(name, value) pairs in the order of NAMES, of a mapping or of texts "name=value".

    Args:
      where: the row and field. identifiers: id and patient of the row, which no value may be.

    Raises:
      DataError: an unknown name, or a value that is not coarse. It does not repeat the value.
    """
    if isinstance(value, list) and all(isinstance(one, str) and "=" in one for one in value):
        value = dict(one.split("=", 1) for one in value)
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise DataError("must be a mapping", where=where, hint='write {"sex": "female"}')
    for name, given in value.items():
        if name not in NAMES:
            hint = did_you_mean(name, NAMES, "known are " + ", ".join(NAMES))
            raise DataError("has an unknown name", where=where, hint=hint)
        at = f"{where}: {name}"
        if not isinstance(given, str) or not given.strip() or len(given) > _MOST_LETTERS:
            hint = f"a text of at most {_MOST_LETTERS} letters, or leave it out"
            raise DataError("is no short text", where=at, hint=hint)
        if given in identifiers or _LONG_NUMBER.search(given):
            raise DataError(
                "looks like an identifier or a date", where=at, hint="give a coarse group"
            )
        if name == "sex" and given not in SEXES:
            raise DataError("is none of " + ", ".join(SEXES), where=at, hint="or leave it out")
        if name == "age_band":
            _check_band(given, at)
    return tuple((name, value[name]) for name in NAMES if name in value)


def of_person(sex: str, age: str) -> Attributes:
    """Of the cells of a table: sex by name or first letter, age in years, in the bands of FairGRPO
    (arXiv 2510.19893). What a cell does not say is left out.
    """
    first = {"f": "female", "m": "male"}.get(sex.strip()[:1].lower())
    found = (("sex", first),) if first else ()
    try:
        years = float(age)
    except ValueError:
        return found
    if not 0 <= years <= _MOST_YEARS:
        return found
    band = next((name for most, name in _BANDS if years <= most), "76+")
    return (*found, ("age_band", band))


def _check_band(text: str, where: str) -> None:
    found = _BAND.fullmatch(text)
    low, high = (int(found[1]), found[2] and int(found[2])) if found else (0, 0)
    wide = found and (high is None or high - low + 1 >= _LEAST_YEARS)
    if not wide or low > _OLDEST or (high or 0) >= _OLDEST:
        raise DataError(
            f"is no band of {_LEAST_YEARS} years or more",
            where=where,
            hint=f'as "51-75" or "76+"; ages from {_OLDEST} on are "{_OLDEST}+" at most',
        )


def faults(rows: Iterable[Any]) -> list[str]:
    """Attributes of a file that have more values than groups have: they would be identifiers."""
    values: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row.attributes:
            values.setdefault(name, set()).add(value)
    return [
        f"attributes: {name} has {len(found)} values (hint: give at most {MOST_VALUES} groups)"
        for name, found in values.items()
        if len(found) > MOST_VALUES
    ]
