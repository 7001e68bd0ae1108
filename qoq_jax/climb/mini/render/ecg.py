"""ecg-mini: 12-lead ECGs with the seven classes of CLIMB, from the dipole simulator."""

from __future__ import annotations

from dataclasses import replace

from qoq_jax.climb.mini import ecg_simulator as sim
from qoq_jax.climb.mini.render.canvas import Dataset, Media, Rng, Scene, pick

SEVERITY = {1: 1.0, 2: 0.75, 3: 0.45}
NOISE_MV = {1: 0.010, 2: 0.018, 3: 0.030}

_WORDS = {
    "left bundle branch block": "wide QRS with left bundle branch block",
    "right bundle branch block": "wide QRS with late R wave in V1",
    "long PR interval": "long PR interval before each QRS",
    "anterior": "Q waves and ST elevation in V1 to V4",
    "inferior": "Q waves and ST elevation in II, III and aVF",
    "lateral": "Q waves and ST elevation in I, aVL and V6",
    "T wave inversion": "T wave inversion in I, II and V3 to V6",
    "ST depression": "ST depression in I, II and V4 to V6",
    "fibrillation": "irregular rhythm without P waves",
    "flutter": "regular rhythm with flutter waves in II",
    "premature beats": "wide premature beats with a pause",
    "paced rhythm": "paced rhythm with a spike before each QRS",
}


def findings(labels: tuple[str, ...], kinds: dict[str, str]) -> str:
    """The words of a report for these labels and their variants."""
    words = [
        _WORDS[kinds[label]] if label in kinds else "tall R waves in V5 and deep S in V1"
        for label in labels
    ]
    return " and ".join(words)


def plan(rng: Rng, labels: tuple[str, ...], difficulty: int) -> Scene:
    """Choose the variant of each label and how severe it is."""
    kinds = {label: pick(rng, sim.KINDS[label]) for label in labels if label in sim.KINDS}
    if set(labels) == {"CD", "A. Fib/Aflutter"}:  # no PR interval to prolong without P waves
        kinds["CD"] = pick(rng, sim.KINDS["CD"][:2])
    severity = SEVERITY[difficulty] * rng.uniform(0.85, 1.1)
    if labels == ("Normal",):
        reasoning = "regular sinus rhythm with normal QRS, ST and T waves"
    else:
        reasoning = findings(labels, kinds)
    return Scene(labels, difficulty, reasoning, {"kinds": kinds, "severity": severity})


def draw(scene: Scene, anatomy: Rng, rng: Rng) -> Media:
    """Record ten seconds at 250 Hz."""
    heart = sim.heart(anatomy, scene.labels, scene.params["severity"], scene.params["kinds"])
    strength = NOISE_MV[scene.difficulty]
    heart = replace(heart, noise_mv=strength, wander_mv=4 * strength)
    return Media(signal=sim.simulate(heart, rng).signal)


DATASETS = (
    Dataset(
        name="ecg-mini",
        domain="ecg",
        labels=sim.LABELS,
        question="What does this 12-lead ECG of the patient show?",
        kind="ecg",
        plan=plan,
        draw=draw,
        pairs=(
            ("CD", "HYP"),
            ("CD", "MI"),
            ("MI", "STTC"),
            ("HYP", "STTC"),
            ("CD", "A. Fib/Aflutter"),
        ),
        suffix=".npz",
    ),
)
