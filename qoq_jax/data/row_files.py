"""Files of rows: JSON values one per line or in one list, and records of ArrayRecord files.

`items` reads a file in order, `reader` gives random access to the bytes of its rows, and `decode`
makes a value of them, strictly. What Windows and gzip make of JSON files is read too: a byte order
mark, CRLF, compressed data. An open file stays what it was when another one takes its name or it
is deleted; only writing into it changes it, and that is noticed.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import gzip
import hashlib
import json
import math
import os
import pathlib
import weakref
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, Self

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data.tfds_rows import Elements

_BLOCK, _BLOCKS = 4096, 64
_MAX_LINE_BYTES = 1 << 20
_MAX_LIST_BYTES = 4 << 30
_GZIP = b"\x1f\x8b"


@dataclasses.dataclass(frozen=True)
class Item:
    """One row of a file before it is checked.

    Attributes:
      where: what errors call it, "train.jsonl:12".
      number: of its line, or of its place in the list, from 1.
      start, content: where its bytes begin in the file and what they are; for an item of a JSON
        list, its number and the decoded object.
    """

    where: str
    number: int
    start: int
    content: Any


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A row file for reading; gzip (known by its first bytes) is decompressed on the way.

    Raises:
      DataError: it cannot be read, also later, while it is open.
    """
    try:
        with open(path, "rb") as file:
            if _gzip_magic(file):
                with gzip.open(file) as plain:
                    yield plain
            else:
                yield file
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise DataError(
            "the gzip data are damaged or cut short", where=str(path), hint="copy the file again"
        ) from None
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror})", where=str(path), hint="check the path"
        ) from None


def items(file: BinaryIO, path: str | os.PathLike) -> Iterator[Item]:
    """The rows of an opened file in order: JSON lines one by one, a JSON list after it was read
    whole.

    A byte order mark, CRLF and blank lines are taken as what they are. A line over 1 MiB comes cut
    short, and `decode` refuses it.
    """
    name = os.path.basename(path)
    if is_list(file):
        text = file.read(_MAX_LIST_BYTES + 1)
        if len(text) > _MAX_LIST_BYTES:
            raise DataError(
                "is a JSON list over 4 GiB",
                where=str(path),
                hint="write JSON lines, one object per line",
            )
        listed = _decode(text.removeprefix(codecs.BOM_UTF8), str(path))
        for i, item in enumerate(listed):
            yield Item(f"{name}[{i}]", i + 1, i, item)
        return
    yield from lines(file, name)


def lines(file: BinaryIO, name: str) -> Iterator[Item]:
    """The lines that are not blank; see `items`."""
    number = start = 0
    while line := file.readline(_MAX_LINE_BYTES + 2):
        number, size = number + 1, len(line)
        while not line.endswith(b"\n") and (rest := file.readline(1 << 20)):
            size += len(rest)
            if rest.endswith(b"\n"):
                break
        content = line
        begin = start
        if number == 1 and line.startswith(codecs.BOM_UTF8):
            content, begin = line[len(codecs.BOM_UTF8) :], len(codecs.BOM_UTF8)
        content = content.rstrip(b"\r\n")
        if content.strip():
            yield Item(f"{name}:{number}", number, begin, content)
        start += size


def is_gzip(path: str | os.PathLike) -> bool:
    """Whether a file is compressed, by its first bytes."""
    with open(path, "rb") as file:
        return _gzip_magic(file)


def _gzip_magic(file: BinaryIO) -> bool:
    found = file.read(len(_GZIP)) == _GZIP
    file.seek(0)
    return found


def is_list(file: BinaryIO) -> bool:
    """Whether an opened file holds one JSON list; the file stands at its start again after."""
    head = file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
    while not head and (more := file.read(4096)):
        head = more.lstrip()
    file.seek(0)
    return head[:1] == b"["


def decode(line: bytes, where: str) -> Any:
    """The value of one line; DataError when it is not strict JSON or too long."""
    if len(line) > _MAX_LINE_BYTES:
        raise DataError(
            "a line over 1 MiB", where=where, hint="media go into files, rows hold their paths"
        )
    return _decode(line, where)


def _decode(data: bytes, where: str) -> Any:
    """json.loads made strict: UTF-8, no NaN or Infinity, no key twice, no deep nesting."""
    try:
        return json.loads(
            data.decode("utf-8"),
            parse_constant=_no_constant,
            parse_float=_finite,
            object_pairs_hook=_unique,
        )
    except RecursionError:
        raise DataError(
            "is nested too deeply", where=where, hint="a row is a flat object"
        ) from None
    except UnicodeDecodeError:
        raise DataError("is not UTF-8 text", where=where, hint="save the file as UTF-8") from None
    except ValueError as error:
        raise DataError(
            f"is not valid JSON ({_short(str(error))})",
            where=where,
            hint="write one object per line",
        ) from None


def _no_constant(text: str):
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a key is used twice")
    return out


def _short(text: str, limit: int = 78) -> str:
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")


# ------------------------------------------------------------------------------------ random access


class Lines:
    """Bytes of a file by place; safe to share between threads."""

    def __init__(self, path: pathlib.Path):
        try:
            self._file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise DataError(
                f"cannot be read ({error.strerror})", where=str(path), hint="check the path"
            ) from None
        self._close = weakref.finalize(self, os.close, self._file)
        self._state = self._now()
        self._sampled: str | None = None

    def _now(self) -> tuple[int, int]:
        found = os.fstat(self._file)
        return found.st_size, found.st_mtime_ns

    def watch(self) -> None:
        """Remembers the content, for `changed`."""
        self._sampled = self.sampled_hash(self._state[0])

    def changed(self) -> bool:
        """Whether somebody wrote into the file since `watch`; only touched is not changed."""
        now = self._now()
        if now == self._state:
            return False
        if now[0] != self._state[0] or self.sampled_hash(now[0]) != self._sampled:
            return True
        self._state = now
        return False

    def sampled_hash(self, size: int) -> str:
        """SHA-256 of blocks spread evenly over the file; of all of it when it is small."""
        digest = hashlib.sha256()
        blocks = min(_BLOCKS, -(-size // _BLOCK))
        for start in np.linspace(0, max(size - _BLOCK, 0), blocks).astype(np.int64):
            digest.update(self.read(int(start), _BLOCK))
        return digest.hexdigest()

    def read(self, start: int, size: int) -> bytes:
        """The bytes at a place."""
        return os.pread(self._file, size, start)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


class Records:
    """Records of an ArrayRecord file by number."""

    def __init__(self, path: pathlib.Path):
        self._where = str(path)
        try:
            from array_record.python import array_record_module  # an optional dependency
        except ImportError:
            raise DataError(
                "is an ArrayRecord file, and the package that reads it is not installed",
                where=str(path),
                hint="pip install array_record, or write the rows as JSON lines",
            ) from None
        try:
            self._file = array_record_module.ArrayRecordReader(
                os.fspath(path), options="readahead_buffer_size:0"
            )
            if not self._file.ok():
                self._file.close()  # raises, and says why
            self._count = self._file.num_records()
        except (RuntimeError, ValueError) as error:
            raise DataError(
                f"is not a readable ArrayRecord file ({str(error)[:80]})",
                where=str(path),
                hint="write it again",
            ) from None

    def watch(self) -> None:
        """Nothing: records carry checksums."""

    def changed(self) -> bool:
        """False: a record that changed cannot be read."""
        return False

    def __len__(self) -> int:
        return self._count

    def read(self, start: int, size: int) -> bytes:
        """The record of a number; `size` plays no part."""
        try:
            return self._file.read([start])[0]
        except (RuntimeError, ValueError, IndexError) as error:
            raise DataError(
                f"record {start} cannot be read ({str(error)[:80]})",
                where=self._where,
                hint="write the file again",
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


Reader = Lines | Records | Elements


def reader(kind: str, path: pathlib.Path) -> Reader:
    """The reader of an index's kind of file."""
    return {"records": Records, "elements": Elements}.get(kind, Lines)(path)
