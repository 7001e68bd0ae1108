"""derm-mini: dermoscopy of a pigmented lesion, the five classes that CLIMB keeps of HAM10000 and
PAD-UFES-20.

NV even brown with a regular net; MEL irregular outline, several colours, a blue-white veil; BCC
pink and pearly with branching vessels and blue nests; AKIEC red and scaly; OTHER (seborrhoeic
keratosis) sharp and waxy with white and dark plugs.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from qoq_jax.climb.mini.render.canvas import (
    FAINT,
    NOISE,
    Dataset,
    Media,
    Rng,
    Scene,
    blur,
    contrast,
    dots,
    grid,
    mix,
    noise,
    pick,
    radius,
    size_near,
    soft,
    strokes,
    to_uint8,
    wobble,
)

LABELS = ("MEL", "NV", "BCC", "AKIEC", "OTHER")
_WORDS = {
    "NV": ("even brown patch with a regular net", "round"),
    "MEL": ("dark patch of many colours with a blue veil", "irregular"),
    "BCC": ("pink pearly patch with branching red vessels", "raised"),
    "AKIEC": ("rough red patch with white scale", "flat"),
    "OTHER": ("waxy tan patch with white and dark plugs", "sharp"),
}
PLACES = {
    "centre": (0.5, 0.5),
    "upper left": (0.42, 0.42),
    "upper right": (0.58, 0.42),
    "lower left": (0.42, 0.58),
    "lower right": (0.58, 0.58),
}


def plan(rng: Rng, labels: tuple[str, ...], difficulty: int) -> Scene:
    place = pick(rng, tuple(PLACES))
    text, shape = _WORDS[labels[0]]
    params = {
        "place": place,
        "size": float(rng.uniform(0.28, 0.33)),
        "contrast": contrast(rng, difficulty, FAINT),
    }
    return Scene(labels, difficulty, f"{shape} {text} in the {place}", params)


@dataclasses.dataclass(frozen=True)
class Lesion:
    """Where a lesion lies.

    Grid x [1, w], y [h, 1]; centre and size in widths; outline r [h, w], 1 on it; two textures.
    """

    x: np.ndarray
    y: np.ndarray
    centre: tuple[float, float]
    size: float
    r: np.ndarray
    cloud: np.ndarray
    fine: np.ndarray


def _naevus(lesion: Lesion, rng: Rng) -> np.ndarray:
    """A naevus: an even brown net."""
    base = np.array([0.50, 0.30, 0.19]) * rng.uniform(0.9, 1.12)
    net = np.abs(np.sin(lesion.x * 120 + 0.6 * lesion.cloud)) * np.abs(
        np.sin(lesion.y * 120 + 0.6 * lesion.fine * 0.5)
    )
    return mix(base, base * 1.45, np.clip(0.25 + 0.9 * net * np.clip(lesion.r, 0.2, 1), 0, 1) * 0.8)


def _melanoma(lesion: Lesion, rng: Rng) -> np.ndarray:
    """A melanoma: dark, uneven, with a blue-white veil."""
    h, w = lesion.r.shape
    cx, cy = lesion.centre
    tone = mix(
        np.array([0.30, 0.17, 0.12]),
        np.array([0.10, 0.07, 0.08]),
        np.clip(0.5 + 0.9 * lesion.cloud, 0, 1),
    )
    tone = mix(tone, np.array([0.58, 0.34, 0.20]), np.clip(noise(rng, h, w, 5) - 0.5, 0, 0.9))
    bx, by = cx + rng.uniform(-0.09, 0.09), cy + rng.uniform(-0.08, 0.08)
    veil = soft(
        radius(lesion.x, lesion.y, bx, by, lesion.size * 0.5, lesion.size * 0.42)
        / wobble(lesion.x, lesion.y, bx, by, rng, 0.15),
        0.8,
    )
    return mix(tone, np.array([0.45, 0.53, 0.68]), 0.85 * veil)


def _basal_cell(lesion: Lesion, rng: Rng) -> np.ndarray:
    """A basal cell carcinoma: pink, with blue-grey nests and branching vessels."""
    h, w = lesion.r.shape
    cx, cy = lesion.centre
    base = np.array([0.88, 0.52, 0.50])
    tone = mix(base, np.array([0.97, 0.76, 0.73]), np.clip(0.5 + 0.4 * lesion.cloud, 0, 1))
    k = 5
    a, d = rng.uniform(0, 2 * np.pi, k), rng.uniform(0.1, 0.7, k) * lesion.size
    nests = blur(
        dots(
            h,
            w,
            np.stack([cx + d * np.cos(a), cy + d * np.sin(a)], -1),
            rng.uniform(0.035, 0.060, k),
        ),
        1.0,
    )
    tone = mix(tone, np.array([0.34, 0.36, 0.50]), 0.9 * nests)
    lines = []
    for start in rng.uniform(0, 2 * np.pi, 5):
        px, py, heading = (
            cx + lesion.size * np.cos(start),
            cy + lesion.size * np.sin(start),
            start + np.pi + rng.normal(0, 0.3),
        )
        thick = 1.7
        for _ in range(6):
            qx, qy = px + 0.045 * np.cos(heading), py + 0.045 * np.sin(heading)
            lines.append(([(px, py), (qx, qy)], thick, 1.0))
            fork = heading + rng.choice((-0.9, 0.9))
            lines.append(
                ([(qx, qy), (qx + 0.04 * np.cos(fork), qy + 0.04 * np.sin(fork))], 0.8, 0.8)
            )
            px, py, heading, thick = qx, qy, heading + rng.normal(0, 0.4), thick * 0.85
    return mix(tone, np.array([0.70, 0.10, 0.13]), 0.9 * blur(strokes(h, w, lines), 0.4))


def _actinic(lesion: Lesion, rng: Rng) -> np.ndarray:
    """An actinic keratosis: red, with yellow-white scales."""
    h, w = lesion.r.shape
    base = np.array([0.80, 0.38, 0.33])
    tone = mix(base, np.array([0.64, 0.27, 0.25]), np.clip(0.5 + 0.5 * lesion.fine, 0, 1))
    scale = np.clip(noise(rng, h, w, 17) - 0.25, 0, 1) + np.clip(noise(rng, h, w, 40) - 0.8, 0, 1)
    return mix(tone, np.array([0.98, 0.94, 0.86]), np.clip(1.3 * scale, 0, 0.95))


def _keratosis(lesion: Lesion, rng: Rng) -> np.ndarray:
    """A seborrhoeic keratosis: waxy, with white and dark dots."""
    h, w = lesion.r.shape
    cx, cy = lesion.centre
    base = np.array([0.78, 0.61, 0.38]) * rng.uniform(0.92, 1.08)
    tone = mix(base, base * 0.78, np.clip(0.5 + 0.5 * noise(rng, h, w, 16), 0, 1))
    k = 26
    a, d = rng.uniform(0, 2 * np.pi, k), np.sqrt(rng.uniform(0, 0.75, k)) * lesion.size
    centres = np.stack([cx + d * np.cos(a), cy + d * np.sin(a)], -1)
    tone = mix(
        tone,
        np.array([0.99, 0.96, 0.84]),
        0.95 * dots(h, w, centres[: k // 2], rng.uniform(0.016, 0.026, k // 2)),
    )
    return mix(
        tone,
        np.array([0.16, 0.10, 0.07]),
        0.9 * dots(h, w, centres[k // 2 :], rng.uniform(0.014, 0.022, k - k // 2)),
    )


TONES = {
    "NV": _naevus,
    "MEL": _melanoma,
    "BCC": _basal_cell,
    "AKIEC": _actinic,
    "OTHER": _keratosis,
}


def _hairs(h: int, w: int, count: int, rng: Rng) -> list:
    """`count` hairs across the picture, as `strokes` takes them."""
    hairs = []
    for _ in range(count):
        px, py, a, bend = (
            rng.uniform(0, 1),
            rng.uniform(0, h / w),
            rng.uniform(0, np.pi),
            rng.normal(0, 0.35),
        )
        t = np.linspace(-0.3, 0.3, 7)
        hairs.append(
            (
                list(
                    zip(px + t * np.cos(a + bend * t), py + t * np.sin(a + bend * t), strict=True)
                ),
                rng.uniform(0.5, 1.1),
                0.9,
            )
        )
    return hairs


def draw(scene: Scene, anatomy: Rng, rng: Rng) -> Media:
    h, w = size_near(rng, 140, 156, 6)
    label, p = scene.labels[0], scene.params
    x, y = grid(h, w)
    fair = np.array([0.90, 0.72, 0.62]) * anatomy.uniform(0.92, 1.05) + anatomy.normal(0, 0.012, 3)
    skin = np.ones((h, w, 3), np.float32) * fair.astype(np.float32)
    skin *= 1 + 0.035 * noise(rng, h, w, 5)[..., None] + 0.02 * noise(rng, h, w, 40)[..., None]

    cx, cy = PLACES[p["place"]][0], PLACES[p["place"]][1] * h / w
    size, c = p["size"], p["contrast"]
    uneven = {"NV": 0.05, "MEL": 0.26, "BCC": 0.14, "AKIEC": 0.18, "OTHER": 0.10}[label]
    stretch = rng.uniform(0.9, 1.1) if label != "MEL" else rng.uniform(0.72, 0.9)
    r = radius(x, y, cx, cy, size / stretch, size * stretch, rng.uniform(-0.6, 0.6)) / wobble(
        x, y, cx, cy, rng, uneven, (2, 3, 4, 5)
    )
    edge = {"NV": 0.30, "MEL": 0.14, "BCC": 0.35, "AKIEC": 0.55, "OTHER": 0.07}[label]
    body = soft(r, edge)
    cloud, fine = noise(rng, h, w, 9), noise(rng, h, w, 34)

    tone = TONES[label](Lesion(x, y, (cx, cy), size, r, cloud, fine), rng)
    # A hard lesion is shallow, and most of it looks like any pigmented lesion: only a part shows
    # its kind.
    depth, kind = 0.30 + 0.70 * c, min(1.0, 0.40 + 0.70 * c)
    plain = np.array([0.60, 0.40, 0.30]) * (1 + 0.12 * cloud[..., None])
    image = mix(skin, mix(plain, tone, np.full((h, w), kind)), body * np.float32(depth))
    halo = np.exp(-np.square((r - 1.08) / 0.16)) * (0.25 if label in ("BCC", "AKIEC") else 0.08)
    image = mix(image, np.array([0.86, 0.50, 0.45]), halo * depth)

    hairs = _hairs(h, w, int(anatomy.integers(2, 5)) * scene.difficulty, rng)
    image = mix(image, np.array([0.22, 0.14, 0.10]), 0.75 * strokes(h, w, hairs))
    lens = np.clip(1.25 - 0.55 * np.square(radius(x, y, 0.5, 0.5 * h / w, 0.62, 0.62)), 0.35, 1)[
        ..., None
    ]
    image = image * lens + np.float32(0.010 * NOISE[scene.difficulty]) * rng.standard_normal(
        (h, w, 3), dtype=np.float32
    )
    return Media(pixels=to_uint8(image), regions=((label, r < 1.0),))


DATASETS = (
    Dataset(
        name="derm-mini",
        domain="dermoscopy",
        labels=LABELS,
        question="What is the diagnosis of the skin lesion in this dermoscopy image?",
        kind="image",
        plan=plan,
        draw=draw,
        suffix=".jpg",
    ),
)
