"""Images to patches: resize, cut, and order for the vision towers of Qwen2.5-VL and Qwen3-VL. No
JAX.

Axis letters: t temporal grid steps, h w rows and columns of patches, n = t*h*w patches, u =
n/merge² merge units, C colour channels (3), p patch side (14; Qwen3-VL 16), f frames per temporal
patch (2).

Pixels stay uint8: 4 times less to ship than float32, and the device normalises (pixel_mean and
pixel_std of models/sizes.py). Source of the geometry: Qwen2-VL (arXiv 2409.12191) section 2.1 and
Qwen2.5-VL (arXiv 2502.13923) section 2.1; tests compare it with the Hugging Face processor and
vision tower.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
import sys
from collections.abc import Sequence
from types import ModuleType

import einops
import numpy as np
from PIL import Image

from qoq_jax.base.errors import DataError

# OpenAI CLIP, of pixels in 0..1
IMAGE_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
IMAGE_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
MAX_ASPECT_RATIO = 200
RESAMPLE = "qoq_jax.data.resample"


def smart_resize(
    height: int, width: int, *, factor: int = 28, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """(height, width): multiples of `factor`, area in [min_pixels, max_pixels], nearly the shape
    given.

    Raises:
      DataError: an empty image, or one side more than 200 times the other.
    """
    if min(height, width) < 1:
        raise DataError(f"image of {height} x {width} pixels is empty")
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise DataError(
            f"image of {height} x {width} pixels has a side ratio over {MAX_ASPECT_RATIO}",
            hint="crop the image",
        )
    new_h, new_w = round(height / factor) * factor, round(width / factor) * factor
    if new_h * new_w > max_pixels:
        scale = math.sqrt(height * width / max_pixels)
        new_h = max(factor, math.floor(height / scale / factor) * factor)
        new_w = max(factor, math.floor(width / scale / factor) * factor)
    elif new_h * new_w < min_pixels:
        scale = math.sqrt(min_pixels / (height * width))
        new_h = math.ceil(height * scale / factor) * factor
        new_w = math.ceil(width * scale / factor) * factor
    return new_h, new_w


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [h, w, 3] -> uint8 [height, width, 3]; PIL's bicubic, as the released model was trained
    with, by resample.py where numba is installed: the same pixels in less than half of the time.
    """
    if image.shape[:2] == (height, width):
        return image
    if (resample := resampler()) is not None:
        return resample.bicubic(image, height, width)
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


@functools.cache
def resampler() -> ModuleType | None:
    """The module that needs numba; None where that is not installed, or cannot be imported, which
    one line on stderr says. A run asks before its first picture.
    """
    if not importlib.util.find_spec("numba"):
        return None
    try:
        return importlib.import_module(RESAMPLE)
    # What numba raises beside NumPy, Python or LLVM of versions that it does not know.
    except (ImportError, OSError, RuntimeError) as error:
        print(
            f"qoq: numba cannot be used ({str(error).partition(chr(10))[0][:160]}): pictures are "
            "resized by Pillow, the same pixels in twice the time (hint: install a numba that fits "
            "this Python and NumPy, or none)",
            file=sys.stderr,
        )
        return None


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """bool [h, w] -> bool [height, width]: a pixel is on when at least half of its area was.

    A region too small to reach half of any pixel keeps every pixel that it touches, so it never
    vanishes.
    """
    if mask.shape == (height, width):
        return mask
    share = np.asarray(
        Image.fromarray(mask.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
    )
    half = share >= 0.5
    return half if half.any() or not mask.any() else share > 0


def patchify(
    frames: np.ndarray, *, patch: int = 14, temporal: int = 2, merge: int = 2
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Cuts frames into patches in Hugging Face order.

    Args:
      frames: uint8 [frames, H, W, 3], H and W multiples of patch * merge. A count that is not a
        multiple of `temporal` (a still image has one frame) is filled by repeating the last frame.

    Returns:
      patches uint8 [n, 3 * temporal * patch²], each laid out (C, f, p, p); patches run over (t,
      block row, block column, row in block, column in block), a block being merge x merge patches.
      And the grid (t, h, w).
    """
    if len(frames) == 1 < temporal:  # cut once what is written `temporal` times
        once, grid = patchify(frames, patch=patch, temporal=1, merge=merge)
        by_channel = np.broadcast_to(
            once.reshape(len(once), 3, 1, -1), (len(once), 3, temporal, patch**2)
        )
        return by_channel.reshape(len(once), -1), grid
    if extra := -len(frames) % temporal:
        frames = np.concatenate([frames, np.repeat(frames[-1:], extra, axis=0)])
    count, height, width, _ = frames.shape
    t, h, w = count // temporal, height // patch, width // patch
    if (h * patch, w * patch) != (height, width) or h % merge or w % merge:
        raise ValueError(f"frames of {height} x {width} are not multiples of {patch * merge}")
    patches = einops.rearrange(
        frames,
        "(t f) (block_row row y) (block_col col x) c -> (t block_row block_col row col) (c f y x)",
        f=temporal,
        row=merge,
        col=merge,
        y=patch,
        x=patch,
    )
    return patches, (t, h, w)


def window_order(
    grids: Sequence[tuple[int, int, int]], *, window: int = 112, patch: int = 14, merge: int = 2
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The order in which the vision tower wants the patches of several images or videos, and their
    segments.

    Units (merge x merge patches) of one window stand together, so that window attention is
    attention within contiguous segments. Windows at the right and bottom border are smaller; no
    window crosses a frame.

    Args:
      grids: (t, h, w) patches of each image, in prompt order.
      window: side of a window in pixels (Qwen2.5-VL: 112); 0 = no windows (Qwen3-VL): Hugging Face
        order.

    Returns, with n patches and u = n / merge² units over all images:
      order int64 [u]: entry i is the unit (numbered in Hugging Face order) that stands at place i.
      patch_hw int32 [n, 2]: row and column of each patch in its frame, in window order.
      patch_frame int32 [n]: 1-based frame segment (a temporal step of an image), bounds of full
        attention.
      patch_window int32 [n]: 1-based window segment; without windows that of the frame.
    """
    # units along a window; without windows a frame is one
    side = window // merge // patch if window else 1 << 30
    unit = merge * merge
    order, hw, frame, segment = [], [], [], []
    units = frames = windows = 0
    for t, h, w in grids:
        step, row, col = (x.ravel() for x in np.indices((t, h // merge, w // merge)))
        across = -(-(w // merge) // side)
        down = -(-(h // merge) // side)
        key = (step * down + row // side) * across + col // side
        local = np.argsort(key, kind="stable")  # stable: row-major inside a window
        step, row, col, key = step[local], row[local], col[local], key[local]
        corner = np.stack([row, col], axis=-1) * merge
        inside = np.stack(np.indices((merge, merge)), axis=-1).reshape(1, unit, 2)
        order.append(local + units)
        hw.append((corner[:, None] + inside).reshape(-1, 2))
        frame.append(np.repeat(step + 1 + frames, unit))
        segment.append(np.repeat(key + 1 + windows, unit))
        units, frames, windows = units + len(local), frames + t, windows + t * down * across
    if not order:
        return (
            np.zeros(0, np.int64),
            np.zeros((0, 2), np.int32),
            np.zeros(0, np.int32),
            np.zeros(0, np.int32),
        )
    join = np.concatenate
    return (
        join(order),
        join(hw).astype(np.int32),
        join(frame).astype(np.int32),
        join(segment).astype(np.int32),
    )
