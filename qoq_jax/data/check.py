"""`qoq data validate` and `qoq data describe`: is a data set sound, and what is in it."""

from __future__ import annotations

import os

from qoq_jax.data import readers, schema, sources
from qoq_jax.errors import DataError

_SHOWN = 20


def run(file: str) -> int:
    """Checks every row of a JSONL file and opens every file it names; prints each fault. Returns the exit code."""
    rows = schema.read_jsonl(file)
    root, faults = os.path.dirname(os.path.abspath(file)), []
    for row in rows:
        for path, read in media(row):
            try:
                read(schema.resolve(root, path))
            except DataError as error:
                faults.append(f"row {row.id}: {error}")
    for fault in faults[:_SHOWN]:
        print(fault)
    if len(faults) > _SHOWN:
        print(f"... and {len(faults) - _SHOWN} more")
    print(f"{file}: {len(rows)} rows, {len(faults)} faults")
    return 1 if faults else 0


def media(row: schema.Row):
    """(path, reader) of every file a row names."""
    for paths, read in ((row.images, readers.read_image), (row.videos, readers.read_frames),
                        (row.time_series, readers.read_ecg)):
        for path in paths:
            yield path, read
    if row.segmentation_path:
        yield row.segmentation_path, readers.read_mask


def describe(root: str) -> int:
    """Prints the rows of a data set folder by split, domain, data set and label."""
    for split in schema.SPLITS:
        if not os.path.exists(os.path.join(root, f"{split}.jsonl")):
            continue
        rows = sources.load(root, split)
        print(f"{split}: {len(rows)} rows")
        for domain in sources.domains(rows):
            of_domain = [row for row in rows if row.domain == domain]
            print(f"  {domain}: {len(of_domain)} ({len(of_domain) / len(rows):.1%})")
            counts = sources.describe(of_domain)
            for dataset in counts["dataset"]:
                labels = ", ".join(f"{name.removeprefix(dataset + '/')} {n}" for name, n in counts["label"].items()
                                   if name.startswith(dataset + "/"))
                print(f"    {dataset}: {labels}")
    return 0
