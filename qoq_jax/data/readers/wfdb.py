"""WFDB records of format 16 (PTB-XL, Chapman-Shaoxing, Georgia, CPSC 2018), read without the wfdb
package.

A record is a text header (.hea) and a signal file of interleaved int16 beside it (.dat, or a .mat
with an offset).
"""

from __future__ import annotations

import re

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data.readers import files

_FORMAT = re.compile(r"16(?:x1)?(?:\+(\d{1,9}))?$")
_GAIN = re.compile(r"([-+0-9.eE]{1,32})(?:\((-?\d{1,9})\))?(?:/(\w{1,8}))?$")
_PER_MILLIVOLT = {"V": 1e3, "mV": 1.0, "uV": 1e-3}


def read_record(path: files.Path) -> tuple[np.ndarray, float, list[str]]:
    """(signal float32 [leads, n] in mV, rate in Hz, lead names) of a record, by its header or
    signal.
    """
    path = files.check_file(path)
    header = files.check_file(path.with_suffix(".hea"))
    with files.decoding(header, "a WFDB header"):
        lines = [
            line
            for line in header.read_bytes()[:65536].decode("ascii", "replace").splitlines()
            if line.strip() and not line.startswith("#")
        ]  # comments hold age, sex and codes: not read
        first = lines[0].split()
        leads, rate = int(first[1]), float(re.split(r"[/(]", first[2])[0])
        samples = int(first[3]) if len(first) > 3 else 0
        if not 0 < leads <= 64 or len(lines) < leads + 1:
            raise ValueError("signal lines are missing")
        names, gains, offsets, sources = [], [], [], set()
        for line in lines[1 : leads + 1]:
            part = line.split()
            kind, gain = _FORMAT.match(part[1]), _GAIN.match(part[2])
            if not kind or not gain or (gain[3] or "mV") not in _PER_MILLIVOLT:
                raise DataError(
                    f"has signals of format {part[1]!r}, gain {part[2]!r}; only format 16 in V, "
                    "mV or uV",
                    where=str(header),
                    hint="convert it to .npz with the signal in mV",
                )
            sources.add((part[0], int(kind[1] or 0)))
            adc_zero = int(part[4]) if len(part) > 4 else 0
            offsets.append(int(gain[2]) if gain[2] else adc_zero)
            gains.append(
                (float(gain[1]) or 200.0) / _PER_MILLIVOLT[gain[3] or "mV"]
            )  # gain 0 means the default, 200
            names.append(part[8] if len(part) > 8 else "")
        ((source, offset),) = sources
    if source in ("", "-", "~", ".", "..") or re.search(r"[/\\\0:]", source):
        raise DataError(
            f"names an unsafe signal file {source!r}",
            where=str(header),
            hint="the signal file lies beside its header",
        )
    data_path = files.check_file(header.parent / source)
    if data_path.resolve().parent != header.parent.resolve():
        raise DataError(
            f"names a signal file outside its folder: {source!r}",
            where=str(header),
            hint="the signal file lies beside its header",
        )
    with files.decoding(data_path, "a WFDB signal of format 16"):
        data = np.fromfile(data_path, "<i2", offset=offset)
        if samples and data.size < samples * leads:
            raise ValueError("the signal is cut short")
        data = data[: (samples or data.size // leads) * leads].reshape(-1, leads).T
        if (data == -32768).any():
            raise DataError("has missing samples", where=str(data_path), hint="drop the record")
        return (
            ((data - np.asarray(offsets)[:, None]) / np.asarray(gains)[:, None]).astype(np.float32),
            rate,
            names,
        )
