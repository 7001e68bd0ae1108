"""Writes the gallery's case files of an evaluation; report/gallery.py describes and shows them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from qoq_jax.base import storage
from qoq_jax.base.files import write_json
from qoq_jax.data import media, readers
from qoq_jax.data import rows as schema
from qoq_jax.report import gallery


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
                path = schema.resolve(root, row.time_series[0])
                signal = readers.read_ecg(path, root=root, length=ecg_length)
                np.savez(os.path.join(folder, case["ecg"]), signal=signal)
        write_json(os.path.join(folder, f"case_{i:02d}.json"), case, indent=None)


def _write_pictures(
    folder: str, name: str, row: schema.Row, root: str, sizes: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Writes the pictures of a row, or the frames of its first video; {"image": file}, {"images":
    files} or {"frames": files}, {} without any.

    sizes: (width, height) of each picture as the model saw it, one for all frames of a video.
    """
    pictures = row.images[: gallery.MAX_PICTURES]
    frames = [readers.read_image(schema.resolve(root, path)) for path in pictures]
    if not frames:
        clips = [readers.read_frames(schema.resolve(root, path)) for path in row.videos[:1]]
        frames = [frame for clip in clips for frame in clip]
        sizes = list(sizes[:1]) * len(frames)
    files = []
    for k, (frame, size) in enumerate(zip(frames, sizes, strict=False)):
        files.append(f"{name}_{k}.png")
        # Twice the model's frame: what the model saw, in a size that a person can look at.
        shown = Image.fromarray(frame).resize((2 * size[0], 2 * size[1]), Image.Resampling.BICUBIC)
        shown.save(os.path.join(folder, files[-1]))
    if len(files) == 1:
        return {"image": files[0]}
    return {"images" if row.images else "frames": files} if files else {}
