"""Where rows come from: a folder of {split}.jsonl files with the media beside them."""

from __future__ import annotations

import collections
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Sequence

from qoq_jax.base.errors import DataError
from qoq_jax.data import paths
from qoq_jax.data import rows as schema


def load(root: str | os.PathLike, split: str, faults: list[str] | None = None) -> list[schema.Row]:
    """The rows of root/{split}.jsonl, validated, in file order; media paths are relative to root.

    faults: when given, broken rows are left out and described in it.

    Raises:
      DataError: unknown split, no such file, a broken or empty file, a row that says another split.
    """
    if split not in schema.SPLITS:
        raise DataError(
            f"unknown split {split!r}", where=str(root), hint="use " + ", ".join(schema.SPLITS)
        )
    path = pathlib.Path(root) / f"{split}.jsonl"
    if not path.is_file():
        raise DataError(
            "no such row file", where=str(path), hint="build or fetch the data set first (qoq data)"
        )
    rows = schema.read_jsonl(path, faults)
    for row in rows:
        if row.split not in ("", split):
            raise DataError(
                f"row {row.id!r} says split {row.split!r}",
                where=str(path),
                hint=f"move it to {row.split}.jsonl",
            )
    return rows


def fingerprint(rows: Iterable[schema.Row], root: str | os.PathLike | None = None) -> str:
    """SHA-256 of the rows in their order, all fields: a resumed run refuses another data set by it.

    root: when given, the folder of the media, whose sizes count too. Bytes that change without the
    size do not show.
    """
    digest = hashlib.sha256()
    for row in rows:
        digest.update(
            json.dumps(row.to_dict(), sort_keys=True, ensure_ascii=False).encode() + b"\n"
        )
        if root is not None:
            for path in (
                *row.images,
                *row.videos,
                *row.time_series,
                *filter(None, [row.segmentation_path]),
            ):
                digest.update(f"{file_size(os.path.join(root, path))}\n".encode())
    return digest.hexdigest()


def file_size(path: str) -> int:
    """Bytes of a file, -1 when it is not there: a missing file is for the one who reads it."""
    try:
        return os.stat(paths.split_member(path)[0]).st_size
    except OSError:
        return -1


def domains(rows: Sequence[schema.Row] = ()) -> tuple[str, ...]:
    """The domains that occur in the rows, in the fixed order of the schema; all of them without
    rows.
    """
    present = {row.domain for row in rows}
    return tuple(d for d in schema.DOMAINS if not rows or d in present)


def describe(rows: Sequence[schema.Row]) -> dict[str, dict[str, int]]:
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


def from_tfds(name: str, split: str, data_dir: str | os.PathLike) -> list[schema.Row]:
    """The rows of a prepared tensorflow-datasets data set; needs no TensorFlow (array_record
    files).

    Each element has the fields of a row as features of the same names (texts as Text, boxes as
    float sequences). A data set cannot hold a missing value, so "", 0 and empty sequences mean
    absent. Media paths stay relative to the folder that the caller gives to the pipeline.

    Args:
      name: "name", "name/config" or "name/config:version".
      split: any tfds split text, e.g. "train[:10%]".
      data_dir: where it was prepared; nothing is downloaded.
    """
    import tensorflow_datasets as tfds  # slow to import, and only this function needs it

    where = f"{name}[{split}]"
    try:
        elements = tfds.data_source(name, split=split, data_dir=os.fspath(data_dir), download=False)
    # tfds raises its own and any file error; all mean "not there or not readable"
    except Exception as error:
        raise DataError(
            f"tensorflow-datasets cannot open it ({type(error).__name__})",
            where=where,
            hint=f"prepare it as array_record under {data_dir}",
        ) from None
    rows = []
    for number, element in enumerate(elements):
        present = {key: _plain(value) for key, value in element.items()}
        present = {key: value for key, value in present.items() if value not in ("", 0, [])}
        rows.append(schema.validate_row(present, f"{where}:{number}"))
    if not rows:
        raise DataError("has no rows", where=where, hint="prepare it again")
    return rows


def _plain(value):
    """numpy and bytes -> what JSON would have given."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if hasattr(value, "tolist"):
        value = value.tolist()
        return _plain(value) if isinstance(value, bytes) else value
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
