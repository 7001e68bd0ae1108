"""ECGs as bare numbers: HDF5, MATLAB, .npy and tables (CSV).

Such files seldom say how many samples per second they have, in which unit and which leads. A JSON
file beside them does: FILE.json for one file ("exams.hdf5.json"), or ecg.json for all files of a
folder:

  {"rate": 400, "unit": "mV", "leads": ["I", "II", "III", ...], "signal": "tracings"}

rate: samples per second. unit: V, mV, uV or nV, or how many millivolts 1 is. leads: in the order of
the file. signal (optional): the array in a file of several, "STRUCT.FIELD" in MATLAB. A table may
say rate, unit and leads itself (`ecg_tables`). What is said twice must agree, nothing is guessed.

A recording of an array [recordings, n, leads] is named as FILE#3, or FILE#KEY=VALUE where the file
has an array KEY of names; FILE::ARRAY and FILE::ARRAY#3 choose the array. Zeros at the ends, by
which such arrays make all recordings equally long, are no samples and are cut off.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from typing import Any

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data import media, paths
from qoq_jax.data.readers import ecg_tables, files, hdf5, matlab
from qoq_jax.data.readers.recording import Recording, millivolts

SUFFIXES = (".h5", ".hdf5", ".mat", ".npy", ".csv", ".tsv")
FOLDER_FACTS = "ecg.json"

_MAX_FACTS_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the JSON file beside the numbers says; None and "" where it does not.

    Attributes:
      rate: samples per second.
      scale: millivolts of one unit.
      leads: names in the order of the file.
      signal: name of the array.
    """

    rate: float | None = None
    scale: float | None = None
    leads: tuple[str, ...] = ()
    signal: str = ""


def has_facts(path: pathlib.Path) -> bool:
    """Whether a JSON file that describes it lies beside it."""
    return _facts_name(path) is not None


def facts_file(path: pathlib.Path, root: files.Path | None = None) -> pathlib.Path | None:
    """FILE.json, or else ecg.json in the same folder; None without either.

    Raises:
      DataError: it is a link that leads out of the root (None: the folder of `path`), or empty.
    """
    name = _facts_name(path)
    return None if name is None else files.beside(path, name, root)


def _facts_name(path: pathlib.Path) -> str | None:
    names = (f"{path.name}.json", FOLDER_FACTS)
    return next((name for name in names if media.fetched(path.with_name(name)).is_file()), None)


def read(path: files.Path, root: files.Path | None = None) -> Recording:
    """The recording; see the module for the way that path and facts are written.

    Raises:
      DataError: rate, unit or leads are not known or contradict each other, or no such recording.
    """
    name, member = paths.split_member(path)
    file = files.check_file(name)
    facts = read_facts(file, root)
    array, index, key = _parse(member, str(path))
    if file.suffix.lower() in (".csv", ".tsv"):
        table = ecg_tables.read(file)
        rate = _agreed(facts.rate, table.rate, "rate", path)
        scale = _agreed(facts.scale, table.scale, "unit", path)
        names = _agreed(facts.leads or None, table.names, "leads", path)
        signal = table.values.T
        if len(names) != len(signal):
            raise DataError(
                f"has {len(signal)} columns for {len(names)} leads",
                where=str(path),
                hint="name each column in its first line",
            )
    else:
        rate = _agreed(facts.rate, None, "rate", path)
        scale = _agreed(facts.scale, None, "unit", path)
        names = _agreed(facts.leads or None, None, "leads", path)
        values = _numbers(file, array or facts.signal, index, key, len(names))
        signal = _leads_first(values, len(names), str(path))
    with np.errstate(all="ignore"):  # what is no number afterwards is refused
        signal = _without_padding(signal) * np.float64(scale)
    return Recording(signal, rate, list(names), signal.shape[1] / rate)


def count(path: pathlib.Path, root: files.Path | None = None) -> int | None:
    """How many recordings an HDF5 file holds; None: it is one recording itself."""
    return hdf5.count(files.check_file(path), read_facts(path, root).signal)


def read_facts(path: pathlib.Path, root: files.Path | None = None) -> Facts:
    """The facts of FILE.json, or else of ecg.json in the same folder; none without either.

    Raises:
      DataError: not a JSON object, an unknown field or a value of another kind.
    """
    source = facts_file(path, root)
    if source is None:
        return Facts()
    try:
        if source.stat().st_size > _MAX_FACTS_BYTES:
            raise ValueError
        said = json.loads(source.read_text(encoding="utf-8-sig"))
        unknown = said.keys() - {"rate", "unit", "leads", "signal"}
        leads = said.get("leads", [])
        unit = said.get("unit")
        scale = millivolts(unit) if isinstance(unit, str) else unit
        numbers = [None if value is None else float(value) for value in (said.get("rate"), scale)]
        sound = (
            not unknown
            and isinstance(leads, list)
            and all(isinstance(lead, str) for lead in leads)
            and isinstance(said.get("signal", ""), str)
            and ("unit" not in said or scale is not None)
            and all(n is None or (math.isfinite(n) and n > 0) for n in numbers)
        )
    except (ValueError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise DataError(
            "does not describe ECGs",
            where=str(source),
            hint='write {"rate": 500, "unit": "mV", "leads": ["I", "II", ...], "signal": "name"}; '
            "unit: V, mV, uV, nV or the mV of 1",
        )
    return Facts(numbers[0], numbers[1], tuple(leads), said.get("signal", ""))


def _agreed(said: Any, held: Any, what: str, path: files.Path) -> Any:
    """What the JSON file or the file itself says; an error when neither does or they differ."""
    if said is None and held is None:
        raise DataError(
            f"does not say its {what}",
            where=str(path),
            hint=f'put "{what}" into {pathlib.Path(paths.split_member(path)[0]).name}.json or '
            f"{FOLDER_FACTS} beside it (docs/data.md)",
        )
    if said is not None and held is not None:
        same = (
            tuple(said) == tuple(held)
            if what == "leads"
            else math.isclose(said, held, rel_tol=1e-3)
        )
        if not same:
            raise DataError(
                f"has another {what} than the JSON file beside it says",
                where=str(path),
                hint="correct the JSON file",
            )
    return held if said is None else said


def _parse(member: str, where: str) -> tuple[str, int | None, tuple[str, str] | None]:
    """(array, index, (key, value)) of "::array#3" or "::array#key=value"."""
    array, mark, place = member.removeprefix("::").partition("#")
    if not mark:
        return array, None, None
    if place.isdecimal() and len(place) < 10:
        return array, int(place), None
    key, equals, value = place.partition("=")
    if not key or not equals or not value:
        raise DataError(
            "does not say which recording", where=where, hint="write FILE#0 or FILE#KEY=VALUE"
        )
    return array, None, (key, value)


def _numbers(
    path: pathlib.Path, name: str, index: int | None, key: tuple[str, str] | None, leads: int
) -> np.ndarray:
    """The recording [n, leads] or [leads, n]."""
    if hdf5.is_hdf5(path):
        return hdf5.read(path, name, index, key)
    if key is not None:
        raise DataError("has no names of recordings", where=str(path), hint="use FILE#0")
    if path.suffix.lower() == ".npy":
        with files.decoding(path, "an .npy array"):
            values = files.again_on_system_error(
                lambda: np.load(path, mmap_mode="r", allow_pickle=False)
            )
    elif path.suffix.lower() == ".mat":
        values = matlab.read(path, name, leads)
    else:
        raise DataError("is not an HDF5 file", where=str(path), hint="fetch the file again")
    if index is not None and values.ndim == 3 and index < values.shape[0]:
        values = values[index]
    elif index is not None or values.ndim != 2:
        raise DataError(
            f"holds an array {list(values.shape)}" + ("" if index is None else f", no #{index}"),
            where=str(path),
            hint="name one recording of an array [recordings, n, leads] as FILE#0",
        )
    if values.dtype.kind not in "fiu":
        raise DataError(
            "the signal is not an array of numbers", where=str(path), hint="name another array"
        )
    files.check_declared(values.nbytes, files.MAX_ARRAY_BYTES, path, False)
    return np.asarray(values)


def _leads_first(values: np.ndarray, leads: int, where: str) -> np.ndarray:
    """[leads, n] of either order of the axes."""
    if (values.shape[0] == leads) == (values.shape[1] == leads):
        raise DataError(
            f"is an array {list(values.shape)} for {leads} leads",
            where=where,
            hint='one axis has to be as long as "leads" in the JSON file beside it',
        )
    return values if values.shape[0] == leads else values.T


def _without_padding(signal: np.ndarray) -> np.ndarray:
    """The signal without the samples at both ends at which all leads are 0."""
    used = np.flatnonzero((signal != 0).any(axis=0))
    return signal[:, used[0] : used[-1] + 1] if used.size else signal[:, :0]
