"""The folder of a data set as its publisher's archives unpack, for reading."""

from __future__ import annotations

import csv
import fnmatch
import functools
import gzip
import io
import itertools
import math
import os
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NoReturn

from qoq_jax.base.errors import DataError, did_you_mean
from qoq_jax.data import paths

# Of folders that hold nothing of a data set; a disk's own lost+found is not for its users to read.
_HIDDEN = (".", "__MACOSX", "lost+found")
_END = "\x1eend"  # a line of its own after the last one of a table


class Folder:
    """The files of a data set, by pattern, and its tables.

    Args:
      root: the folder.

    Attributes:
      place: table, below the root, and line that were read last, for errors about what they say;
        "" before.
      asked: {path: [bytes, nanoseconds of its last change]} of the files that `has` and `medium`
        were asked for, None for what is not there.
    """

    def __init__(self, root: str | os.PathLike):
        self.root = os.fspath(root)
        self.place = ""
        self.asked: dict[str, list[int] | None] = {}
        self._opened: set[str] = set()
        if not os.path.isdir(self.root):
            raise DataError(
                "there is no such folder",
                where=self.root,
                hint="qoq data info NAME says how to get the data set",
            )

    @functools.cached_property
    def files(self) -> frozenset[str]:
        """Paths of all files below the root, with "/", found by one walk.

        Raises:
          OSError: a folder cannot be read; what is in it would be missing without a word.
        """
        found = []
        for where, folders, names in os.walk(self.root, onerror=_refuse, followlinks=True):
            folders[:] = [name for name in folders if not name.startswith(_HIDDEN)]
            base = os.path.relpath(where, self.root).replace(os.sep, "/")
            prefix = "" if base == "." else f"{base}/"
            found += [prefix + name for name in names if not name.startswith("._")]
        return frozenset(found)

    def has(self, path: str) -> bool:
        """Whether `files` has a path; asks for this one alone, without the walk. A link that leads
        out of the root is no file here, since no reader follows it.
        """
        found = self.state(path)
        if path not in self._opened:
            self.asked[path] = found
        return found is not None

    def medium(self, path: str) -> str:
        """Where a file is that a converter is about to open: another one of its name will be
        noticed.
        """
        self.has(path)
        self._opened.add(path)
        return os.path.join(self.root, path)

    def state(self, path: str) -> list[int] | None:
        """[bytes, nanoseconds of the last change] of a file; None where `has` finds none."""
        *folders, name = path.split("/")
        hidden = any(part.startswith(_HIDDEN) for part in folders)
        if hidden or "" in folders or name in ("", ".", "..") or name.startswith("._"):
            return None
        place = os.path.join(self.root, path)
        try:
            found = os.stat(place)
        except (OSError, ValueError):  # as os.path.isfile
            return None
        if not stat.S_ISREG(found.st_mode) or not paths.is_inside(place, self.root):
            return None
        return [found.st_size, found.st_mtime_ns]

    def is_cut(self, cut: Iterable[str], *sources: str) -> bool:
        """Whether files that are cut from others are all there, and none of the others was written,
        or put under its name, since.
        """
        try:
            made = min(os.stat(os.path.join(self.root, path)).st_mtime_ns for path in cut)
        except FileNotFoundError:
            return False
        # The time of the inode: an archive that is unpacked sets the other one back.
        return all(os.stat(os.path.join(self.root, one)).st_ctime_ns <= made for one in sources)

    def leads_out(self, path: str) -> bool:
        """Whether a path, or the file that it names a part of, is a file by a link that leads out
        of the root.
        """
        place = os.path.join(self.root, paths.split_member(path)[0])
        return os.path.isfile(place) and not paths.is_inside(place, self.root)

    @functools.cached_property
    def _by_folder(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for path in sorted(self.files):
            found.setdefault(path.rpartition("/")[0], []).append(path)
        return found

    def directly_in(self, path: str) -> list[str]:
        """Files of one folder, sorted, without those of its own folders."""
        return self._by_folder.get(path.rstrip("/"), [])

    def match(self, *patterns: str) -> list[str]:
        """Files that one of the shell patterns fits, sorted; "*" does not stop at "/"."""
        return sorted(
            path
            for path in self.files
            if any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
        )

    def one(self, *patterns: str) -> str:
        """The file that fits the first pattern that any file fits; of several the shortest path.

        Raises:
          DataError: none fits.
        """
        for pattern in patterns:
            found = self.match(pattern)
            if found:
                return min(found, key=lambda path: (path.count("/"), path))
        raise DataError(
            f"{' or '.join(patterns)} is not there",
            where=self.root,
            hint="give the folder into which the published archives were unpacked",
        )

    def parent(self, *patterns: str) -> str:
        """The folder of `one(...)` as a prefix: "" or "folder/"."""
        folder, _, _ = self.one(*patterns).rpartition("/")
        return f"{folder}/" if folder else ""

    def table(
        self, pattern: str | Sequence[str], *columns: str, encoding: str = "utf-8-sig"
    ) -> Iterator[dict[str, str]]:
        """Rows of the table that a pattern fits, as `read_table`.

        Args:
          pattern: of the file, or several to try, as in `one`.
          columns: that must be there.
          encoding: of the text.

        Raises:
          DataError: no such file, or as `read_table`.
        """
        path = self.one(*([pattern] if isinstance(pattern, str) else pattern))
        return self.read_table(path, *columns, encoding=encoding)

    def read_table(
        self, path: str, *columns: str, encoding: str = "utf-8-sig"
    ) -> Iterator[dict[str, str]]:
        """Rows of a CSV or TSV file, plain or gzip, as {column: text without outer spaces}. Lines
        without any text are passed over.

        Args:
          path: below the root.
          columns: that must be there; the header is read by name, never by position.
          encoding: of the text.

        Raises:
          DataError: a column is missing, a line is longer than the header, or a quotation mark is
            open at the end, as in a file that was cut short.
        """
        where = os.path.join(self.root, path)
        opener = gzip.open if path.endswith(".gz") else open
        with opener(where, "rb") as raw, io.TextIOWrapper(raw, encoding, newline="") as text:
            tabs = path.removesuffix(".gz").endswith((".tsv", ".tab", ".txt"))
            lines = _lines(text, "\t" if tabs else ",", where)
            try:
                header = [name.strip() for name in next(lines, (1, []))[1]]
                need_columns(columns, header, where)
                for number_of_line, line in lines:
                    cells = [cell.strip() for cell in line]
                    if not any(cells):
                        continue
                    if len(line) > len(header):
                        raise DataError(
                            f"line {number_of_line} has {len(line)} fields, the header "
                            f"{len(header)}",
                            where=where,
                            hint="download the file again",
                        )
                    self.place = f"{path}, line {number_of_line}"
                    yield dict(zip(header, cells, strict=False)) | dict.fromkeys(
                        header[len(line) :], ""
                    )
                self.place = path
            except (UnicodeDecodeError, csv.Error, EOFError, OSError, zlib.error) as error:
                raise DataError(
                    f"is not a table of text: {error}", where=where, hint="download it again"
                ) from error


def _lines(text: Iterable[str], delimiter: str, where: str) -> Iterator[tuple[int, list[str]]]:
    """(number of the line, cells) of each record of a CSV text.

    Raises:
      DataError: a quotation mark is open at its end: the last cell holds the rest of the text.
    """
    reader = csv.reader(itertools.chain(text, [_END]), delimiter=delimiter)
    for cells in reader:
        if cells == [_END]:
            return
        if cells and cells[-1].endswith(_END):
            raise DataError(
                "a quotation mark is open at its end", where=where, hint="download it again"
            )
        yield reader.line_num, cells


def _refuse(error: OSError) -> NoReturn:
    raise error


def need_columns(columns: Sequence[str], header: Sequence[str], where: str) -> None:
    """Raises DataError when the header of table `where` lacks one of the columns."""
    for column in columns:
        if column not in header:
            raise DataError(
                f"there is no column {column!r}",
                where=where,
                hint=did_you_mean(column, header, f"it has {', '.join(header)[:200]}"),
            )


def number(row: Mapping[str, str], column: str) -> float | None:
    """A cell as a finite number; None where it is empty or "NaN", as pandas writes an empty one.

    Raises:
      DataError: without a place, which `Converter` adds: the cell is none of these.
    """
    text = row[column]
    if not text or text.lower() == "nan":
        return None
    try:
        found = float(text)
    except ValueError:
        found = math.inf
    if not math.isfinite(found):
        raise DataError(f"{column} is {text[:40]!r}, not a number", hint="download the file again")
    return found


def whole(row: Mapping[str, str], column: str) -> int:
    """A cell as a whole number, which "3.0" is too.

    Raises:
      DataError: without a place, which `Converter` adds: the cell is none.
    """
    found = number(row, column)
    if found is None or not found.is_integer():
        raise DataError(
            f"{column} is {row[column][:40]!r}, not a whole number",
            hint="download the file again",
        )
    return int(found)


def choice(row: Mapping[str, str], column: str, allowed: Mapping[str, str]) -> str:
    """What a cell stands for, {cell: meaning}.

    Raises:
      DataError: without a place, which `Converter` adds: the cell is none of these.
    """
    if row[column] not in allowed:
        raise DataError(
            f"{column} is {row[column][:40]!r}, none of {', '.join(allowed)}",
            hint="download the file again",
        )
    return allowed[row[column]]
