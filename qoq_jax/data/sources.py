"""Where rows come from: a folder of one row file per split with the media beside them."""

from __future__ import annotations

import collections
import hashlib
import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from qoq_jax.base import storage
from qoq_jax.base.errors import DataError
from qoq_jax.data import media, tfds_rows
from qoq_jax.data import rows as schema
from qoq_jax.data.index import Rows, open_rows
from qoq_jax.data.index_build import add_to_fingerprint
from qoq_jax.data.paths import split_member

SUFFIXES = (".jsonl", ".jsonl.gz", ".array_record")


def find(root: str | os.PathLike, split: str) -> pathlib.Path | str | None:
    """The row file of a split: {split}.jsonl, .jsonl.gz or .array_record, or the first file of a
    split that tensorflow-datasets has prepared; None when there is none. Of a URL it is a URL.

    Raises:
      DataError: there are two.
    """
    found = _find_objects(root, split) if storage.is_url(root) else _find_files(root, split)
    if len(found) > 1:
        first, second = (os.path.basename(path) for path in found[:2])
        raise DataError(
            f"{first} and {second} are both there",
            where=str(root),
            hint="keep one row file per split",
        )
    return found[0] if found else None


def _find_files(root: str | os.PathLike, split: str) -> list[pathlib.Path]:
    return [
        path for suffix in SUFFIXES if (path := pathlib.Path(root) / f"{split}{suffix}").is_file()
    ] + tfds_rows.find(root, split)


def _find_objects(root: str, split: str) -> list[str]:
    names = {f"{split}{suffix}" for suffix in SUFFIXES}
    return [
        os.path.join(root, name)
        for name in storage.names(root)
        if name in names
        or (tfds_rows.is_shard(pathlib.Path(name)) and tfds_rows.split_of(name) == split)
    ]


def has_rows(root: str | os.PathLike) -> bool:
    """Whether a folder is a data set: has a row file of any split."""
    return any(find(root, split) for split in schema.SPLITS)


def load(root: str | os.PathLike, split: str, faults: list[str] | None = None) -> Rows:
    """The rows of root/{split}.jsonl, checked, in file order; media paths are relative to root.

    They are parsed when they are asked for; the file is checked once (index.py).

    faults: when given, broken rows are left out and described in it; of more than 10,000 the rest
    is counted in `Rows.index.fault_count`.

    Raises:
      DataError: unknown split, no such file, a broken or empty file, a row that says another split.
    """
    if split not in schema.SPLITS:
        raise DataError(
            f"unknown split {split!r}", where=str(root), hint="use " + ", ".join(schema.SPLITS)
        )
    path = find(root, split)
    if path is None:
        raise DataError(
            "no such row file",
            where=os.path.join(root, f"{split}.jsonl"),
            hint="build or fetch the data set first (qoq data)",
        )
    rows = open_rows(path)
    if faults is not None:
        faults += map(str, rows.index.faults)
    elif rows.index.faults:
        raise rows.index.faults[0]
    for place in other_split(rows, split)[:1]:
        row = rows[place]
        raise DataError(
            f"row {row.id!r} says split {row.split!r}",
            where=str(path),
            hint=f"move it to {os.path.basename(path).replace(split, row.split, 1)}",
        )
    return rows


def other_split(rows: Rows, split: str) -> np.ndarray:
    """Places of the rows that name another split."""
    named = rows.column("split")
    return np.flatnonzero((named != 0) & (named != schema.SPLITS.index(split) + 1))


def fingerprint(rows: Iterable[schema.Row], root: str | os.PathLike | None = None) -> str:
    """SHA-256 of the rows in their order, all fields: a resumed run refuses another data set by it.

    root: when given, the folder of the media, whose sizes count too. Bytes that change without the
    size do not show. It parses each row and asks for each medium; `Rows.fingerprint` of a whole
    file is the same and known already.
    """
    digest = hashlib.sha256()
    of = None if root is None else media.sizes(root)
    size = of and (lambda path: of(split_member(path)[0]))
    for row in rows:
        add_to_fingerprint(digest, row, size)
    return digest.hexdigest()


def domain_ids(rows: Sequence[schema.Row]) -> np.ndarray:
    """uint8 [N]: each row's domain, its place in schema.DOMAINS; of `Rows` without parsing one."""
    if isinstance(rows, Rows):
        return rows.column("domain")
    return np.array([schema.DOMAINS.index(row.domain) for row in rows], np.uint8)


def domains(rows: Sequence[schema.Row] = ()) -> tuple[str, ...]:
    """The domains that occur in the rows, in the fixed order of the schema; all of them without
    rows.
    """
    if not len(rows):
        return schema.DOMAINS
    return tuple(schema.DOMAINS[domain] for domain in np.unique(domain_ids(rows)))


def describe(rows: Iterable[schema.Row]) -> dict[str, dict[str, int]]:
    """Counts by "domain", "dataset", "label" (each label of a set counts), "source" and "split"."""
    counts = {
        key: collections.Counter() for key in ("domain", "dataset", "label", "source", "split")
    }
    for row in rows:
        counts["domain"][row.domain] += 1
        counts["dataset"][row.dataset] += 1
        counts["label"].update(f"{row.dataset}/{label}" for label in row.answers)
        counts["source"][row.source or "unnamed"] += 1
        counts["split"][row.split or "unnamed"] += 1
    return {key: dict(sorted(value.items())) for key, value in counts.items()}
