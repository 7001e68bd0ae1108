"""Which rows go into which shard: decided by order and sizes alone, before any medium is read (but
for headers that name other files).
"""

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
from qoq_jax.data.readers import parts


@dataclasses.dataclass(frozen=True)
class Task:
    """One shard, which one worker writes.

    Attributes:
      split, number, count: which of how many of its split.
      start, end: bytes of {split}.jsonl that hold its rows.
      sha256: of these bytes and of the sizes of all files of their media: a finished shard of the
        same is kept.
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
            sizes = _sizes(row, root, size_of)
            digest.update(line + json.dumps(sizes).encode())
            held += sum(max(size, 0) for size in sizes)
            end += len(line)
            if held >= shard_bytes:
                yield start, end, digest.hexdigest()
                start, held, digest = end, 0, hashlib.sha256()
    if end > start:
        yield start, end, digest.hexdigest()


def _sizes(row: schema.Row, root: str, size_of: Callable[[str], int]) -> list[int]:
    """Sizes of the files of a row's media, -1 of what is not there."""
    try:
        names = parts.files_of(row, root)
    except DataError:  # the worker that writes the row tells it
        names = [split_member(path)[0] for path in parts.media_of(row)]
    return [size_of(name) for name in names]
