"""One row to one record, and the records of one shard to a file: what a worker does.

Nothing but a row, its media and the plan decides the bytes, and a file appears whole or not at all:
a worker that is killed, or one shard that two workers write, changes nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from qoq_jax.base import files, storage
from qoq_jax.base.errors import DataError
from qoq_jax.climb.shards.plan import Task
from qoq_jax.data import index, media, shards
from qoq_jax.data import rows as schema
from qoq_jax.data.paths import is_part, split_member
from qoq_jax.data.readers import parts
from qoq_jax.data.readers.files import check_file

PARTS = "parts"  # folder of what is known of finished shards, until all are
# One record per group: a row is read without its neighbours. Media are compressed already, and
# bytes that are stored as they are do not depend on the version of a compressor.
_OPTIONS = "group_size:1,uncompressed"
_MOST = 2**31 - 1  # bytes of a record, as of a medium


class Record(NamedTuple):
    """A record, {path: bytes} of the files in it, and {path: bytes} of the slides and videos of
    which it holds parts.
    """

    content: bytes
    sizes: dict[str, int]
    wholes: dict[str, int]


def record(row: schema.Row, root: str | os.PathLike, frames: int) -> Record:
    """The record of a row.

    Its files are those that the row names and those that belong to them (`parts.files_of`: the
    signals of a WFDB header, the voxels of a MetaImage), regions of slides and intervals of videos
    as files of their own (`parts.cut`). No signal, picture or volume is decoded, which
    `qoq data validate` does, but for the frames of intervals.

    Raises:
      DataError: a file is missing, empty, of many recordings, or a record would be over 2 GiB.
    """
    content: dict[str, bytes] = {}
    wholes: dict[str, int] = {}
    named = parts.media_of(row)
    with media.opened(root) as folder:
        for path in named:
            name, member = split_member(path)
            if is_part(path):
                place = schema.resolve(folder, path)
                content[path] = parts.cut(place, frames)
                wholes[name] = os.path.getsize(split_member(place)[0])
            elif member:
                raise DataError(
                    "is one recording of a file of many: no record holds it",
                    where=f"row {row.id!r}: {path}",
                    hint="train from the folder itself; such files are read in place",
                )
        for name in parts.files_of(row, folder):
            if name in wholes and name not in named:
                continue
            content[name] = check_file(schema.resolve(folder, name)).read_bytes()
    sizes = {path: len(data) for path, data in content.items()}
    if sum(sizes.values()) > _MOST:
        raise DataError("its media are over 2 GiB", where=f"row {row.id!r}", hint="split the row")
    text = json.dumps(row.to_dict(), ensure_ascii=False, allow_nan=False)
    return Record(shards.encode(text.encode(), content), sizes, wholes)


def rows_of(task: Task, out: str) -> Iterator[schema.Row]:
    """The rows of a shard, from {split}.jsonl."""
    path = os.path.join(out, f"{task.split}.jsonl")
    with open(storage.local(path), "rb") as file:
        file.seek(task.start)
        lines = file.read(task.end - task.start).splitlines()
    for line in lines:
        yield schema.parse(line, os.path.basename(path))


def shard(task: Task, root: str, out: str) -> str:
    """Writes the file of a shard and what is known of it (PARTS); returns its name.

    A shard that cannot be written is known with its error instead, which `finish` raises: a runner
    of pipelines would try it again, and a damaged medium stays one.
    """
    below = os.path.join(out, PARTS)
    try:
        found, table = _write(task, root, out)
    except DataError as error:
        found = {"error": [error.what, error.where, error.hint]}
    else:
        _save(os.path.join(below, f"{task.name}.npy"), table)
    files.write_json(os.path.join(below, f"{task.name}.json"), {"plan": task.sha256} | found)
    return task.name


def _write(task: Task, root: str, out: str) -> tuple[dict[str, Any], np.ndarray]:
    from array_record.python import array_record_module as array_record  # Grain brings it

    known, count = [], 0
    with files.replacing(os.path.join(out, task.name)) as partial:
        writer = array_record.ArrayRecordWriter(partial, _OPTIONS)
        try:
            for row in rows_of(task, out):
                made = record(row, root, task.frames)
                writer.write(made.content)
                for path, size in made.sizes.items():
                    known.append((shards.hashed(path), count, size))
                for path, size in made.wholes.items():
                    known.append((shards.hashed(path), shards.ABSENT, size))
                count += 1
        finally:
            writer.close()
        facts = {"records": count, "bytes": os.path.getsize(partial)}
        facts["sha256"] = files.sha256(partial)
    return facts, np.array(known, shards.DTYPE)


def is_done(task: Task, out: str) -> bool:
    """Whether the shard of this plan is there already."""
    known = files.read_json(os.path.join(out, PARTS, f"{task.name}.json"), missing={})
    return (
        known.get("plan") == task.sha256
        and "error" not in known
        and storage.size(os.path.join(out, task.name)) == known.get("bytes")
    )


def finish(tasks: list[Task], out: str) -> dict[str, Any]:
    """Joins what is known of all shards into MEDIA and MANIFEST, and returns the latter.

    Raises:
      DataError: the first shard that could not be written.
    """
    below, known, tables, before = os.path.join(out, PARTS), [], [], 0
    for task in tasks:
        found = files.read_json(os.path.join(below, f"{task.name}.json"), hint="start again")
        if "error" in found:
            what, where, hint = found["error"]
            raise DataError(what, where=where, hint=f"{hint}; finished shards are kept")
        with open(storage.local(os.path.join(below, f"{task.name}.npy")), "rb") as file:
            table = np.load(file)
        table["record"][table["record"] != shards.ABSENT] += np.uint32(before)
        tables.append(table)
        before += found["records"]
        known.append({"file": task.name, **found})
    _remove_other_splits({task.split for task in tasks}, out)
    table = np.concatenate(tables)
    # A medium of several rows is in each of their records; the first is as good as any. One that is
    # absent in some is taken from where it is.
    table = table[np.lexsort((table["record"], table["path"]))]
    _, first = np.unique(table["path"], return_index=True)
    _save(os.path.join(out, shards.MEDIA), table[first])
    manifest = {"version": shards.VERSION, "shards": known}
    files.write_json(os.path.join(out, shards.MANIFEST), manifest)
    wanted = {task.name for task in tasks}
    for name in storage.names(out):  # of an earlier plan, and halves of workers that were killed
        half = name.startswith(".") and name.endswith(".partial") and ".array_record." in name
        if half or (name.endswith(".array_record") and name not in wanted):
            storage.remove(os.path.join(out, name))
    return manifest


def _remove_other_splits(kept: set[str], out: str) -> None:
    """Removes row files, with their indexes, of splits that an earlier call has written and the
    source has no longer: without shards their media would be missing.
    """
    known = storage.names(os.path.join(out, PARTS))
    for split in set(schema.SPLITS) - kept:
        if any(name.startswith(f"{split}-") for name in known):
            rows = f"{split}.jsonl"
            for path in (os.path.join(out, name) for name in (rows, index.file_name(rows))):
                if storage.is_file(path):
                    storage.remove(path)


def _save(path: str, table: np.ndarray) -> None:
    with files.replacing(path) as partial, open(partial, "wb") as file:
        np.save(file, table)
