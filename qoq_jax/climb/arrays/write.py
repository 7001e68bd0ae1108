"""Records into shards that are read at random places, with an index and a report.

OUT/arrays.json              what is in the folder, and what was left out and why; written last
OUT/train-00000.array_record records as safetensors, with id, labels and names as JSON
OUT/train.index.jsonl        id, patient and labels of each record of the split, in order
OUT/names/DIGEST.json        names along an axis, once for all records that share them
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections import Counter
from types import TracebackType
from typing import Any, Self

import numpy as np

from qoq_jax.base import files
from qoq_jax.base.errors import DataError
from qoq_jax.climb.arrays import read, sets
from qoq_jax.climb.arrays.record import Form, Record, Records
from qoq_jax.climb.catalogue import table
from qoq_jax.climb.convert import splits
from qoq_jax.climb.convert import write as convert_lib
from qoq_jax.data import rows as schema

REPORT, FORMAT = "arrays.json", 1
SHARD_BYTES = 1 << 28


def write(
    name: str,
    root: str | os.PathLike,
    out: str | os.PathLike = "",
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, Any]:
    """Reads a data set and writes its records; returns the report.

    The same folder and seed give the same records in the same order. A folder without arrays.json
    is not complete; files of an earlier run are replaced.

    Args:
      name, root, seed: as for `read.records`.
      out: folder to write; "": ROOT/arrays.
      shard_bytes: a shard is closed once it is larger.

    Raises:
      DataError: as `read.records`, or no record could be read.
    """
    out = os.fspath(out) or os.path.join(root, "arrays")
    form, vocabulary = sets.get(name), table.find(name).labels
    found = read.records(name, root, seed)
    return write_records(form, vocabulary, found, out, seed, shard_bytes)


def write_records(
    form: Form,
    vocabulary: tuple[str, ...],
    records: Records,
    out: str,
    seed: int,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, Any]:
    """Writes records that have their splits; returns the report.

    Args:
      form, vocabulary: of the data set.
      seed: of the splits, for the report.

    Raises:
      DataError: there is no record.
    """
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(out, REPORT))
    dropped: dict[str, list[str]] = {}
    with contextlib.ExitStack() as stack:
        written = {split: stack.enter_context(Split(out, split)) for split in schema.SPLITS}
        for one in records:
            if isinstance(one, Record):
                written[one.split].add(one, shard_bytes)
            else:
                dropped.setdefault(one.reason, []).append(one.id)
        if not any(split.index for split in written.values()):
            why = "; ".join(f"{len(ids)}: {reason}" for reason, ids in dropped.items())
            raise DataError(f"no record of {form.name} can be read ({why})", where=out)
    for split in written.values():
        if split.index:
            lines = "".join(f"{json.dumps(line)}\n" for line in split.index)
            files.write_text(os.path.join(out, f"{split.split}.index.jsonl"), lines)
    report = _report(form, vocabulary, seed, written, dropped)
    files.write_json(os.path.join(out, REPORT), report)
    _remove_stale(out, report)
    return report


def pack(record: Record, names: dict[str, str]) -> bytes:
    """A record as the bytes of a safetensors file.

    Args:
      names: digest of the names along each axis.
    """
    from safetensors.numpy import save

    about = {
        "id": record.id,
        "patient": record.patient,
        "labels": list(record.labels),
        "split": record.split,
        "names": names,
        "metadata": dict(record.metadata),
    }
    arrays = {name: np.ascontiguousarray(array) for name, array in record.arrays.items()}
    return save(arrays, {"record": json.dumps(about)})


class Split:
    """The files of one split while they are written; a context."""

    def __init__(self, out: str, split: str):
        self.out, self.split = out, split
        self.shards: list[dict[str, Any]] = []
        self.labels: Counter[str] = Counter()
        self.patients: set[str] = set()
        self.digest = hashlib.sha256()
        self.index: list[dict[str, Any]] = []
        self._bytes = 0
        self._seen: dict[tuple[str, ...], str] = {}
        self._open, self._writer = contextlib.ExitStack(), None

    def add(self, record: Record, shard_bytes: int) -> None:
        """Appends a record."""
        if self._writer is None:
            self._begin()
        digests = {axis: self._name(places) for axis, places in record.names.items()}
        data = pack(record, digests)
        self._writer.write(data)
        labels = list(record.labels)
        self.index.append({"id": record.id, "patient": record.patient, "labels": labels})
        self.digest.update(data)
        self.labels.update(record.labels)
        self.patients.add(record.patient)
        self.shards[-1]["records"] += 1
        self._bytes += len(data)
        if self._bytes >= shard_bytes:
            self._end()

    def _begin(self) -> None:
        from array_record.python import array_record_module  # Grain brings it

        name = f"{self.split}-{len(self.shards):05d}.array_record"
        path = self._open.enter_context(files.replacing(os.path.join(self.out, name)))
        self._writer = array_record_module.ArrayRecordWriter(path, "group_size:1")
        self._open.callback(self._writer.close)
        self.shards.append({"file": name, "records": 0})
        self._bytes = 0

    def _end(self) -> None:
        self._open.close()
        self._writer = None

    def _name(self, places: tuple[str, ...]) -> str:
        if places not in self._seen:
            content = json.dumps(list(places))
            digest = hashlib.sha256(content.encode()).hexdigest()[:16]
            path = os.path.join(self.out, "names", f"{digest}.json")
            if not os.path.exists(path):
                files.write_text(path, content)
            self._seen[places] = digest
        return self._seen[places]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.__exit__(kind, error, trace)


def _report(
    form: Form,
    vocabulary: tuple[str, ...],
    seed: int,
    written: dict[str, Split],
    dropped: dict[str, list[str]],
) -> dict[str, Any]:
    chosen = {line["id"]: split for split, one in written.items() for line in one.index}
    return {
        "format": FORMAT,
        "dataset": form.name,
        "seed": seed,
        "labels": list(vocabulary),
        "arrays": {
            name: dataclasses.asdict(array) | {"axes": list(array.axes)}
            for name, array in form.arrays.items()
        },
        "splits": {
            split: {
                "records": len(content.index),
                "patients": len(content.patients),
                "labels": dict(sorted(content.labels.items())),
                "shards": content.shards,
                "sha256": content.digest.hexdigest(),
            }
            for split, content in written.items()
            if content.index
        },
        "splits_sha256": splits.fingerprint(chosen),
        "dropped": convert_lib.dropped_facts(dropped),
    }


def _remove_stale(out: str, report: dict[str, Any]) -> None:
    """Removes shards and indexes of an earlier run that this one did not replace."""
    mine = {f"{split}.index.jsonl" for split in report["splits"]}
    for content in report["splits"].values():
        mine |= {shard["file"] for shard in content["shards"]}
    for file in os.listdir(out):
        if file.endswith((".array_record", ".index.jsonl")) and file not in mine:
            os.remove(os.path.join(out, file))


def summary(report: dict[str, Any]) -> str:
    """The report in a few lines."""
    parts = report["splits"]
    people = sum(one["patients"] for one in parts.values())
    rows = {split: one["records"] for split, one in parts.items()}
    return convert_lib.lines(report["dataset"], f"{people} patients", report | {"rows": rows})
