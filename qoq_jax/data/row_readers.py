"""Random access to the rows' bytes: in a file of lines, in an ArrayRecord file, or (tfds_rows) in a
data set of tensorflow-datasets.

An open file stays what it was when another one takes its name or it is deleted; only writing into
it changes it, and that is noticed.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import weakref
from typing import Self

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data.tfds_rows import Elements

_BLOCK, _BLOCKS = 4096, 64


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
