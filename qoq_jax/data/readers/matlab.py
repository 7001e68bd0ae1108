"""One array out of a MATLAB file: version 4 and 5 through scipy, 7.3 as HDF5."""

from __future__ import annotations

import pathlib
import zlib

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data.readers import files

_COMPRESSED = 15  # miCOMPRESSED
_PIECE = 1 << 20


def read(path: pathlib.Path, name: str, leads: int) -> np.ndarray:
    """The numeric array `name`, or "STRUCT.FIELD"; "": the only array with an axis of `leads`.

    Raises:
      DataError: no such array, or several could be meant.
    """
    import scipy.io  # scipy comes with jax

    with files.decoding(path, "a MATLAB file"):
        check_inflated(path)
        held = scipy.io.whosmat(path)
        if not name:
            found = [key for key, shape, _ in held if leads in shape and len(shape) in (2, 3)]
            if len(found) != 1:
                raise DataError(
                    f"holds {len(found)} arrays that could be the signal",
                    where=str(path),
                    hint='name it: FILE::NAME or FILE::STRUCT.FIELD, or "signal" in the JSON file '
                    "beside it",
                )
            name = found[0]
        variable, *fields = name.split(".")
        value = None
        if variable in {key for key, _, _ in held}:
            value = scipy.io.loadmat(path, variable_names=[variable])[variable]
        for field in fields:
            inside = isinstance(value, np.ndarray) and value.size == 1 and value.dtype.names
            value = value.reshape(-1)[0][field] if inside and field in inside else None
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
            raise DataError(
                f"holds no array of numbers {name!r}",
                where=str(path),
                hint="correct the name of the array",
            )
        return value


def check_inflated(path: pathlib.Path) -> None:
    """Refuses a version 5 file whose compressed parts inflate past what one array may take."""
    data = path.read_bytes()
    if data[:6] != b"MATLAB":
        return  # version 4 does not compress
    order = "<" if data[126:128] == b"IM" else ">"
    offset, total = 128, 0
    while offset + 8 <= len(data):
        kind = files.unpack(order + "I", data, offset)
        size = files.unpack(order + "I", data, offset + 4)
        if kind == _COMPRESSED:
            inflate = zlib.decompressobj()
            piece = inflate.decompress(data[offset + 8 : offset + 8 + size], _PIECE)
            while piece:
                total += len(piece)
                files.check_declared(total, files.MAX_ARRAY_BYTES, path, False)
                piece = inflate.decompress(inflate.unconsumed_tail, _PIECE)
        offset += 8 + size
