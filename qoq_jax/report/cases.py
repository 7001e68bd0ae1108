"""Writes the gallery's case files of an evaluation; report/gallery.py describes and shows them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qoq_jax.base import storage
from qoq_jax.base.files import write_json
from qoq_jax.data import media
from qoq_jax.data import rows as schema
from qoq_jax.report import gallery, shown


def write_cases(
    folder: str,
    records: Sequence[dict],
    rows: Mapping[str, Sequence[schema.Row]],
    roots: Mapping[str, str],
    most: int,
    ecg_length: str = "refuse",
) -> None:
    """Writes the most telling cases of an evaluation, with their media as the model saw them.

    Args:
      folder: of the gallery; emptied first.
      records: of evaluation/metrics.py.
      rows: source -> the rows that were evaluated.
      roots: source -> folder of its media.
      most: cases that are written.
      ecg_length: `data.ecg_length` of the config.
    """
    with storage.filling(folder) as made:
        _write_cases(made, gallery.choose(records, most), rows, roots, ecg_length)


def _write_cases(
    folder: str,
    records: Sequence[dict],
    rows: Mapping[str, Sequence[schema.Row]],
    roots: Mapping[str, str],
    ecg_length: str,
) -> None:
    found = {(source, row.id): row for source, of_source in rows.items() for row in of_source}
    for i, record in enumerate(records):
        row = found[record["source"], record["id"]]
        case = record | {"prompt": row.problem, "reasoning": row.reasoning or ""}
        with media.opened(roots[record["source"]]) as root:
            case |= _write_pictures(folder, f"case_{i:02d}", row, root, record["frame_sizes"])
            if row.time_series:
                case["ecg"] = f"case_{i:02d}.npz"
                np.savez(os.path.join(folder, case["ecg"]), signal=shown.ecg(row, root, ecg_length))
        write_json(os.path.join(folder, f"case_{i:02d}.json"), case, indent=None)


def _write_pictures(
    folder: str, name: str, row: schema.Row, root: str, sizes: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Writes the pictures of a row, or the frames of its first video; {"image": file}, {"images":
    files} or {"frames": files}, {} without any.
    """
    kind, pictures = shown.pictures(row, root, sizes)
    names = []
    for k, picture in enumerate(pictures):
        names.append(f"{name}_{k}.png")
        picture.save(os.path.join(folder, names[-1]))
    if len(names) == 1:
        return {"image": names[0]}
    return {kind: names} if names else {}
