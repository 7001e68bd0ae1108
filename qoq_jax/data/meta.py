"""What rewards, metrics and reports need of a sample."""

from __future__ import annotations

import dataclasses

import numpy as np

from qoq_jax.data.answer_format import PIXELS
from qoq_jax.data.rows import Row


@dataclasses.dataclass(frozen=True, eq=False)
class SampleMeta:
    """Labels and regions of a sample, on the host; never sent to a device.

    Attributes:
      labels: the gold label set. vocabulary: the allowed labels, () when the row lists none.
      boxes: gold (x1, y1, x2, y2) in pixels of the resized picture; box_labels, box_images: the
        label and the picture of each.
      mask: gold region, bool [h, w] of the first picture, or None.
      frame_sizes: (w, h) of each resized picture: images, then videos; () for ECGs.
      box_coordinates: how the model writes boxes.
      row: the validated row; None for a sample that comes from no row.
      ecg_lengths: readers.CUT or readers.REPEATED for each ECG that is not 10 s long.
    """

    id: str
    dataset: str
    domain: str
    labels: tuple[str, ...]
    vocabulary: tuple[str, ...]
    boxes: tuple[tuple[float, float, float, float], ...]
    box_labels: tuple[str, ...]
    box_images: tuple[int, ...]
    mask: np.ndarray | None
    frame_sizes: tuple[tuple[int, int], ...]
    source: str
    row: Row | None
    box_coordinates: str = PIXELS
    ecg_lengths: tuple[str, ...] = ()

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """(w, h) of the first picture."""
        return self.frame_sizes[0] if self.frame_sizes else None
