"""Multimodal rotary positions (M-RoPE): three positions per token, for time, height and width.

Source: Qwen2-VL (arXiv 2409.12191) section 2.1, Qwen2.5-VL (arXiv 2502.13923) section 2.1 (absolute
time), Qwen3-VL (arXiv 2511.21631): time as text before each step of a video, whose tokens then all
have step 0. Tests compare the results with `get_rope_index` of Hugging Face transformers 5.
Computed here, per unpacked and unpadded sample, so that packing and padding cannot change a
position (transformers PR 40490).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from qoq_jax.base.errors import DataError

Grid = tuple[int, int, int]


def rope_positions(
    input_ids: np.ndarray,
    *,
    image_token_id: int,
    video_token_id: int,
    image_grids: Sequence[Grid] = (),
    video_grids: Sequence[Grid] = (),
    second_per_grid: Sequence[float] = (),
    tokens_per_second: float = 2,
    merge: int = 2,
) -> np.ndarray:
    """Positions of one sample.

    Text advances all three axes together. A token of an image or video at grid place (i, j, k)
    stands at start + (⌊i · tokens_per_second · second_per_grid⌋, j, k), an image having i = 0; what
    follows it continues at start + max(h, w). ECG tokens are text: their own encoder has already
    placed them in time.

    Args:
      input_ids: int [t], each image or video already expanded to its t*h*w/merge² pad tokens.
      image_grids, video_grids: (t, h, w) in patches, in prompt order.
      second_per_grid: seconds that one temporal grid step spans, one per video.

    Returns:
      int32 [3, t].

    Raises:
      DataError: the runs of pad tokens and the grids do not match.
    """
    input_ids = np.asarray(input_ids)
    kind = np.where(input_ids == image_token_id, 1, np.where(input_ids == video_token_id, 2, 0))
    edges = np.flatnonzero(np.diff(kind, prepend=-1, append=-1))
    grids = {1: list(image_grids), 2: list(video_grids)}
    seconds = list(second_per_grid)
    names = {1: "image", 2: "video"}
    if len(seconds) != len(grids[2]):
        raise DataError(f"{len(seconds)} second_per_grid values for {len(grids[2])} videos")
    out, start = np.zeros((3, len(input_ids)), np.int32), 0
    for begin, end in itertools.pairwise(edges):
        run = int(kind[begin])
        if run == 0:
            out[:, begin:end] = start + np.arange(end - begin)
            start += int(end - begin)
            continue
        if not grids[run]:
            raise DataError(f"more runs of {names[run]} tokens than {names[run]}s")
        t, h, w = grids[run].pop(0)
        h, w = h // merge, w // merge
        if t * h * w != end - begin:
            raise DataError(
                f"{end - begin} {names[run]} tokens for an {names[run]} of {t} x {h} x {w} "
                "merged patches"
            )
        interval = np.float32(tokens_per_second * seconds.pop(0)) if run == 2 else np.float32(1)
        step, row, col = np.indices((t, h, w)).reshape(3, -1)
        out[:, begin:end] = start + np.stack(
            [(step.astype(np.float32) * interval).astype(np.int32), row, col]
        )
        start += max(h, w)
    for run, left in grids.items():
        if left:
            raise DataError(f"{len(left)} {names[run]}s without {names[run]} tokens in the prompt")
    return out


def single_steps(grids: Sequence[Grid]) -> list[Grid]:
    """Grids of videos -> one grid for each temporal step, as Qwen3-VL numbers them: for
    `rope_positions`.
    """
    return [(1, h, w) for t, h, w in grids for _ in range(t)]


def step_times(frames: int, seconds_per_grid: float, temporal: int = 2) -> list[float]:
    """Seconds that Qwen3-VL writes before each temporal step: the mean time of the first and the
    last of its frames.

    Args:
      frames: frames of the video, evenly spaced; the last is repeated to fill its step.
      seconds_per_grid: from one temporal step to the next.
      temporal: frames of a step.
    """
    seconds = [frame * seconds_per_grid / temporal for frame in range(frames)]
    seconds += seconds[-1:] * (-frames % temporal)
    return [(seconds[i] + seconds[i + temporal - 1]) / 2 for i in range(0, len(seconds), temporal)]


def extend(positions: np.ndarray, count: int) -> np.ndarray:
    """int32 [3, count]: positions of `count` text tokens that follow a prompt ending in text.

    p = rope_positions(prompt); rope_positions(prompt + text) == concat([p, extend(p, len(text))],
    axis=1).
    """
    last = positions[:, -1]
    if not (last == last[0]).all():
        raise ValueError("the last token is not text: its three positions differ")
    return np.broadcast_to(last[0] + 1 + np.arange(count, dtype=np.int32), (3, count))
