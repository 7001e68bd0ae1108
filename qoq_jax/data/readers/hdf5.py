"""One array, or one recording of an array, out of an HDF5 file (also MATLAB 7.3) through h5py.

Only what lies in the file itself is read: external links, external storage and virtual data sets,
by which a file can make the reader open others, are refused.
"""

from __future__ import annotations

import math
import pathlib
from typing import Any

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data.readers import files

_MAGIC = b"\x89HDF\r\n\x1a\n"
_MAX_KEY_VALUES = 10_000_000


def is_hdf5(path: pathlib.Path) -> bool:
    """Whether the file starts as HDF5 does, at once or after MATLAB's 512 bytes."""
    with open(path, "rb") as file:
        head = file.read(512 + len(_MAGIC))
    return head.startswith(_MAGIC) or head[512:] == _MAGIC


def read(
    path: pathlib.Path, name: str, index: int | None, key: tuple[str, str] | None
) -> np.ndarray:
    """Numbers [a, b]: the array `name` of two axes, or `array[index]` of one of three.

    Args:
      name: path of the array inside of the file; "": the only array of two or three axes.
      index: recording along the first axis. key: (name, value) of a one-dimensional array that
        names the recordings.

    Raises:
      DataError: no such array or recording, or it is kept in another file.
    """
    h5py = files.need("h5py", "ecg", path, "reading HDF5")
    with files.decoding(path, "an HDF5 file"), h5py.File(path, "r") as file:
        dataset = _find(h5py, file, name, path)
        if key is not None:
            index = _number(_find(h5py, file, key[0], path), key[1], path)
        if dataset.ndim != (2 if index is None else 3):
            raise DataError(
                f"the array has {dataset.ndim} axes",
                where=str(path),
                hint="name one recording of an array [recordings, n, leads] as FILE#0",
            )
        if index is not None and not 0 <= index < dataset.shape[0]:
            raise DataError(
                f"holds recordings 0 to {dataset.shape[0] - 1}, not {index}",
                where=str(path),
                hint="correct the number after #",
            )
        _check_size(dataset, dataset.shape[-2:], path)
        return np.asarray(dataset[()] if index is None else dataset[index])


def count(path: pathlib.Path, name: str) -> int | None:
    """The recordings of an array [recordings, a, b]; None when it is one recording [a, b]."""
    h5py = files.need("h5py", "ecg", path, "reading HDF5")
    with files.decoding(path, "an HDF5 file"), h5py.File(path, "r") as file:
        shape = _find(h5py, file, name, path).shape
    return shape[0] if len(shape) == 3 else None


def _find(h5py: Any, file: Any, name: str, path: pathlib.Path) -> Any:
    """The data set of that name, or the only one that can be a signal."""
    if not name:
        found = [
            key
            for key in file
            if isinstance(file.get(key, getlink=True), h5py.HardLink)
            and isinstance(file[key], h5py.Dataset)
            and file[key].ndim in (2, 3)
        ]
        if len(found) != 1:
            raise DataError(
                f"holds {len(found)} arrays that could be the signal",
                where=str(path),
                hint='name it: FILE::NAME, or "signal" in the JSON file beside it',
            )
        name = found[0]
    here = file
    for part in filter(None, name.split("/")):
        link = here.get(part, getlink=True) if isinstance(here, h5py.Group) else None
        if link is None:
            raise DataError(
                f"holds no array {name!r}", where=str(path), hint="correct the name of the array"
            )
        if not isinstance(link, h5py.HardLink):
            raise DataError(f"{name!r} is a link", where=str(path), hint="name the array itself")
        here = here[part]
    if not isinstance(here, h5py.Dataset) or here.dtype.kind not in "fiuSO":
        raise DataError(
            f"{name!r} is not an array of numbers", where=str(path), hint="name the array itself"
        )
    if here.is_virtual or here.external:
        raise DataError(
            f"the numbers of {name!r} are kept in other files",
            where=str(path),
            hint="write them into one file",
        )
    return here


def _check_size(dataset: Any, shape: tuple[int, ...], path: pathlib.Path) -> None:
    """Numbers of a size that the memory holds, chunks included."""
    if dataset.dtype.kind not in "fiu":
        raise DataError(
            "the signal is not an array of numbers", where=str(path), hint="name another array"
        )
    largest = max(math.prod(shape), math.prod(dataset.chunks or (0,)))
    files.check_declared(
        largest * dataset.dtype.itemsize, files.MAX_ARRAY_BYTES, path, compressed=False
    )


def _number(dataset: Any, value: str, path: pathlib.Path) -> int:
    """The place of the value in a one-dimensional array."""
    if dataset.ndim != 1 or dataset.size > _MAX_KEY_VALUES:
        raise DataError(
            "the array of names is not one-dimensional", where=str(path), hint="use FILE#0"
        )
    values = dataset[()]
    if values.dtype.kind in "SO":
        places = [
            i
            for i, v in enumerate(values)
            if (v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v)) == value
        ]
    else:
        places = np.flatnonzero(values.astype("U32") == value).tolist()
    if len(places) != 1:
        raise DataError(
            f"{len(places)} recordings have that name", where=str(path), hint="use FILE#0"
        )
    return places[0]
