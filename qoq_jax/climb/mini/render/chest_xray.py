"""Frontal chest X-rays: covid-cxr-mini (four exclusive classes) and chexpert-mini (one or two
findings).

The patient's left is on the viewer's right. One thorax serves both data sets and the multimodal
cases; findings add to it: a consolidation fills a lobe, a virus draws streaks around both hila,
COVID-19 leaves ground glass at the periphery.
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

#: Centres (x, y) of the lung zones in widths, for a square picture; "left" is the patient's left.
ZONES = {
    ("right", "upper"): (0.30, 0.30),
    ("right", "middle"): (0.26, 0.47),
    ("right", "lower"): (0.27, 0.63),
    ("left", "upper"): (0.70, 0.30),
    ("left", "middle"): (0.75, 0.46),
    ("left", "lower"): (0.77, 0.62),
}
SIDES, LEVELS = ("right", "left"), ("upper", "middle", "lower")


def _sign(side: str) -> int:
    """-1 on the viewer's left (the patient's right), +1 on the other side."""
    return 1 if side == "left" else -1


def _vessels(h: int, w: int, cx: float, dy: float, anatomy: Rng) -> list:
    """Vessels that fan out from the hila and thin towards the periphery, for `strokes`."""
    lines = []
    for s in (-1, 1):
        for angle in np.linspace(-1.25, 1.2, 9) + anatomy.normal(0, 0.06, 9):
            t = np.linspace(0, 1, 6)
            bend = anatomy.normal(0, 0.25)
            px = cx + s * (0.085 + t * 0.20 * np.cos(angle * (1 + 0.2 * bend * t)))
            py = 0.47 + dy + t * 0.24 * np.sin(angle + bend * t) + (h / w - 1.0) * 0.5
            for a in range(5):
                lines.append(
                    (
                        [(px[a], py[a]), (px[a + 1], py[a + 1])],
                        2.6 * (1 - t[a]) + 0.6,
                        0.9 * (1 - t[a]) + 0.15,
                    )
                )
    return lines


def thorax(h: int, w: int, anatomy: Rng, rng: Rng, heart: float = 1.0) -> dict[str, np.ndarray]:
    """A chest without findings: picture and organs, float32 [h, w].

    `heart` scales the heart's width.
    """
    x, y = grid(h, w)
    y = y - np.float32((h / w - 1.0) * 0.5)  # centre the anatomy whatever the aspect ratio
    dx, dy = anatomy.uniform(-0.012, 0.012, 2)
    width, tone = anatomy.uniform(0.96, 1.03), anatomy.uniform(-0.015, 0.015)
    cx = 0.5 + dx
    u = (x - cx) / np.float32(width)

    trunk = soft(radius(u, y, 0, 0.62 + dy, 0.47, 0.66), 0.05)
    shoulders = soft(radius(u, y, 0, 0.98, 0.62, 0.80), 0.04)
    neck = soft(np.abs(u) / 0.13 + np.maximum(y - 0.22, 0) * 9, 0.2)
    body = np.maximum(np.maximum(trunk, shoulders * 0.93), neck)

    lungs, domes = {}, {}
    for side in SIDES:
        s = _sign(side)
        top = np.float32(0.80 + dy + (0.035 if s > 0 else 0.0))  # the liver lifts the right dome
        dome = top + 0.9 * np.square(u - s * 0.22)
        domes[side] = dome
        r = radius(u, y, s * 0.225, 0.50 + dy, 0.168 + 0.012 * s * -1, 0.40)
        cone = r + 0.55 * np.maximum(0.42 - y, 0) * np.abs(u - s * 0.17) / 0.17  # narrow the apex
        lungs[side] = soft(cone, 0.09) * np.clip((dome - y) * 28, 0, 1)
    # Left ventricle (its apex points down and to the patient's left), right atrium, and the waist
    # towards the great vessels.
    tall = 0.5 + 0.5 * heart
    ventricle = radius(
        u, y, 0.062 + 0.05 * (heart - 1), 0.675 + dy, 0.170 * heart, 0.118 * tall, 0.55
    )
    atrium = radius(u, y, -0.035 - 0.05 * (heart - 1), 0.66 + dy, 0.085 * heart, 0.125 * tall)
    waist = radius(u, y, 0.035, 0.55 + dy, 0.075, 0.12)
    heart_mask = soft(np.minimum(np.minimum(ventricle, atrium), waist), 0.22) * np.clip(
        (0.86 + dy - y) * 9, 0, 1
    )
    aorta = soft(radius(u, y, 0.055, 0.37 + dy, 0.055, 0.06), 0.3)
    spine = soft(np.abs(u) / 0.075, 0.5)

    air = (lungs["left"] + lungs["right"]) * (1 - 0.92 * heart_mask) * (1 - 0.8 * aorta)
    image = 0.60 * body * (0.90 + 0.10 * spine) - 0.43 * air
    image += 0.045 * heart_mask + 0.06 * spine * body + 0.03 * aorta
    image += 0.10 * body * np.clip((y - 0.80) * 5, 0, 1)  # the abdomen below the domes

    lines = _vessels(h, w, cx, dy, anatomy)
    vessels = blur(strokes(h, w, lines), 0.9)
    image += 0.16 * vessels * air
    hila = soft(radius(np.abs(u), y, 0.105, 0.47 + dy, 0.045, 0.085), 0.9)
    image += 0.10 * hila * body

    # Posterior ribs: arcs that fall away from the spine, brighter along their lower edge; clavicles
    # above.
    phase = (y - 0.16 - dy) + 0.95 * np.square(np.abs(u) - 0.13) - 0.10 * np.abs(u)
    ribs = np.clip(np.cos(phase * np.float32(2 * np.pi / 0.083)) * 1.4 - 0.35, 0, 1)
    image += 0.050 * ribs * trunk * (np.abs(u) > 0.05) * np.clip((0.80 - y) * 8, 0, 1)
    clavicle = (
        np.exp(-np.square((y - 0.235 - dy + 0.22 * (np.abs(u) - 0.2)) / 0.016))
        * (np.abs(u) > 0.05)
        * (np.abs(u) < 0.36)
    )
    image += 0.085 * clavicle.astype(np.float32) * body
    image += (0.018 * noise(rng, h, w, 9) + tone) * body
    return {
        "image": image,
        "lungs": np.clip(lungs["left"] + lungs["right"], 0, 1) * (1 - heart_mask),
        "left": lungs["left"],
        "right": lungs["right"],
        "heart": heart_mask,
        "left_dome": domes["left"],
        "right_dome": domes["right"],
        "u": u,
        "y": y,
        "body": body,
        "ribs": ribs,
    }


def expose(chest: dict[str, np.ndarray], rng: Rng, difficulty: int) -> np.ndarray:
    """Exposure, scatter, grain: the final uint8 picture."""
    h, w = chest["image"].shape
    image = blur(chest["image"], 0.5 + 0.1 * difficulty)
    image = (image - 0.02) * np.float32(rng.uniform(1.17, 1.23)) + np.float32(
        rng.uniform(-0.01, 0.01)
    )
    image += np.float32(0.011 * NOISE[difficulty]) * rng.standard_normal((h, w), dtype=np.float32)
    return to_uint8(image)


def add_patch(chest: dict, side: str, level: str, params: dict, rng: Rng) -> np.ndarray:
    """A cloudy opacity in a lung zone (params: size [widths], amount, texture, edge).

    Returns its mask.
    """
    h, w = chest["image"].shape
    zx, zy = ZONES[side, level]
    zx, zy = zx - 0.5 + params["dx"], zy + params["dy"]
    u, y = chest["u"], chest["y"]
    r = radius(u, y, zx, zy, params["size"] * 0.85, params["size"]) / wobble(
        u, y, zx, zy, rng, 0.16
    )
    inside = soft(r, params["edge"]) * chest[side] * (1 - 0.75 * chest["heart"])
    cloud = 1.0 + params["texture"] * 0.35 * noise(rng, h, w, 26)
    room = np.clip((0.95 - chest["image"]) / 0.6, 0, 1)  # dense organs hide a part
    chest["image"] = chest["image"] + params["amount"] * inside * cloud * room
    return inside > 0.4


def add_streaks(chest: dict, amount: float, rng: Rng) -> np.ndarray:
    """Interstitial streaks around both hila, as in viral pneumonia."""
    h, w = chest["image"].shape
    lines = []
    shift = (h / w - 1.0) * 0.5
    for s in (-1, 1):
        for _ in range(42):
            a, d = rng.uniform(-1.5, 1.5), rng.uniform(0.02, 0.13)
            px, py = 0.5 + s * (0.10 + d * np.cos(a)), 0.49 + shift + 1.3 * d * np.sin(a)
            b, length = a + rng.normal(0, 0.7), rng.uniform(0.03, 0.08)
            lines.append(
                (
                    [(px, py), (px + s * length * np.cos(b), py + length * np.sin(b))],
                    1.8,
                    rng.uniform(0.7, 1.0),
                )
            )
    zone = (
        soft(radius(np.abs(chest["u"]), chest["y"], 0.19, 0.50, 0.135, 0.205), 0.7) * chest["lungs"]
    )
    net = blur(strokes(h, w, lines), 0.7)
    chest["image"] = chest["image"] + amount * (1.2 * net + 0.18) * zone
    return zone > 0.35


def add_effusion(chest: dict, side: str, level: float, amount: float) -> np.ndarray:
    """Fluid, `level` [widths] above the dome, that rises along the wall (a meniscus).

    Returns its mask.
    """
    u, y = chest["u"], chest["y"]
    surface = (
        chest[f"{side}_dome"]
        - level
        - 2.6 * min(level, 0.14) * np.square(np.clip(np.abs(u) - 0.10, 0, 1) / 0.3)
    )
    lung = np.clip(soft(radius(u, y, _sign(side) * 0.230, 0.52, 0.178, 0.44), 0.1), 0, 1)
    fluid = (
        np.clip((y - surface) * 30, 0, 1)
        * lung
        * np.clip((0.93 - y) * 20, 0, 1)
        * (1 - chest["heart"])
    )
    target = np.float32(0.70)
    chest["image"] = mix(chest["image"], np.maximum(chest["image"], target), fluid * amount)
    return (fluid > 0.5) & (y < chest[f"{side}_dome"] + 0.03)


def add_pneumothorax(chest: dict, side: str, size: float, amount: float) -> np.ndarray:
    """Air between lung and wall at the apex: black, no vessels, with the thin white line of the
    pleura.
    """
    u, y = chest["u"], chest["y"]
    s = _sign(side)
    inner = radius(u, y, s * (0.205 - 0.25 * size), 0.60 + 0.35 * size, 0.168 - 0.25 * size, 0.40)
    free = chest[side] * np.clip((inner - 1.0) * 9, 0, 1) * np.clip((0.74 - y) * 8, 0, 1)
    line = np.exp(-np.square((inner - 1.0) / 0.045)) * chest[side] * np.clip((0.74 - y) * 8, 0, 1)
    dark = 0.02 + 0.03 * chest["ribs"]
    collapsed = chest[side] * soft(inner, 0.2) * (1 - chest["heart"])  # less air: denser
    chest["image"] = chest["image"] + 0.16 * min(1.0, amount) * collapsed
    chest["image"] = (
        mix(chest["image"], np.minimum(chest["image"], dark), free * min(1.0, amount))
        + 0.22 * amount * line
    )
    return free > 0.5


def add_nodule(chest: dict, side: str, level: str, params: dict, rng: Rng) -> np.ndarray:
    """A round dense nodule."""
    zx, zy = ZONES[side, level]
    u, y = chest["u"], chest["y"]
    cx, cy = zx - 0.5 + params["dx"] * 0.7, zy + params["dy"]
    r = radius(u, y, cx, cy, params["size"], params["size"]) / wobble(u, y, cx, cy, rng, 0.05)
    inside = soft(r, 0.22)
    # denser than lung, no denser than itself over other organs
    target = np.float32(0.17 + params["amount"])
    chest["image"] = mix(chest["image"], np.maximum(chest["image"], target), inside)
    return inside > 0.5


def add_distractors(chest: dict, rng: Rng, difficulty: int) -> None:
    """Electrodes and lines: bright, sharp and meaningless."""
    h, w = chest["image"].shape
    if difficulty == 1:
        return
    haze = np.float32(0.007 * (difficulty - 1)) * noise(rng, h, w, 8)
    chest["image"] = chest["image"] + haze * chest["lungs"]
    if rng.random() < 0.6:
        return
    k = int(rng.integers(1, difficulty + 1))
    centres = np.stack([rng.uniform(0.15, 0.85, k), rng.uniform(0.2, 0.85, k) * h / w], -1)
    chest["image"] = chest["image"] + 0.18 * dots(h, w, centres, np.full(k, 0.016))
    start = rng.uniform(0.2, 0.8)
    points = [
        (start, 0.0),
        (start + rng.normal(0, 0.05), 0.3 * h / w),
        (0.5 + rng.normal(0, 0.08), 0.55 * h / w),
    ]
    chest["image"] = chest["image"] + 0.12 * strokes(h, w, [(points, 1.0, 1.0)])


# --------------------------------------------------------------------------------------------------
# covid-cxr-mini
# --------------------------------------------------------------------------------------------------


def _jitter(rng: Rng) -> dict:
    return {"dx": float(rng.uniform(-0.02, 0.02)), "dy": float(rng.uniform(-0.025, 0.025))}


def plan_covid(rng: Rng, labels: tuple[str, ...], difficulty: int) -> Scene:
    label, c = labels[0], contrast(rng, difficulty, FAINT)
    side, params = pick(rng, SIDES), {}
    if label == "Normal":
        text = "both lungs are clear without opacity"
    elif label == "Bacterial Pneumonia":
        level = pick(rng, LEVELS)
        params = {
            "side": side,
            "level": level,
            "size": rng.uniform(0.20, 0.23),
            "amount": 0.46 * c,
            "texture": 0.5,
            "edge": 0.3,
        }
        text = f"one dense consolidation in the {side} {level} lung"
    elif label == "Viral Pneumonia":
        params = {"amount": 0.50 * (0.10 + 0.90 * c)}
        text = "fine streaks around the hilum of both lungs"
    else:
        level = pick(rng, LEVELS[1:])
        params = {
            "level": level,
            "size": rng.uniform(0.16, 0.18),
            "amount": 0.30 * (0.15 + 0.85 * c),
            "texture": 1.0,
            "edge": 0.7,
        }
        text = f"hazy ground glass at the edge of both {level} lungs"
    return Scene(labels, difficulty, text, {**params, **_jitter(rng)})


def draw_covid(scene: Scene, anatomy: Rng, rng: Rng) -> Media:
    chest = thorax(*size_near(rng, 160, 144, 6), anatomy, rng)
    label, p = scene.labels[0], scene.params
    add_distractors(chest, rng, scene.difficulty)
    if label == "Normal":
        return Media(pixels=expose(chest, rng, scene.difficulty))
    if label == "Bacterial Pneumonia":
        masks = [add_patch(chest, p["side"], p["level"], p, rng)]
    elif label == "Viral Pneumonia":
        masks = [add_streaks(chest, p["amount"], rng)]
    else:  # both sides, towards the wall
        masks = [
            add_patch(chest, s, p["level"], {**p, "dx": p["dx"] + 0.065 * _sign(s)}, rng)
            for s in SIDES
        ]
    return Media(
        pixels=expose(chest, rng, scene.difficulty), regions=tuple((label, m) for m in masks)
    )


# --------------------------------------------------------------------------------------------------
# chexpert-mini
# --------------------------------------------------------------------------------------------------


def plan_chexpert(rng: Rng, labels: tuple[str, ...], difficulty: int) -> Scene:
    c = contrast(rng, difficulty)
    params, words = {}, []
    # two findings lie on two sides
    sides = list(SIDES) if rng.random() < 0.5 else list(SIDES[::-1])
    for label in labels:
        side = sides.pop()
        p = {"side": side, **_jitter(rng)}
        if label == "Cardiomegaly":
            p["heart"] = 1.45 + 0.30 * c
            words.append("the heart is too wide")
            sides.append(side)
        elif label == "Pleural Effusion":
            p |= {"size": 0.14 + 0.12 * c * rng.uniform(0.9, 1.1), "amount": 0.6 + 0.4 * c}
            words.append(f"fluid with a meniscus at the {side} lung base")
        elif label == "Pneumothorax":
            p |= {"size": 0.16 + 0.12 * c * rng.uniform(0.9, 1.1), "amount": 0.5 + 0.5 * c}
            words.append(f"black air without vessels at the {side} apex")
        elif label == "Lung Opacity":
            p |= {
                "level": pick(rng, LEVELS),
                "size": rng.uniform(0.18, 0.21),
                "amount": 0.46 * c,
                "texture": 0.8,
                "edge": 0.6,
            }
            words.append(f"cloudy opacity in the {side} {p['level']} lung")
        elif label == "Lung Lesion":
            p |= {
                "level": pick(rng, LEVELS),
                "size": rng.uniform(0.115, 0.135),
                "amount": 0.52 * (0.2 + 0.8 * c),
            }
            words.append(f"round nodule in the {side} {p['level']} lung")
        params[label] = p
    return Scene(
        labels, difficulty, " and ".join(words) or "clear lungs and a heart of normal size", params
    )


def draw_findings(scene: Scene, anatomy: Rng, rng: Rng) -> Media:
    """The thorax with every finding of scene.params (also used by the multimodal cases)."""
    heart = scene.params.get("Cardiomegaly", {}).get("heart", 1.0)
    chest = thorax(*size_near(rng, 160, 144, 6), anatomy, rng, heart)
    add_distractors(chest, rng, scene.difficulty)
    regions = []
    for label, p in scene.params.items():
        if label == "Cardiomegaly":
            mask = chest["heart"] > 0.5
        elif label == "Pleural Effusion":
            mask = add_effusion(chest, p["side"], p["size"], p["amount"])
        elif label == "Pneumothorax":
            mask = add_pneumothorax(chest, p["side"], p["size"], p["amount"])
        elif label == "Lung Opacity":
            mask = add_patch(chest, p["side"], p["level"], p, rng)
        elif label == "Lung Lesion":
            mask = add_nodule(chest, p["side"], p["level"], p, rng)
        else:
            continue
        regions.append((label, mask))
    return Media(pixels=expose(chest, rng, scene.difficulty), regions=tuple(regions))


DATASETS = (
    Dataset(
        name="covid-cxr-mini",
        domain="chest_xray",
        labels=("Normal", "Bacterial Pneumonia", "COVID-19", "Viral Pneumonia"),
        question="What is the diagnosis of the patient in this chest X-ray?",
        kind="image",
        plan=plan_covid,
        draw=draw_covid,
    ),
    Dataset(
        name="chexpert-mini",
        domain="chest_xray",
        labels=(
            "No Finding",
            "Cardiomegaly",
            "Pleural Effusion",
            "Pneumothorax",
            "Lung Opacity",
            "Lung Lesion",
        ),
        question="What are the findings of the patient in this chest X-ray?",
        kind="image",
        plan=plan_chexpert,
        draw=draw_findings,
        pairs=(
            ("Cardiomegaly", "Pleural Effusion"),
            ("Cardiomegaly", "Lung Opacity"),
            ("Pleural Effusion", "Lung Lesion"),
            ("Pneumothorax", "Pleural Effusion"),
            ("Lung Opacity", "Pleural Effusion"),
        ),
    ),
)
