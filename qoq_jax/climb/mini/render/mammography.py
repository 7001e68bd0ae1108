"""mammo-mini: one mammographic view (MLO) with the BI-RADS categories 1 to 5.

1 nothing; 2 a round ring of calcium; 3 a smooth oval mass; 4 a lobed, ill-defined mass; 5 a
spiculated mass with a cluster of fine calcifications. The breast may lie on either side of the
film.
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
    noise,
    pick,
    radius,
    size_near,
    soft,
    strokes,
    to_uint8,
    wobble,
)

LABELS = ("BI-RADS 1", "BI-RADS 2", "BI-RADS 3", "BI-RADS 4", "BI-RADS 5")
_WORDS = {
    "BI-RADS 2": "round ring of coarse calcium",
    "BI-RADS 3": "smooth oval mass",
    "BI-RADS 4": "lobed mass with a blurred margin",
    "BI-RADS 5": "spiculated mass with fine calcium",
}
LEVELS = {"upper": 0.46, "central": 0.63, "lower": 0.80}


def plan(rng: Rng, labels: tuple[str, ...], difficulty: int) -> Scene:
    label, side, level = labels[0], pick(rng, ("left", "right")), pick(rng, tuple(LEVELS))
    c = contrast(rng, difficulty)
    params = {
        "side": side,
        "x": float(rng.uniform(0.30, 0.44) if level == "central" else rng.uniform(0.26, 0.34)),
        "y": LEVELS[level] + float(rng.uniform(-0.04, 0.04)),
        "size": float(rng.uniform(0.19, 0.225)),
        "contrast": c,
    }
    if label == "BI-RADS 1":
        text = f"no mass and no calcium in the {side} breast"
    else:
        text = f"{_WORDS[label]} in the {level} {side} breast"
    return Scene(labels, difficulty, text, params)


def breast(
    h: int, w: int, anatomy: Rng, rng: Rng, difficulty: int
) -> tuple[np.ndarray, np.ndarray]:
    """A breast whose chest wall is the left edge of the picture: (image, tissue mask), float32 [h,
    w].
    """
    x, y = grid(h, w)
    mid, reach = 0.64 + anatomy.uniform(-0.02, 0.02), anatomy.uniform(0.76, 0.84)
    half = np.where(y < mid, 0.66, 0.56).astype(np.float32)
    r = np.sqrt(np.square(x / reach) + np.square((y - mid) / half))
    inside = soft(r, 0.03)
    density = anatomy.uniform(0.20, 0.30) + 0.05 * (difficulty - 1)
    gland = soft(radius(x, y, 0.24, mid, 0.40, 0.40), 0.8)
    cloud = np.clip(0.55 + 0.33 * noise(rng, h, w, 6) + 0.18 * noise(rng, h, w, 14), 0, 1.3)
    fibres = noise(rng, h, w, 30) * 0.5 + noise(rng, h, w, 55) * 0.5
    image = inside * (0.20 + 0.09 * np.clip(1 - r, 0, 1))
    image += inside * gland * cloud * np.float32(0.42 * density + 0.10)
    image += inside * np.abs(fibres) * np.float32(0.035)
    skin = np.exp(-np.square((r - 0.985) / 0.016))
    nipple = soft(radius(x, y, reach * 1.0, mid, 0.030, 0.035), 0.4)
    image += 0.16 * skin + 0.30 * nipple * (1 - inside)
    slope = anatomy.uniform(0.45, 0.6)
    muscle = soft(
        (x + slope * y) / np.float32(0.32 + 0.1 * anatomy.uniform()), 0.16
    )  # a triangle at the top of the chest wall
    fascicles = 1 + 0.10 * noise(anatomy, h, w, 24) + 0.08 * noise(anatomy, h, w, 8)
    image = image * (1 - 0.35 * muscle) + 0.20 * muscle * inside * fascicles
    lines = []  # Cooper's ligaments and ducts run towards the nipple
    for _ in range(14):
        x0, y0 = anatomy.uniform(0.02, 0.35), mid + anatomy.uniform(-0.42, 0.40)
        t = np.linspace(0, 1, 5)
        px = x0 + t * (reach * 0.8 - x0) * 0.8
        py = y0 + t * (mid - y0) * 0.75 + 0.02 * np.sin(6 * t + anatomy.uniform(0, 6))
        lines.append(
            (list(zip(px, py, strict=True)), anatomy.uniform(0.6, 1.3), anatomy.uniform(0.3, 0.9))
        )
    image += 0.10 * blur(strokes(h, w, lines), 0.6) * inside
    return image, inside


def draw(scene: Scene, anatomy: Rng, rng: Rng) -> Media:
    h, w = size_near(rng, 168, 132, 8)
    label, p = scene.labels[0], scene.params
    image, inside = breast(h, w, anatomy, rng, scene.difficulty)
    x, y = grid(h, w)
    c, cx, cy, size = p["contrast"], p["x"], p["y"] * h / w * 0.79, p["size"]
    regions = ()
    if label != "BI-RADS 1":
        if label == "BI-RADS 2":
            r = radius(x, y, cx, cy, size * 0.85, size * 0.85)
            ring = np.exp(-np.square((r - 0.80) / 0.22))
            image = image + (0.75 * c + 0.06) * ring + 0.04 * soft(r, 0.2)
            region = r < 1.0
        elif label == "BI-RADS 3":
            r = radius(x, y, cx, cy, size * 1.10, size * 0.80, rng.uniform(-0.5, 0.5))
            image = image * (1 - 0.9 * soft(r, 0.14)) + (0.42 * c + 0.36) * soft(r, 0.14)
            region = r < 1.0
        elif label == "BI-RADS 4":
            r = radius(x, y, cx, cy, size * 1.1, size * 1.1) / wobble(
                x, y, cx, cy, rng, 0.26, (3, 4, 5)
            )
            lumps = np.clip(0.85 + 0.30 * noise(rng, h, w, 13), 0.3, 1.4)
            image = image + (0.50 * c + 0.05) * soft(r, 0.75) * lumps
            region = r < 1.0
        else:
            r = radius(x, y, cx, cy, size * 0.50, size * 0.50) / wobble(x, y, cx, cy, rng, 0.16)
            spikes = []
            for a in np.linspace(0, 2 * np.pi, 19)[:-1] + rng.normal(0, 0.08, 18):
                far = size * rng.uniform(1.3, 1.7)
                spikes.append(
                    (
                        [(cx, cy), (cx + far * np.cos(a), cy + far * np.sin(a))],
                        2.6,
                        rng.uniform(0.8, 1.0),
                    )
                )
            rays = blur(strokes(h, w, spikes), 0.5) * np.clip(
                1.8 - radius(x, y, cx, cy, size, size), 0, 1
            )
            image = image + (0.60 * c + 0.06) * np.maximum(soft(r, 0.4), 0.85 * rays)
            k = 22
            grains = np.stack(
                [cx + rng.normal(0, size * 0.45, k), cy + rng.normal(0, size * 0.45, k)], -1
            )
            image += (0.50 * c + 0.10) * dots(h, w, grains, np.full(k, 0.0125))
            region = radius(x, y, cx, cy, size * 1.2, size * 1.2) < 1.0
        regions = ((label, region & (inside > 0.3)),)
    if scene.difficulty > 1:  # vessels and a normal lymph node do not make a diagnosis
        points = [
            (0.0, rng.uniform(0.3, 0.9)),
            (0.25, rng.uniform(0.4, 0.9)),
            (0.55, rng.uniform(0.5, 0.8)),
        ]
        image += 0.05 * strokes(h, w, [(points, 1.6, 1.0)]) * inside
        image += 0.10 * soft(radius(x, y, 0.08, rng.uniform(0.12, 0.2), 0.035, 0.045), 0.4)
    image = blur(image, 0.5) + np.float32(0.012 * NOISE[scene.difficulty]) * rng.standard_normal(
        (h, w), dtype=np.float32
    ) * (0.3 + inside)
    pixels = to_uint8(image * np.float32(rng.uniform(1.02, 1.08)))
    if p["side"] == "right":
        pixels = np.ascontiguousarray(pixels[:, ::-1])
        regions = tuple((name, m[:, ::-1]) for name, m in regions)
    return Media(pixels=pixels, regions=regions)


DATASETS = (
    Dataset(
        name="mammo-mini",
        domain="mammography",
        labels=LABELS,
        question="What is the BI-RADS category of this mammogram?",
        kind="image",
        plan=plan,
        draw=draw,
    ),
)
