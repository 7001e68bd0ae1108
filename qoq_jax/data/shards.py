"""A data set as ArrayRecord shards: one record per row, with the bytes of its media inside.

    train.jsonl                             the rows, as in a folder of files; read first
    train-00000-of-00004.array_record       records, in the order of the rows
    media.npy                               where the medium of a path is (DTYPE, sorted)
    shards.json                             records and SHA-256 of each shard; written last

A record is a ZIP archive whose members are stored, not compressed: `row.json`, and each file that a
reader of the row opens, under `media/` and its path; regions of slides and intervals of videos as
`readers.parts.cut` makes them, under the path that names them. `zipfile` reads it, and
`grain.sources.ArrayRecordDataSource` the shards; training takes the rows from the JSON lines, so
that indexes, fingerprints and batches are those of the folder that the shards were made from, and
`data/media.py` the bytes from here.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np

from qoq_jax.base import files, storage
from qoq_jax.base.errors import DataError
from qoq_jax.data import paths

MANIFEST, MEDIA, ROW, BELOW = "shards.json", "media.npy", "row.json", "media/"
VERSION = 1
# path: hash of the path; record: its number over all shards in the order of the manifest, or ABSENT
# for a slide or video of which they hold parts (each under its own name) and know the size.
DTYPE = np.dtype([("path", "<u8"), ("record", "<u4"), ("size", "<u8")])
ABSENT = 2**32 - 1
_AGAIN = "make the shards again: qoq data shards"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # of every member: the same row gives the same bytes


def name(split: str, number: int, count: int) -> str:
    """The file of a shard."""
    return f"{split}-{number:05d}-of-{count:05d}.array_record"


def hashed(path: str) -> int:
    """64 bits that stand for a path in MEDIA."""
    return int.from_bytes(hashlib.blake2b(path.encode(), digest_size=8).digest(), "little")


def encode(row: bytes, media: Mapping[str, bytes]) -> bytes:
    """The record of a row.

    Args:
      row: its JSON object.
      media: {path below the data folder: content of the file}.
    """
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(ROW, _EPOCH), row)
        for path, content in media.items():
            archive.writestr(zipfile.ZipInfo(BELOW + path, _EPOCH), content)
    return out.getvalue()


def decode(record: bytes, where: str) -> tuple[bytes, dict[str, bytes]]:
    """(row, media) of `encode`.

    Raises:
      DataError: the record is damaged, or none of ours.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(record)) as archive:
            members = archive.infolist()
            # What is compressed is not ours, and may be a bomb.
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ValueError("a member is compressed")
            found = {member.filename: archive.read(member) for member in members}
        row = found.pop(ROW)
    except (zipfile.BadZipFile, KeyError, ValueError, NotImplementedError, EOFError) as error:
        raise DataError(
            f"is no record of a row and its media ({type(error).__name__})",
            where=where,
            hint=_AGAIN,
        ) from None
    return row, {path.removeprefix(BELOW): content for path, content in found.items()}


class Shards:
    """The media of a sharded data set by path; safe to share between threads.

    Args:
      root: the folder, or its URL, whose shards are copied to this machine as they are needed.
    """

    def __init__(self, root: str):
        from array_record.python import array_record_data_source as array_record  # Grain brings it

        self.root = root
        manifest = files.read_json(os.path.join(root, MANIFEST), hint=_AGAIN)
        try:
            if manifest["version"] != VERSION:
                raise DataError(
                    f"version {manifest['version']} of shards is not read", where=root, hint=_AGAIN
                )
            self._names = [str(one["file"]) for one in manifest["shards"]]
            counts = [int(one["records"]) for one in manifest["shards"]]
            self._ends = np.cumsum(counts)
            self._media = np.load(storage.local(os.path.join(root, MEDIA)), mmap_mode="r")
        except (OSError, KeyError, TypeError, ValueError, EOFError) as error:
            raise DataError(
                f"the shards cannot be opened ({type(error).__name__})", where=root, hint=_AGAIN
            ) from None
        if self._media.dtype != DTYPE or self._media.ndim != 1:
            raise DataError("is no table of media", where=os.path.join(root, MEDIA), hint=_AGAIN)
        self._open = functools.lru_cache(maxsize=256)(
            lambda shard: array_record.ArrayRecordDataSource(
                storage.local(os.path.join(root, self._names[shard]))
            )
        )

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def _entry(self, path: str) -> np.void | None:
        key = hashed(path)
        place = int(np.searchsorted(self._media["path"], np.uint64(key)))
        if place < len(self._media) and int(self._media["path"][place]) == key:
            return self._media[place]
        return None

    def size(self, path: str) -> int:
        """Bytes of a medium, -1 when it is not there."""
        entry = self._entry(path)
        return -1 if entry is None else int(entry["size"])

    def record(self, number: int) -> tuple[bytes, dict[str, bytes]]:
        """(row as JSON, {path: content}) of a record; they are numbered over all shards.

        Raises:
          DataError: the shard is missing or damaged.
        """
        shard = int(np.searchsorted(self._ends, number, side="right"))
        before = int(self._ends[shard - 1]) if shard else 0
        where = f"{os.path.join(self.root, self._names[shard])}[{number - before}]"
        try:
            content = self._open(shard)[number - before]
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            raise DataError(
                f"cannot be read ({type(error).__name__})", where=where, hint=_AGAIN
            ) from None
        return decode(content, where)

    def extract(self, path: str, folder: str | os.PathLike) -> bool:
        """Writes the medium of a path, and what else its record holds, below a folder; False when
        they do not hold it.

        Raises:
          DataError: the record cannot be read, or names a file outside of the folder.
        """
        entry = self._entry(path)
        if entry is None or int(entry["record"]) == ABSENT:
            return False
        _, media = self.record(int(entry["record"]))
        if path not in media:
            raise DataError("is not in its record", where=path, hint=_AGAIN)
        for name, content in media.items():
            target = pathlib.Path(folder, name)
            if not paths.is_inside(target, folder):
                raise DataError("leads out of the data folder", where=name, hint=_AGAIN)
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
        return True


def find(root: str | os.PathLike) -> Shards | None:
    """The shards of a data folder or URL; None when it is one of plain files.

    Raises:
      DataError: they are damaged.
    """
    root = os.fspath(root).rstrip("/")
    if storage.is_url(root):
        return _at_url(root)
    if not root:  # of recordings that are named by themselves
        return None
    try:
        found = os.stat(os.path.join(root, MANIFEST))
    except OSError:
        return None
    return _opened(root, found.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _opened(root: str, changed: int) -> Shards:
    del changed  # another manifest is another entry of the cache
    return Shards(root)


@functools.lru_cache(maxsize=16)
def _at_url(url: str) -> Shards | None:
    return Shards(url) if storage.is_file(f"{url}/{MANIFEST}") else None
