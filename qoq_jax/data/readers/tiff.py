"""The directories of a TIFF or BigTIFF file, without its pixels: what a reader of regions needs to
find tiles in files of many gigabytes.

Sources: TIFF 6.0 (Adobe 1992), section 2; BigTIFF (libtiff.gitlab.io/libtiff/specification/
bigtiff.html).
"""

from __future__ import annotations

import dataclasses
import os
import struct
from collections.abc import Mapping
from typing import BinaryIO

MAX_PAGES = 1000
_MAX_ENTRIES = 4096
_MAX_VALUES = 1 << 20  # of one tag, read at once
# letter of struct by TIFF's number of a type; text and fractions are not asked for
_TYPES = {1: "B", 3: "H", 4: "I", 7: "B", 13: "I", 16: "Q", 18: "Q"}


@dataclasses.dataclass(frozen=True)
class Field:
    """One entry of a directory.

    Attributes:
      letter: its type for struct.
      count: how many values.
      at: where the first one is in the file, bytes.
    """

    letter: str
    count: int
    at: int


class Page:
    """A directory: numbers by tag, read when they are asked for."""

    def __init__(self, file: BinaryIO, order: str, fields: Mapping[int, Field]) -> None:
        self._file, self._fields = file, fields
        self.order = order  # "<" or ">", as struct writes it

    def count(self, tag: int) -> int:
        """Values of the tag, 0 where the page does not have it."""
        return self._fields[tag].count if tag in self._fields else 0

    def numbers(self, tag: int, start: int = 0, count: int | None = None) -> tuple[int, ...]:
        """`count` values of a tag from `start` on; None: all.

        Raises:
          ValueError: there are fewer, over a million are asked for, or the file is cut short.
        """
        field = self._fields[tag]
        count = field.count - start if count is None else count
        if not 0 <= start <= start + count <= field.count or count > _MAX_VALUES:
            raise ValueError("fewer values than needed, or too many")
        width = struct.calcsize(field.letter)
        data = read(self._file, field.at + start * width, count * width)
        return struct.unpack(f"{self.order}{count}{field.letter}", data)

    def number(self, tag: int, default: int | None = None) -> int:
        """The value of a tag that has one.

        Raises:
          KeyError: the page does not have it, and there is no default.
        """
        if tag not in self._fields and default is not None:
            return default
        return self.numbers(tag, 0, 1)[0]


def read(file: BinaryIO, at: int, count: int) -> bytes:
    """Bytes of a file that must be there; ValueError before memory is taken for others."""
    if not 0 <= at <= at + count <= os.fstat(file.fileno()).st_size:
        raise ValueError("points out of the file")
    file.seek(at)
    data = file.read(count)
    if len(data) != count:
        raise ValueError("cut short")
    return data


def pages(file: BinaryIO) -> list[Page]:
    """The directories of the main chain, in order.

    Raises:
      ValueError: it is no TIFF, is cut short, or its chain has no end.
    """
    head = read(file, 0, 8)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None:
        raise ValueError("no TIFF")
    version = struct.unpack(f"{order}H", head[2:4])[0]
    if version not in (42, 43):
        raise ValueError("no TIFF")
    big = version == 43
    # letters of: how many entries, the count of one, the place of values or of the next directory
    many, entry, place = ("Q", f"{order}HHQ", "Q") if big else ("H", f"{order}HHI", "I")
    width = struct.calcsize(place)
    (at,) = struct.unpack(f"{order}{place}", read(file, 8 if big else 4, width))
    found: list[Page] = []
    seen: set[int] = set()
    while at:
        if at in seen or len(found) == MAX_PAGES:
            raise ValueError("a chain of directories without end")
        seen.add(at)
        start = at + struct.calcsize(many)
        (entries,) = struct.unpack(f"{order}{many}", read(file, at, start - at))
        if entries > _MAX_ENTRIES:
            raise ValueError("too many entries")
        step = struct.calcsize(entry) + width
        table = read(file, start, entries * step + width)
        fields = {}
        for first in range(0, entries * step, step):
            tag, kind, count = struct.unpack_from(entry, table, first)
            if kind not in _TYPES:
                continue
            value = first + struct.calcsize(entry)
            where = start + value
            if count * struct.calcsize(_TYPES[kind]) > width:
                (where,) = struct.unpack_from(f"{order}{place}", table, value)
            fields[tag] = Field(_TYPES[kind], count, where)
        found.append(Page(file, order, fields))
        (at,) = struct.unpack_from(f"{order}{place}", table, entries * step)
    return found
