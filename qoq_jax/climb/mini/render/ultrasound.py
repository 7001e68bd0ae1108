"""breast-us-mini: cine loops of breast ultrasound with the three classes of BUSI.

benign: a smooth dark oval, wider than tall, with a bright band behind it; malignant: an irregular
dark mass, taller than wide, with a shadow behind it; normal: layers of fat, gland and muscle. The
probe drifts from frame to frame.
"""

from __future__ import annotations

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
    grid,
    mix,
    noise,
    pick,
    radius,
    size_near,
    soft,
    to_uint8,
    wobble,
)

FRAMES = 8
LABELS = ("Normal", "Malignant", "Benign")


def plan(rng: Rng, labels: tuple[str, ...], difficulty: int) -> Scene:
    side = pick(rng, ("left", "middle", "right"))
    text = {
        "Normal": "even layers of fat and gland without a mass",
        "Benign": f"smooth wide oval with a bright band behind it in the {side}",
        "Malignant": f"irregular tall mass with a dark shadow behind it in the {side}",
    }[labels[0]]
    params = {
        "x": {"left": 0.34, "middle": 0.50, "right": 0.66}[side] + float(rng.uniform(-0.03, 0.03)),
        "y": float(rng.uniform(0.37, 0.41)),
        "size": float(rng.uniform(0.155, 0.180)),
        "contrast": contrast(rng, difficulty, FAINT),
    }
    return Scene(labels, difficulty, text, params)


def _speckled(
    tissue: np.ndarray, depth: np.ndarray, strength: float, rng: Rng
) -> tuple[list[np.ndarray], np.ndarray]:
    """Frames [h, w] of a drifting probe over echogenicity `tissue`, and the drift in pixels.

    Speckle is the length of a sum of random phasors, correlated more across than along the beam; it
    changes as the probe drifts.
    """
    h, w = tissue.shape
    drift = np.rint(
        3.0 * np.sin(np.linspace(0, rng.uniform(2, 4), FRAMES) + rng.uniform(0, 6))
    ).astype(int)
    field = rng.standard_normal((2, h + 24, w + 24), dtype=np.float32)
    speckle = np.sqrt(np.square(blur(field, 0.8)).sum(0))
    speckle /= speckle.mean()
    frames = []
    for i, dx in enumerate(drift):
        ox, oy = 12 - dx, int(rng.integers(0, 24)) if i % 2 else 12
        grains = speckle[oy : oy + h, ox : ox + w]
        moved = np.roll(tissue, dx, axis=1)
        frames.append(moved * (1 + np.float32(strength) * (grains - 1)) * np.exp(-0.35 * depth))
    return frames, drift


def draw(scene: Scene, anatomy: Rng, rng: Rng) -> Media:
    h, w = size_near(rng, 116, 132, 4)
    label, p, c = scene.labels[0], scene.params, scene.params["contrast"]
    x, y = grid(h, w)
    # A curved probe: depth runs along rays from a point above the picture.
    apex = -0.55
    depth = np.sqrt(np.square(x - 0.5) + np.square(y - apex)) + np.float32(apex)
    ray = (x - 0.5) / (y - np.float32(apex))
    sector = (
        np.clip((0.47 - np.abs(ray)) * 90, 0, 1)
        * np.clip((depth - 0.03) * 90, 0, 1)
        * np.clip((0.84 - depth) * 60, 0, 1)
    )

    wave = 0.02 * noise(anatomy, h, w, 4)
    d = depth + wave
    fat, gland, muscle = anatomy.uniform(0.17, 0.21), anatomy.uniform(0.58, 0.63), 0.72
    streaks = noise(anatomy, h, w, 9)
    fibres = np.asarray(noise(anatomy, max(h // 3, 8), w, 12))
    fibres = np.repeat(fibres, 4, axis=0)[:h] if fibres.shape[0] * 4 >= h else streaks
    tissue = np.where(
        d < 0.065,
        0.85,
        np.where(d < fat, 0.30, np.where(d < gland, 0.50, np.where(d < muscle, 0.34, 0.22))),
    )
    tissue = blur(tissue.astype(np.float32), 1.5)
    tissue = tissue * (1 + 0.22 * streaks * (d < gland) + 0.20 * fibres * (d > fat))
    tissue += 0.30 * np.exp(-np.square((d - fat) / 0.012)) + 0.30 * np.exp(
        -np.square((d - gland) / 0.012)
    )
    tissue += 0.42 * np.exp(-np.square((d - 0.745) / 0.012)) * (d > 0.7)  # pleura or rib surface

    regions = ()
    cx, cy, size = p["x"], p["y"] * h / w * 1.15, p["size"]
    if label != "Normal":
        along = (cx - 0.5) / (cy - apex)
        if label == "Benign":
            r = radius(x, y, cx, cy, size * 1.45, size * 0.82, rng.uniform(-0.12, 0.12)) / wobble(
                x, y, cx, cy, rng, 0.03
            )
            half, behind = size * 1.2, 1 + 1.4 * c
            rim, dark, edge = 0.12, 0.07, 0.12
        else:
            r = radius(x, y, cx, cy, size * 0.86, size * 1.22, rng.uniform(-0.2, 0.2)) / wobble(
                x, y, cx, cy, rng, 0.20, (3, 5, 7, 9)
            )
            half, behind = size * 0.8, 1 - 0.92 * c
            rim, dark, edge = 0.30, 0.10, 0.35
        band = np.clip(1.3 - np.abs(ray - along) * (cy - apex) / half, 0, 1) * np.clip(
            (depth - (cy - 0.02)) * 9, 0, 1
        )
        tissue = tissue * (1 + (np.float32(behind) - 1) * np.clip(band * 1.5, 0, 1))
        tissue = mix(tissue, dark + (0.40 - dark) * (1 - c) * 0.55, soft(r, edge))
        tissue = tissue + np.float32(rim * c * 0.6) * np.exp(-np.square((r - 1.08) / 0.07))
        region = r < 1.03
    if scene.difficulty > 1:  # shadows of poor contact, and a fat lobule that looks like a mass
        contact = rng.uniform(-0.4, 0.4)
        tissue = tissue * (1 - 0.18 * np.exp(-np.square((ray - contact) / 0.05)))
        fx, fy = rng.uniform(0.2, 0.8), 0.14 + rng.uniform(0, 0.03)
        tissue = mix(tissue, 0.20, 0.35 * soft(radius(x, y, fx, fy, 0.07, 0.03), 0.4))

    frames, drift = _speckled(tissue, depth, (0.50, 0.62, 0.75)[scene.difficulty - 1], rng)
    volume = np.stack(frames) * np.float32(0.95)
    # Log compression, as the scanner's screen shows it.
    volume = np.log1p(9 * np.clip(volume, 0, 2)) / np.float32(np.log(10.0)) * sector
    volume += np.float32(0.008 * NOISE[scene.difficulty]) * sector
    if label != "Normal":
        masks = [np.roll(region, dx, axis=1) & (sector > 0.5) for dx in drift]
        regions = ((label, np.stack(masks)),)
    return Media(pixels=to_uint8(volume, 2), regions=regions)


DATASETS = (
    Dataset(
        name="breast-us-mini",
        domain="ultrasound",
        labels=LABELS,
        question="What is the diagnosis of the patient in this breast ultrasound?",
        kind="video",
        plan=plan,
        draw=draw,
        suffix=".npz",
    ),
)
