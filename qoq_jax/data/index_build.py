"""The first reading of a row file: every row is parsed and validated once, and what was found is
the content of an index (index.py).

A gzip file is decompressed once, and a JSON list is written as one item per line, into
`.{name}.rows` beside the index. ArrayRecord files (one JSON object per record), and those of
tensorflow-datasets, are read in place.
"""

from __future__ import annotations

import array
import atexit
import concurrent.futures
import contextlib
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

from qoq_jax.base import files, storage, terminal
from qoq_jax.base.errors import DataError
from qoq_jax.data import media, paths, row_files, shards, tfds_rows
from qoq_jax.data import rows as schema

_MEDIA = 8192
_OBJECTS = 512
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


def build(
    path: pathlib.Path, folder: pathlib.Path | None, root: str | os.PathLike | None = None
) -> tuple[pathlib.Path, dict[str, Any], dict[str, np.ndarray]]:
    """(body, header, columns) of an index, after every row was parsed and validated.

    Args:
      path: the row file.
      folder: where an unpacked copy of its rows may lie; None: none, and a copy is made where it
        lasts as long as this process.
      root: folder of the media, or its URL; None: that of the row file.
    """
    before = identity(path)
    if before["size"] > _SLOW:
        say(f"checking and indexing {path} ({before['size'] / 1e9:.1f} GB), once")
    kind, body = _unpack(path, folder)
    scan = _Scan(path, kind, body, path.parent if root is None else root)
    if not scan.columns["start"] and not scan.faults:
        raise schema.no_rows(path)
    after = identity(path)
    if before != after:
        raise DataError(
            "was changed while it was read", where=str(path), hint="wait until it is written"
        )
    header = after | {
        "sha256": sha256(path),
        "kind": kind,
        "body": None if body == path else body.stat().st_size,
        "rows": len(scan.columns["start"]),
        "fingerprint": scan.digest.hexdigest(),
        "faults": [(fault.what, fault.where, fault.hint) for fault in scan.faults],
        "fault_count": scan.fault_count,
        "media": scan.media.sample,
    }
    columns = {name: np.array(scan.columns[name], dtype) for name, (_, dtype) in COLUMNS.items()}
    return body, header, columns


class _Scan:
    """One pass over all rows of a file: the columns of the index, faults, fingerprint."""

    def __init__(self, path: pathlib.Path, kind: str, body: pathlib.Path, root: str | os.PathLike):
        self.columns = {name: array.array(code) for name, (code, _) in COLUMNS.items()}
        self.faults: list[DataError] = []
        self.fault_count = 0
        self.digest = hashlib.sha256()
        self.media = Media(root)
        self._name, self._kind = path.name, kind
        self._seen: set[int] = set()
        self._ids = array.array("Q")
        with (
            row_files.reader(kind, body) as self._reader,
            _items(kind, body, self._reader) as found,
        ):
            # A row starts at a byte of the body, or has a number.
            lines = isinstance(self._reader, row_files.Lines)
            unit, name = (1 << 20, "MiB") if lines else (1, "rows")
            total = body.stat().st_size if lines else len(self._reader)
            with terminal.Bar(f"indexing {path.name}, {name}", total // unit) as bar:
                for item in found:
                    self._add(item)
                    bar.update(item.start // unit)

    def _add(self, item: row_files.Item) -> None:
        where = row_name(self._name, self._kind, item.number)
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
            first = row_name(self._name, self._kind, self.columns["line"][number])
            content = self._reader.read(self.columns["start"][number], self.columns["size"][number])
            if schema.parse(content, first).id == identity:
                raise schema.used_twice(identity, where, first)


class Media:
    """Sizes of media while all rows pass, and a sample of them, evenly spread."""

    def __init__(self, root: str | os.PathLike):
        self._size = media.sizes(root)
        self._count, self._stride = 0, 1
        self._last: dict[str, int] = {}
        self.sample: list[tuple[str, int]] = []

    def size(self, path: str) -> int:
        found = self._last.get(path)
        if found is None:
            if len(self._last) >= _MEDIA:
                self._last.clear()
            found = self._last[path] = self._size(paths.split_member(path)[0])
            if self._count % self._stride == 0:
                self.sample.append((path, found))
                if len(self.sample) >= 2 * _MEDIA:
                    self.sample, self._stride = self.sample[::2], 2 * self._stride
            self._count += 1
        return found

    @staticmethod
    def unchanged(root: str | os.PathLike, sample: list[tuple[str, int]]) -> bool:
        """Whether sampled media still have their sizes; asked in parallel, for network folders.

        Of objects, where each is a request, up to 512 of the sample are asked for.
        """
        found = shards.find(root)
        if storage.is_url(root) and found is None:
            sample = sample[:: -(-len(sample) // _OBJECTS) or 1]

        def size_of(path: str) -> int:
            if found is None:
                return file_size(os.path.join(root, path))
            return found.size(paths.split_member(path)[0])

        def same(part: list[tuple[str, int]]) -> bool:
            return all(size_of(path) == size for path, size in part)

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
    return storage.size(os.fspath(paths.split_member(path)[0]))


def short_hash(text: str) -> int:
    """64 bits of a text; never 0."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") or 1


def row_name(name: str, kind: str, number: int) -> str:
    """What errors call a row of a file, by the number of its line or place from 1."""
    return f"{name}:{number}" if kind == "lines" else f"{name}[{number - 1}]"


def _unpack(path: pathlib.Path, folder: pathlib.Path | None) -> tuple[str, pathlib.Path]:
    """(kind, the file to read rows from); writes that file for gzip and JSON lists, into `folder`
    or else where it lasts as long as this process.
    """
    if path.suffix == ".array_record":
        return "records", path
    if tfds_rows.is_shard(path):
        return "elements", path
    with row_files.opened(path) as file:
        listed = row_files.is_list(file)
        if not listed and not row_files.is_gzip(path):
            return "lines", path
        if folder is None:
            folder = pathlib.Path(tempfile.mkdtemp(prefix="qoq_rows_"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
        body = folder / f".{path.name}.rows"
        if listed:
            parts = (
                json.dumps(item.content).encode() + b"\n" for item in row_files.items(file, path)
            )
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
def _items(
    kind: str, body: pathlib.Path, records: row_files.Reader
) -> Iterator[Iterable[row_files.Item]]:
    if not isinstance(records, row_files.Lines):
        yield (row_files.Item("", i + 1, i, records.read(i, 0)) for i in range(len(records)))
        return
    with row_files.opened(body) as file:
        yield row_files.lines(file, body.name)


def identity(path: pathlib.Path) -> dict[str, Any]:
    """What can be known of a file's content at once; of several (tfds_rows.shards) of all."""
    found = [file.stat() for file in tfds_rows.shards(path)]
    sampled = []
    for part, state in zip(tfds_rows.shards(path), found, strict=True):
        with row_files.Lines(part) as file:
            sampled.append(file.sampled_hash(state.st_size))
    return {
        "size": sum(state.st_size for state in found),
        "mtime_ns": max(state.st_mtime_ns for state in found),
        "sampled": _joined(sampled),
    }


def sha256(path: pathlib.Path) -> str:
    """SHA-256 of the whole content."""
    return _joined([files.sha256(part) for part in tfds_rows.shards(path)])


def _joined(hashes: list[str]) -> str:
    """One hash for those of several files; that of a single file is itself."""
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def say(text: str) -> None:
    """A line to the user."""
    print(f"qoq: {text}", file=sys.stderr, flush=True)
