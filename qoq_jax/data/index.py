"""An index over a row file: where each row begins, and what was found when all were checked once.

The first time a row file is opened, every row is parsed and validated, and the result is kept in
`.{name}.index` beside the file, or below $XDG_CACHE_HOME/qoq_jax/rows (~/.cache) when that folder
is read-only. Later only the index is opened; rows are parsed when asked for (lazy_rows.Rows).

    index file: magic, 8 bytes length of the header, header (JSON), arrays (mapped, not read)

An index holds for a file of the same size and time of change (nanoseconds) and the same sampled
content (SHA-256 of up to 64 blocks of 4 KiB, spread evenly; so all of a file under 256 KiB). When
only the time differs, the SHA-256 of the whole file decides. It also holds only while the media
that it sampled (all up to 8,192 at least; of more an even spread, never fewer) have their sizes.

A gzip file is decompressed once, and a JSON list is written as one item per line, into
`.{name}.rows` beside the index. ArrayRecord files (one JSON object per record), and those of
tensorflow-datasets, are read in place.
"""

from __future__ import annotations

import array
import atexit
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from qoq_jax.base import files, terminal
from qoq_jax.base.errors import DataError
from qoq_jax.data import jsonl, paths, tfds_rows
from qoq_jax.data import rows as schema
from qoq_jax.data.row_readers import Lines, Reader, reader

_MAGIC = b"qoq rows 1\n"
_MEDIA = 8192
_FAULTS = 10_000  # described one by one; more are only counted
_SLOW = 256 << 20  # bytes of a file whose first reading is announced
# Columns: typecode of array.array while it grows, dtype in the file.
COLUMNS = {
    "start": ("Q", "<u8"),  # byte of the row's first character (ArrayRecord: number of the record)
    "size": ("I", "<u4"),  # bytes
    "line": ("I", "<u4"),  # number of its line, from 1
    "domain": ("B", "<u1"),  # place in schema.DOMAINS
    "split": ("B", "<u1"),  # place in schema.SPLITS from 1; 0 = the row names none
    "patient": ("Q", "<u8"),  # 64-bit hash; 0 = the row names none
}


@dataclasses.dataclass(frozen=True)
class Index:
    """What is known of a row file without parsing a row.

    Attributes:
      path: the row file.
      body: the file that `start` and `size` count in: `path` itself, or its unpacked copy.
      kind: "lines", "list", "records" or "elements".
      columns: arrays of one entry a sound row; see COLUMNS.
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
        return _where(self.path.name, self.kind, int(self.columns["line"][number]))


def open_index(path: str | os.PathLike) -> Index:
    """The index of a row file, built when there is none that holds.

    Raises:
      DataError: the file cannot be read, is no JSON, has no rows, or changes while it is read.
        Broken rows raise nothing here: they are in `faults`.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise DataError("cannot be read (no such file)", where=str(path), hint="check the path")
    folders = _folders(path)
    for folder in folders:
        found = _load(folder, path)
        if found:
            return found
    return _build(path, next((folder for folder in folders if _writable(folder)), None))


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


# ------------------------------------------------------------------------------------------- build


def _build(path: pathlib.Path, folder: pathlib.Path | None) -> Index:
    """Parses and validates every row; keeps the index in `folder` (None: nowhere)."""
    before = _identity(path)
    if before["size"] > _SLOW:
        _say(f"checking and indexing {path} ({before['size'] / 1e9:.1f} GB), once")
    kind, body = _unpack(path, folder)
    scan = _Scan(path, kind, body)
    if not scan.columns["start"] and not scan.faults:
        raise schema.no_rows(path)
    identity = _identity(path)
    if before != identity:
        raise DataError(
            "was changed while it was read", where=str(path), hint="wait until it is written"
        )
    header = identity | {
        "sha256": _sha256(path),
        "kind": kind,
        "body": None if body == path else body.stat().st_size,
        "rows": len(scan.columns["start"]),
        "fingerprint": scan.digest.hexdigest(),
        "faults": [(fault.what, fault.where, fault.hint) for fault in scan.faults],
        "fault_count": scan.fault_count,
        "media": scan.media.sample,
    }
    columns = {name: np.array(scan.columns[name], dtype) for name, (_, dtype) in COLUMNS.items()}
    if folder:
        try:
            _save(_file(folder, path), header, columns)
        except OSError as error:
            _say(f"the index of {path} is not kept ({error.strerror}), so it is made again")
    return _index(path, body, header, columns)


class _Scan:
    """One pass over all rows of a file: the columns of the index, faults, fingerprint."""

    def __init__(self, path: pathlib.Path, kind: str, body: pathlib.Path):
        self.columns = {name: array.array(code) for name, (code, _) in COLUMNS.items()}
        self.faults: list[DataError] = []
        self.fault_count = 0
        self.digest = hashlib.sha256()
        self.media = _Media(path.parent)
        self._name, self._kind = path.name, kind
        self._seen: set[int] = set()
        self._ids = array.array("Q")
        with reader(kind, body) as self._reader, _items(kind, body, self._reader) as found:
            # A row starts at a byte of the body, or has a number.
            lines = isinstance(self._reader, Lines)
            unit, name = (1 << 20, "MiB") if lines else (1, "rows")
            total = body.stat().st_size if lines else len(self._reader)
            with terminal.Bar(f"indexing {path.name}, {name}", total // unit) as bar:
                for item in found:
                    self._add(item)
                    bar.update(item.start // unit)

    def _add(self, item: jsonl.Item) -> None:
        where = _where(self._name, self._kind, item.number)
        try:
            row = schema.parse(item.content, where)
            identity = short_hash(row.id)
            if identity in self._seen:
                self._check_twice(row.id, identity, where)
        except DataError as error:
            self.fault_count += 1
            if len(self.faults) < _FAULTS:
                self.faults.append(error)
            return
        self._seen.add(identity)
        self._ids.append(identity)
        add_to_fingerprint(self.digest, row, self.media.size)
        split = schema.SPLITS.index(row.split) + 1 if row.split else 0
        for name, value in (
            ("start", item.start),
            ("size", len(item.content)),
            ("line", item.number),
            ("domain", schema.DOMAINS.index(row.domain)),
            ("split", split),
            ("patient", short_hash(row.patient) if row.patient else 0),
        ):
            self.columns[name].append(value)

    def _check_twice(self, identity: str, key: int, where: str) -> None:
        """Raises DataError when a row before has this id, and not only its hash."""
        for number in np.flatnonzero(np.frombuffer(self._ids, np.uint64) == key):
            first = _where(self._name, self._kind, self.columns["line"][number])
            content = self._reader.read(self.columns["start"][number], self.columns["size"][number])
            if schema.parse(content, first).id == identity:
                raise schema.used_twice(identity, where, first)


class _Media:
    """Sizes of media while all rows pass, and a sample of them, evenly spread."""

    def __init__(self, root: pathlib.Path):
        self._root, self._count, self._stride = os.fspath(root), 0, 1
        self._last: dict[str, int] = {}
        self.sample: list[tuple[str, int]] = []

    def size(self, path: str) -> int:
        found = self._last.get(path)
        if found is None:
            if len(self._last) >= _MEDIA:
                self._last.clear()
            found = self._last[path] = file_size(os.path.join(self._root, path))
            if self._count % self._stride == 0:
                self.sample.append((path, found))
                if len(self.sample) >= 2 * _MEDIA:
                    self.sample, self._stride = self.sample[::2], 2 * self._stride
            self._count += 1
        return found

    @staticmethod
    def unchanged(root: pathlib.Path, sample: list[tuple[str, int]]) -> bool:
        """Whether sampled media still have their sizes; asked in parallel, for network folders."""

        def same(part: list[tuple[str, int]]) -> bool:
            return all(file_size(os.path.join(root, path)) == size for path, size in part)

        parts = [sample[i::16] for i in range(16)] if len(sample) > 256 else [sample]
        with concurrent.futures.ThreadPoolExecutor(len(parts)) as pool:
            return all(pool.map(same, parts))


def add_to_fingerprint(digest: Any, row: schema.Row, size: Any = None) -> None:
    """Feeds a row to a hashlib digest: all its fields, and with `size` (path -> bytes) its media's
    sizes.
    """
    text = json.dumps(row.to_dict(), sort_keys=True, ensure_ascii=False)
    digest.update(text.encode() + b"\n")
    if size is not None:
        mask = (row.segmentation_path,) if row.segmentation_path else ()
        for path in (*row.images, *row.videos, *row.time_series, *mask):
            digest.update(f"{size(path)}\n".encode())


def file_size(path: str | os.PathLike) -> int:
    """Bytes of a file, -1 when it is not there: a missing file is for the one who reads it. Of a
    recording inside of a file, those of the file.
    """
    try:
        return os.stat(paths.split_member(path)[0]).st_size
    except OSError:
        return -1


def short_hash(text: str) -> int:
    """64 bits of a text; never 0."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") or 1


def _where(name: str, kind: str, number: int) -> str:
    return f"{name}:{number}" if kind == "lines" else f"{name}[{number - 1}]"


def _unpack(path: pathlib.Path, folder: pathlib.Path | None) -> tuple[str, pathlib.Path]:
    """(kind, the file to read rows from); writes that file for gzip and JSON lists, into `folder`
    or else where it lasts as long as this process.
    """
    if path.suffix == ".array_record":
        return "records", path
    if tfds_rows.is_shard(path):
        return "elements", path
    with jsonl.opened(path) as file:
        listed = jsonl.is_list(file)
        if not listed and not jsonl.is_gzip(path):
            return "lines", path
        if folder is None:
            folder = pathlib.Path(tempfile.mkdtemp(prefix="qoq_rows_"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
        body = folder / f".{path.name}.rows"
        if listed:
            parts = (json.dumps(item.content).encode() + b"\n" for item in jsonl.items(file, path))
        else:
            parts = iter(lambda: file.read(1 << 20), b"")
        with files.replacing(body) as partial, open(partial, "wb") as out:
            for part in parts:
                try:
                    out.write(part)
                except OSError as error:
                    raise DataError(
                        f"cannot be unpacked into {folder} ({error.strerror})",
                        where=str(path),
                        hint="free some space, or unpack it yourself",
                    ) from None
    return "list" if listed else "lines", body


@contextlib.contextmanager
def _items(kind: str, body: pathlib.Path, records: Reader) -> Iterator[Iterable[jsonl.Item]]:
    if not isinstance(records, Lines):
        yield (jsonl.Item("", i + 1, i, records.read(i, 0)) for i in range(len(records)))
        return
    with jsonl.opened(body) as file:
        yield jsonl.lines(file, body.name)


# --------------------------------------------------------------------------------------- the files


def _file(folder: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    return folder / f".{path.name}.index"


def _save(file: pathlib.Path, header: dict[str, Any], columns: dict[str, np.ndarray]) -> None:
    text = json.dumps(header).encode()
    text += b" " * (-(len(_MAGIC) + 8 + len(text)) % 8)  # arrays begin at a multiple of 8
    with files.replacing(file) as partial, open(partial, "wb") as out:
        out.write(_MAGIC + len(text).to_bytes(8, "little") + text)
        for column in columns.values():
            out.write(column.tobytes())
            out.write(b"\0" * (-column.nbytes % 8))


def _load(folder: pathlib.Path, path: pathlib.Path) -> Index | None:
    """The index that is kept there, if it holds for the file and its media as they are now."""
    file = _file(folder, path)
    try:
        found = _read(file)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # none, or of another version: it is made anew
    if found is None:
        return None
    header, columns = found
    identity = _identity(path)
    if identity != {key: header[key] for key in identity}:
        if identity["size"] != header["size"] or _sha256(path) != header["sha256"]:
            return None
        header |= identity
        with contextlib.suppress(OSError):  # else the content is compared again next time
            _save(file, header, columns)
    body = path if header["body"] is None else folder / f".{path.name}.rows"
    if header["body"] is not None and file_size(body) != header["body"]:
        return None
    if not _Media.unchanged(path.parent, header["media"]):
        return None
    return _index(path, body, header, columns)


def _read(file: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Header and mapped arrays; None when the file is of another kind or cut short."""
    with open(file, "rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            return None
        length = int.from_bytes(stream.read(8), "little")
        if length > file_size(file):
            return None
        header = json.loads(stream.read(length))
    start, columns = len(_MAGIC) + 8 + length, {}
    for name, (_, dtype) in COLUMNS.items():
        size = np.dtype(dtype).itemsize * header["rows"]
        if start + size > file_size(file):
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


def _identity(path: pathlib.Path) -> dict[str, Any]:
    """What can be known of a file's content at once; of several (tfds_rows.shards) of all."""
    found = [file.stat() for file in tfds_rows.shards(path)]
    sampled = []
    for part, state in zip(tfds_rows.shards(path), found, strict=True):
        with Lines(part) as file:
            sampled.append(file.sampled_hash(state.st_size))
    return {
        "size": sum(state.st_size for state in found),
        "mtime_ns": max(state.st_mtime_ns for state in found),
        "sampled": _joined(sampled),
    }


def _sha256(path: pathlib.Path) -> str:
    return _joined([files.sha256(part) for part in tfds_rows.shards(path)])


def _joined(hashes: list[str]) -> str:
    """One hash for those of several files; that of a single file is itself."""
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _say(text: str) -> None:
    print(f"qoq: {text}", file=sys.stderr, flush=True)
