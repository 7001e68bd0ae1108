"""An EEG simulator: the six patterns of the ictal-interictal-injury continuum on a background.

A recording is 19 electrodes of the 10-20 system on a sphere, against a distant reference. The
background is 1/f noise of sources all over the sphere, an alpha rhythm behind and slow waves; the
pattern is a waveform that comes from a place, as in the definitions of the American Clinical
Neurophysiology Society (Hirsch et al., J Clin Neurophysiol 2021):

    LPD   discharges 0.5 to 2 a second on one side       LRDA  delta 1 to 3 a second on one side
    GPD   the same on both sides                         GRDA  the same on both sides, in front
    SZ    spikes and waves, 2.5 a second or faster, that slow down, spread and grow
    Other the background alone

All have what hides a pattern: blinks, muscle, mains, drift, and irregular slow waves.

Units: seconds and microvolts.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from qoq_jax.climb.labels.eeg import IIIC

RATE, SECONDS = 200, 10
LABELS = IIIC
# Electrode: degrees from the top of the head, and round it from the nose to the right.
_ANGLES = {
    "FP1": (90, -18),
    "FP2": (90, 18),
    "F3": (60, -39),
    "F4": (60, 39),
    "C3": (45, -90),
    "C4": (45, 90),
    "P3": (60, -141),
    "P4": (60, 141),
    "O1": (90, -162),
    "O2": (90, 162),
    "F7": (90, -54),
    "F8": (90, 54),
    "T3": (90, -90),
    "T4": (90, 90),
    "T5": (90, -126),
    "T6": (90, 126),
    "FZ": (45, 0),
    "CZ": (0, 0),
    "PZ": (45, 180),
}
ELECTRODES = tuple(_ANGLES)
_SOURCES = 30  # of the background
_SPREAD = 0.25  # 1 - cos of the angle at which a source has fallen to 1 / e


def _place(polar: float, azimuth: float) -> np.ndarray:
    """A point on the sphere [3] (right, front, up): degrees from the top, and from the nose to the
    right.
    """
    a, b = np.radians(polar), np.radians(azimuth)
    return np.array([np.sin(a) * np.sin(b), np.sin(a) * np.cos(b), np.cos(a)])


_PLACES = np.stack([_place(*angles) for angles in _ANGLES.values()])  # [electrode, 3]


@dataclasses.dataclass(frozen=True)
class Head:
    """What a patient keeps from one recording to the next.

    Attributes:
      alpha: frequency of the rhythm behind [Hz], and alpha_size its amplitude [µV].
      size: of the background [µV]. slope: the exponent of its 1/f^slope.
      slowing: of irregular slow waves, over the size of the background.
      side: -1 for patterns on the left, 1 on the right. focus: angles of their place, degrees.
    """

    alpha: float
    alpha_size: float
    size: float
    slope: float
    slowing: float
    side: int
    focus: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Recorder:
    """How recordings are made.

    Attributes:
      mains: frequency [Hz].
      noise: of muscle, drift, mains and electrodes, over the usual.
      size: of patterns, over the usual.
    """

    mains: float = 60.0
    noise: float = 1.0
    size: float = 1.0


USUAL = Recorder()


def head(rng: np.random.Generator) -> Head:
    """A patient."""
    side = int(rng.choice((-1, 1)))
    return Head(
        alpha=float(rng.uniform(8, 11.5)),
        alpha_size=float(rng.uniform(0, 18)),
        size=float(rng.uniform(6, 14)),
        slope=float(rng.uniform(1.2, 1.9)),
        slowing=float(rng.uniform(0.1, 1.2)),
        side=side,
        focus=(float(rng.uniform(55, 90)), float(side * rng.uniform(45, 125))),
    )


def simulate(
    label: str, who: Head, rng: np.random.Generator, recorder: Recorder = USUAL
) -> np.ndarray:
    """A recording [electrode, SECONDS * RATE] float32 of `ELECTRODES`, in microvolts.

    Args:
      label: of `LABELS`.
    """
    n = SECONDS * RATE
    signal = background(who, rng, n)
    size = recorder.size * rng.uniform(60, 200)  # of the pattern, where it is largest
    t = np.arange(n) / RATE
    if label in ("LPD", "GPD"):
        signal += np.outer(gains(label, who, rng), size * discharges(t, rng))
    elif label in ("LRDA", "GRDA"):
        signal += np.outer(gains(label, who, rng), 0.6 * size * rhythm(t, rng))
    elif label == "SZ":
        near = gains("LPD" if rng.random() < 0.6 else "GPD", who, rng)
        far = near ** rng.uniform(0.3, 0.7)
        spread = t / SECONDS  # the field grows from `near` to `far`
        wave = size * seizure(t, rng)
        signal += np.outer(near, (1 - spread) * wave) + np.outer(far, spread * wave)
    artefacts(signal, rng, recorder)
    return np.round(signal, 1).astype(np.float32)


def gains(label: str, who: Head, rng: np.random.Generator) -> np.ndarray:
    """What each electrode sees of a pattern [electrode]: of one on a side, or on both."""
    if label.startswith("L"):
        return _field(_place(*who.focus), _SPREAD)
    # Generalised patterns are largest in front, and a little larger on a side.
    front = 0.45 + 0.60 * _PLACES[:, 1] + 0.25 * _PLACES[:, 2]
    return np.clip(front + rng.normal(0, 0.1) * _PLACES[:, 0], 0.1, 1.1)


def _field(place: np.ndarray, spread: float) -> np.ndarray:
    return np.exp(-(1 - _PLACES @ place) / spread)


def discharges(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sharp waves with a slower wave behind each, nearly periodic; the largest is about -1."""
    period = 1 / rng.uniform(0.6, 1.9)
    width = rng.uniform(0.025, 0.06)
    at = np.cumsum(period * (1 + rng.normal(0, 0.07, int(t[-1] / period) + 3)))
    at += rng.uniform(-1, 0) * period - at[0] + period / 2
    wave = np.zeros_like(t)
    for centre, factor in zip(at, rng.uniform(0.8, 1.1, len(at)), strict=True):
        wave -= factor * np.exp(-0.5 * np.square((t - centre) / width))
        wave += 0.45 * factor * np.exp(-0.5 * np.square((t - centre - 3.2 * width) / (2 * width)))
    return wave


def rhythm(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A delta wave of one shape whose frequency wanders by a few per cent."""
    frequency = rng.uniform(1.0, 2.8)
    drift = np.cumsum(rng.normal(0, 1, len(t))) / np.sqrt(len(t))
    phase = 2 * np.pi * (frequency * t + 0.25 * drift) + rng.uniform(0, 2 * np.pi)
    grows = 1 + 0.25 * np.sin(2 * np.pi * rng.uniform(0.05, 0.2) * t + rng.uniform(0, 6.28))
    return grows * (np.sin(phase) + 0.2 * np.sin(2 * phase + rng.uniform(0, 6.28)))


def seizure(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Spikes and waves that slow down from 3.5 to 6 a second and grow."""
    first = rng.uniform(3.5, 6.0)
    frequency = np.linspace(first, max(first * rng.uniform(0.55, 0.8), 2.5), len(t))
    phase = np.cumsum(frequency) / RATE + rng.uniform(0, 1)
    within = np.mod(phase, 1)
    spike = -np.exp(-0.5 * np.square((within - 0.2) / 0.07))
    wave = 0.7 * np.sin(np.pi * np.clip((within - 0.35) / 0.65, 0, 1))
    return np.linspace(rng.uniform(0.3, 0.7), 1.1, len(t)) * (spike + wave - 0.15)


def background(who: Head, rng: np.random.Generator, n: int) -> np.ndarray:
    """[electrode, n]: 1/f noise of sources everywhere, an alpha rhythm behind, slow waves."""
    places = rng.normal(size=(_SOURCES, 3))
    places /= np.linalg.norm(places, axis=1, keepdims=True)
    fields = np.exp(-(1 - _PLACES @ places.T) / _SPREAD)  # [electrode, source]
    signal = fields @ coloured(rng, (_SOURCES, n), who.slope, 0.5, 70)
    signal *= who.size / signal.std()
    behind = np.clip(-_PLACES[:, 1], 0, 1)
    alpha = coloured(rng, (1, n), 0, who.alpha - 0.7, who.alpha + 0.7)[0]
    signal += np.outer(behind, who.alpha_size * alpha)
    slow = fields[:, :4] @ coloured(rng, (4, n), 1.0, 0.5, 4)
    signal += who.slowing * who.size * slow / max(slow.std(), 1e-9)
    return signal


def coloured(
    rng: np.random.Generator, shape: tuple[int, int], slope: float, low: float, high: float
) -> np.ndarray:
    """Noise whose power falls as 1/f^slope between two frequencies [Hz], with a standard deviation
    of 1 along the last axis.
    """
    frequency = np.fft.rfftfreq(shape[1], 1 / RATE)
    inside = (frequency >= low) & (frequency <= high)
    height = np.where(inside, np.maximum(frequency, 1e-9) ** (-slope / 2), 0)
    noise = np.fft.irfft(np.fft.rfft(rng.normal(size=shape), axis=1) * height, shape[1], axis=1)
    return noise / noise.std(axis=1, keepdims=True)


def artefacts(signal: np.ndarray, rng: np.random.Generator, recorder: Recorder) -> None:
    """Adds blinks, bursts of muscle, drift, mains and the noise of electrodes, in place."""
    (count, n), noise = signal.shape, recorder.noise
    t = np.arange(n) / RATE
    eyes = np.clip(_PLACES[:, 1] - 0.55, 0, 1) / 0.45
    for _ in range(rng.poisson(1.0)):
        blink = np.exp(-0.5 * np.square((t - rng.uniform(0, t[-1])) / rng.uniform(0.08, 0.14)))
        signal += np.outer(eyes, rng.uniform(60, 160) * blink)
    for side in (-1, 1):
        if rng.random() < 0.3:
            start, length = rng.uniform(0, t[-1]), rng.uniform(0.5, 4)
            burst = coloured(rng, (1, n), 0, 20, 95)[0] * ((t > start) & (t < start + length))
            jaw = _field(_place(95, side * 80), 0.12)
            signal += np.outer(jaw, noise * rng.uniform(8, 35) * burst)
    slow, start = rng.uniform(0.05, 0.2, (count, 1)), rng.uniform(0, 6.28, (count, 1))
    drift = np.sin(2 * np.pi * slow * t + start)
    signal += noise * rng.uniform(0, 12, (count, 1)) * drift
    mains = np.sin(2 * np.pi * recorder.mains * t + rng.uniform(0, 6.28))
    hum = np.outer(rng.exponential(1.0, count), mains)
    signal += noise * (hum + rng.normal(0, 1.5, (count, n)))
