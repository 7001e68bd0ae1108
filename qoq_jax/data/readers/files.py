"""What all readers share: guarded opening, bounded decompression, safe .npz, honest errors."""

from __future__ import annotations

import contextlib
import importlib
import os
import pathlib
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import TypeVar

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data import media, paths
from qoq_jax.data.readers import kinds

MAX_ARRAY_BYTES = 1 << 30  # of one decoded volume, video or signal
MAX_PIXELS = 100_000_000  # of one picture
_DEFLATE_RATIO = 1032  # the best that deflate can do: a larger declared size is a lie

Path = str | os.PathLike
T = TypeVar("T")


def check_file(path: Path, whole: bool = True) -> pathlib.Path:
    """The path, once it is known to be a regular file of a sane size.

    Args:
      whole: it will be read whole; False: a part of it alone, so that it may be over 2 GiB.
    """
    path = media.fetched(path)
    if not path.is_file():
        raise DataError(
            "no such file", where=str(path), hint="check the path in the row and the data folder"
        )
    size = path.stat().st_size
    if size == 0:
        raise DataError("the file is empty", where=str(path), hint="fetch or build it again")
    if whole and size > media.MAX_FILE_BYTES:
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
    found = media.fetched(path.parent / name)
    if not paths.is_inside(found, path.parent if root is None else root):
        raise DataError(
            f"names a file outside its folder: {name!r}",
            where=str(path),
            hint="copy the file into the data folder",
        )
    if not found.is_file():
        raise DataError(
            f"names the file {name!r}, and there is no such file beside it",
            where=str(path),
            hint="keep the files of a recording together",
        )
    return check_file(found)


def suffix(path: Path) -> str:
    """Lower-case extension; ".nii.gz" counts as one."""
    name = pathlib.Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else pathlib.Path(name).suffix


@contextlib.contextmanager
def decoding(path: Path, kind: str, reads: Sequence[str] = ()) -> Iterator[None]:
    """Turns whatever a decoder raises on a damaged file into one DataError.

    Decoders raise nearly any exception on hostile bytes, and their messages may quote header text,
    so all are caught and only the exception's type is told. KeyboardInterrupt and SystemExit pass.
    A file whose first bytes name another kind than the reader's is called what it is; one of the
    reader's own kind is damaged.

    Args:
      path: the file.
      kind: what the reader takes it for, in words.
      reads: the reader's own kinds by their names in `kinds`.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        found = kinds.of_file(pathlib.Path(path))
        if found is not None and found[0] in reads:
            what = f"is {found[0]} that is damaged or cut short ({type(error).__name__})"
            hint = "fetch the file again or drop its row"
        elif found is not None and reads:
            what, hint = f"is {found[0]}, not {kind}", found[1] or "put it where its kind belongs"
        else:
            what = f"cannot be read as {kind} ({type(error).__name__})"
            if not reads:  # a format without first bytes of its own: damage cannot be told apart
                what += ": damaged, cut short or of another type"
            hint = "check that the file is whole and of the kind that its name says"
        raise DataError(what, where=str(path), hint=hint) from None


def need(module: str, extra: str | None, path: Path, purpose: str) -> ModuleType:
    """Imports a package, or says which extra brings it (None: it comes with qoq_jax itself)."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.split(".")[0]
        raise DataError(
            f"{purpose} needs the package {package}",
            where=str(path),
            hint=f'pip install "qoq_jax[{extra}]"' if extra else f"pip install {package}",
        ) from None


def gunzip(data: bytes, limit: int) -> bytes:
    """Inflates all gzip members; ValueError past `limit` bytes or when cut short."""
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
    """Refuses a header that declares more bytes than its file can hold, before memory is taken for
    them.
    """
    if declared > MAX_ARRAY_BYTES:
        raise DataError(
            f"the header declares {declared:,} bytes, which is over the limit {MAX_ARRAY_BYTES:,}",
            where=str(path),
            hint="crop, split or downsample it",
        )
    possible = held * (_DEFLATE_RATIO if compressed else 1)
    if declared > possible:
        raise DataError(
            f"the header declares {declared:,} bytes, the file holds at most {possible:,}",
            where=str(path),
            hint="the file is damaged or cut short: fetch it again or drop its row",
        )


def read_npz(path: Path, *names: str) -> dict[str, np.ndarray]:
    """The named arrays of an .npz that are present; no pickle, sizes checked before reading."""
    path = check_file(path)
    with decoding(path, "an .npz archive", ("a zip archive",)):
        return again_on_system_error(lambda: _read_npz(path, names))


def again_on_system_error(read: Callable[[], T]) -> T:
    """What `read` returns, called up to three times while it raises SystemError.

    NumPy parses the header of an array as Python, and up to Python 3.11.7 that may fail in one
    thread because another one parses at the same time (CPython issue 106905): nothing is wrong with
    the file then.
    """
    for _ in range(2):
        with contextlib.suppress(SystemError):
            return read()
    return read()


def _read_npz(path: pathlib.Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    out = {}
    with zipfile.ZipFile(path) as archive:
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


def unpack(layout: str, data: bytes, offset: int = 0) -> int | float:
    """struct.unpack_from for one value."""
    return struct.unpack_from(layout, data, offset)[0]
