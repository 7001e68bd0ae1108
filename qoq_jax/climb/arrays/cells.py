"""Cells of a MATLAB file, read in a process of its own: scipy ends the process at some damaged
files (a segmentation fault in scipy.io.loadmat, scipy 1.17).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data.readers import files

_SECONDS = 600
_PROGRAM = """
import sys
import numpy as np
import scipy.io
path, out, cells, vector = sys.argv[1:]
held = scipy.io.loadmat(path, variable_names=[cells, vector])
np.savez(out, cells=np.stack(list(held[cells].reshape(-1))), vector=held[vector].reshape(-1))
"""


def read(path: str, cells: str, vector: str) -> tuple[np.ndarray, np.ndarray]:
    """([n, ...] of the n cells of one array, which are of one shape; [m] of another array).

    Raises:
      DataError: damaged, of another type (version 7.3 is HDF5), or without these arrays.
    """
    files.check_file(path)
    with tempfile.TemporaryDirectory(prefix="qoq_") as folder:
        out = os.path.join(folder, "cells.npz")
        command = [sys.executable, "-c", _PROGRAM, path, out, cells, vector]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            done = None
        if done is None or done.returncode:
            raise DataError(
                f"cannot be read as a MATLAB file with cells {cells} and an array {vector}: "
                "damaged, cut short or of another type",
                where=path,
                hint="check that the file is whole and of version 5",
            )
        held = files.read_npz(out, "cells", "vector")
    return held["cells"], held["vector"]
