"""The tables of MIMIC-IV and of its companions: where they are, and their lines one by one.

A table is never held. labevents and chartevents have 10^8 lines and more; a line is split, looked
at and forgotten, so a pass takes the memory of one line.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import gzip
import io
import operator
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence

from qoq_jax.base.errors import DataError
from qoq_jax.climb.convert.folder import need_columns

_EPOCH = datetime.datetime(1970, 1, 1)
_DEPTH = 5  # physionet.org/files/mimiciv/3.1/hosp: as wget --recursive leaves it
_CXR_METADATA = "mimic-cxr-2.0.0-metadata.csv"
_ECG_RECORDS = "record_list.csv"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the parts are.

    Attributes:
      root: the folder that was given; rows are written into it, and paths of media start there.
      ehr: folder with hosp/ and icu/.
      cxr: folder of MIMIC-CXR-JPG (files/ and its tables), "" where there is none.
      ecg: folder of MIMIC-IV-ECG (files/ and record_list.csv), "" where there is none.
    """

    root: str
    ehr: str
    cxr: str = ""
    ecg: str = ""

    def table(self, name: str) -> str:
        """The path of a table of hosp or icu, as "hosp/labevents", packed or not.

        Raises:
          DataError: it is not there.
        """
        return _table(self.ehr, f"{name}.csv")

    @property
    def cxr_table(self) -> str:
        """The table of pictures."""
        return _table(self.cxr, _CXR_METADATA)

    @property
    def ecg_table(self) -> str:
        """The table of ECGs."""
        return _table(self.ecg, _ECG_RECORDS)

    def below_root(self, folder: str, path: str) -> str:
        """A path inside one of the parts as rows write it: below the root, with "/"."""
        return os.path.relpath(os.path.join(folder, path), self.root).replace(os.sep, "/")


def find(root: str | os.PathLike) -> Layout:
    """Finds MIMIC-IV and its companions in a folder or a few folders further down.

    Raises:
      DataError: there is no such folder, no MIMIC-IV in it, or a part is there twice.
    """
    root = os.fspath(root)
    if not os.path.isdir(root):
        raise DataError("there is no such folder", where=root, hint="qoq data info mimic-iv")
    found: dict[str, list[str]] = {"ehr": [], "cxr": [], "ecg": []}
    _look(root, 0, found)
    for part, places in found.items():
        if len(places) > 1:
            raise DataError(
                f"{part} is there twice: {', '.join(places)}",
                where=root,
                hint="leave one version in the folder",
            )
    if not found["ehr"]:
        raise DataError(
            "hosp/admissions.csv.gz is not there",
            where=root,
            hint="give the folder into which MIMIC-IV was downloaded; qoq data info mimic-iv",
        )
    return Layout(root, **{part: places[0] for part, places in found.items() if places})


def _look(folder: str, depth: int, found: dict[str, list[str]]) -> None:
    """Adds the parts below `folder`; below a part there is no other."""
    marks = {
        "ehr": os.path.join("hosp", "admissions.csv"),
        "cxr": _CXR_METADATA,
        "ecg": _ECG_RECORDS,
    }
    here = [part for part, mark in marks.items() if _exists(os.path.join(folder, mark))]
    for part in here:
        found[part].append(folder)
    if depth == _DEPTH:
        return
    inside = {"ehr": {"hosp", "icu"}, "cxr": {"files"}, "ecg": {"files"}}
    own = set().union(*(inside[part] for part in here)) if here else set()
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        # Without a part here, "files" may be PhysioNet's own; the trees of media are p10, p1000.
        if entry.is_dir() and entry.name not in own and not re.fullmatch(r"\..*|p\d+", entry.name):
            _look(entry.path, depth + 1, found)


def _exists(path: str) -> bool:
    return os.path.isfile(path) or os.path.isfile(f"{path}.gz")


def _table(folder: str, name: str) -> str:
    path = os.path.join(folder, *name.split("/"))
    for one in (f"{path}.gz", path):
        if os.path.isfile(one):
            return one
    raise DataError(
        "is not there", where=f"{path}.gz", hint="download the data set again; qoq data info"
    )


def lines(path: str, *columns: str) -> Iterator[tuple[str, ...]]:
    """The cells of these columns, line by line; columns are found by name.

    Raises:
      DataError: a column is missing, a line has another number of cells than the header, or the
        file is damaged. Names file and line, never a cell.
    """
    opener = gzip.open if path.endswith(".gz") else open
    number = 0
    try:
        with opener(path, "rb") as raw, io.TextIOWrapper(raw, "utf-8-sig", newline="") as text:
            reader = csv.reader(text)
            header = next(reader, [])
            need_columns(columns, header, path)
            places = [header.index(column) for column in columns]
            # Of one column itemgetter gives the cell alone, not a tuple.
            pick = operator.itemgetter(*places) if len(places) > 1 else _only(places[0])
            width = len(header)
            for cells in reader:
                if len(cells) != width:
                    number = reader.line_num
                    if not cells:
                        continue
                    raise DataError(
                        f"line {number} has {len(cells)} cells, the header {width}",
                        where=path,
                        hint="download the file again",
                    )
                yield pick(cells)
    except (UnicodeDecodeError, csv.Error, EOFError, OSError, zlib.error) as error:
        raise DataError(
            f"is damaged: {error}", where=path, hint="download the file again"
        ) from error


def _only(place: int) -> Callable[[Sequence[str]], tuple[str, ...]]:
    def pick(cells: Sequence[str]) -> tuple[str, ...]:
        return (cells[place],)

    return pick


def seconds(text: str) -> int | None:
    """A time as "2180-05-06 22:23:00" in seconds since 1970; None where the cell is empty.

    Dates are shifted by one amount per patient, so times compare within a patient only.

    Raises:
      DataError: it is no time.
    """
    if not text:
        return None
    try:
        passed = datetime.datetime.fromisoformat(text) - _EPOCH
    except (ValueError, TypeError):
        raise DataError("a time is not as YYYY-MM-DD HH:MM:SS", hint="download it again") from None
    return passed.days * 86400 + passed.seconds


def written(at: int) -> str:
    """Seconds since 1970 as the tables write times."""
    return (_EPOCH + datetime.timedelta(seconds=at)).isoformat(" ")
