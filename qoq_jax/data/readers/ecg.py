"""12-lead ECGs as the eight independent leads, 10 s at 250 Hz, in millivolts."""

from __future__ import annotations

import fractions
import re

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data.readers import dicom, files, wfdb

LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")  # III, aVR, aVL, aVF follow from I and II
RATE = 250
SECONDS = 10
SAMPLES = RATE * SECONDS
_MIN_SECONDS = 9.9  # recorders that stop a few samples early; the end is held, never invented
_MAX_MILLIVOLT = 50.0  # the heart gives about 5


def read_ecg(path: files.Path) -> np.ndarray:
    """float32 [8, 2500]: leads I, II, V1..V6, the first 10 s at 250 Hz, in mV, not standardised.

    Reads .npz ("signal" float [leads, n] in mV, "fs" in Hz, "leads" names), DICOM waveforms and
    WFDB format 16 (.hea, .dat or .mat). Other rates are resampled by a polyphase filter.

    Raises:
      DataError: a lead missing, shorter than 9.9 s, NaN, a flat lead, values no heart makes,
        damaged file.
    """
    path = files.check_file(path)
    suffix = files.suffix(path)
    if suffix == ".npz":
        signal, rate, names = _npz(path)
    elif suffix in (".hea", ".dat", ".mat"):
        signal, rate, names = wfdb.read_record(path)
    elif dicom.is_dicom(path):
        signal, rate, names = dicom.read_waveform(path)
    else:
        raise DataError(
            f"unknown type {suffix or 'without extension'} for an ECG",
            where=str(path),
            hint="use .npz, .dcm or WFDB (.hea)",
        )
    return standard_leads(signal, rate, names, str(path))


def standard_leads(signal: np.ndarray, rate: float, names: list[str], where: str) -> np.ndarray:
    """Checks a recording [leads, n] in mV at `rate` Hz and brings it to `read_ecg`'s form."""
    if (
        signal.ndim != 2
        or signal.shape[0] != len(names)
        or not np.isfinite(rate)
        or not 50 <= rate <= 10_000
    ):
        raise DataError(
            f"{len(names)} lead names for a signal {list(signal.shape)} at {rate:g} Hz",
            where=where,
            hint="signal is [leads, n], one name a lead, 50 to 10,000 Hz",
        )
    index = {_lead(name): i for i, name in reversed(list(enumerate(names)))}
    missing = [lead for lead in LEADS if lead.casefold() not in index]
    if missing:
        raise DataError(
            "lacks lead " + ", ".join(missing),
            where=where,
            hint="12-lead (or I, II, V1-V6) ECGs only",
        )
    if signal.shape[1] < _MIN_SECONDS * rate:
        raise DataError(
            f"is {signal.shape[1] / rate:.1f} s long", where=where, hint=f"{SECONDS} s are needed"
        )
    signal = signal[
        [index[lead.casefold()] for lead in LEADS], : int(np.ceil(SECONDS * rate))
    ].astype(np.float64)
    if not np.isfinite(signal).all():
        raise DataError("has samples that are not finite", where=where, hint="drop the record")
    flat = [lead for lead, row in zip(LEADS, signal) if np.ptp(row) < 1e-3]
    if flat:
        raise DataError(
            "has a flat lead " + ", ".join(flat),
            where=where,
            hint="an electrode was off: drop the record",
        )
    if np.abs(signal - np.median(signal, axis=1, keepdims=True)).max() > _MAX_MILLIVOLT:
        raise DataError(
            f"has values over {_MAX_MILLIVOLT:g} mV",
            where=where,
            hint="is it in microvolts? convert to mV",
        )
    if rate != RATE:
        from scipy.signal import resample_poly  # scipy comes with jax

        ratio = fractions.Fraction(RATE / rate).limit_denominator(1000)
        signal = resample_poly(signal, ratio.numerator, ratio.denominator, axis=1, padtype="line")
    signal = signal[:, :SAMPLES]
    return np.pad(signal, ((0, 0), (0, SAMPLES - signal.shape[1])), mode="edge").astype(np.float32)


_LEAD = re.compile(r"(?:^|[\s_])(aV[RLF]|V[1-6]|I{1,3})(?=$|[\s_(])", re.IGNORECASE)


def _lead(name: str) -> str:
    """ "Lead II", "Lead I (Einthoven)", "MDC_ECG_LEAD_V1", "v1" -> "ii", "i", "v1", "v1"."""
    found = _LEAD.search(name)
    return found[1].casefold() if found else ""


def _npz(path) -> tuple[np.ndarray, float, list[str]]:
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
