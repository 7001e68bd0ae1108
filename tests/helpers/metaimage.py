"""MetaImage volumes as ITK writes them."""

from __future__ import annotations

import pathlib
import zlib
from typing import Any

import numpy as np

_TYPES = {"u1": "MET_UCHAR", "i2": "MET_SHORT", "u2": "MET_USHORT", "f4": "MET_FLOAT"}


def make_metaimage(
    path: pathlib.Path, values: np.ndarray, packed: bool = False, **fields: Any
) -> pathlib.Path:
    """Writes values [i, j, k] as NAME.mhd and NAME.raw (packed: NAME.zraw), or as one NAME.mha.

    Args:
      fields: of the header, in place of or beside the usual ones; None: without it.
    """
    local = path.suffix == ".mha"
    body = values.tobytes(order="F")
    body = zlib.compress(body) if packed else body
    header = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": True,
        "BinaryDataByteOrderMSB": values.dtype.byteorder == ">",
        "CompressedData": packed,
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "0 0 0",
        "ElementSpacing": "1 1 1",
        "DimSize": " ".join(map(str, values.shape)),
        "ElementType": _TYPES[values.dtype.str[1:]],
    } | fields
    file = path.with_suffix(".zraw" if packed else ".raw")
    header["ElementDataFile"] = fields.get("ElementDataFile", "LOCAL" if local else file.name)
    text = "".join(f"{name} = {value}\n" for name, value in header.items() if value is not None)
    path.write_bytes(text.encode() + (body if local else b""))
    if not local:
        file.write_bytes(body)
    return path
