"""EEG out of an EDF file: electrodes by name, 200 Hz, microvolts. Needs edfio (the extra `eeg`)."""

from __future__ import annotations

import fractions
import warnings
from typing import Any

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.climb.arrays import montage
from qoq_jax.data.readers import files, recording

RATE = 200  # samples per second


def read(path: str) -> tuple[tuple[str, ...], np.ndarray]:
    """(electrodes, float32 [electrode, time] in microvolts at `RATE` Hz) of a recording.

    The electrodes are those of `montage.ELECTRODES` that are there, in that order. Resampling is
    polyphase with an anti-aliasing filter; nothing else is filtered or scaled.

    Raises:
      DataError: not a whole EDF file, an electrode of the bipolar montage is missing, a unit is
        unknown, or samples are not finite.
    """
    edfio = files.need("edfio", "eeg", path, "EEG in EDF")
    with files.decoding(files.check_file(path), "an EDF file"):
        # edfio warns of a damaged file and goes on.
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            # Names in headers are ASCII by the standard; the micro sign is written all the same.
            edf = edfio.read_edf(path, header_encoding="latin-1")
            found: dict[str, Any] = {}
            for channel in edf.signals:
                name = montage.electrode(channel.label)
                if name is not None:
                    found.setdefault(name, channel)
            missing = sorted(montage.NEEDED - set(found))
            if missing:
                raise DataError(f"has no electrode {', '.join(missing)}", where=path)
            names = tuple(name for name in montage.ELECTRODES if name in found)
            signal = np.stack([_microvolts(found[name], path) for name in names])
        for warning in warned:
            # A recorder that was never stopped leaves -1.
            if "indicates -1 data" not in str(warning.message):
                raise DataError(f"is damaged: {warning.message}", where=path)
    return names, signal


def _microvolts(channel: Any, path: str) -> np.ndarray:
    """float32 [time] of one channel of edfio at `RATE` Hz."""
    from scipy.signal import resample_poly  # scipy comes with jax

    rate, scale = channel.sampling_frequency, recording.millivolts(channel.physical_dimension)
    if not recording.MIN_RATE <= rate <= recording.MAX_RATE:
        raise DataError(f"is sampled at {rate:g} Hz", where=path)
    if scale is None:
        raise DataError("a channel is in no unit of volts", where=path)
    values = channel.data * (scale * 1000)
    if not values.size or not np.isfinite(values).all():
        raise DataError("a channel has no samples or samples that are not numbers", where=path)
    if rate != RATE:
        ratio = fractions.Fraction(RATE / rate).limit_denominator(1000)
        values = resample_poly(values, ratio.numerator, ratio.denominator, padtype="line")
    return values.astype(np.float32)
