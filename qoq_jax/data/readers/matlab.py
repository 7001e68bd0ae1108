"""One array out of a MATLAB file: version 4 and 5 through scipy, 7.3 as HDF5."""

from __future__ import annotations

import math
import pathlib
import struct
import zlib

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data.readers import files

_MATRIX, _COMPRESSED = 14, 15  # miMATRIX, miCOMPRESSED
_PLAIN = (1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 16, 17, 18)  # numbers and texts
_FLAGS, _FLAGS_SIZE = 6, 8  # miUINT32: what every array begins with
_LENGTHS, _SPARSE = 5, 5  # miINT32, mxSPARSE_CLASS
_DEEPEST = 16  # arrays in arrays
_PIECE = 1 << 20


def read(path: pathlib.Path, name: str, leads: int) -> np.ndarray:
    """The numeric array `name`, or "STRUCT.FIELD"; "": the only array with an axis of `leads`.

    Raises:
      DataError: no such array, or several could be meant.
    """
    import scipy.io  # scipy comes with jax

    with files.decoding(path, "a MATLAB file"):
        _check_elements(path)
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


def _check_elements(path: pathlib.Path) -> None:
    """Refuses a version 5 file whose compressed parts inflate past what one array may take, or
    that holds what is neither an array nor in one: SciPy (1.17) ends the process on types of
    numbers that do not exist.

    The format: https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf.

    Raises:
      ValueError: it holds such a thing.
    """
    data = path.read_bytes()
    if data[:6] != b"MATLAB":
        return  # version 4 does not compress, and Python reads it
    order = "<" if data[126:128] == b"IM" else ">"
    offset, total = 128, 0
    while offset + 8 <= len(data):
        kind = files.unpack(order + "I", data, offset)
        size = files.unpack(order + "I", data, offset + 4)
        body = data[offset + 8 : offset + 8 + size]
        if kind == _COMPRESSED:
            inflate, pieces = zlib.decompressobj(), []
            while piece := inflate.decompress(body, _PIECE):
                total += len(piece)
                files.check_declared(total, files.MAX_ARRAY_BYTES, path, False)
                pieces.append(piece)
                body = inflate.unconsumed_tail
            _check_array(b"".join(pieces), order, 0)
        elif kind == _MATRIX:
            _check_array(data[offset : offset + 8 + size], order, 0)
        else:
            raise ValueError("an element that is no array")
        offset += 8 + size


def _check_array(element: bytes, order: str, depth: int) -> None:
    """Checks the elements of one array, a miMATRIX with its tag, and of the arrays in it."""
    kind, size = struct.unpack_from(order + "II", element)
    if kind != _MATRIX or size > len(element) - 8 or depth > _DEEPEST:
        raise ValueError("no array, or one that is cut short")
    offset, end = 8, 8 + size
    while offset < end:
        kind, size = struct.unpack_from(order + "II", element, offset)
        if offset == 8 and (kind, size) != (_FLAGS, _FLAGS_SIZE):
            raise ValueError("an array without flags")
        # Of a full array every number, text or array in it takes a byte or more.
        if offset == 24 and kind == _LENGTHS and element[16 if order == "<" else 19] != _SPARSE:
            lengths = struct.unpack_from(f"{order}{size // 4}i", element, offset + 8)
            if min(lengths, default=0) < 0 or math.prod(lengths) > end:
                raise ValueError("an array longer than its bytes")
        if kind >> 16:  # a small element: its size and up to four bytes are in the tag
            if kind & 0xFFFF not in _PLAIN or kind >> 16 > 4:
                raise ValueError("a small element of no type")
            offset += 8
            continue
        if kind == _MATRIX:
            _check_array(element[offset:end], order, depth + 1)
        elif kind not in _PLAIN or size > end - offset - 8:
            raise ValueError("an element of no type, or one that is cut short")
        offset += 8 + -(-size // 8) * 8
