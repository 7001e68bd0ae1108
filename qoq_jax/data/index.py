"""The rows of a file as a sequence that parses a row when it is asked for it, over an index that
says where each row begins.

The first time a row file is opened, every row is parsed and validated (index_build.py), and the
result is kept in `.{name}.index` beside the file, or below $XDG_CACHE_HOME/qoq_jax/rows (~/.cache)
when that folder is read-only. A row file at a URL is copied to this machine first
(base/objects.py), and its index is beside the copy. Later only the index is opened. Subsets,
repeats and edits are views: arrays of row numbers, and functions that run on a row after it was
parsed; none reads the file.

    index file: magic, 8 bytes length of the header, header (JSON), arrays (mapped, not read)

An index holds for a file of the same size and time of change (nanoseconds) and the same sampled
content (SHA-256 of up to 64 blocks of 4 KiB, spread evenly; so all of a file under 256 KiB). When
only the time differs, the SHA-256 of the whole file decides. It also holds only while the media
that it sampled (all up to 8,192 at least; of more an even spread, never fewer) have their sizes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import operator
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, overload

import numpy as np

from qoq_jax.base import files, storage
from qoq_jax.base.errors import DataError
from qoq_jax.data import index_build, row_files, tfds_rows
from qoq_jax.data import rows as schema

_MAGIC = b"qoq rows 1\n"

# An edit is a value: its repr says all that it does, since fingerprints go by it.
Edit = Callable[[schema.Row], schema.Row]


class _Store:
    """The sound rows of an indexed file, parsed at each call."""

    def __init__(self, index: Index):
        self.index = index
        self._reader = row_files.reader(index.kind, index.body)
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
        """A column of the index (index_build.COLUMNS) for these rows, as it was before edits."""
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
      DataError: see `open_index`.
    """
    return Rows(_Store(open_index(path)))


# --------------------------------------------------------------------------------------- the index


@dataclasses.dataclass(frozen=True)
class Index:
    """What is known of a row file without parsing a row.

    Attributes:
      path: the row file.
      body: the file that `start` and `size` count in: `path` itself, or its unpacked copy.
      kind: "lines", "list", "records" or "elements".
      columns: arrays of one entry a sound row; see index_build.COLUMNS.
      fingerprint: `sources.fingerprint` of the sound rows with the sizes of their media.
      faults: why rows are left out, in the order of the file, at most 10,000.
      fault_count: how many are.
    """

    path: pathlib.Path
    body: pathlib.Path
    kind: str
    columns: dict[str, np.ndarray]
    fingerprint: str
    faults: tuple[DataError, ...]
    fault_count: int

    def __len__(self) -> int:
        return len(self.columns["start"])

    def where(self, number: int) -> str:
        """What errors call a row, "train.jsonl:12"."""
        return index_build.row_name(self.path.name, self.kind, int(self.columns["line"][number]))


def open_index(path: str | os.PathLike) -> Index:
    """The index of a row file, built when there is none that holds.

    Raises:
      DataError: the file cannot be read, is no JSON, has no rows, or changes while it is read.
        Broken rows raise nothing here: they are in `faults`.
    """
    path, root = _on_this_machine(path)
    if not path.is_file():
        raise DataError("cannot be read (no such file)", where=str(path), hint="check the path")
    folders = _folders(path)
    for folder in folders:
        found = _load(folder, path, root)
        if found:
            return found
    folder = next((folder for folder in folders if _writable(folder)), None)
    body, header, columns = index_build.build(path, folder, root)
    if folder:
        try:
            _save(_file(folder, path), header, columns)
        except OSError as error:
            index_build.say(
                f"the index of {path} is not kept ({error.strerror}), so it is made again"
            )
    return _index(path, body, header, columns)


def _on_this_machine(path: str | os.PathLike) -> tuple[pathlib.Path, str | os.PathLike]:
    """(the row file, folder of its media); of a URL the file is a copy and the folder a URL."""
    if not storage.is_url(path):
        return pathlib.Path(path), pathlib.Path(path).parent
    root, _, name = path.rpartition("/")
    wanted = [name]
    if tfds_rows.is_shard(pathlib.Path(name)):  # the others of the split, and what describes them
        wanted = [name, *tfds_rows.companions(storage.names(root), name)]
    try:
        copies = [storage.local(f"{root}/{one}") for one in wanted]
        return pathlib.Path(copies[0]), root
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror})", where=path, hint="check the URL and your rights"
        ) from error


def _folders(path: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Where the index of a file may lie: beside it, or in the user's cache."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    name = hashlib.sha256(os.fsencode(path.resolve().parent)).hexdigest()[:16]
    return path.parent, pathlib.Path(root) / "qoq_jax" / "rows" / name


def _writable(folder: pathlib.Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


# --------------------------------------------------------------------------------------- the files


def file_name(rows: str) -> str:
    """The file of the index of a row file, by the name of the latter."""
    return f".{rows}.index"


def _file(folder: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    return folder / file_name(path.name)


def _save(file: pathlib.Path, header: dict[str, Any], columns: dict[str, np.ndarray]) -> None:
    text = json.dumps(header).encode()
    text += b" " * (-(len(_MAGIC) + 8 + len(text)) % 8)  # arrays begin at a multiple of 8
    with files.replacing(file) as partial, open(partial, "wb") as out:
        out.write(_MAGIC + len(text).to_bytes(8, "little") + text)
        for column in columns.values():
            out.write(column.tobytes())
            out.write(b"\0" * (-column.nbytes % 8))


def _load(folder: pathlib.Path, path: pathlib.Path, root: str | os.PathLike) -> Index | None:
    """The index that is kept there, if it holds for the file and its media as they are now."""
    file = _file(folder, path)
    try:
        found = _read(file)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # none, or of another version: it is made anew
    if found is None:
        return None
    header, columns = found
    identity = index_build.identity(path)
    if identity != {key: header[key] for key in identity}:
        if identity["size"] != header["size"] or index_build.sha256(path) != header["sha256"]:
            return None
        header |= identity
        with contextlib.suppress(OSError):  # else the content is compared again next time
            _save(file, header, columns)
    body = path if header["body"] is None else folder / f".{path.name}.rows"
    if header["body"] is not None and index_build.file_size(body) != header["body"]:
        return None
    if not index_build.Media.unchanged(root, header["media"]):
        return None
    return _index(path, body, header, columns)


def _read(file: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Header and mapped arrays; None when the file is of another kind or cut short."""
    with open(file, "rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            return None
        length = int.from_bytes(stream.read(8), "little")
        if length > index_build.file_size(file):
            return None
        header = json.loads(stream.read(length))
    start, columns = len(_MAGIC) + 8 + length, {}
    for name, (_, dtype) in index_build.COLUMNS.items():
        size = np.dtype(dtype).itemsize * header["rows"]
        if start + size > index_build.file_size(file):
            return None
        columns[name] = (
            np.memmap(file, dtype, "r", start, (header["rows"],))
            if header["rows"]
            else np.zeros(0, dtype)
        )
        start += size + -size % 8
    return header, columns


def _index(
    path: pathlib.Path, body: pathlib.Path, header: dict[str, Any], columns: dict[str, np.ndarray]
) -> Index:
    faults = tuple(
        DataError(what, where=where, hint=hint) for what, where, hint in header["faults"]
    )
    return Index(
        path,
        body,
        header["kind"],
        columns,
        header["fingerprint"],
        faults,
        header["fault_count"],
    )
