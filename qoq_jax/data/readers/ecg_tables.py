"""ECGs as tables: one line a sample, one column a lead, with or without a line of names.

Comma, semicolon or tab; a decimal comma with the latter two. Names may carry a unit, "I (mV)" or
"V1 [uV]", or a second line does, as PhysioNet's rdsamp writes it. A column of times with a unit,
"time (s)", "t_ms" and the like, gives the rate. Columns of other names are left out.
"""

from __future__ import annotations

import dataclasses
import io
import pathlib
import re

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data.readers import files, leads
from qoq_jax.data.readers.recording import millivolts

_MAX_BYTES = 256 << 20
_UNIT = re.compile(r"(?P<name>.*?)[\s_]*[\[(](?P<unit>[^\])]{1,16})[\])]\s*")
_TIME = re.compile(r"(?:elapsed[\s_]*)?(?:time|t)(?:[\s_]*(?P<unit>s|sec|seconds?|ms))?", re.I)
_SECONDS = {"s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3}


@dataclasses.dataclass(frozen=True)
class Table:
    """A table as it is written.

    Attributes:
      values: float64 [n, leads].
      names: of the columns; None: the table has no line of names.
      rate: by its column of times, samples per second; scale: millivolts of one unit. None: not
        said.
    """

    values: np.ndarray
    names: tuple[str, ...] | None
    rate: float | None
    scale: float | None


def read(path: pathlib.Path) -> Table:
    """Reads a table.

    Raises:
      DataError: too large, not a table of numbers, columns of several units, or uneven times.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise DataError("the table is over 256 MiB", where=str(path), hint="split it")
    with files.decoding(path, "a table of numbers"):
        text = path.read_bytes().decode("utf-8-sig")
        head = text[:65536].split("\n", 2)
        mark = max("\t;,", key=head[0].count)
        heads = [_cells(line, mark) for line in head[:2]]
        skipped = next((i for i, cells in enumerate(heads) if _numeric(cells, mark)), len(heads))
        if mark != ",":
            text = text.replace(",", ".")
        values = np.loadtxt(io.StringIO(text), delimiter=mark, skiprows=skipped, ndmin=2)
    if skipped == 0:
        return Table(values, None, None, None)
    return _named(path, values, heads[0], heads[1] if skipped == 2 else [])


def _cells(line: str, mark: str) -> list[str]:
    return [cell.strip().strip("'\"").strip() for cell in line.split(mark)]


def _numeric(cells: list[str], mark: str) -> bool:
    try:
        for cell in cells:
            float(cell if mark == "," else cell.replace(",", "."))
    except ValueError:
        return False
    return True


def _named(path: pathlib.Path, values: np.ndarray, names: list[str], units: list[str]) -> Table:
    """The leads of a table with a line of names, and perhaps one of units."""
    if values.shape[1] != len(names):
        raise DataError(
            f"has {len(names)} names for {values.shape[1]} columns",
            where=str(path),
            hint="name each column in its first line",
        )
    pairs = []
    for i, name in enumerate(names):
        found = _UNIT.fullmatch(name)
        unit = found["unit"] if found else units[i] if i < len(units) else ""
        pairs.append((found["name"] if found else name, unit))
    chosen = [i for i, (name, _) in enumerate(pairs) if leads.standard_name(name)]
    scales = {millivolts(pairs[i][1]) for i in chosen}
    if len(scales) > 1:
        raise DataError(
            "has columns in several units", where=str(path), hint="write all leads in mV"
        )
    return Table(
        values[:, chosen],
        tuple(pairs[i][0] for i in chosen),
        _rate(path, values, pairs),
        scales.pop() if scales else None,
    )


def _rate(path: pathlib.Path, values: np.ndarray, pairs: list[tuple[str, str]]) -> float | None:
    """Samples per second by the column of times; None without one that names its unit."""
    for i, (name, unit) in enumerate(pairs):
        found = _TIME.fullmatch(name)
        seconds = _SECONDS.get((unit or (found and found["unit"]) or "").casefold())
        if not found or seconds is None or len(values) < 2:
            continue
        step = np.diff(values[:, i]) * seconds
        mean = (values[-1, i] - values[0, i]) * seconds / (len(values) - 1)
        # times are often written with three digits: 0.0028 s becomes 0.003
        if not mean > 0 or np.abs(step - mean).max() > max(0.01 * mean, 1e-3):
            raise DataError(
                "has uneven times", where=str(path), hint="write samples of one rate, none missing"
            )
        return 1 / mean
    return None
