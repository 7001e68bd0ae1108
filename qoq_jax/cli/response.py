"""A response of `qoq generate` as JSON, and its boxes as a picture."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from qoq_jax.data import answer_format as answers
from qoq_jax.data.meta import SampleMeta
from qoq_jax.report import figures
from qoq_jax.sampling.model import Generation


def result(generation: Generation, meta: SampleMeta) -> dict[str, Any]:
    """A response for programs.

    Boxes are (x1, y1, x2, y2) in pixels of the resized picture that each is on, whose (w, h) are in
    `frame_sizes`; `frame_size` is the first picture's.
    """
    answer = answers.parse(generation.text)
    answer = answers.in_pixels(answer, meta.frame_sizes, meta.box_coordinates)
    return {
        "text": generation.text,
        "answer": answer.boxed,
        "boxes": [list(box) for box in answer.boxes],
        "box_labels": list(answer.box_labels),
        "box_images": list(answer.box_images),
        "frame_size": meta.frame_size,
        "frame_sizes": list(meta.frame_sizes),
        "logprob": float(generation.logprobs.sum()),
        "tokens": len(generation.token_ids),
        "finish_reason": generation.finish_reason,
    }


def draw(
    path: str,
    frames: Sequence[np.ndarray],
    frame_sizes: Sequence[tuple[int, int]],
    found: Mapping[str, Any],
) -> None:
    """Writes the images, side by side, or the first frame, with the predicted boxes of `result`.

    Args:
      frames: uint8 [h, w, 3] each, at their own size. frame_sizes: (w, h) as the model saw them.
    """
    drawn = []
    for i, (frame, (w, h)) in enumerate(zip(frames, frame_sizes, strict=False)):
        scale = np.array([frame.shape[1] / w, frame.shape[0] / h] * 2)
        pairs = zip(found["boxes"], found["box_images"], strict=True)
        drawn.append(
            figures.draw_boxes(frame, [], [np.array(b) * scale for b, on in pairs if on == i])
        )
    whole = Image.new("RGB", (sum(p.width for p in drawn), max(p.height for p in drawn)))
    left = 0
    for one in drawn:
        whole.paste(one, (left, 0))
        left += one.width
    whole.save(path)
    # Not among the responses on stdout, which with --json are for programs.
    count = len(found["boxes"])
    print(f"picture: {path} ({count or 'no'} box{'' if count == 1 else 'es'})", file=sys.stderr)
