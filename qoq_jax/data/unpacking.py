"""Samples out of a packed batch again: the inverse of data/packing.py for prompts, and pictures out
of their patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qoq_jax.data.packing import MERGE_UNIT, Budget, Placed
from qoq_jax.data.sample import ECG, TEXT, VISION


def unpack(batch: Mapping[str, np.ndarray], placed: Placed, budget: Budget) -> dict[str, Any]:
    """The sample that was packed alone into a text row: the inverse of data/packing.py for one
    prompt.
    """
    b, r = placed.row, placed.row // budget.rows_per_media_row
    length = int((batch["segment_ids"][b] > 0).sum())
    index, vision = batch["media_index"][b, :length], budget.patches // MERGE_UNIT
    is_vision, is_ecg = (index >= 0) & (index < vision), index >= vision
    patches = _span(index[is_vision], MERGE_UNIT)
    ecgs = _span((index[is_ecg] - vision) // budget.ecg_tokens, 1)
    first_frame = batch["patch_frame"][r, patches][:1].sum() - 1
    first_window = batch["patch_window"][r, patches][:1].sum() - 1
    offset = np.where(
        is_vision, patches.start // MERGE_UNIT, vision + ecgs.start * budget.ecg_tokens
    )
    return {
        "meta": placed.meta,
        "input_ids": batch["tokens"][b, :length],
        "positions": batch["positions"][b, :, :length],
        "prompt_length": length,
        "media_kind": np.select([is_vision, is_ecg], [VISION, ECG], TEXT),
        "media_index": np.where(index >= 0, index - offset, -1),
        "patches": batch["patches"][r, patches],
        "patch_hw": batch["patch_hw"][r, patches],
        "patch_frame": batch["patch_frame"][r, patches] - first_frame,
        "patch_window": batch["patch_window"][r, patches] - first_window,
        "ecg": batch["ecg"][r, ecgs],
    }


def _span(index: np.ndarray, unit: int) -> slice:
    """The places from the first to the last of `index`, each of `unit` entries; empty for none."""
    return (
        slice(int(index.min()) * unit, (int(index.max()) + 1) * unit) if index.size else slice(0, 0)
    )


def pictures(sample: Mapping[str, Any], patch: int) -> list[np.ndarray]:
    """The images of a sample, uint8 [h, w, 3], as the model sees them.

    Args:
      sample: of `unpack`, without videos: each frame is an image.
      patch: side of a patch in pixels.
    """
    found, frame = [], np.asarray(sample["patch_frame"])
    for number in range(1, int(frame.max(initial=0)) + 1):
        mine = frame == number
        rows, columns = sample["patch_hw"][mine].T
        # [n, C, frames of a patch, y, x]: a still image stands in all of them
        cut = sample["patches"][mine].reshape(len(rows), 3, -1, patch, patch)[:, :, 0]
        picture = np.zeros((rows.max() + 1, columns.max() + 1, patch, patch, 3), np.uint8)
        picture[rows, columns] = cut.transpose(0, 2, 3, 1)
        height, width = (size * patch for size in picture.shape[:2])
        found.append(picture.swapaxes(1, 2).reshape(height, width, 3))
    return found
