"""Image geometry equals Hugging Face's.

golden/qwen_vision.npz holds the outputs of transformers 5.23.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qoq_jax.base.errors import DataError
from qoq_jax.data import images

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "qwen_vision.npz")


def test_smart_resize_equals_reference():
    for (h, w), (low, high), want in zip(
        GOLDEN["resize_in"], GOLDEN["resize_limits"], GOLDEN["resize_out"]
    ):
        assert images.smart_resize(
            int(h), int(w), min_pixels=int(low), max_pixels=int(high)
        ) == tuple(want)


@pytest.mark.parametrize("size", [(0, 50), (3, 900)])
def test_smart_resize_refuses_degenerate_images(size):
    with pytest.raises(DataError, match="pixels"):
        images.smart_resize(*size, min_pixels=3136, max_pixels=12544)


@pytest.mark.parametrize("name", ["image0", "image1"])
def test_resize_and_patchify_equal_reference(name):
    image = GOLDEN[name]
    h, w = images.smart_resize(*image.shape[:2], min_pixels=3136, max_pixels=12544)
    patches, grid = images.patchify(images.resize(image, h, w)[None])
    assert grid == tuple(GOLDEN[f"{name}_grid"])
    np.testing.assert_array_equal(patches, GOLDEN[f"{name}_patches"])
    head = patches[:2].reshape(2, 3, -1).astype(np.float32) / 255
    head = (head - images.IMAGE_MEAN[:, None]) / images.IMAGE_STD[:, None]
    np.testing.assert_allclose(head.reshape(2, -1), GOLDEN[f"{name}_normalised_head"], atol=2e-6)


def test_video_patchify_equals_reference_with_an_odd_frame_count():
    patches, grid = images.patchify(GOLDEN["video"])
    assert grid == tuple(GOLDEN["video_grid"])
    np.testing.assert_array_equal(patches, GOLDEN["video_patches"])


@pytest.mark.parametrize(
    "window, index, bounds",
    [(112, "window_index", "cu_window"), (56, "window56_index", "cu_window56")],
)
def test_window_order_equals_reference(window, index, bounds):
    grids = [tuple(int(x) for x in g) for g in GOLDEN["grids"]]
    order, hw, frame, segment = images.window_order(grids, window=window)
    np.testing.assert_array_equal(order, GOLDEN[index])
    np.testing.assert_array_equal(
        hw, GOLDEN["patch_hw"].reshape(-1, 4, 2)[GOLDEN[index]].reshape(-1, 2)
    )
    for ids, cumulative in ((segment, GOLDEN[bounds]), (frame, GOLDEN["cu_frames"])):
        want = np.repeat(np.arange(1, len(cumulative)), np.diff(cumulative))
        np.testing.assert_array_equal(ids, want)


def test_window_order_of_nothing_is_empty():
    order, hw, frame, segment = images.window_order([])
    assert (order.shape, hw.shape, frame.shape, segment.shape) == ((0,), (0, 2), (0,), (0,))


def test_resized_mask_never_loses_a_region():
    mask = np.zeros((200, 300), bool)
    mask[70, 90] = True
    assert images.resize_mask(mask, 28, 56).sum() == 1
    assert not images.resize_mask(np.zeros((200, 300), bool), 28, 56).any()
