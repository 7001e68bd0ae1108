"""The folder of a data set as its publisher's archives unpack, for reading."""

from __future__ import annotations

import csv
import fnmatch
import functools
import gzip
import io
import os
from collections.abc import Iterator, Sequence

from qoq_jax.base.errors import DataError, did_you_mean


class Folder:
    """The files of a data set, by pattern, and its tables.

    Args:
      root: the folder.
    """

    def __init__(self, root: str | os.PathLike):
        self.root = os.fspath(root)
        if not os.path.isdir(self.root):
            raise DataError(
                "there is no such folder",
                where=self.root,
                hint="qoq data info NAME says how to get the data set",
            )

    @functools.cached_property
    def files(self) -> frozenset[str]:
        """Paths of all files below the root, with "/", found by one walk."""
        found = []
        for where, folders, names in os.walk(self.root, followlinks=True):
            folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
            base = os.path.relpath(where, self.root).replace(os.sep, "/")
            prefix = "" if base == "." else f"{base}/"
            found += [prefix + name for name in names if not name.startswith("._")]
        return frozenset(found)

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

    def table(self, pattern: str | Sequence[str], *columns: str) -> Iterator[dict[str, str]]:
        """Rows of a CSV or TSV file, plain or gzip, as {column: text without outer spaces}.

        Args:
          pattern: of the file, or several to try, as in `one`.
          columns: that must be there; the header is read by name, never by position.

        Raises:
          DataError: no such file, a column is missing, or a line is longer than the header.
        """
        path = self.one(*([pattern] if isinstance(pattern, str) else pattern))
        where = os.path.join(self.root, path)
        opener = gzip.open if path.endswith(".gz") else open
        with opener(where, "rb") as raw, io.TextIOWrapper(raw, "utf-8-sig", newline="") as text:
            tabs = path.removesuffix(".gz").endswith((".tsv", ".tab", ".txt"))
            reader = csv.reader(text, delimiter="\t" if tabs else ",")
            try:
                header = [name.strip() for name in next(reader, [])]
                for column in columns:
                    if column not in header:
                        raise DataError(
                            f"there is no column {column!r}",
                            where=where,
                            hint=did_you_mean(column, header, f"it has {', '.join(header)[:200]}"),
                        )
                for line in reader:
                    if len(line) > len(header):
                        raise DataError(
                            f"line {reader.line_num} has {len(line)} fields, the header "
                            f"{len(header)}",
                            where=where,
                            hint="download the file again",
                        )
                    yield dict(
                        zip(header, [cell.strip() for cell in line], strict=False)
                    ) | dict.fromkeys(header[len(line) :], "")
            except (UnicodeDecodeError, csv.Error, EOFError, OSError) as error:
                raise DataError(
                    f"is not a table of text: {error}", where=where, hint="download it again"
                ) from error


def number(row: dict[str, str], column: str, where: str) -> float | None:
    """A cell as a number; None where it is empty.

    Raises:
      DataError: the cell is neither.
    """
    text = row[column]
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise DataError(
            f"{column} is {text[:40]!r}, not a number", where=where, hint="download the file again"
        ) from None
