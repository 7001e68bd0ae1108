"""Which rows go into which shard: decided before any medium is read, by order and sizes alone."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator

from qoq_jax.base import files, storage
from qoq_jax.base.errors import DataError
from qoq_jax.data import media, shards, sources
from qoq_jax.data import rows as schema
from qoq_jax.data.paths import split_member

_SIGNALS = (".dat", ".mat")


@dataclasses.dataclass(frozen=True)
class Task:
    """One shard, which one worker writes.

    Attributes:
      split, number, count: which of how many of its split.
      start, end: bytes of {split}.jsonl that hold its rows.
      sha256: of these bytes and of the sizes of their media: a finished shard of the same is kept.
    """

    split: str
    number: int
    count: int
    start: int
    end: int
    sha256: str

    @property
    def name(self) -> str:
        """The file of the shard."""
        return shards.name(self.split, self.number, self.count)


def plan(root: str, out: str, shard_bytes: int) -> list[Task]:
    """Writes {split}.jsonl into `out` for every split of `root`, and cuts them into shards.

    Args:
      shard_bytes: media of a shard; it ends with the row that reaches them.

    Raises:
      DataError: `root` has no rows, broken ones, or is `out` itself.
    """
    if storage.absolute(root) == storage.absolute(out) or shards.find(root) is not None:
        raise DataError(
            "shards are made from a folder of files into another folder",
            where=root,
            hint="name another folder for the shards",
        )
    splits = [split for split in schema.SPLITS if sources.find(root, split)]
    if not splits:
        raise DataError(
            "has no rows", where=root, hint="qoq data convert or qoq data import writes them"
        )
    tasks = []
    for split in splits:
        parts = list(_cut(root, split, os.path.join(out, f"{split}.jsonl"), shard_bytes))
        tasks += [Task(split, i, len(parts), *part) for i, part in enumerate(parts)]
    return tasks


def _cut(root: str, split: str, path: str, shard_bytes: int) -> Iterator[tuple[int, int, str]]:
    """(start, end, SHA-256) of each shard, while the row file is written to `path`."""
    size_of = media.sizes(root)
    start = end = held = 0
    digest = hashlib.sha256()
    with files.replacing(path) as partial, open(partial, "wb") as file:
        for row in sources.load(root, split):
            line = json.dumps(row.to_dict(), ensure_ascii=False, allow_nan=False).encode() + b"\n"
            file.write(line)
            sizes = [size for medium in media_of(row) for size in _sizes(medium, size_of)]
            digest.update(line + json.dumps(sizes).encode())
            held += sum(max(size, 0) for size in sizes)
            end += len(line)
            if held >= shard_bytes:
                yield start, end, digest.hexdigest()
                start, held, digest = end, 0, hashlib.sha256()
    if end > start:
        yield start, end, digest.hexdigest()


def media_of(row: schema.Row) -> tuple[str, ...]:
    """The paths that a row names, mask included."""
    mask = (row.segmentation_path,) if row.segmentation_path else ()
    return (*row.images, *row.videos, *row.time_series, *mask)


def _sizes(path: str, size_of: Callable[[str], int]) -> list[int]:
    """Sizes of a medium and of the signals that a WFDB header names by its own name."""
    file, _ = split_member(path)
    if not file.endswith(".hea"):
        return [size_of(file)]
    stem = file.removesuffix(".hea")
    return [size_of(file), *(size_of(stem + ending) for ending in _SIGNALS)]
