"""CT volumes: pe-ct-mini (chest CT angiography, the classes of RSPECT) and head-ct-mini (blood or
none).

A volume is float32 [n, h, w] while it is rendered: axial slices from the feet upwards, the
patient's left on the viewer's right. A finding spans the whole slab, widest in the middle, so that
any four uniform slices show it.
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
    to_uint8,
    window,
    wobble,
)

SLICES = 6
#: Grey levels are multiples of 4: a CT window shows no more, and the volumes compress to a third.
STEP = 4


def levels() -> np.ndarray:
    """Slice positions -1..1, [n, 1, 1]."""
    return np.linspace(-1, 1, SLICES, dtype=np.float32)[:, None, None]


def grain(rng: Rng, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """White noise by cutting one long draw at random offsets: cheaper than a fresh draw for each
    voxel.
    """
    n, h, w = shape
    pool = rng.standard_normal(h * w + 8192, dtype=np.float32) * np.float32(sigma)
    return np.stack([pool[o : o + h * w].reshape(h, w) for o in rng.integers(0, 8192, n)])


# --------------------------------------------------------------------------------------------------
# pe-ct-mini
# --------------------------------------------------------------------------------------------------

PE_LABELS = ("No PE", "Chronic PE", "Acute PE")
# Where a clot may lie: its centre (x from the left edge, y from the middle, in widths), and the
# tilt of the artery.
VESSELS = {"right": (0.415, 0.0), "left": (0.635, -0.015), "main": (0.530, -0.085)}
TILT = {"right": 0.16, "left": 0.50, "main": 1.35}
PE_CONTRAST = {1: 0.85, 2: 0.72, 3: 0.58}


def plan_pe(rng: Rng, labels: tuple[str, ...], difficulty: int) -> Scene:
    label, place = labels[0], pick(rng, tuple(VESSELS))
    params = {
        "place": place,
        "contrast": contrast(rng, difficulty, PE_CONTRAST),
        "size": float(rng.uniform(1.10, 1.22)),
    }
    text = {
        "No PE": "bright pulmonary arteries without a filling defect",
        "Acute PE": f"dark central clot in the {place} pulmonary artery",
        "Chronic PE": f"calcified clot on the wall of the {place} pulmonary artery",
    }[label]
    return Scene(labels, difficulty, text, params)


def _chest(
    h: int, w: int, mid: float, anatomy: Rng, rng: Rng, mosaic: float
) -> tuple[np.ndarray, np.ndarray]:
    """Body wall, bones, lungs and an empty mediastinum: (volume [n, h, w], body [h, w])."""
    x, y = grid(h, w)
    wide, tall = 0.455 * anatomy.uniform(0.95, 1.02), 0.345 * anatomy.uniform(0.95, 1.03)
    body_r = radius(x, y, 0.5, mid, wide, tall)
    body = soft(body_r, 0.03)
    base = body * 0.20 + soft(body_r / 0.93, 0.03) * 0.26 + body * 0.015 * noise(anatomy, h, w, 40)
    angles = np.concatenate(
        [np.linspace(-1.15, 1.15, 7), np.pi + np.linspace(-1.15, 1.15, 7)]
    ) + anatomy.normal(0, 0.03, 14)
    ribs = np.stack([0.5 + 0.88 * wide * np.cos(angles), mid + 0.88 * tall * np.sin(angles)], -1)
    bone = dots(h, w, ribs, np.full(14, 0.016), None, 2, np.full(14, 1.45), angles + np.pi / 2)
    for cx, cy, rx, ry in (
        (0.5, 0.195, 0.062, 0.052),
        (0.5, 0.30, 0.014, 0.035),
        (0.5, -0.295, 0.055, 0.018),
    ):
        bone = np.maximum(
            bone, soft(radius(x, y, cx, mid + cy, rx, ry), 0.25)
        )  # vertebra, its spine, sternum
    base = base + 0.40 * bone * (1 - soft(radius(x, y, 0.5, mid + 0.262, 0.026, 0.022), 0.3))

    grow = 1 - 0.06 * levels()  # the lungs narrow towards the apex
    lungs = np.minimum(
        radius(x, y, 0.265, mid + 0.01, 0.165, 0.265), radius(x, y, 0.735, mid + 0.01, 0.165, 0.265)
    )
    mediastinum = soft(radius(x, y, 0.51, mid - 0.01, 0.135, 0.25), 0.12)
    air = soft(lungs / grow, 0.08) * (1 - mediastinum)
    base = base + (0.40 - base) * mediastinum * 0.9

    # Lung vessels are round or oval cuts that move from slice to slice.
    k = 46
    side, d, a = (
        rng.choice((0.265, 0.735), k),
        np.sqrt(rng.uniform(0, 1, k)),
        rng.uniform(0, 2 * np.pi, k),
    )
    centres = np.stack([side + 0.15 * d * np.cos(a), mid + 0.01 + 0.25 * d * np.sin(a)], -1)
    sizes = 0.0045 + 0.007 * rng.uniform(0, 1, k) * (1.15 - d)
    cuts = [
        dots(h, w, centres + rng.normal(0, 0.012, (k, 2)), sizes, None, 2, rng.uniform(1, 2, k), a)
        for _ in range(3)
    ]
    parenchyma = 0.055 + 0.02 * noise(rng, h, w, 5)
    if mosaic:  # patches of lung with more and less blood
        parenchyma = parenchyma + blur(np.float32(mosaic) * (noise(rng, h, w, 7) > 0.1), 1.0)
    filled = np.stack([parenchyma + 0.42 * cut for cut in cuts])[np.arange(SLICES) * 3 // SLICES]
    return mix(base, filled, air), body


def draw_pe(scene: Scene, anatomy: Rng, rng: Rng) -> Media:
    h, w = size_near(rng, 104, 128, 4)
    label, p, c = scene.labels[0], scene.params, scene.params["contrast"]
    mid = 0.5 * h / w
    chronic = label == "Chronic PE"
    hard = scene.difficulty - 1
    # Trapped air gives any lung a mosaic; chronic disease gives it a stronger one.
    mosaic = rng.uniform(0.0, 0.02 + 0.01 * hard) + (0.16 * c if chronic else 0.0)
    volume, body = _chest(h, w, mid, anatomy, rng, mosaic)
    rows, columns = window(h, w, 0.52, mid, 0.27)
    x, y = grid(h, w)
    x, y, z = x[:, columns] - np.float32(rng.uniform(-0.015, 0.015)), y[rows], levels()
    chest = volume[:, rows, columns]

    # Vessels with contrast: ascending and descending aorta, superior vena cava, pulmonary trunk
    # with both branches; airways.
    for cx, cy, size, tone in (
        (0.455, -0.095, 0.044, 0.66),
        (0.580, 0.150, 0.038, 0.66),
        (0.385, -0.085, 0.021, 0.78),
    ):
        chest = mix(chest, tone, soft(radius(x, y, cx, mid + cy, size, size), 0.2))
    big, shift = 1.0 + (0.14 * c if chronic else 0.0), 0.012 * z
    trunk = radius(x, y, 0.535, mid - 0.090, 0.064 * big, 0.080 * big)
    right = radius(x, y, 0.43, mid + 0.005 + shift, 0.125, 0.058 * big, 0.16)
    left = radius(x, y, 0.630, mid - 0.018 - shift, 0.105, 0.058 * big, 0.50)
    artery = soft(np.minimum(np.minimum(right, left), trunk), 0.14)
    bolus = rng.uniform(0.74, 0.90)
    mixing = 0.026 * hard * noise(rng, *artery.shape[1:], 6)  # contrast and blood are not yet mixed
    chest = mix(chest, bolus + mixing, artery)
    airways = np.minimum(
        radius(x, y, 0.45, mid + 0.100, 0.021, 0.024),
        radius(x, y, 0.545, mid + 0.105, 0.021, 0.024),
    )
    chest = mix(chest, 0.06, soft(airways, 0.3))

    regions = ()
    if label != "No PE":
        cx, cy = VESSELS[p["place"]]
        cx, cy = cx + rng.uniform(-0.015, 0.015), mid + cy + rng.uniform(-0.006, 0.006)
        taper, tilt = (1 - 0.22 * z * z) * p["size"], TILT[p["place"]]
        clot = np.float32(bolus - 0.52 * c)
        if chronic:  # a crescent on the wall with a fleck of calcium
            ox, oy = 0.032 * np.sin(tilt), -0.032 * np.cos(tilt)
            r = radius(x, y, cx - ox, cy - oy, 0.092 * taper, 0.040 * taper, tilt)
            chest = mix(chest, clot, soft(r, 0.25) * np.maximum(artery, 0.25))
            fleck = radius(x, y, cx - 1.3 * ox, cy - 1.3 * oy, 0.046 * taper, 0.015 * taper, tilt)
            chest = mix(chest, 1.0, soft(fleck, 0.4) * min(1.0, 0.15 + c))
        else:
            r = radius(x, y, cx, cy, 0.082 * taper, 0.045 * taper, tilt) / wobble(
                x, y, cx, cy, rng, 0.07
            )
            chest = mix(chest, clot, soft(r, 0.28) * np.maximum(artery, 0.4))
        region = np.zeros(volume.shape, bool)
        region[:, rows, columns] = r < 1.05
        regions = ((label, region),)
    if hard:  # calcium of the aorta, streaks of dense contrast and a lymph node
        a = rng.uniform(0, 2 * np.pi)
        fleck = radius(
            x, y, 0.455 + 0.042 * np.cos(a), mid - 0.095 + 0.042 * np.sin(a), 0.022, 0.012, a + 1.57
        )
        chest = mix(chest, 1.0, soft(fleck, 0.4) * rng.uniform(0.0, 0.5))
        streak = np.cos(np.arctan2(y - (mid - 0.085), x - 0.385) * 14) * np.exp(
            -radius(x, y, 0.385, mid - 0.085, 0.14, 0.14)
        )
        chest = chest + np.float32(0.025 * hard) * streak
        nx, ny = rng.uniform(0.44, 0.56), mid + rng.uniform(0.05, 0.08)
        chest = mix(chest, 0.46, soft(radius(x, y, nx, ny, 0.026, 0.020), 0.3) * 0.8)
    volume[:, rows, columns] = chest
    volume = blur(volume, 0.45 + 0.1 * scene.difficulty)
    volume += grain(rng, volume.shape, 0.014 * NOISE[scene.difficulty]) * (0.25 + body)
    volume *= body > 0.02
    return Media(pixels=to_uint8(volume, STEP), regions=regions)


# --------------------------------------------------------------------------------------------------
# head-ct-mini
# --------------------------------------------------------------------------------------------------

HEAD_LABELS = ("No Hemorrhage", "Has Hemorrhage")
HEAD_CONTRAST = {1: 1.0, 2: 0.75, 3: 0.52}


def plan_head(rng: Rng, labels: tuple[str, ...], difficulty: int) -> Scene:
    side, form = pick(rng, ("left", "right")), pick(rng, ("lens", "crescent", "round"))
    text = "brain without bright blood and normal dark ventricles"
    if labels[0] == "Has Hemorrhage":
        text = {
            "lens": f"bright lens of blood under the {side} skull",
            "crescent": f"bright crescent of blood along the {side} skull",
            "round": f"bright round blood inside the {side} brain",
        }[form]
    params = {
        "side": side,
        "form": form,
        "contrast": contrast(rng, difficulty, HEAD_CONTRAST),
        "size": float(rng.uniform(1.20, 1.40)),
        "at": float(rng.uniform(-0.5, 0.5)),
    }
    return Scene(labels, difficulty, text, params)


def draw_head(scene: Scene, anatomy: Rng, rng: Rng) -> Media:
    h, w = size_near(rng, 124, 108, 4)
    p, c = scene.params, scene.params["contrast"]
    x, y = grid(h, w)
    z = levels()
    mid = 0.5 * h / w
    dome = 1 - 0.05 * (z + 1)
    rx, ry = 0.43 * anatomy.uniform(0.95, 1.03) * dome, 0.50 * anatomy.uniform(0.97, 1.02) * dome
    r = radius(x, y, 0.5, mid, rx, ry)
    scalp, skull, brain = soft(r, 0.03), soft(r / 0.955, 0.03), soft(r / 0.875, 0.03)
    folds = np.clip(np.abs(noise(anatomy, h, w, 20)) * 4 - 0.25, 0, 1)
    tissue = (
        0.36 + 0.045 * (folds - 0.5) * np.clip((r - 0.35) * 3, 0, 1) + 0.012 * noise(rng, h, w, 12)
    )
    volume = 0.22 * scalp
    volume = mix(volume, 0.98, skull)
    volume = mix(volume, tissue, brain)
    falx = np.exp(-np.square((x - 0.5) / 0.006)) * brain * (np.abs(y - mid) > 0.17)
    volume = volume + 0.07 * falx
    shift = 0.0
    if scene.labels[0] == "Has Hemorrhage":  # mass effect pushes the ventricles away from the blood
        shift = (-0.018 if p["side"] == "left" else 0.018) * min(1.0, 0.3 + c)
    size = (1 - 0.25 * np.abs(z)) * anatomy.uniform(0.85, 1.1)
    for s in (-1, 1):
        front = radius(
            x, y, 0.5 + shift + s * 0.048, mid - 0.09, 0.026 * size, 0.085 * size, -0.28 * s
        )
        back = radius(
            x, y, 0.5 + shift + s * 0.075, mid + 0.12, 0.024 * size, 0.085 * size, 0.35 * s
        )
        volume = mix(volume, 0.13, soft(np.minimum(front, back), 0.35) * brain)
    regions = ()
    if scene.labels[0] == "Has Hemorrhage":
        s = 1 if p["side"] == "left" else -1
        a, taper = p["at"], (1 - 0.25 * z * z) * p["size"]
        ex, ey = s * np.cos(a), np.sin(a)
        if p["form"] == "round":
            cx, cy = 0.5 + s * 0.20, mid + 0.22 * a
            blood = radius(
                x, y, cx, cy, 0.088 * taper, 0.105 * taper, rng.uniform(-0.5, 0.5)
            ) / wobble(x, y, cx, cy, rng, 0.10)
            edema = soft(blood / 1.5, 0.5) * brain
            volume = mix(volume, 0.25, 0.8 * edema * c)
        elif p["form"] == "lens":
            cx, cy = 0.5 + 0.325 * ex * np.ones_like(z), mid + 0.385 * ey * np.ones_like(z)
            blood = radius(
                x,
                y,
                cx,
                cy,
                0.072 * taper,
                0.155 * taper,
                float(np.arctan2(0.43 * ey, 0.5 * ex)) if s > 0 else float(np.arctan2(-ey, -ex)),
            )
        else:
            inner = radius(x, y, 0.5 - s * 0.085 * taper, mid, 0.88 * rx, 0.86 * ry)
            span = np.abs(np.arctan2(y - mid - 0.1 * a, s * (x - 0.5))) / 1.15
            blood = np.maximum(1.9 - inner * 0.95, span) * np.ones_like(r)
        seen = soft(blood, 0.25) * brain
        volume = mix(volume, 0.40 + 0.42 * c, seen)
        regions = ((scene.labels[0], seen > 0.5),)
    if scene.difficulty > 1:  # beam hardening brightens patches of brain next to the skull
        volume = (
            volume
            + np.float32(0.012 * scene.difficulty)
            * noise(rng, h, w, 5)
            * np.clip(r, 0.3, 1)
            * brain
        )
    volume = blur(np.asarray(volume, np.float32), 0.45 + 0.1 * scene.difficulty)
    volume = volume + grain(rng, volume.shape, 0.016 * NOISE[scene.difficulty]) * (0.2 + scalp)
    volume *= r < 1.03
    return Media(pixels=to_uint8(volume, STEP), regions=regions)


DATASETS = (
    Dataset(
        name="pe-ct-mini",
        domain="ct",
        labels=PE_LABELS,
        question="What is the diagnosis of the patient in this chest CT?",
        kind="volume",
        plan=plan_pe,
        draw=draw_pe,
        suffix=".nii.gz",
    ),
    Dataset(
        name="head-ct-mini",
        domain="ct",
        labels=HEAD_LABELS,
        question="Does this head CT of the patient show blood?",
        kind="volume",
        plan=plan_head,
        draw=draw_head,
        suffix=".nii.gz",
    ),
)
