"""MetaImage volumes (.mhd with its .raw or .zraw, .mha), as ITK writes them.

Format: https://itk.org/Wiki/ITK/MetaIO/Documentation. World coordinates are left, posterior,
superior; a row of TransformMatrix is the direction of one voxel axis.
"""

from __future__ import annotations

import dataclasses
import pathlib
import zlib

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data.readers import files

SUFFIXES = (".mhd", ".mha")
KINDS = ("a MetaImage volume",)
_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_MOST_HEADER = 1 << 16  # bytes; a header has about 400


@dataclasses.dataclass(frozen=True)
class Header:
    """What a header says of its volume.

    Attributes:
      shape: voxels along i, j, k.
      dtype: of a voxel.
      to_lps: [3, 3]; column a is the step along voxel axis a, mm.
      origin: [3]; place of voxel (0, 0, 0), mm, LPS.
      file: name of the file of the voxels, or "LOCAL" for the same one.
      compressed: whether zlib packs the voxels.
      end: bytes of the header itself.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype
    to_lps: np.ndarray
    origin: np.ndarray
    file: str
    compressed: bool
    end: int


def read_header(path: files.Path) -> Header:
    """The header of a volume, without its voxels.

    Raises:
      DataError: it is damaged, or of a volume that is not read (colours, text, several files).
    """
    path = files.check_file(path)
    with files.decoding(path, "MetaImage", KINDS), open(path, "rb") as file:
        return _parse(file.read(_MOST_HEADER), path)


def read(path: files.Path, root: files.Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(values [i, j, k], 3x3 voxel axes in LPS, mm).

    Args:
      path: the .mhd or .mha file.
      root: the data folder, in which the file of the voxels lies; None: the folder of `path`.

    Raises:
      DataError: as `read_header`, or the voxels are missing, cut short or over 1 GiB.
    """
    path = files.check_file(path)
    header = read_header(path)
    source = _voxels(path, header, root)
    local = source == path
    with files.decoding(source, "the voxels of a MetaImage volume", KINDS if local else ()):
        stored = source.read_bytes()[header.end if local else 0 :]
        voxels = int(np.prod(header.shape, dtype=object))
        size = voxels * header.dtype.itemsize
        files.check_declared(size, len(stored), source, header.compressed)
        if header.compressed:
            inflate = zlib.decompressobj()
            stored = inflate.decompress(stored, size + 1)
            if len(stored) != size or not inflate.eof:  # at its end zlib compares a checksum
                raise ValueError("compressed data is cut short or longer than declared")
        values = np.frombuffer(stored, header.dtype, voxels)
        return values.reshape(header.shape, order="F"), header.to_lps


def voxels_file(path: files.Path, root: files.Path | None = None) -> pathlib.Path:
    """The file that holds the voxels of a volume, which may be `path` itself.

    Args:
      root: as in `read`.

    Raises:
      DataError: as `read_header`, or there is no such file.
    """
    path = files.check_file(path)
    return _voxels(path, read_header(path), root)


def _voxels(path: pathlib.Path, header: Header, root: files.Path | None) -> pathlib.Path:
    return path if header.file == "LOCAL" else files.beside(path, header.file, root)


def _parse(head: bytes, path: pathlib.Path) -> Header:
    fields, end = _fields(head)
    if fields["NDims"] != "3" or fields.get("ElementNumberOfChannels", "1") != "1":
        raise DataError(
            "is not a grey volume of three axes", where=str(path), hint="write one 3-D volume"
        )
    kind, file = fields["ElementType"], fields["ElementDataFile"]
    if kind not in _TYPES:
        raise DataError(
            "has voxels of a type that is no number",
            where=str(path),
            hint="save it as one of " + ", ".join(_TYPES),
        )
    plain = fields.get("BinaryData", "True") == "True" and fields.get("HeaderSize", "0") == "0"
    if not plain or file.partition(" ")[0] == "LIST" or "%" in file:
        raise DataError(
            "keeps its voxels as text, behind another header or in several files",
            where=str(path),
            hint="save it again as one .mha file",
        )
    shape = tuple(int(count) for count in fields["DimSize"].split())
    if len(shape) != 3 or min(shape) < 1:
        raise DataError(
            f"is not a grey volume (DimSize {shape})", where=str(path), hint="write one 3-D volume"
        )
    most_significant_first = fields.get(
        "BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False")
    )
    directions = _first(fields, ("TransformMatrix", "Rotation", "Orientation"), "1 0 0 0 1 0 0 0 1")
    spacing = _first(fields, ("ElementSpacing", "ElementSize"), "1 1 1")
    origin = _first(fields, ("Offset", "Position", "Origin"), "0 0 0")
    if not np.isfinite(origin).all():
        raise DataError(
            "has a place (Offset) that is not finite", where=str(path), hint="write it again"
        )
    with np.errstate(all="ignore"):  # whoever uses axes asks whether they are finite
        to_lps = directions.reshape(3, 3).T * spacing.reshape(1, 3)
    return Header(
        shape,
        np.dtype((">" if most_significant_first == "True" else "<") + _TYPES[kind]),
        to_lps,
        origin.reshape(3),
        file,
        fields.get("CompressedData", "False") == "True",
        end,
    )


def _fields(head: bytes) -> tuple[dict[str, str], int]:
    """(fields of a header, its bytes). ElementDataFile is the last field; comments are free text
    and left out.
    """
    fields: dict[str, str] = {}
    end = 0
    while "ElementDataFile" not in fields:
        stop = head.index(b"\n", end) + 1 if b"\n" in head[end:] else len(head)
        if stop == end:
            raise ValueError("no ElementDataFile")
        name, equals, value = head[end:stop].decode("ascii", "replace").partition("=")
        if equals and name.strip() != "Comment":
            fields[name.strip()] = value.strip()
        end = stop
    return fields, end


def _first(fields: dict[str, str], names: tuple[str, ...], otherwise: str) -> np.ndarray:
    """The numbers of the first of several names of one field."""
    found = next((fields[name] for name in names if name in fields), otherwise)
    return np.asarray([float(number) for number in found.split()])
