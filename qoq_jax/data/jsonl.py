"""Files of JSON values, one per line or in one list: strict, and read line by line.

What Windows and gzip make of them is read too: a byte order mark, CRLF, compressed data.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import gzip
import json
import math
import os
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from qoq_jax.base.errors import DataError

_MAX_LINE_BYTES = 1 << 20
_MAX_LIST_BYTES = 4 << 30
_GZIP = b"\x1f\x8b"


@dataclasses.dataclass(frozen=True)
class Item:
    """One row of a file before it is checked.

    Attributes:
      where: what errors call it, "train.jsonl:12".
      number: of its line, or of its place in the list, from 1.
      start, content: where its bytes begin in the file and what they are; for an item of a JSON
        list, its number and the decoded object.
    """

    where: str
    number: int
    start: int
    content: Any


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A row file for reading; gzip (known by its first bytes) is decompressed on the way.

    Raises:
      DataError: it cannot be read, also later, while it is open.
    """
    try:
        with open(path, "rb") as file:
            if _gzip_magic(file):
                with gzip.open(file) as plain:
                    yield plain
            else:
                yield file
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise DataError(
            "the gzip data are damaged or cut short", where=str(path), hint="copy the file again"
        ) from None
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror})", where=str(path), hint="check the path"
        ) from None


def items(file: BinaryIO, path: str | os.PathLike) -> Iterator[Item]:
    """The rows of an opened file in order: JSON lines one by one, a JSON list after it was read
    whole.

    A byte order mark, CRLF and blank lines are taken as what they are. A line over 1 MiB comes cut
    short, and `decode` refuses it.
    """
    name = os.path.basename(path)
    if is_list(file):
        text = file.read(_MAX_LIST_BYTES + 1)
        if len(text) > _MAX_LIST_BYTES:
            raise DataError(
                "is a JSON list over 4 GiB",
                where=str(path),
                hint="write JSON lines, one object per line",
            )
        listed = _decode(text.removeprefix(codecs.BOM_UTF8), str(path))
        for i, item in enumerate(listed):
            yield Item(f"{name}[{i}]", i + 1, i, item)
        return
    yield from lines(file, name)


def lines(file: BinaryIO, name: str) -> Iterator[Item]:
    """The lines that are not blank; see `items`."""
    number = start = 0
    while line := file.readline(_MAX_LINE_BYTES + 2):
        number, size = number + 1, len(line)
        while not line.endswith(b"\n") and (rest := file.readline(1 << 20)):
            size += len(rest)
            if rest.endswith(b"\n"):
                break
        content = line
        begin = start
        if number == 1 and line.startswith(codecs.BOM_UTF8):
            content, begin = line[len(codecs.BOM_UTF8) :], len(codecs.BOM_UTF8)
        content = content.rstrip(b"\r\n")
        if content.strip():
            yield Item(f"{name}:{number}", number, begin, content)
        start += size


def is_gzip(path: str | os.PathLike) -> bool:
    """Whether a file is compressed, by its first bytes."""
    with open(path, "rb") as file:
        return _gzip_magic(file)


def _gzip_magic(file: BinaryIO) -> bool:
    found = file.read(len(_GZIP)) == _GZIP
    file.seek(0)
    return found


def is_list(file: BinaryIO) -> bool:
    """Whether an opened file holds one JSON list; the file stands at its begin again after."""
    head = file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
    while not head and (more := file.read(4096)):
        head = more.lstrip()
    file.seek(0)
    return head[:1] == b"["


def decode(line: bytes, where: str) -> Any:
    """The value of one line; DataError when it is not strict JSON or too long."""
    if len(line) > _MAX_LINE_BYTES:
        raise DataError(
            "a line over 1 MiB", where=where, hint="media go into files, rows hold their paths"
        )
    return _decode(line, where)


def _decode(data: bytes, where: str) -> Any:
    """json.loads made strict: UTF-8, no NaN or Infinity, no key twice, no deep nesting."""
    try:
        return json.loads(
            data.decode("utf-8"),
            parse_constant=_no_constant,
            parse_float=_finite,
            object_pairs_hook=_unique,
        )
    except RecursionError:
        raise DataError(
            "is nested too deeply", where=where, hint="a row is a flat object"
        ) from None
    except UnicodeDecodeError:
        raise DataError("is not UTF-8 text", where=where, hint="save the file as UTF-8") from None
    except ValueError as error:
        raise DataError(
            f"is not valid JSON ({_short(str(error))})",
            where=where,
            hint="write one object per line",
        ) from None


def _no_constant(text: str):
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a key is used twice")
    return out


def _short(text: str, limit: int = 78) -> str:
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")
