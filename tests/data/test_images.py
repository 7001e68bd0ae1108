"""Image geometry equals Hugging Face's.

golden/qwen_vision.npz holds the outputs of transformers 5.23.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qoq_jax.base.errors import DataError
from qoq_jax.data import images, resample

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


@pytest.mark.parametrize(
    "size, new",
    [
        ((1024, 1280), (644, 784)),
        ((400, 90), (196, 56)),  # much higher than wide: Pillow 13 begins with the height
        ((30, 17), (448, 448)),
        ((97, 140), (28, 168)),
        ((97, 140), (168, 28)),
        ((64, 80), (64, 28)),
        ((64, 80), (28, 80)),
        ((1, 1), (28, 28)),
        ((3, 600), (28, 56)),
    ],
)
@pytest.mark.parametrize("levels", [2, 256])
def test_resample_equals_pillow_bit_for_bit(size, new, levels):
    """Two levels make overshoots at every edge, which are clipped."""
    rng = np.random.default_rng(0)
    image = (rng.integers(0, levels, (*size, 3)) * (255 // (levels - 1))).astype(np.uint8)
    pillow = Image.fromarray(image).resize(new[::-1], Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(resample.bicubic(image, *new), pillow)


def test_pixels_are_the_same_without_numba(monkeypatch):
    image = np.random.default_rng(1).integers(0, 256, (90, 70, 3), np.uint8)
    fast = images.resize(image, 56, 28)
    monkeypatch.setattr(images, "resampler", lambda: None)
    np.testing.assert_array_equal(images.resize(image, 56, 28), fast)


@pytest.mark.parametrize("kind", [ImportError, OSError])
def test_a_numba_that_cannot_be_imported_is_told_once_and_pillow_resizes(kind, monkeypatch, capsys):
    def refuse(name):
        raise kind("Numba needs NumPy 2.4 or less")

    monkeypatch.setattr(images, "resampler", functools.cache(images.resampler.__wrapped__))
    monkeypatch.setattr(images.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(images.importlib, "import_module", refuse)
    pixels = np.zeros((20, 20, 3), np.uint8)
    for _ in range(3):
        assert images.resize(pixels, 10, 10).shape == (10, 10, 3)
    said = capsys.readouterr().err
    assert said.count("numba cannot be used (Numba needs NumPy 2.4 or less)") == 1
