"""An ECG as its file holds it."""

from __future__ import annotations

import dataclasses

import numpy as np

WINDOW_SECONDS = 10  # of a longer recording, readers may stop after so much
MIN_RATE, MAX_RATE = 50, 10_000  # samples per second that an ECG can have

_PER_MILLIVOLT = {"v": 1e3, "mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "nv": 1e-6}


@dataclasses.dataclass(frozen=True)
class Recording:
    """An ECG as its file holds it.

    Attributes:
      signal: float [leads, n] in mV; NaN where samples are missing. At least the first
        WINDOW_SECONDS, when there are so many.
      rate: samples per second.
      names: one for each lead, as the file spells them.
      seconds: how long the whole recording is.
    """

    signal: np.ndarray
    rate: float
    names: list[str]
    seconds: float


def millivolts(unit: str) -> float | None:
    """Millivolts of one unit ("V", "mV", "uV", "µV", "nV" in any case), None when it is unknown."""
    return _PER_MILLIVOLT.get(unit.strip().casefold())
