"""Drawing primitives shared by the climb-mini renderers (numpy, scipy.ndimage and PIL only).

Pictures are float32 [h, w] or [h, w, 3] with 0 = black and 1 = white until `to_uint8`. Positions
and lengths are in units of the picture's width (x to the right, y downwards), so that one anatomy
serves pictures of any size and aspect ratio.

Legend: h height, w width, n slices or frames of a volume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw
from scipy import ndimage

Rng: TypeAlias = np.random.Generator
Number: TypeAlias = float | np.ndarray  # of arguments that broadcast
# Points (x, y) in widths, thickness in pixels, value 0 to 1.
Stroke: TypeAlias = tuple[list[tuple[float, float]], float, float]
T = TypeVar("T")


@dataclass(frozen=True)
class Scene:
    """Everything that decides a case before a pixel is drawn: the words come from here, so do the
    shapes.
    """

    labels: tuple[str, ...]
    difficulty: int  # 1 (plain) to 3 (faint, noisy, with distractors)
    reasoning: str  # the finding in 6 to 12 words
    params: dict = field(default_factory=dict)
    record: str = ""  # text of the patient's record (multimodal cases)


@dataclass(frozen=True)
class Media:
    """A rendered case. `pixels` uint8 [h, w], [h, w, 3] or [n, h, w]; `signal` float32 [12, t] in
    mV.
    """

    pixels: np.ndarray | None = None
    signal: np.ndarray | None = None
    # (label, bool mask of the picture's [n,] h, w)
    regions: tuple[tuple[str, np.ndarray], ...] = ()


@dataclass(frozen=True)
class Dataset:
    """One data set of climb-mini: its label vocabulary, its words and its renderer."""

    name: str
    domain: str
    labels: tuple[str, ...]
    question: str
    kind: str  # "image", "volume", "video", "ecg" or "image+ecg"
    plan: Callable[[Rng, tuple[str, ...], int], Scene]
    draw: Callable[[Scene, Rng, Rng], Media]  # (scene, the patient's anatomy, this acquisition)
    pairs: tuple[tuple[str, str], ...] = ()  # label pairs that may occur together
    suffix: str = ".png"


# --------------------------------------------------------------------------------------------------
# Coordinates and shapes
# --------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def grid(h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres (x [1, w], y [h, 1]) in units of the width. Read-only: shared between calls."""
    x = ((np.arange(w, dtype=np.float32) + 0.5) / w)[None, :]
    y = ((np.arange(h, dtype=np.float32) + 0.5) / w)[:, None]
    x.flags.writeable = y.flags.writeable = False
    return x, y


def radius(
    x: Number, y: Number, cx: Number, cy: Number, rx: Number, ry: Number, angle: float = 0.0
) -> np.ndarray:
    """Elliptic distance from (cx, cy): 0 at the centre, 1 on the ellipse.

    All arguments broadcast.
    """
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    if angle == 0.0:
        return np.sqrt(np.square((x - cx) / rx) + np.square((y - cy) / ry))
    u = ((x - cx) * c + (y - cy) * s) / rx
    v = ((y - cy) * c - (x - cx) * s) / ry
    return np.sqrt(u * u + v * v)


def soft(r: np.ndarray, width: float = 0.1) -> np.ndarray:
    """1 inside, 0 outside the outline r = 1; a linear rim of the given width (in units of r)."""
    return np.clip((1.0 - r) / np.float32(width) + 0.5, 0.0, 1.0).astype(np.float32, copy=False)


def wobble(
    x: Number,
    y: Number,
    cx: Number,
    cy: Number,
    rng: Rng,
    amount: float,
    orders: Sequence[int] = (2, 3, 5),
) -> np.ndarray:
    """Factor about 1 by which an irregular outline varies with direction. Divide `radius` by it."""
    theta = np.arctan2(np.asarray(y - cy, np.float32), np.asarray(x - cx, np.float32))
    out = np.ones_like(theta)
    for k in orders:
        out += np.float32(amount / np.sqrt(len(orders)) * rng.uniform(0.6, 1.4)) * np.cos(
            np.float32(k) * theta + np.float32(rng.uniform(0, 2 * np.pi))
        )
    return np.maximum(out, np.float32(0.3))


def noise(rng: Rng, h: int, w: int, cells: float) -> np.ndarray:
    """Smooth noise: normal values on a lattice of `cells` a width, bicubic between them."""
    gh, gw = max(2, round(cells * h / w)), max(2, round(cells))
    coarse = Image.fromarray(rng.standard_normal((gh, gw), dtype=np.float32))
    return np.asarray(coarse.resize((w, h), Image.Resampling.BICUBIC))


def blur(a: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur over the last two axes of [.., h, w], sigma in pixels."""
    out = ndimage.gaussian_filter1d(a, sigma, axis=-1, truncate=2.5)
    return ndimage.gaussian_filter1d(out, sigma, axis=-2, truncate=2.5)


def strokes(h: int, w: int, lines: Iterable[Stroke], scale: int = 2) -> np.ndarray:
    """Antialiased polylines, float32 [h, w]. A line: points [(x, y)] in widths, pixels thick, value
    0..1.
    """
    image = Image.new("L", (w * scale, h * scale))
    pen = ImageDraw.Draw(image)
    for points, thickness, value in lines:
        xy = [(float(px) * w * scale, float(py) * w * scale) for px, py in points]
        pen.line(xy, fill=int(255 * value), width=max(1, round(thickness * scale)), joint="curve")
    return np.asarray(image.reduce(scale), np.float32) / np.float32(255)


_CIRCLE = np.linspace(0, 2 * np.pi, 12, endpoint=False)


def dots(
    h: int,
    w: int,
    centres: ArrayLike,
    radii: ArrayLike,
    values: ArrayLike | None = None,
    scale: int = 2,
    aspect: np.ndarray | None = None,
    angles: np.ndarray | None = None,
) -> np.ndarray:
    """Antialiased ellipses, float32 [h, w]: centres [k, 2], radii [k] in widths; aspect [k]
    elongates.
    """
    image = Image.new("L", (w * scale, h * scale))
    pen = ImageDraw.Draw(image)
    k = len(radii)
    centres, radii = (
        np.asarray(centres, float) * (w * scale),
        np.asarray(radii, float) * (w * scale),
    )
    fills = [255] * k if values is None else (255 * np.asarray(values)).astype(int).tolist()
    if aspect is None:
        boxes = np.concatenate([centres - radii[:, None], centres + radii[:, None]], -1).tolist()
        for box, fill in zip(boxes, fills, strict=True):
            pen.ellipse(box, fill=fill)
    else:
        along = (radii * aspect)[:, None] * np.cos(_CIRCLE)
        across = (radii / aspect)[:, None] * np.sin(_CIRCLE)
        c, s = np.cos(angles)[:, None], np.sin(angles)[:, None]
        outline = np.stack([along * c - across * s, along * s + across * c], -1) + centres[:, None]
        for points, fill in zip(outline.reshape(k, -1).tolist(), fills, strict=True):
            pen.polygon(points, fill=fill)
    return np.asarray(image.reduce(scale), np.float32) / np.float32(255)


def window(h: int, w: int, cx: float, cy: float, reach: float) -> tuple[slice, slice]:
    """The rows and columns within `reach` of (cx, cy): drawing there alone saves time."""
    x0, y0 = max(0, int((cx - reach) * w)), max(0, int((cy - reach) * w))
    return slice(y0, max(y0, min(h, int((cy + reach) * w) + 1))), slice(
        x0, max(x0, min(w, int((cx + reach) * w) + 1))
    )


# --------------------------------------------------------------------------------------------------
# Tones
# --------------------------------------------------------------------------------------------------


def mix(a: ArrayLike, b: ArrayLike, t: ArrayLike) -> np.ndarray:
    """Linear blend a -> b. For colours pass t [h, w] and a, b [h, w, 3] or a colour triple."""
    a, b, t = np.asarray(a, np.float32), np.asarray(b, np.float32), np.asarray(t, np.float32)
    if a.shape[-1:] == (3,):  # no slice of a volume is 3 pixels wide
        t = t[..., None]
    return a + (b - a) * t


def to_uint8(a: np.ndarray, step: int = 1) -> np.ndarray:
    """0..1 -> uint8, rounded to multiples of `step` (a coarse step makes volumes compress well)."""
    levels = (np.clip(a, 0.0, 1.0) * np.float32(255 // step) + np.float32(0.5)).astype(np.uint8)
    return levels * np.uint8(step)


def pick(rng: Rng, options: Sequence[T]) -> T:
    """One of the options, uniformly, as the Python object itself."""
    return options[int(rng.integers(len(options)))]


#: Contrast of a finding and strength of the noise at difficulty 1, 2, 3.
CONTRAST = {1: 1.0, 2: 0.85, 3: 0.70}
FAINT = {1: 1.0, 2: 0.82, 3: 0.64}  # for signs so plain that they need it
NOISE = {1: 1.0, 2: 1.15, 3: 1.35}


def contrast(rng: Rng, difficulty: int, table: dict[int, float] = CONTRAST) -> float:
    """The contrast of one case: its difficulty's, give or take 10 %."""
    return table[difficulty] * float(rng.uniform(0.9, 1.08))


def size_near(rng: Rng, h: int, w: int, spread: int = 10) -> tuple[int, int]:
    """A native picture size near (h, w): detectors and crops differ."""
    return h + int(rng.integers(-spread, spread + 1)), w + int(rng.integers(-spread, spread + 1))
