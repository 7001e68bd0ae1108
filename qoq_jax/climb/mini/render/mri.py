"""brain-mri-mini: contrast-enhanced T1 volumes with the four classes of the Brain Tumor data set.

glioma: a ragged ring around a dark core inside the brain; meningioma: a bright even ball on the
skull's inner side; pituitary: a bright round mass in the midline at the base; none.
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
from qoq_jax.climb.mini.render.ct import STEP, grain, levels

LABELS = ("No Tumor", "Pituitary Tumor", "Glioma Tumor", "Meningioma Tumor")
LOBES = {"frontal": -0.20, "parietal": 0.02, "occipital": 0.23}


def plan(rng: Rng, labels: tuple[str, ...], difficulty: int) -> Scene:
    side, lobe = pick(rng, ("left", "right")), pick(rng, tuple(LOBES))
    text = {
        "No Tumor": "brain with even folds and no mass",
        "Pituitary Tumor": "bright round mass in the midline at the base",
        "Glioma Tumor": f"ragged ring with a dark core in the {side} {lobe} lobe",
        "Meningioma Tumor": f"bright even mass on the skull of the {side} {lobe} lobe",
    }[labels[0]]
    params = {
        "side": side,
        "lobe": lobe,
        "contrast": contrast(rng, difficulty, FAINT),
        "size": float(rng.uniform(1.25, 1.42)),
    }
    return Scene(labels, difficulty, text, params)


def draw(scene: Scene, anatomy: Rng, rng: Rng) -> Media:
    h, w = size_near(rng, 124, 108, 4)
    label, p, c = scene.labels[0], scene.params, scene.params["contrast"]
    x, y = grid(h, w)
    z = levels()
    mid = 0.5 * h / w
    dome = 1 - 0.05 * np.square(z)
    rx, ry = 0.435 * anatomy.uniform(0.95, 1.02) * dome, 0.52 * anatomy.uniform(0.96, 1.01) * dome
    r = radius(x, y, 0.5, mid, rx, ry)
    scalp, bone, brain = soft(r, 0.03), soft(r / 0.93, 0.03), soft(r / 0.86, 0.04)
    # Sulci are dark valleys of a noise field near the surface; grey matter lines them, white matter
    # is brighter within.
    valley = np.abs(noise(anatomy, h, w, 13) + 0.35 * noise(anatomy, h, w, 26))
    depth = np.clip((r - 0.42) * 4.5, 0, 1)
    sulci = np.clip(1.15 - valley * 4.5, 0, 1) * depth
    ribbon = np.clip(1.25 - valley * 1.7, 0, 1) * depth
    tissue = 0.46 - 0.12 * ribbon - 0.24 * sulci + 0.015 * noise(rng, h, w, 10)
    volume = 0.62 * scalp
    volume = mix(volume, 0.06, bone)
    volume = mix(volume, tissue, brain)
    fissure = np.exp(-np.square((x - 0.5) / 0.007)) * brain * (np.abs(y - mid) > 0.16)
    volume = mix(volume, 0.16, 0.85 * fissure)
    size = (1 - 0.22 * np.abs(z)) * anatomy.uniform(0.85, 1.1)
    for s in (-1, 1):
        front = radius(x, y, 0.5 + s * 0.045, mid - 0.085, 0.025 * size, 0.088 * size, -0.25 * s)
        back = radius(x, y, 0.5 + s * 0.075, mid + 0.125, 0.022 * size, 0.085 * size, 0.38 * s)
        volume = mix(volume, 0.08, soft(np.minimum(front, back), 0.3) * brain)
        nucleus = radius(x, y, 0.5 + s * 0.115, mid + 0.015, 0.05, 0.075, -0.2 * s)
        volume = mix(volume, 0.37, 0.7 * soft(nucleus, 0.4))

    hard = scene.difficulty - 1
    # uneven tissue, and a slice through the base, whose dark cistern holds a gland of normal size
    if hard:
        volume = volume + np.float32(0.018 * hard) * noise(rng, h, w, 7) * brain
        if label != "Pituitary Tumor" and rng.random() < 0.3:
            base = mid - 0.03 + rng.uniform(-0.03, 0.03)
            cistern = radius(x, y, 0.5, base, 0.15, 0.115) / wobble(
                x, y, 0.5, base, rng, 0.12, (5,)
            )
            volume = mix(volume, 0.10, 0.85 * soft(cistern, 0.15))
            volume = mix(volume, 0.46, soft(radius(x, y, 0.5, base, 0.030, 0.028), 0.4))
    regions = ()
    taper = (1 - 0.2 * z * z) * p["size"]
    s = 1 if p["side"] == "left" else -1
    bright = np.float32(0.49 + 0.43 * c)
    if label == "Glioma Tumor":
        cx, cy = 0.5 + s * (0.205 + rng.uniform(-0.02, 0.02)), mid + LOBES[p["lobe"]] * 0.9
        t = radius(x, y, cx, cy, 0.115 * taper, 0.115 * taper) / wobble(x, y, cx, cy, rng, 0.18)
        volume = mix(volume, 0.30, 0.75 * soft(t / 1.45, 0.6) * brain * (0.4 + 0.6 * c))  # edema
        ring = np.exp(-np.square((t - 0.82) / 0.17)) * (1 + 0.25 * noise(rng, h, w, 16))
        volume = mix(volume, 0.46 - 0.34 * c, soft(t / 0.72, 0.3) * brain)
        volume = mix(volume, bright, np.clip(ring, 0, 1) * brain)
        regions = ((label, (t < 1.0) & (brain > 0.5)),)
    elif label == "Meningioma Tumor":
        ey = LOBES[p["lobe"]] * 1.25 / 0.45
        ex = s * np.sqrt(max(0.05, 1 - ey * ey))
        cx, cy = 0.5 + 0.315 * ex, mid + 0.375 * ey
        t = radius(x, y, cx, cy, 0.098 * taper, 0.098 * taper) / wobble(x, y, cx, cy, rng, 0.04)
        volume = mix(volume, bright, soft(t, 0.12) * soft(r / 0.90, 0.04))
        regions = ((label, (t < 1.0) & (r < 0.9)),)
    elif label == "Pituitary Tumor":
        cx, cy = 0.5 + rng.uniform(-0.012, 0.012), mid - 0.03 + rng.uniform(-0.03, 0.03)
        cistern = radius(x, y, 0.5, cy, 0.16, 0.125) / wobble(x, y, 0.5, cy, rng, 0.12, (5,))
        volume = mix(volume, 0.10, 0.85 * soft(cistern, 0.15))
        t = radius(x, y, cx, cy, 0.088 * taper, 0.080 * taper)
        volume = mix(volume, bright, soft(t, 0.15))
        for k in (-1, 1):  # carotid arteries beside the gland: flow voids
            volume = mix(
                volume, 0.02, soft(radius(x, y, cx + k * 0.125, cy + 0.01, 0.020, 0.020), 0.4)
            )
        regions = ((label, np.broadcast_to(t < 1.0, volume.shape)),)
    # The coil is nearer to one side; a hard scan also shows a ghost of a moving head.
    volume = np.asarray(volume, np.float32) * (1 + np.float32(0.06) * noise(rng, h, w, 2))
    if hard:
        ghost = np.roll(volume, int(rng.integers(9, 16)), axis=1)
        volume = volume + np.float32(0.03 * hard) * ghost
    volume = blur(volume, 0.40 + 0.12 * scene.difficulty)
    volume = np.abs(volume + grain(rng, volume.shape, 0.014 * NOISE[scene.difficulty]))
    return Media(pixels=to_uint8(volume, STEP), regions=regions)


DATASETS = (
    Dataset(
        name="brain-mri-mini",
        domain="mri",
        labels=LABELS,
        question="What is the diagnosis of the patient in this brain MRI?",
        kind="volume",
        plan=plan,
        draw=draw,
        suffix=".nii.gz",
    ),
)
