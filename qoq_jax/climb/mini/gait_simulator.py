"""A simulator of inertial sensors on both legs: six activities, in the channels of HuGaDB.

A leg is a foot, a shin and a thigh that turn in the plane of walking. The angle of each is a sum of
harmonics of the stride; its derivative is what the gyroscope sees, gravity in its turned frame and
the shocks of the steps are what the accelerometer sees. The left leg is half a stride behind. While
sitting the thighs are level, which gravity shows and nothing else.

Units: g and degrees per second, at 58.8 Hz.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from qoq_jax.climb.arrays.gait import RATE

LABELS = ("Walking", "Running", "Going up", "Going down", "Sitting", "Standing")


@dataclasses.dataclass(frozen=True)
class Stride:
    """An activity on average.

    Attributes:
      rate: strides a second; 0 = none.
      swing: half the range of foot, shin and thigh [degrees].
      lean: their mean angle from the vertical [degrees].
      second: of the second harmonic over the first.
      shock: of a step [g].
    """

    rate: float
    swing: tuple[float, float, float]
    lean: tuple[float, float, float]
    second: float
    shock: float


STRIDES = {
    "Walking": Stride(0.92, (38, 32, 22), (0, 8, 4), 0.35, 0.7),
    "Running": Stride(1.40, (50, 48, 32), (0, 20, 12), 0.25, 2.2),
    "Going up": Stride(0.78, (34, 30, 28), (4, 12, 24), 0.55, 0.4),
    "Going down": Stride(0.86, (34, 34, 18), (-6, 14, 14), 0.60, 1.1),
    "Sitting": Stride(0.0, (0, 0, 0), (0, 0, 85), 0.0, 0.0),
    "Standing": Stride(0.0, (0, 0, 0), (0, 2, 2), 0.0, 0.0),
}


@dataclasses.dataclass(frozen=True)
class Cohort:
    """People and how sensors are put on them.

    Attributes:
      pace, size: of movements, over the usual.
      turned: how far all sensors are turned in the plane of walking [degrees].
      noise: of sensors, over the usual.
    """

    pace: float = 1.0
    size: float = 1.0
    turned: float = 0.0
    noise: float = 1.0


USUAL = Cohort()


@dataclasses.dataclass(frozen=True)
class Walker:
    """What a person keeps: a pace and a size of movements over the average, and how each sensor is
    mounted, turned by angles [6 sensors] in the plane of walking and out of it [degrees].
    """

    pace: float
    size: float
    turned: np.ndarray
    tilted: np.ndarray
    bias: np.ndarray  # of each gyroscope [6, 3], degrees per second
    noise: float  # of the sensors, over the usual
    legs: tuple[float, float] = (1.0, 1.0)  # size of movements of the right and of the left one


def walker(rng: np.random.Generator, cohort: Cohort = USUAL) -> Walker:
    """A person."""
    return Walker(
        cohort.pace * float(rng.normal(1, 0.12)),
        cohort.size * float(rng.normal(1, 0.18)),
        cohort.turned + rng.normal(0, 15, 6),
        rng.normal(0, 15, 6),
        rng.normal(0, 1.5, (6, 3)),
        cohort.noise,
    )


def simulate(label: str, who: Walker, rng: np.random.Generator, seconds: float) -> np.ndarray:
    """[time, 36] float32 of `climb.arrays.gait.SENSORS`, g and degrees per second."""
    mean = STRIDES[label]
    t = np.arange(round(seconds * RATE)) / RATE
    every = np.arange(0, t[-1] + 1, 0.5)  # the pace changes slowly
    wander = np.interp(t, every, np.cumsum(rng.normal(0, 0.015, len(every))))
    phase = 2 * np.pi * (mean.rate * who.pace * t + wander) + rng.uniform(0, 2 * np.pi)
    whole = who.size * rng.normal(1, 0.12)
    sensors = []
    for leg, behind in enumerate((0.0, np.pi)):
        size = whole * who.legs[leg]
        # The foot first, then the shin and the thigh, each a little ahead of the one below.
        for i, (swing, lean) in enumerate(zip(mean.swing, mean.lean, strict=True)):
            place = 3 * leg + i
            own = phase - behind + 0.5 * i
            angle = lean + size * swing * (np.sin(own) + mean.second * np.sin(2 * own + 0.8))
            angle = angle + rng.normal(0, 6) + _tremor(rng, t)
            shock = mean.shock * size * 0.7**i * _shocks(np.mod(phase - behind, 2 * np.pi))
            sensors.append(_measured(angle, shock, who, place, rng))
    return np.concatenate(sensors, axis=1).astype(np.float32)


def _measured(
    angle: np.ndarray, shock: np.ndarray, who: Walker, place: int, rng: np.random.Generator
) -> np.ndarray:
    """[time, 6]: accelerometer and gyroscope of a segment at an angle [degrees]."""
    turned = np.radians(angle + who.turned[place])
    acceleration = np.stack(
        [np.sin(turned), (1 + shock) * np.cos(turned), np.zeros_like(turned)], axis=1
    )
    acceleration[:, 0] += 0.35 * shock
    tilt = np.radians(who.tilted[place])
    c, s = np.cos(tilt), np.sin(tilt)
    across = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    rate = np.zeros_like(acceleration)
    rate[:, 2] = np.gradient(angle) * RATE
    both = np.concatenate([acceleration @ across.T, rate @ across.T + who.bias[place]], axis=1)
    both += who.noise * rng.normal(0, 1, both.shape) * np.repeat([0.03, 4.0], 3)
    # A converter of 16 bits over 2 g and 2000 degrees per second: what is beyond is cut.
    full = np.repeat([2.0, 2000.0], 3)
    return np.clip(np.round(both / full * 2**15), -(2**15), 2**15 - 1) * full / 2**15


def _shocks(phase: np.ndarray) -> np.ndarray:
    """A shock at the start of each stride that dies away over a tenth of it."""
    return np.exp(-phase / 0.35) * np.cos(3 * phase)


def _tremor(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """Sway of a leg that stands or sits, and of one that walks [degrees]."""
    rates = rng.uniform(0.1, 1.5, 3)[:, None]
    return (0.5 * np.sin(2 * np.pi * rates * t + rng.uniform(0, 6.28, (3, 1)))).sum(axis=0)
