"""Electrodes of the 10-20 system and the montages that EEG encoders take.

BIOT (Yang et al., NeurIPS 2023) takes the 16 bipolar channels, LaBraM (Jiang et al., ICLR 2024) any
set of electrodes by name. Records hold electrodes against the recording's reference; a bipolar
channel is the difference of two, so both montages come from one record.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qoq_jax.base.errors import DataError, did_you_mean

# fmt: off
# In LaBraM's order for the TUH corpora.
ELECTRODES = (
    "FP1", "FP2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2", "F7", "F8", "T3", "T4", "T5",
    "T6", "A1", "A2", "FZ", "CZ", "PZ", "T1", "T2",
)
# Left and right temporal chain, left and right parasagittal chain, as BIOT orders them.
BIPOLAR = (
    "FP1-F7", "F7-T3", "T3-T5", "T5-O1",
    "FP2-F8", "F8-T4", "T4-T6", "T6-O2",
    "FP1-F3", "F3-C3", "C3-P3", "P3-O1",
    "FP2-F4", "F4-C4", "C4-P4", "P4-O2",
)
# fmt: on
NEEDED = frozenset(electrode for pair in BIPOLAR for electrode in pair.split("-"))
# The 10-10 system has other names for four of them.
_RENAMED = {"T7": "T3", "T8": "T4", "P7": "T5", "P8": "T6"}
_REFERENCES = frozenset(("", "REF", "LE", "AR", "AVG"))


def electrode(label: str) -> str | None:
    """The electrode of a channel's label in an EDF file: "EEG FP1-REF" is "FP1", "T7" is "T3".

    None for what is no electrode of `ELECTRODES` against a common reference (an ECG, a pulse, a
    bipolar channel).
    """
    name, _, reference = label.strip().upper().removeprefix("EEG ").partition("-")
    name = _RENAMED.get(name.strip(), name.strip())
    return name if name in ELECTRODES and reference.strip() in _REFERENCES else None


def choose(signal: np.ndarray, names: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """The channels that an encoder takes, in its order.

    Args:
      signal: [channel, time], of the channels `names`.
      wanted: as `BIPOLAR`, or electrodes. "A-B" is taken as it is where it is a channel, else as
        the difference of A and B.

    Returns [wanted, time].

    Raises:
      DataError: a channel is not there and cannot be made.
    """
    place = {name: i for i, name in enumerate(names)}

    def channel(name: str) -> np.ndarray:
        first, _, second = name.partition("-")
        if name in place:
            return signal[place[name]]
        if second and first in place and second in place:
            return signal[place[first]] - signal[place[second]]
        raise DataError(f"there is no channel {name}", hint=did_you_mean(name, names))

    return np.stack([channel(name) for name in wanted])
