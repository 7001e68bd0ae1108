"""A 12-lead ECG simulator: a moving heart dipole seen through a fixed lead matrix.

The heart is one dipole d(t) in space (x to the patient's left, y to the feet, z to the back; mV as
in Frank's leads). A beat is a sum of Gaussian waves, each with a direction; Dower's matrix (Dower
et al. 1980) turns the dipole into I, II and V1..V6. The other limb leads follow from I and II, so
Einthoven's and Goldberger's laws hold to rounding:

    III = II - I,  aVR = -(I + II) / 2,  aVL = I - II / 2,  aVF = II - I / 2

A diagnosis changes the physics, not the picture: atrial fibrillation removes the P wave and makes
the RR intervals irregular, a bundle branch block adds late wide vectors, an infarct turns the first
vectors away from the scar and lifts ST towards it.

Units: seconds and millivolts.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from scipy import special

Vector: TypeAlias = tuple[float, float, float]

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
LABELS = ("Normal", "CD", "HYP", "MI", "STTC", "A. Fib/Aflutter", "Other")

# Dower's coefficients: rows I, II, V1..V6 over (x, y, z).
_LEAD_MATRIX = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)


@dataclass(frozen=True)
class Wave:
    """One Gaussian wave of the dipole: centre after the R peak [s], standard deviation [s], vector
    [mV].
    """

    at: float
    width: float
    vector: Vector


@dataclass(frozen=True)
class Heart:
    """What the simulator needs to know about a patient's heart."""

    rate: float = 70.0  # ventricular, beats per minute
    pr: float = 0.16  # start of P to start of QRS [s]
    p: Vector = (0.10, 0.10, -0.02)
    qrs: tuple[Wave, ...] = (
        Wave(-0.028, 0.008, (-0.12, 0.02, -0.22)),  # septum: to the right and to the front
        Wave(0.000, 0.011, (1.10, 0.80, 0.22)),  # free wall: left, down, back
        Wave(0.027, 0.010, (-0.12, -0.10, 0.42)),  # base: back and up
    )
    t: Vector = (0.30, 0.22, -0.14)
    st: Vector = (0.0, 0.0, 0.0)  # level of the ST segment
    rr_spread: float = 0.03  # standard deviation of RR over its mean
    atrial: str = "sinus"  # "sinus", "fibrillation" or "flutter"
    atrial_mv: float = 0.0  # amplitude of f or F waves
    ectopic: float = 0.0  # share of beats that are premature and ventricular
    paced: bool = False
    noise_mv: float = 0.01
    wander_mv: float = 0.05


@dataclass(frozen=True)
class Recording:
    """signal float32 [12, n] in mV, leads in the order of LEADS; r_times [s] of the beats inside
    it.
    """

    signal: np.ndarray
    fs: float
    r_times: np.ndarray
    ectopic: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))


# Vectors of a wide beat that starts in the right ventricle (premature or paced): left and back,
# slow, T opposite.
_VENTRICULAR = (Wave(-0.020, 0.028, (0.75, -0.75, 0.55)), Wave(0.040, 0.030, (0.85, -1.10, 0.75)))


def _scaled(vector: Vector, factor: float) -> Vector:
    return tuple(float(factor * v) for v in vector)


def _rotated(vector: Vector, angle: float) -> Vector:
    """Turned in the frontal plane by `angle` [rad], towards the feet."""
    x, y, z = vector
    c, s = np.cos(angle), np.sin(angle)
    return (float(c * x - s * y), float(s * x + c * y), float(z))


def healthy(rng: np.random.Generator) -> Heart:
    """A normal heart with its owner's own rate, axis, size and intervals."""
    base, turn, size = Heart(), rng.normal(0, 0.20), rng.uniform(0.75, 1.20)
    stretch = rng.uniform(0.92, 1.08)
    qrs = tuple(
        Wave(w.at * stretch, w.width * stretch, _scaled(_rotated(w.vector, turn), size))
        for w in base.qrs
    )
    return replace(
        base,
        rate=float(rng.uniform(54, 98)),
        pr=float(rng.uniform(0.13, 0.19)),
        p=_scaled(base.p, rng.uniform(0.8, 1.3)),
        qrs=qrs,
        t=_scaled(_rotated(base.t, turn), rng.uniform(0.65, 1.2)),
        rr_spread=float(rng.uniform(0.015, 0.06)),
    )


def _conduction(heart: Heart, kind: str, s: float) -> Heart:
    """Conduction disturbance: left or right bundle branch block, or first-degree AV block."""
    if kind == "left bundle branch block":
        k = 0.55 + 0.45 * s
        qrs = (
            Wave(-0.035 * k, 0.008 + 0.008 * s, (0.55 * k, 0.25, 0.45 * k)),
            Wave(0.000, 0.011 + 0.009 * s, (0.95, 0.50, 0.30 + 0.45 * s)),
            Wave(0.052 * k, 0.012 + 0.008 * s, (1.00 * s, 0.25 * s, 0.40 + 0.30 * s)),
        )
        t = tuple((1 - s) * a + s * b for a, b in zip(heart.t, (-0.30, -0.05, -0.35), strict=True))
        return replace(heart, qrs=qrs, t=t, st=(-0.08 * s, -0.02 * s, -0.12 * s))
    if kind == "right bundle branch block":
        late = Wave(0.062, 0.018, (-0.62 * s, -0.05, -0.62 * s))
        x, y, z = heart.t
        return replace(heart, qrs=(*heart.qrs[:2], late), t=(x + 0.05, y, z + 0.22 * s))
    return replace(heart, pr=0.21 + 0.11 * s)


def _infarct(heart: Heart, territory: str, s: float) -> Heart:
    """Scar and injury: early vectors away from the wall (Q waves), ST towards it, T away."""
    away = {
        "anterior": (0.05, 0.0, 1.0),
        "inferior": (0.0, -1.0, 0.0),
        "lateral": (-1.0, 0.10, 0.0),
    }[territory]
    q = Wave(-0.026, 0.013, tuple(0.62 * s * a for a in away))
    main, base = heart.qrs[1:]
    loss = np.array(main.vector) + 0.35 * s * np.array(away)
    st = tuple(-0.24 * s * a for a in away)
    t = tuple(float(v) for v in np.array(heart.t) * (1 - 0.4 * s) - 0.12 * s * np.array(away))
    return replace(heart, qrs=(q, replace(main, vector=tuple(loss.tolist())), base), st=st, t=t)


def heart(
    rng: np.random.Generator, labels: tuple[str, ...], severity: float, kind: dict[str, str]
) -> Heart:
    """A heart with these diagnoses, changed by severity 0..1; kind names a label's variant
    (`KINDS`).
    """
    h = healthy(rng)
    for label in sorted(labels, key=_ORDER.index):
        s, what = severity, kind.get(label, "")
        if label == "CD":
            h = _conduction(h, what, s)
        elif label == "HYP":
            gain = 1.20 + 0.90 * s
            qrs = tuple(
                replace(w, vector=_scaled(w.vector, gain), width=w.width * 1.08) for w in h.qrs
            )
            h = replace(h, qrs=qrs, t=_scaled(h.t, 1.0 - 0.45 * s))
        elif label == "MI":
            h = _infarct(h, what, s)
        elif label == "STTC" and what == "T wave inversion":
            h = replace(h, t=_scaled(h.t, 0.2 - 1.2 * s))
        elif label == "STTC":
            st = tuple(h.st[i] + s * (-0.15, -0.12, 0.09)[i] for i in range(3))
            h = replace(h, st=st, t=_scaled(h.t, 0.6 - 0.4 * s))
        elif label == "A. Fib/Aflutter":
            flutter = what == "flutter"
            h = replace(
                h,
                atrial="flutter" if flutter else "fibrillation",
                p=(0.0, 0.0, 0.0),
                atrial_mv=(0.12 if flutter else 0.05) * (0.4 + 0.6 * s),
                rate=75.0 if flutter else float(rng.uniform(60, 130)),
                rr_spread=0.015 if flutter else 0.10 + 0.14 * s,
            )
        elif label == "Other" and what == "paced rhythm":
            h = replace(
                h,
                paced=True,
                p=(0.0, 0.0, 0.0),
                rr_spread=0.004,
                qrs=_VENTRICULAR,
                rate=float(rng.uniform(60, 75)),
            )
            h = replace(h, t=(-0.35, 0.50, -0.40))
        elif label == "Other":
            h = replace(h, ectopic=0.10 + 0.15 * s)
    return h


# Variants of each label, in the words of a report. "Normal" and "HYP" have one each.
KINDS = {
    "CD": ("left bundle branch block", "right bundle branch block", "long PR interval"),
    "MI": ("anterior", "inferior", "lateral"),
    "STTC": ("T wave inversion", "ST depression"),
    "A. Fib/Aflutter": ("fibrillation", "fibrillation", "flutter"),
    "Other": ("premature beats", "premature beats", "paced rhythm"),
}
_ORDER = ("Normal", "HYP", "CD", "MI", "STTC", "A. Fib/Aflutter", "Other")


def beat_times(h: Heart, rng: np.random.Generator, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """R peaks [s], from before the recording to after it, and which of them are ectopic."""
    mean = 60.0 / h.rate
    count = int(np.ceil(seconds / mean)) + 6
    if h.atrial == "fibrillation":
        # Gamma-distributed intervals, never under the refractory period: the irregularly irregular
        # rhythm.
        shape = 1.0 / h.rr_spread**2
        rr = np.maximum(rng.gamma(shape, mean / shape, count), 0.32)
    else:
        breathing = h.rr_spread * np.sin(
            2 * np.pi * 0.25 * mean * np.arange(count) + rng.uniform(0, 6.28)
        )
        rr = mean * (1.0 + breathing + rng.normal(0, 0.3 * h.rr_spread, count))
    ectopic = np.zeros(count, bool)
    if h.ectopic > 0:
        ectopic = rng.random(count) < h.ectopic
        ectopic[1:] &= ~ectopic[:-1]
        if not ectopic[4:-4].any():  # a diagnosis must be visible
            ectopic[count // 2 - 1 : count // 2 + 2] = (False, True, False)
        premature = np.where(ectopic, 0.62, 1.0)
        pause = np.where(np.roll(ectopic, 1), 1.38, 1.0)
        rr = rr * premature * pause
    times = np.cumsum(rr) - rr[0] - rng.uniform(1.0, 2.0) * mean
    keep = times < seconds + 1.0
    return times[keep], ectopic[keep]


def _bump(t: np.ndarray, centres: np.ndarray, width: float | np.ndarray) -> np.ndarray:
    """Sum over beats of unit Gaussians at the centres, each drawn out to 5 widths: [n]."""
    step = t[1] - t[0]
    width = np.broadcast_to(width, centres.shape)[:, None]
    reach = int(np.ceil(5 * width.max(initial=0.0) / step))
    index = np.rint((centres - t[0]) / step).astype(int)[:, None] + np.arange(-reach, reach + 1)
    values = np.exp(-0.5 * np.square((t[0] + index * step - centres[:, None]) / width))
    inside = (index >= 0) & (index < t.size)
    return np.bincount(index[inside], values[inside], minlength=t.size)


def _plateau(t: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Sum over beats of smooth steps up at `starts` (7 ms) and down at `ends` (30 ms): [n]."""
    rise = special.expit((t[None] - starts[:, None]) / 0.007)
    return (rise * special.expit((ends[:, None] - t[None]) / 0.030)).sum(0)


def dipole(
    h: Heart, times: np.ndarray, ectopic: np.ndarray, t: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The heart vector [3, n] at the times t."""
    d = np.zeros((3, t.size))

    def add(profile: np.ndarray, vector: np.ndarray | Vector) -> None:
        d[:] += np.outer(vector, profile)

    if times.size == 0:
        return d
    rr = np.diff(times, prepend=times[0] - 60.0 / h.rate)
    stretch = np.sqrt(np.clip(rr, 0.35, 1.4))  # QT follows the square root of the cycle (Bazett)
    sinus, beats = times[~ectopic], stretch[~ectopic]
    if h.atrial == "sinus" and not h.paced:
        add(_bump(t, sinus - h.pr - 0.040 + 0.045, 0.020), h.p)
    for wave in h.qrs:
        add(_bump(t, sinus + wave.at, wave.width), wave.vector)
    add(_bump(t, sinus + 0.270 * beats, 0.046 * beats), h.t)
    if any(h.st):
        add(_plateau(t, sinus + 0.045, sinus + 0.270 * beats), h.st)
    if ectopic.any():
        early = times[ectopic]
        for wave in _VENTRICULAR:
            add(_bump(t, early + wave.at, wave.width), wave.vector)
        add(_bump(t, early + 0.29, 0.060), (-0.45, 0.60, -0.45))
    if h.atrial == "fibrillation":
        for _ in range(3):
            phase = 2 * np.pi * rng.uniform(5.0, 8.0) * t + np.cumsum(rng.normal(0, 0.06, t.size))
            add(np.sin(phase + rng.uniform(0, 6.28)), _scaled((0.35, 0.5, -0.6), h.atrial_mv))
    elif h.atrial == "flutter":
        # 300 a minute, 4:1 block at a rate of 75
        saw = 1.0 - 2.0 * np.mod(t * 5.0 + rng.uniform(0, 1), 1.0)
        saw = np.convolve(saw, np.ones(9) / 9, mode="same")
        add(saw, _scaled((0.1, 1.0, -0.3), h.atrial_mv))
    return d


def leads(independent: np.ndarray) -> np.ndarray:
    """I, II, V1..V6 [8, n] -> all twelve [12, n] by Einthoven's and Goldberger's laws."""
    i, ii = independent[:2]
    limb = np.stack([i, ii, ii - i, -(i + ii) / 2, i - ii / 2, ii - i / 2])
    return np.concatenate([limb, independent[2:]])


def simulate(
    h: Heart, rng: np.random.Generator, *, fs: float = 250.0, seconds: float = 10.0
) -> Recording:
    """Record a heart for `seconds` at `fs` samples per second."""
    n = round(fs * seconds)
    t = np.arange(n) / fs
    times, ectopic = beat_times(h, rng, seconds)
    seen = _LEAD_MATRIX @ dipole(h, times, ectopic, t, rng)
    if h.paced:
        spikes = np.zeros(n)
        at = np.round((times - 0.075) * fs).astype(int)
        spikes[at[(at >= 0) & (at < n)]] = 1.0
        seen += np.outer((0.9, 1.3, -0.6, 0.9, 1.2, 1.3, 1.1, 0.8), spikes)
    # Noise enters at the electrodes, so it obeys Einthoven's law too: only the eight independent
    # leads get their own.
    muscle = rng.standard_normal((8, n)) * h.noise_mv
    freq = rng.uniform(0.12, 0.45, (8, 2, 1))
    wander = (
        np.sin(2 * np.pi * freq * t + rng.uniform(0, 2 * np.pi, (8, 2, 1))).sum(1) * h.wander_mv / 2
    )
    mains = 0.25 * h.noise_mv * np.sin(2 * np.pi * 50.0 * t + rng.uniform(0, 6.28))
    microvolts = np.round((seen + muscle + wander + mains) * 200) * 5.0  # a 5 microvolt converter
    inside = (times >= 0) & (times < seconds)
    return Recording(
        leads(microvolts / 1000).astype(np.float32), fs, times[inside], ectopic[inside]
    )
