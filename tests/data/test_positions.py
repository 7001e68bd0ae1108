"""M-RoPE positions equal Hugging Face's get_rope_index (golden/qwen_vision.npz, there with left
padding).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qoq_jax.base.errors import DataError
from qoq_jax.data.positions import extend, rope_positions, step_times

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "qwen_vision.npz")
IMAGE, VIDEO, TEXT = 90, 91, 5


def positions(ids, images=(), videos=(), seconds=()):
    return rope_positions(
        np.asarray(ids),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_grids=[tuple(int(x) for x in g) for g in images],
        video_grids=[tuple(int(x) for x in g) for g in videos],
        second_per_grid=[float(s) for s in seconds],
    )


@pytest.mark.parametrize("case", ["text", "one", "several", "video", "video_slow", "mix"])
def test_positions_equal_reference(case):
    got = positions(
        *(GOLDEN[f"rope_{case}_{part}"] for part in ("ids", "images", "videos", "seconds"))
    )
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, GOLDEN[f"rope_{case}_positions"])


def test_times_of_steps_are_means_of_their_first_and_last_frame():
    """As the processor of Qwen3-VL computes them at two frames per second: the last frame is
    repeated to fill a step.
    """
    assert step_times(4, 1.0) == [0.25, 1.25] and step_times(5, 1.0) == [0.25, 1.25, 2.0]


def test_extend_is_what_longer_text_would_get():
    prompt = [TEXT] * 3 + [IMAGE] * 6 + [TEXT] * 4
    short, long = positions(prompt, [(1, 4, 6)]), positions(prompt + [TEXT] * 5, [(1, 4, 6)])
    np.testing.assert_array_equal(np.concatenate([short, extend(short, 5)], axis=1), long)


def test_extend_needs_text_at_the_end():
    with pytest.raises(ValueError, match="not text"):
        extend(positions([IMAGE] * 6, [(1, 4, 6)]), 1)


@pytest.mark.parametrize(
    "ids, images, message",
    [
        ([TEXT] + [IMAGE] * 5, [(1, 4, 6)], "5 image tokens"),
        ([TEXT], [(1, 4, 6)], "without image tokens"),
        ([IMAGE], [], "more runs"),
    ],
)
def test_tokens_and_grids_must_match(ids, images, message):
    with pytest.raises(DataError, match=message):
        positions(ids, images)
