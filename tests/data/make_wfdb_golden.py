"""Writes tests/golden/wfdb.npz: what the wfdb package (4.3.1) reads from the records of
tests/helpers/wfdb_cases.py.

    pip install wfdb && python -m tests.data.make_wfdb_golden
"""

import pathlib
import tempfile

import numpy as np
import wfdb

from tests.helpers import wfdb_cases


def read(folder: pathlib.Path, name: str) -> np.ndarray:
    """float [leads, n] in mV, in the order of LEADS."""
    if "frames" in name:
        record = wfdb.rdrecord(str(folder / name), smooth_frames=False)
        signal = record.e_p_signal
    else:
        record = wfdb.rdrecord(str(folder / name))
        signal = record.p_signal.T
    names, units = record.sig_name, record.units or ["mV"] * 12
    scale = {"mV": 1.0, "uV": 1e-3}
    rows = {name.split()[-1]: row * scale[unit] for name, row, unit in zip(names, signal, units)}
    return np.stack([rows[lead] for lead in wfdb_cases.LEADS if lead in rows])


if __name__ == "__main__":
    golden = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in wfdb_cases.CASES:
            signal = read(pathlib.Path(folder), wfdb_cases.write(pathlib.Path(folder), case))
            for key, value in wfdb_cases.summary(signal).items():
                golden[f"{case}/{key}"] = value
    out = pathlib.Path(__file__).parents[1] / "golden" / "wfdb.npz"
    np.savez_compressed(out, **golden)
