"""Numbers out of text and .npy files, with errors that name the file."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data import media
from qoq_jax.data.readers import files

_HINT = "download the file again"
_LONGEST = 1 << 26  # characters of a line


def numbers(path: str, delimiter: str, columns: int) -> np.ndarray:
    """float64 [line, columns] of a text file that holds nothing but numbers.

    Raises:
      DataError: another number of columns, no line, a cell that is no finite number.
    """
    with files.decoding(files.check_file(path), "a table of numbers"), open(path, "rb") as file:
        try:
            table = np.loadtxt(file, delimiter=delimiter, ndmin=2, encoding="latin-1")
        except ValueError as error:
            raise DataError(
                f"is no table of numbers ({error})"[:160], where=path, hint=_HINT
            ) from None
    if table.shape[1] != columns or not table.size:
        what = f"has {table.shape[1]} columns, not {columns}"
        raise DataError(what if table.size else "holds no line", where=path, hint=_HINT)
    if not np.isfinite(table).all():
        raise DataError("holds a number that is not finite", where=path, hint=_HINT)
    return table


def integers(path: str, delimiter: str, columns: int) -> np.ndarray:
    """int64 [line, columns], as `numbers`; a fraction is an error too."""
    table = numbers(path, delimiter, columns)
    if (table != np.round(table)).any() or np.abs(table).max() > 2**53:
        raise DataError("holds a number that is not whole", where=path, hint=_HINT)
    return table.astype(np.int64)


def lines(path: str) -> Iterator[str]:
    """Lines of a text file, plain or gzip, without their ends.

    Raises:
      DataError: it inflates past 2 GiB, a line is over 64 MiB, or it is damaged.
    """
    checked, held = files.check_file(path), 0
    opener = gzip.open if path.endswith(".gz") else open
    with files.decoding(checked, "a text file"), opener(path, "rb") as file:
        while line := file.readline(_LONGEST):
            held += len(line)
            if held > media.MAX_FILE_BYTES or len(line) == _LONGEST:
                raise DataError("is too large as text", where=path, hint="split the file")
            yield line.decode("utf-8", "replace").rstrip("\r\n")


def open_npy(path: str, shape: tuple[int | None, ...], kinds: str) -> np.ndarray:
    """The array of a .npy file, mapped into memory: only what is used is read. No pickle.

    Args:
      shape: that it must have; None is any length.
      kinds: dtype kinds that it may have, as "fiu" for numbers.

    Raises:
      DataError: no such file, damaged, or of another shape or dtype.
    """
    with files.decoding(files.check_file(path), "an .npy file"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    return as_formed(array, shape, kinds, path)


def as_formed(array: object, shape: tuple[int | None, ...], kinds: str, where: str) -> np.ndarray:
    """The array, once it is known to be of that shape and dtype; as in `open_npy`."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds:
        kind = getattr(array, "dtype", type(array).__name__)
        raise DataError(f"holds {kind}, not an array of the kind that it should", where=where)
    fits = len(shape) == array.ndim and all(
        want in (None, got) for want, got in zip(shape, array.shape)
    )
    if not fits or 0 in array.shape:
        asked = ", ".join("n" if want is None else str(want) for want in shape)
        raise DataError(f"is {list(array.shape)}, not [{asked}]", where=where)
    return array


def beside(path: str, name: str) -> str:
    """The path of a file in the folder of another."""
    return os.path.join(os.path.dirname(path), name)
