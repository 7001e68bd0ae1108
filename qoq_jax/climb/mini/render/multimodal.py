"""icu-mini: chest X-ray + ECG + a line of the record -> death within 48 hours (MIMIC-IV's 48-IHM
task).

The outcome is a sum of points for signs that are all in the input: age, lactate and pressure in the
record, fluid or opacity on the X-ray, ischaemia or atrial fibrillation on the ECG. Easy cases are
far from the threshold, hard ones next to it.
"""

from __future__ import annotations

from dataclasses import replace

from qoq_jax.climb.mini import ecg_simulator as sim
from qoq_jax.climb.mini.render import chest_xray
from qoq_jax.climb.mini.render.canvas import Dataset, Media, Rng, Scene, contrast, pick
from qoq_jax.climb.mini.render.ecg import NOISE_MV, SEVERITY

LABELS = ("No", "Yes")
THRESHOLD = 4
#: Least distance of the points from the threshold's edge (3.5) at difficulty 1, 2, 3.
MARGIN = {1: 2.5, 2: 1.5, 3: 0.5}

_XRAY = {"clear": 0, "Pleural Effusion": 1, "Lung Opacity": 2}
_ECG = {"Normal": 0, "A. Fib/Aflutter": 1, "MI": 2}
_WORDS = {
    "clear": "clear lungs",
    "Pleural Effusion": "pleural fluid",
    "Lung Opacity": "lung opacity",
}
_RHYTHM = {"Normal": "normal ECG", "A. Fib/Aflutter": "irregular ECG", "MI": "ST elevation"}


def plan(rng: Rng, labels: tuple[str, ...], difficulty: int) -> Scene:
    """Draw patients until one has this outcome by this margin."""
    while True:
        age, lactate, pressure = (
            int(rng.integers(35, 92)),
            float(rng.gamma(2.2, 1.3) + 0.6),
            int(rng.integers(68, 150)),
        )
        xray, ecg = pick(rng, tuple(_XRAY)), pick(rng, tuple(_ECG))
        points = _XRAY[xray] + _ECG[ecg] + (age >= 75) + 2 * (lactate >= 4.0) + 2 * (pressure < 90)
        distance = points - (THRESHOLD - 0.5)
        if (distance > 0) == (labels[0] == "Yes") and abs(distance) >= MARGIN[difficulty]:
            break
    c, params = (
        contrast(rng, difficulty),
        {"ecg": ecg, "territory": pick(rng, sim.KINDS["MI"]), "rate": int(rng.integers(62, 92))},
    )
    if ecg == "A. Fib/Aflutter":
        params["rate"] = int(rng.integers(95, 135))
    side = pick(rng, chest_xray.SIDES)
    jitter = {"dx": float(rng.uniform(-0.02, 0.02)), "dy": float(rng.uniform(-0.025, 0.025))}
    if xray == "Pleural Effusion":
        params[xray] = {"side": side, "size": 0.06 + 0.10 * c, "amount": 0.45 + 0.5 * c}
    elif xray == "Lung Opacity":
        level = pick(rng, chest_xray.LEVELS)
        params[xray] = {
            "side": side,
            "level": level,
            "size": 0.14,
            "amount": 0.30 * c,
            "texture": 0.8,
            "edge": 0.6,
            **jitter,
        }
    high, low = "high" if lactate >= 4.0 else "normal", "low" if pressure < 90 else "normal"
    text = f"{high} lactate and {low} pressure with {_WORDS[xray]} and {_RHYTHM[ecg]}"
    record = (
        f"Age {age}, heart rate {params['rate']}, systolic pressure {pressure}, lactate "
        f"{lactate:.1f}."
    )
    return Scene(labels, difficulty, text, params, record)


def draw(scene: Scene, anatomy: Rng, rng: Rng) -> Media:
    """The X-ray and the ECG of the same patient. The outcome has no region of its own."""
    ecg, d = scene.params["ecg"], scene.difficulty
    kinds = {"MI": scene.params["territory"], "A. Fib/Aflutter": "fibrillation"}
    heart = sim.heart(anatomy, (ecg,), SEVERITY[d], kinds)
    heart = replace(
        heart, rate=float(scene.params["rate"]), noise_mv=NOISE_MV[d], wander_mv=4 * NOISE_MV[d]
    )
    picture = chest_xray.draw_findings(scene, anatomy, rng)
    return Media(pixels=picture.pixels, signal=sim.simulate(heart, rng).signal)


DATASETS = (
    Dataset(
        name="icu-mini",
        domain="multimodal",
        labels=LABELS,
        question="Above are the chest X-ray and the ECG. Will the patient die within 48 hours?",
        kind="image+ecg",
        plan=plan,
        draw=draw,
    ),
)
