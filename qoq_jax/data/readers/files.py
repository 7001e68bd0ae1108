"""What all readers share: guarded opening, bounded decompression, safe .npz, grey-level windows."""

from __future__ import annotations

import contextlib
import importlib
import os
import pathlib
import re
import struct
import zipfile
import zlib

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data import paths

MAX_FILE_BYTES = 2 << 30
MAX_ARRAY_BYTES = 1 << 30  # of one decoded volume, video or signal
MAX_PIXELS = 100_000_000  # of one picture
_DEFLATE_RATIO = 1032  # the best that deflate can do: a larger declared size is a lie

Path = str | os.PathLike


def check_file(path: Path) -> pathlib.Path:
    """The path, once it is known to be a regular file of a sane size."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise DataError(
            "no such file", where=str(path), hint="check the path in the row and the data folder"
        )
    size = path.stat().st_size
    if size == 0:
        raise DataError("the file is empty", where=str(path), hint="fetch or build it again")
    if size > MAX_FILE_BYTES:
        raise DataError("the file is over 2 GiB", where=str(path), hint="crop or split it")
    return path


def beside(path: pathlib.Path, name: str, root: Path | None = None) -> pathlib.Path:
    """The file `name` in the folder of `path`, which a header or another file asks for.

    Links are followed (git-annex and content stores keep all files as links) while the file that
    they end at lies inside the root.

    Args:
      root: the data folder; None: the folder of `path`.

    Raises:
      DataError: the name is no plain file name, the link leads out, or there is no such file.
    """
    if name in ("", "-", "~", ".", "..") or re.search(r"[/\\\0:]", name):
        raise DataError(
            f"names an unsafe file {name!r}", where=str(path), hint="all files lie beside it"
        )
    found = path.parent / name
    if not paths.is_inside(found, path.parent if root is None else root):
        raise DataError(
            f"names a file outside its folder: {name!r}",
            where=str(path),
            hint="copy the file into the data folder",
        )
    return check_file(found)


def suffix(path: Path) -> str:
    """Lower-case extension; ".nii.gz" counts as one."""
    name = pathlib.Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else pathlib.Path(name).suffix


@contextlib.contextmanager
def decoding(path: Path, kind: str):
    """Turns whatever a decoder raises on a damaged file into one DataError.

    Decoders raise nearly any exception on hostile bytes, and their messages may quote header text,
    so all are caught and only the exception's type is told. KeyboardInterrupt and SystemExit pass.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"cannot be read as {kind} ({type(error).__name__}): damaged, truncated or of "
            "another type",
            where=str(path),
            hint="fetch the file again or drop its row",
        ) from None


def need(module: str, extra: str, path: Path, purpose: str):
    """Imports an optional package, or says which extra brings it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise DataError(
            f"{purpose} needs the package {module.split('.')[0]}",
            where=str(path),
            hint=f'pip install "qoq_jax[{extra}]"',
        ) from None


def gunzip(data: bytes, limit: int) -> bytes:
    """Inflates gzip members one after the other; ValueError past `limit` bytes or when cut short."""
    out = []
    while data:
        inflate = zlib.decompressobj(wbits=31)
        out.append(inflate.decompress(data, limit + 1))
        limit -= len(out[-1])
        if limit < 0 or not inflate.eof:
            raise ValueError("compressed data is cut short or inflates past its limit")
        data = inflate.unused_data.lstrip(b"\0")
    return b"".join(out)


def gunzip_head(data: bytes, count: int) -> bytes:
    """The first `count` bytes of a gzip stream."""
    return zlib.decompressobj(wbits=31).decompress(data, count)


def check_declared(declared: int, held: int, path: Path, compressed: bool) -> None:
    """Refuses a header that promises more bytes than its file can hold, before memory is taken for
    them.
    """
    possible = held * (_DEFLATE_RATIO if compressed else 1)
    if declared > MAX_ARRAY_BYTES or declared > possible:
        raise DataError(
            f"the header declares {declared:,} bytes of pixels, the file holds at most {possible:,}"
            f" (limit {MAX_ARRAY_BYTES:,})",
            where=str(path),
            hint="the file is damaged or hostile; drop it",
        )


def read_npz(path: Path, *names: str) -> dict[str, np.ndarray]:
    """The named arrays of an .npz that are present; no pickle, sizes checked before reading."""
    path = check_file(path)
    out = {}
    with decoding(path, "an .npz archive"), zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        for name in names:
            info = members.get(f"{name}.npy")
            if info is None:
                continue
            with archive.open(info) as file:
                version = np.lib.format.read_magic(file)
                read = {
                    (1, 0): np.lib.format.read_array_header_1_0,
                    (2, 0): np.lib.format.read_array_header_2_0,
                }
                shape, _, dtype = read[version](file)
            size = dtype.itemsize * int(np.prod(shape, dtype=object))
            check_declared(size, info.file_size, path, False)
            check_declared(size, info.compress_size, path, info.compress_type != zipfile.ZIP_STORED)
            with archive.open(info) as file:
                out[name] = np.lib.format.read_array(file, allow_pickle=False)
    return out


def unpack(layout: str, data: bytes, offset: int = 0):
    """struct.unpack_from for one value."""
    return struct.unpack_from(layout, data, offset)[0]


# -------------------------------------------------------------------------------------- grey levels

CT_WINDOW = (-160.0, 240.0)  # soft tissue, Hounsfield units


def is_hounsfield(values: np.ndarray) -> bool:
    """True when the values look like CT numbers: they hold air (-500 or less) and nothing out of
    range.
    """
    low, high = float(values.min()), float(values.max())
    return -8192 <= low <= -500 and high <= 32767


def to_uint8(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Maps [low, high] linearly to 0..255; values outside are clipped."""
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    scaled = (values.astype(np.float32) - np.float32(low)) * np.float32(255.0 / (high - low))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def window(values: np.ndarray, percentiles: tuple[float, float] = (0.5, 99.5)) -> np.ndarray:
    """Grey values of any range -> uint8, by one rule that looks at the values only (never at the
    row).

    CT numbers: the soft-tissue window, fixed, so that the same tissue has the same grey in all
    patients.
    Everything else has no unit: the 0.5th to 99.5th percentile of the values above the minimum (the
    background of an MR volume or radiograph) become black and white.

    Args:
      values: one whole image or volume (so that its slices are mapped alike), finite.
    """
    if values.dtype == np.uint8:
        return values
    if is_hounsfield(values):
        return to_uint8(values, *CT_WINDOW)
    inside = values[values > values.min()]
    if inside.size == 0:
        return np.zeros(values.shape, np.uint8)
    step = max(
        1, inside.size // 1_000_000
    )  # a million values give the percentile to well under one grey level
    low, high = np.percentile(inside[::step], percentiles)
    return to_uint8(values, min(low, high - 1e-6), high)


def grey_to_rgb(values: np.ndarray) -> np.ndarray:
    """[..., h, w] -> [..., h, w, 3]."""
    return np.repeat(values[..., None], 3, axis=-1)
