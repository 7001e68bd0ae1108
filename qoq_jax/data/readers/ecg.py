"""12-lead ECGs as the eight independent leads, 10 s at 250 Hz, in millivolts."""

from __future__ import annotations

import fractions
import pathlib
from collections.abc import Callable
from typing import Literal

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data import paths
from qoq_jax.data.readers import dicom, ecg_arrays, ecg_muse, files, leads, wfdb
from qoq_jax.data.readers.recording import MAX_RATE, MIN_RATE, WINDOW_SECONDS, Recording

LEADS = leads.NEEDED
RATE = 250
SECONDS = WINDOW_SECONDS
SAMPLES = RATE * SECONDS
LENGTHS = ("refuse", "repeat")  # what becomes of a recording under 10 s
Length = Literal["refuse", "repeat"]
CUT, REPEATED = "cut to its first 10 s", "repeated to fill 10 s"
MIN_REPEATED_SECONDS = 5.0  # four beats at 50 a minute, and a seam once
_MIN_SECONDS = 9.9  # recorders that stop a few samples early; the end is held, never invented
_LONGER = 0.1  # seconds that are cut off without a word
_MAX_MILLIVOLT = 50.0  # the heart gives about 5


# Damaged samples may be NaN or infinite: `_sound` says so, and numpy need not warn before.
@np.errstate(over="ignore", invalid="ignore")
def read_ecg(
    path: files.Path,
    *,
    root: files.Path | None = None,
    length: Length = "refuse",
    note: Callable[[str], object] | None = None,
) -> np.ndarray:
    """float32 [8, 2500]: leads I, II, V1..V6, the first 10 s at 250 Hz, in mV, not standardised.

    Reads WFDB records (by record name, .hea or signal file), DICOM waveforms, XML of GE MUSE, .npz
    ("signal" float [leads, n] in mV, "fs" in Hz, "leads" names), and .h5, .hdf5, .mat, .npy and
    .csv with the facts that they do not hold in a JSON file beside them (`ecg_arrays`). Other rates
    are resampled by a polyphase filter.

    Args:
      path: the file; "exams.hdf5#3" is the fourth recording of a file that holds many.
      root: data folder; links beside the file may lead anywhere inside it. None: its folder.
      length: "refuse": a recording under 9.9 s is an error, as ECG-JEPA's own preparation leaves
        out what is under 10 s. "repeat": one of 5 s or more starts again at its end until 10 s
        are full.
      note: called with CUT or REPEATED when the recording was longer or shorter than 10 s.

    Raises:
      DataError: a lead missing, too short, NaN, a flat lead, values no heart makes, damaged file.
    """
    found = read_recording(path, root)
    if note is not None and found.seconds > SECONDS + _LONGER:
        note(CUT)
    if note is not None and found.seconds < _MIN_SECONDS:
        note(REPEATED)
    return standard_leads(found.signal, found.rate, found.names, str(path), length)


def read_recording(path: files.Path, root: files.Path | None = None) -> Recording:
    """The recording as the file holds it, before `standard_leads`."""
    file, _ = paths.split_member(path)
    header = wfdb.find_header(file)
    if header is not None:
        return wfdb.read_record(file, root)
    checked = files.check_file(file)
    suffix = files.suffix(checked)
    if suffix == ".npz":
        return _whole(*_npz(checked))
    if suffix in ecg_arrays.SUFFIXES:
        return ecg_arrays.read(path, root)
    if suffix in wfdb.SIGNAL_SUFFIXES:
        return wfdb.read_record(file, root)  # says that the header is missing
    if dicom.is_dicom(checked):
        return _whole(*dicom.read_waveform(checked))
    if suffix == ".xml" and ecg_muse.is_muse(checked):
        return ecg_muse.read(checked)
    raise DataError(
        f"unknown type {suffix or 'without extension'} for an ECG",
        where=str(path),
        hint="use WFDB (.hea), DICOM, XML of GE MUSE, .npz, .h5, .mat, .npy or .csv",
    )


def _whole(signal: np.ndarray, rate: float, names: list[str]) -> Recording:
    seconds = signal.shape[-1] / rate if signal.ndim and rate > 0 else 0.0
    return Recording(signal, rate, names, seconds)


def standard_leads(
    signal: np.ndarray, rate: float, names: list[str], where: str, length: Length = "refuse"
) -> np.ndarray:
    """Checks a recording [leads, n] in mV at `rate` Hz and brings it to `read_ecg`'s form."""
    if (
        signal.ndim != 2
        or signal.shape[0] != len(names)
        or not np.isfinite(rate)
        or not MIN_RATE <= rate <= MAX_RATE
    ):
        raise DataError(
            f"{len(names)} lead names for a signal {list(signal.shape)} at {rate:g} Hz",
            where=where,
            hint="signal is [leads, n], one name per lead, 50 to 10,000 Hz",
        )
    signal = leads.choose(signal[:, : int(np.ceil(SECONDS * rate))], names, where)
    signal = _sound(signal.astype(np.float64), where)
    signal = _long_enough(signal, rate, length, where)
    if rate != RATE:
        from scipy.signal import resample_poly  # scipy comes with jax

        ratio = fractions.Fraction(RATE / rate).limit_denominator(1000)
        signal = resample_poly(signal, ratio.numerator, ratio.denominator, axis=1, padtype="line")
    signal = signal[:, :SAMPLES]
    return np.pad(signal, ((0, 0), (0, SAMPLES - signal.shape[1])), mode="edge").astype(np.float32)


def _sound(signal: np.ndarray, where: str) -> np.ndarray:
    """The needed leads float64 [8, n], once each of them can be a heart's."""
    if not np.isfinite(signal).all():
        raise DataError(
            "has missing samples in its first 10 s", where=where, hint="drop the record"
        )
    flat = [lead for lead, row in zip(LEADS, signal) if row.size and np.ptp(row) < 1e-3]
    if flat:
        raise DataError(
            "has a flat lead " + ", ".join(flat),
            where=where,
            hint="an electrode was off: drop the record",
        )
    middle = np.median(signal, axis=1, keepdims=True) if signal.size else 0.0
    if np.abs(signal - middle).max(initial=0.0) > _MAX_MILLIVOLT:
        raise DataError(
            f"has values over {_MAX_MILLIVOLT:g} mV",
            where=where,
            hint="is it in microvolts? convert to mV",
        )
    return signal


def _long_enough(signal: np.ndarray, rate: float, length: Length, where: str) -> np.ndarray:
    """The signal, or, if it is shorter than 9.9 s and may be, the signal again and again."""
    samples = signal.shape[1]
    if samples >= _MIN_SECONDS * rate:
        return signal
    if length == "repeat" and samples >= MIN_REPEATED_SECONDS * rate:
        return np.resize(signal.T, (int(np.ceil(SECONDS * rate)), signal.shape[0])).T
    least = f"{MIN_REPEATED_SECONDS:g}" if length == "repeat" else f"{SECONDS}"
    raise DataError(
        f"is {samples / rate:.1f} s long",
        where=where,
        hint=f"{least} s are needed"
        + ("" if length == "repeat" else '; data.ecg_length="repeat" takes 5 s and more'),
    )


def _npz(path: pathlib.Path) -> tuple[np.ndarray, float, list[str]]:
    arrays = files.read_npz(path, "signal", "fs", "leads")
    missing = [name for name in ("signal", "fs", "leads") if name not in arrays]
    if (
        missing
        or arrays["signal"].dtype.kind not in "fiu"
        or arrays["leads"].dtype.kind != "U"
        or arrays["fs"].size != 1
        or arrays["fs"].dtype.kind not in "fiu"
    ):
        raise DataError(
            'needs "signal" [leads, n] in mV, "fs" in Hz and "leads" (texts)',
            where=str(path),
            hint="write it with numpy.savez_compressed(path, signal=..., fs=..., leads=...)",
        )
    return (
        arrays["signal"],
        float(arrays["fs"].reshape(())),
        [str(name) for name in arrays["leads"].reshape(-1)],
    )
