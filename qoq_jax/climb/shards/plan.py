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
from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.data import media, shards, sources
from qoq_jax.data import rows as schema
from qoq_jax.data.paths import is_part, split_member
from qoq_jax.data.readers import parts

# Bytes that a region or an interval is taken for, before it is read.
_PART = 2 << 20


@dataclasses.dataclass(frozen=True)
class Task:
    """One shard, which one worker writes.

    Attributes:
      split, number, count: which of how many of its split.
      start, end: bytes of {split}.jsonl that hold its rows.
      frames: of an interval of a video.
      sha256: of these bytes, of the sizes of all files of their media and of `frames`: a finished
        shard of the same is kept.
    """

    split: str
    number: int
    count: int
    start: int
    end: int
    frames: int
    sha256: str

    @property
    def name(self) -> str:
        """The file of the shard."""
        return shards.name(self.split, self.number, self.count)


def plan(root: str, out: str, shard_bytes: int, frames: int = 4) -> list[Task]:
    """Writes {split}.jsonl into `out` for every split of `root`, and cuts them into shards.

    Args:
      shard_bytes: media of a shard; it ends with the row that reaches them. A part of a slide or a
        video counts as 2 MiB.
      frames: of an interval of a video, as the runs to come read (4; data.frames of encoders).

    Raises:
      DataError: `root` has no rows, broken ones, or is `out` itself.
      ConfigError: no frames.
    """
    if frames < 1:
        raise ConfigError(f"--frames {frames}", hint="give a number above 0")
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
        cuts = list(_cut(root, split, os.path.join(out, f"{split}.jsonl"), shard_bytes, frames))
        tasks += [Task(split, i, len(cuts), *one[:2], frames, one[2]) for i, one in enumerate(cuts)]
    return tasks


def _cut(
    root: str, split: str, path: str, shard_bytes: int, frames: int
) -> Iterator[tuple[int, int, str]]:
    """(start, end, SHA-256) of each shard, while the row file is written to `path`."""
    size_of = media.sizes(root)
    start = end = held = 0
    digest = hashlib.sha256()
    with files.replacing(path) as partial, open(partial, "wb") as file:
        for row in sources.load(root, split):
            line = json.dumps(row.to_dict(), ensure_ascii=False, allow_nan=False).encode() + b"\n"
            file.write(line)
            sizes = _sizes(row, root, size_of)
            digest.update(line + json.dumps(list(sizes.values())).encode())
            cut = [path for path in parts.media_of(row) if is_part(path)]
            if cut:
                digest.update(json.dumps(frames).encode())
                sizes |= dict.fromkeys((split_member(path)[0] for path in cut), 0)
            held += sum(max(size, 0) for size in sizes.values()) + _PART * len(cut)
            end += len(line)
            if held >= shard_bytes:
                yield start, end, digest.hexdigest()
                start, held, digest = end, 0, hashlib.sha256()
    if end > start:
        yield start, end, digest.hexdigest()


def _sizes(row: schema.Row, root: str, size_of: Callable[[str], int]) -> dict[str, int]:
    """{file of a row's media: its size}, -1 of what is not there."""
    try:
        names = parts.files_of(row, root)
    except DataError:  # the worker that writes the row tells it
        names = [split_member(path)[0] for path in parts.media_of(row)]
    return {name: size_of(name) for name in names}
