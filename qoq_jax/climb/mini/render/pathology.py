"""path-mini: H&E tiles with the five classes of LC25000.

benign colon: even round crypts with white mucin; colon adenocarcinoma: crowded irregular glands
with dark stratified nuclei; benign lung: thin septa around air; lung adenocarcinoma: irregular
acini in a sheet of tumour; lung squamous cell carcinoma: solid nests with pink keratin pearls. In a
tumour tile the nest covers a part of the field: that part is the gold region.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from qoq_jax.climb.mini.render.canvas import (
    NOISE,
    Dataset,
    Media,
    Rng,
    Scene,
    blur,
    dots,
    grid,
    mix,
    noise,
    pick,
    radius,
    size_near,
    soft,
    to_uint8,
    window,
    wobble,
)

LABELS = (
    "colon adenocarcinoma",
    "benign colon",
    "lung adenocarcinoma",
    "lung squamous cell carcinoma",
    "benign lung",
)
TUMOURS = {
    "colon adenocarcinoma": "crowded irregular glands with dark nuclei",
    "lung adenocarcinoma": "tumour acini with open spaces",
    "lung squamous cell carcinoma": "solid tumour nests with pink keratin pearls",
}
_BENIGN = {
    "benign colon": "even round glands with white mucin and small nuclei",
    "benign lung": "thin walls around open air spaces",
}
PLACES = {
    "centre": (0.5, 0.5),
    "upper left": (0.38, 0.38),
    "upper right": (0.62, 0.38),
    "lower left": (0.38, 0.62),
    "lower right": (0.62, 0.62),
}

PINK, STROMA, WHITE = (
    np.array([0.93, 0.70, 0.80]),
    np.array([0.90, 0.58, 0.72]),
    np.array([0.97, 0.95, 0.97]),
)
NUCLEUS, DARK, KERATIN = (
    np.array([0.36, 0.24, 0.55]),
    np.array([0.24, 0.12, 0.40]),
    np.array([0.95, 0.42, 0.58]),
)


def plan(rng: Rng, labels: tuple[str, ...], difficulty: int) -> Scene:
    label, place = labels[0], pick(rng, tuple(PLACES))
    text = f"{TUMOURS[label]} in the {place}" if label in TUMOURS else _BENIGN[label]
    size = float(rng.uniform(0.41, 0.45) - 0.035 * (difficulty - 1))
    return Scene(labels, difficulty, text, {"place": place, "size": size})


def _scattered(rng: Rng, h: int, w: int, spacing: float) -> np.ndarray:
    """Points of a jittered lattice over the picture, [k, 2] in widths."""
    gx, gy = np.meshgrid(np.arange(0, 1 + spacing, spacing), np.arange(0, h / w + spacing, spacing))
    points = np.stack([gx.ravel(), gy.ravel()], -1)
    return points + rng.uniform(-0.45, 0.45, points.shape) * spacing


def _at(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Values of a [h, w] field at points [k, 2] in widths (nearest pixel, clamped)."""
    h, w = field.shape
    px, py = (points * w).astype(int).T
    return field[np.clip(py, 0, h - 1), np.clip(px, 0, w - 1)]


def _nuclei(
    image: np.ndarray,
    points: np.ndarray,
    size: float,
    colour: np.ndarray,
    rng: Rng,
    strength: float = 0.9,
    aspect: tuple[float, float] = (1.0, 1.3),
) -> np.ndarray:
    h, w = image.shape[:2]
    k = len(points)
    shape = dots(
        h,
        w,
        points,
        rng.uniform(0.85, 1.2, k) * size,
        rng.uniform(0.75, 1.0, k),
        2,
        rng.uniform(*aspect, k),
        rng.uniform(0, np.pi, k),
    )
    return mix(image, colour, strength * blur(shape, 0.35))


def _glands(rng: Rng, h: int, w: int, spacing: float, size: float, uneven: float) -> np.ndarray:
    """Gland field [h, w]: distance to the nearest gland in its radii (1 outline, 9 far away)."""
    x, y = grid(h, w)
    best = np.full((h, w), 9.0, np.float32)
    for cx, cy in _scattered(rng, h, w, spacing) if uneven else _hexagonal(rng, h, w, spacing):
        rows, columns = window(h, w, cx, cy, 2 * size)
        xs, ys = x[:, columns], y[rows]
        r = radius(xs, ys, cx, cy, size * rng.uniform(0.9, 1.1), size * rng.uniform(0.9, 1.1))
        if uneven:
            r = r / wobble(xs, ys, cx, cy, rng, uneven, (2, 3, 5))
        best[rows, columns] = np.minimum(best[rows, columns], r)
    return best


def _hexagonal(rng: Rng, h: int, w: int, spacing: float) -> np.ndarray:
    rows = np.arange(-0.5, h / w / (spacing * 0.87) + 1)
    points = [
        ((i + 0.5 * (j % 2)) * spacing, row * spacing * 0.87)
        for j, row in enumerate(rows)
        for i in range(int(1 / spacing) + 2)
    ]
    return (
        np.array(points)
        + rng.normal(0, 0.06 * spacing, (len(points), 2))
        + rng.uniform(0, spacing, 2)
    )


def _colon(rng: Rng, h: int, w: int) -> np.ndarray:
    """Normal mucosa: crypts cut across, goblet cells around a small lumen, nuclei at the base."""
    g = _glands(rng, h, w, 0.29, 0.118, 0.0)
    image = np.ones((h, w, 3), np.float32) * STROMA.astype(np.float32)
    image *= (1 + 0.05 * noise(rng, h, w, 25))[..., None]
    image = mix(image, np.array([0.93, 0.80, 0.90]), soft(g, 0.12))
    points = _scattered(rng, h, w, 0.036)
    at = _at(g, points)
    goblets = points[(at > 0.28) & (at < 0.80)]
    image = mix(image, WHITE, 0.95 * dots(h, w, goblets, np.full(len(goblets), 0.017)))
    image = mix(image, WHITE, soft(g / 0.22, 0.5))
    points = _scattered(rng, h, w, 0.024)
    at = _at(g, points)
    image = _nuclei(image, points[(at > 0.86) & (at < 1.06)], 0.0105, NUCLEUS, rng, 0.9)
    return _nuclei(
        image,
        points[(at > 1.15) & (rng.random(len(points)) < 0.30)],
        0.008,
        NUCLEUS,
        rng,
        0.8,
        (1.1, 1.7),
    )


def _lung(rng: Rng, h: int, w: int) -> np.ndarray:
    """Normal lung: air spaces with thin septa, a few nuclei in them."""
    x, y = grid(h, w)
    points = _scattered(rng, h, w, 0.21)
    pixels = np.stack(np.broadcast_arrays(x, y), -1)
    # a wall is where two cells are equally near
    d = cKDTree(points).query(pixels, k=2)[0].astype(np.float32)
    wall = (d[..., 1] - d[..., 0]) + 0.006 * noise(rng, h, w, 22)
    septa = np.clip(1.35 - wall / 0.021, 0, 1)
    image = mix(np.ones((h, w, 3)) * WHITE, PINK * 0.96, septa)
    points = _scattered(rng, h, w, 0.025)
    points = points[(_at(septa, points) > 0.6) & (rng.random(len(points)) < 0.6)]
    return _nuclei(image, points, 0.0095, NUCLEUS, rng)


def _tumour(rng: Rng, h: int, w: int, label: str) -> np.ndarray:
    """A field full of tumour of the given class."""
    image = np.ones((h, w, 3), np.float32) * (PINK * np.array([0.92, 0.86, 0.96])).astype(
        np.float32
    )
    image *= (1 + 0.05 * noise(rng, h, w, 30))[..., None]
    points = _scattered(rng, h, w, 0.027)
    if label == "colon adenocarcinoma":
        g = _glands(rng, h, w, 0.19, 0.078, 0.22)
        image = mix(image, np.array([0.72, 0.50, 0.72]), soft(g / 1.15, 0.2))
        image = mix(image, WHITE * 0.97, soft(g / 0.33, 0.6))
        at = _at(g, points)
        return _nuclei(
            image, points[(at > 0.45) & (at < 1.25)], 0.0125, DARK, rng, 0.95, (1.2, 1.7)
        )
    if label == "lung adenocarcinoma":
        g = _glands(rng, h, w, 0.25, 0.098, 0.28)
        image = mix(image, WHITE, soft(g, 0.18))
        at = _at(g, points)
        image = _nuclei(
            image,
            points[(at > 0.92) & (at < 1.5)],
            0.0130,
            np.array([0.42, 0.22, 0.52]),
            rng,
            0.9,
            (1.0, 1.35),
        )
        return _nuclei(
            image, points[(at > 1.5) & (rng.random(len(points)) < 0.5)], 0.011, NUCLEUS, rng, 0.85
        )
    x, y = grid(h, w)
    image = image * np.array([0.98, 0.90, 0.94], np.float32)
    pearls = np.full((h, w), 9.0, np.float32)
    for cx, cy in _scattered(rng, h, w, 0.27):
        r = radius(x, y, cx, cy, 0.085 * rng.uniform(0.75, 1.2), 0.070) / wobble(
            x, y, cx, cy, rng, 0.12
        )
        pearls = np.minimum(pearls, r)
    free = _at(pearls, points) > 1.0
    image = _nuclei(
        image, points[free], 0.0120, np.array([0.38, 0.20, 0.50]), rng, 0.85, (1.0, 1.25)
    )
    rings = 0.5 + 0.5 * np.cos(pearls * 17 + 1.6 * noise(rng, h, w, 16))
    keratin = mix(KERATIN, np.array([0.99, 0.66, 0.74]), rings)
    return mix(image, keratin, soft(pearls, 0.15))


def _follicle(image: np.ndarray, rng: Rng, difficulty: int) -> np.ndarray:
    """Benign tissue of a hard tile may hold a crowd of lymphocytes, dark but no tumour."""
    if difficulty == 1 or rng.random() < 0.5:
        return image
    h, w = image.shape[:2]
    reach, centre = rng.uniform(0.12, 0.22), rng.uniform((0.25, 0.25), (0.75, 0.75))
    points = _scattered(rng, h, w, 0.024)
    points = points[np.linalg.norm(points - centre, axis=1) < reach]
    return _nuclei(image, points, 0.0100, DARK, rng, 0.85, (1.0, 1.1))


def draw(scene: Scene, anatomy: Rng, rng: Rng) -> Media:
    h, w = size_near(rng, 144, 144, 6)
    label, p = scene.labels[0], scene.params
    host = _colon(rng, h, w) if "colon" in label else _lung(rng, h, w)
    regions = ()
    if label in TUMOURS:
        x, y = grid(h, w)
        cx, cy = PLACES[p["place"]][0], PLACES[p["place"]][1] * h / w
        r = radius(x, y, cx, cy, p["size"], p["size"]) / wobble(x, y, cx, cy, rng, 0.12)
        host = mix(host, _tumour(rng, h, w, label), soft(r, 0.10))
        regions = ((label, r < 1.0),)
    else:
        host = _follicle(host, rng, scene.difficulty)
    # Stain and focus differ between laboratories; a hard tile is pale and out of focus.
    pale = (0.0, 0.12, 0.25)[scene.difficulty - 1]
    stain = (
        anatomy.uniform(0.97, 1.03) + np.array([0.0, 1.0, 0.3]) * anatomy.uniform(-0.05, 0.02)
    ).astype(np.float32)
    image = mix(host * stain, np.array([0.93, 0.82, 0.90]), np.full((h, w), pale, np.float32))
    image = np.moveaxis(
        blur(np.moveaxis(image, -1, 0), (0.35, 0.8, 1.2)[scene.difficulty - 1]), 0, -1
    )
    image = image + np.float32(0.012 * NOISE[scene.difficulty]) * rng.standard_normal(
        (h, w, 3), dtype=np.float32
    )
    return Media(pixels=to_uint8(image), regions=regions)


DATASETS = (
    Dataset(
        name="path-mini",
        domain="pathology",
        labels=LABELS,
        question="What is the diagnosis of the tissue in this pathology image?",
        kind="image",
        plan=plan,
        draw=draw,
        suffix=".jpg",
    ),
)
