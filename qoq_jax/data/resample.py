"""Pillow's bicubic resize of 8-bit RGB, bit for bit, in half of its time. Needs numba (the
extra `fast`). No JAX.

Pillow's method (src/libImaging/Resample.c): a horizontal pass, rounded to 8 bits, then a vertical
one; each output is a sum of inputs with weights of the cubic (a = -1/2) stretched by the scale, in
fixed point with 22 bits. Sums of integers do not depend on their order, so what is faster need not
round otherwise: here many outputs are computed at the same time, which fills vector registers,
where Pillow computes one after the other.

Axis letters: H W rows and columns of the image, h w of the result, k taps of the filter.
"""

from __future__ import annotations

import functools
import math

import numba
import numpy as np
import PIL

# From 13.0 on Pillow begins with the vertical pass where the height shrinks much more than the
# width (Pillow pull request 9549; found by comparison); the rounding in between differs.
VERTICAL_FIRST = int(PIL.__version__.partition(".")[0]) >= 13
BITS = 22  # fraction bits of a weight: 32 less 8 of the pixel and 2 of headroom
ROWS = 32  # rows of a tile
SUPPORT = 2.0  # half width of the cubic


def bicubic(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [height, width, 3]: equal to PIL's `resize` with BICUBIC."""
    lost_rows, lost_columns = len(image) - height, image.shape[1] - width
    out = np.ascontiguousarray(image)
    if VERTICAL_FIRST and lost_rows > max(2 * lost_columns, 0):
        return _resize_width(_resize_height(out, height), width)
    return _resize_height(_resize_width(out, width), height)


def _resize_width(image: np.ndarray, width: int) -> np.ndarray:
    return image if image.shape[1] == width else _across(image, *weights(image.shape[1], width))


def _resize_height(image: np.ndarray, height: int) -> np.ndarray:
    if len(image) == height:
        return image
    flat = image.reshape(len(image), -1)
    return _down(flat, *weights(len(image), height)).reshape(height, -1, 3)


@functools.lru_cache(256)
def weights(size: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The filter from `size` places to `new` ones.

    Returns (first input of each output int64 [new], count of its inputs int64 [new], weights int32
    [new, k] in units of 2^-BITS, 0 beyond the count).
    """
    scale = size / new
    stretch = max(scale, 1.0)
    support = SUPPORT * stretch
    centre = (np.arange(new) + 0.5) * scale
    # C casts cut towards zero; below 0 the bound is 0 anyway.
    first = np.maximum(np.trunc(centre - support + 0.5), 0).astype(np.int64)
    end = np.minimum(np.trunc(centre + support + 0.5), size).astype(np.int64)
    taps = math.ceil(support) * 2 + 1
    k = np.arange(taps)
    inside = k < (end - first)[:, None]
    distance = ((k + first[:, None]) - centre[:, None] + 0.5) * (1.0 / stretch)
    value = np.where(inside, _cubic(distance), 0.0)
    total = np.zeros(new)
    for tap in range(taps):  # in Pillow's order of summation
        total += value[:, tap]
    value /= total[:, None]
    fixed = np.trunc(value * (1 << BITS) + np.where(value < 0, -0.5, 0.5)).astype(np.int32)
    return first, end - first, fixed


def _cubic(x: np.ndarray) -> np.ndarray:
    a, x = -0.5, np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


@numba.njit(nogil=True, cache=True)
def _down(
    image: np.ndarray, first: np.ndarray, count: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """The vertical pass: uint8 [H, n] -> uint8 [h, n]."""
    width = image.shape[1]
    out = np.empty((len(first), width), np.uint8)
    sums = np.empty(width, np.int32)
    for o in range(len(first)):
        sums[:] = 1 << (BITS - 1)
        for k in range(count[o]):
            weight = weights[o, k]
            row = image[first[o] + k]
            for x in range(width):
                sums[x] += weight * np.int32(row[x])
        for x in range(width):
            out[o, x] = min(max(sums[x] >> BITS, 0), 255)
    return out


@numba.njit(nogil=True, cache=True)
def _across(
    image: np.ndarray, first: np.ndarray, count: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """The horizontal pass: uint8 [H, W, 3] -> uint8 [H, w, 3]."""
    height, width, _ = image.shape
    out = np.empty((height, len(first), 3), np.uint8)
    tile = np.zeros((width, 3 * ROWS), np.uint8)  # a column of ROWS rows is one vector
    for top in range(0, height, ROWS):
        rows = min(ROWS, height - top)
        for x in range(width):
            for c in range(3):
                for r in range(rows):
                    tile[x, c * ROWS + r] = image[top + r, x, c]
        narrow = _down(tile, first, count, weights)
        for r in range(rows):
            for o in range(len(first)):
                for c in range(3):
                    out[top + r, o, c] = narrow[o, c * ROWS + r]
    return out
