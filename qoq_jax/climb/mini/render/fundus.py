"""fundus-mini: colour photographs of the retina with the five grades of diabetic retinopathy.

Signs add up with the grade: red dots; then blots and yellow exudates; then many blots with
cotton-wool spots; proliferative disease adds fronds of new vessels and a dark boat of blood in
front of the retina. The affected area is the gold region.
"""

from __future__ import annotations

import numpy as np

from qoq_jax.climb.mini.render.canvas import (
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
)

LABELS = ("No DR", "Mild DR", "Moderate DR", "Severe DR", "Proliferative DR")
_WORDS = {
    "Mild DR": "a few red dots",
    "Moderate DR": "red dots and yellow exudates",
    "Severe DR": "many dark blots and white cotton spots",
    "Proliferative DR": "new vessels and dark blood",
}
PLACES = {
    "upper": (0.46, 0.34),
    "lower": (0.46, 0.66),
    "temporal": (0.31, 0.50),
    "central": (0.46, 0.50),
}


def plan(rng: Rng, labels: tuple[str, ...], difficulty: int) -> Scene:
    label, eye, place = labels[0], pick(rng, ("left", "right")), pick(rng, tuple(PLACES))
    text = f"clear retina without red dots in the {eye} eye"
    if label != "No DR":
        text = f"{_WORDS[label]} in the {place} retina of the {eye} eye"
    params = {
        "eye": eye,
        "place": place,
        "contrast": 0.30 + 0.70 * contrast(rng, difficulty),
        "size": float(rng.uniform(0.26, 0.29)),
    }
    return Scene(labels, difficulty, text, params)


def _vessels(h: int, w: int, shift: float, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Arcades from the disc at (0.77, 0.5 h/w): veins and arteries, float32 [h, w] each."""
    veins, arteries = [], []
    for target, bend in ((veins, 0.0), (arteries, 0.035)):
        for s in (-1, 1):
            for reach, curve in ((0.66, 0.29 - bend), (0.42, 0.43 - bend), (-0.17, 0.36 - bend)):
                t = np.linspace(0, 1, 12)
                px = 0.77 - reach * t + rng.normal(0, 0.004, 12).cumsum() * 0.6
                py = (
                    shift
                    + s * curve * np.sin(np.clip(t * 1.9, 0, 2.3)) * (0.55 + 0.45 * t)
                    + rng.normal(0, 0.004, 12).cumsum()
                )
                for a in range(11):
                    target.append(
                        (
                            [(px[a], py[a]), (px[a + 1], py[a + 1])],
                            2.9 - 1.9 * t[a],
                            1.0 - 0.35 * t[a],
                        )
                    )
                for a in (3, 5, 7, 9):  # side branches
                    heading = np.arctan2(py[a + 1] - py[a - 1], px[a + 1] - px[a - 1]) + rng.choice(
                        (-0.8, 0.8)
                    )
                    k = np.linspace(0, 1, 5)
                    bx = px[a] + 0.16 * k * np.cos(heading + 0.5 * k * rng.normal(0, 1))
                    by = py[a] + 0.16 * k * np.sin(heading + 0.5 * k * rng.normal(0, 1))
                    target.append((list(zip(bx, by, strict=True)), 1.0, 0.65))
    return blur(strokes(h, w, veins), 0.5), blur(strokes(h, w, arteries), 0.4)


def _scatter(rng: Rng, count: int, cx: float, cy: float, reach: float) -> np.ndarray:
    a, d = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.uniform(0, 1, count)) * reach
    return np.stack([cx + d * np.cos(a), cy + d * np.sin(a)], -1)


def _lesions(image: np.ndarray, grade: int, place: tuple[float, ...], rng: Rng) -> np.ndarray:
    """The picture [h, w, 3] with the signs of a grade (1 to 4) around one place.

    Args:
      place: (x, y, reach, contrast).
    """
    h, w = image.shape[:2]
    x, y = grid(h, w)
    cx, cy, reach, c = place
    red, dark = np.array([0.44, 0.02, 0.03]), np.array([0.30, 0.02, 0.02])
    count = (0, 13, 10, 0, 0)[grade]
    image = mix(
        image,
        red,
        0.92
        * c
        * dots(
            h,
            w,
            _scatter(rng, count, cx, cy, reach * 0.9),
            np.full(count, (0, 0.036, 0.020, 0, 0)[grade]),
        ),
    )
    if grade == 2:
        yellow = _scatter(rng, 26, cx, cy, reach * 0.85)
        image = mix(
            image,
            np.array([1.0, 0.92, 0.45]),
            0.95 * c * dots(h, w, yellow, rng.uniform(0.018, 0.030, 26)),
        )
    if grade == 3:
        k = 22
        blots = dots(
            h,
            w,
            _scatter(rng, k, cx, cy, reach * 0.95),
            rng.uniform(0.034, 0.052, k),
            None,
            2,
            rng.uniform(1, 1.3, k),
            rng.uniform(0, 3, k),
        )
        image = mix(image, dark, 0.9 * c * blur(blots, 0.6))
        wool = blur(dots(h, w, _scatter(rng, 7, cx, cy, reach * 0.85), np.full(7, 0.052)), 2.0)
        image = mix(image, np.array([0.97, 0.93, 0.80]), 0.85 * c * wool)
    if grade == 4:
        lines = []
        for a in np.linspace(0, 2 * np.pi, 10)[:-1] + rng.normal(0, 0.2, 9):
            t = np.linspace(0, 1, 9)
            wave = a + 1.1 * np.sin(5 * t + rng.uniform(0, 6))
            px, py = (
                cx + 0.8 * reach * t * np.cos(wave),
                cy - 0.03 + 0.8 * reach * t * np.sin(wave),
            )
            lines.append((list(zip(px, py, strict=True)), 2.0, 1.0))
        image = mix(image, red, 0.9 * c * blur(strokes(h, w, lines), 0.4))
        boat = soft(radius(x, y, cx, cy + 0.02, reach * 0.95, reach * 0.90), 0.15) * np.clip(
            (y - cy + 0.03) * 60, 0, 1
        )
        image = mix(image, dark, 0.95 * c * boat)
    return image


def draw(scene: Scene, anatomy: Rng, rng: Rng) -> Media:
    h, w = size_near(rng, 148, 156, 8)
    label, p = scene.labels[0], scene.params
    x, y = grid(h, w)
    mid = 0.5 * h / w
    field = radius(x, y, 0.5, mid, 0.475, 0.475)
    tint = anatomy.uniform(0.97, 1.03)
    image = mix(
        np.array([0.86, 0.42, 0.17]) * tint,
        np.array([0.58, 0.22, 0.08]) * tint,
        np.clip(field * 0.9, 0, 1) ** 1.5,
    )
    image = (
        image * (1 + 0.05 * noise(anatomy, h, w, 7) + 0.025 * noise(anatomy, h, w, 30))[..., None]
    )
    macula = np.exp(-np.square(radius(x, y, 0.40, mid + 0.01, 0.085, 0.085)))
    image = mix(image, np.array([0.45, 0.14, 0.05]), 0.65 * macula)
    disc = radius(x, y, 0.77, mid, 0.068, 0.078)
    image = mix(image, np.array([1.0, 0.80, 0.45]), soft(disc, 0.25))
    image = mix(image, np.array([1.0, 0.95, 0.75]), soft(disc / 0.48, 0.5))
    veins, arteries = _vessels(h, w, mid, anatomy)
    image = mix(image, np.array([0.42, 0.06, 0.04]), 0.80 * veins)
    image = mix(image, np.array([0.66, 0.14, 0.08]), 0.75 * arteries)

    regions = ()
    if label != "No DR":
        fx, fy = PLACES[p["place"]]
        cx, cy, reach, c = (
            fx + rng.uniform(-0.02, 0.02),
            mid + (fy - 0.5) * 0.95,
            p["size"],
            np.float32(p["contrast"]),
        )
        image = _lesions(image, LABELS.index(label), (cx, cy, reach, c), rng)
        regions = ((label, (radius(x, y, cx, cy, reach, reach) < 1) & (field < 0.99)),)
    if scene.difficulty > 1:  # glare and dust of the lens
        gx, gy = rng.uniform(0.2, 0.6), rng.uniform(0.2, 0.7)
        image = mix(
            image,
            np.array([0.95, 0.75, 0.5]),
            0.08 * (scene.difficulty - 1) * soft(radius(x, y, gx, gy, 0.2, 0.3), 1.6),
        )
    grain = np.float32(0.010 * NOISE[scene.difficulty]) * rng.standard_normal(
        (h, w, 3), dtype=np.float32
    )
    image = blur(np.moveaxis(image + grain, -1, 0), 0.35 + 0.12 * scene.difficulty)
    image = np.moveaxis(image, 0, -1) * soft(field, 0.02)[..., None]
    pixels = to_uint8(image)
    if p["eye"] == "left":
        pixels = np.ascontiguousarray(pixels[:, ::-1])
        regions = tuple((name, m[:, ::-1]) for name, m in regions)
    return Media(pixels=pixels, regions=regions)


DATASETS = (
    Dataset(
        name="fundus-mini",
        domain="fundus",
        labels=LABELS,
        question="What is the grade of diabetic retinopathy in this fundus photograph?",
        kind="image",
        plan=plan,
        draw=draw,
        suffix=".jpg",
    ),
)
