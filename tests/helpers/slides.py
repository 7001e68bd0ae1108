"""Small whole slides in the layout of Aperio's scanners, written byte by byte."""

from __future__ import annotations

import io
import pathlib
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

DESCRIPTION = b"Aperio Image Library v10.0.51\r\n46920x33014 |AppMag = 20|MPP = 0.4990\0"
TILE = 32
NONE, JPEG, DEFLATE, YCBCR_2000, RGB_2000 = 1, 7, 8, 33003, 33005


class Page(NamedTuple):
    """A directory: its fields {tag: (type, values)} without offsets, and its tiles or strips."""

    fields: dict[int, tuple[int, Sequence[int] | bytes]]
    parts: list[bytes]
    tiled: bool


def picture(height: int, width: int) -> np.ndarray:
    """uint8 [height, width, 3]: smooth, so that JPEG keeps it, and different everywhere."""
    rows, columns = np.mgrid[:height, :width]
    waves = np.stack([rows * 2 + columns, columns * 2, 255 - rows + np.sin(columns / 5) * 20], -1)
    return np.uint8(np.abs(waves) % 256)


def make_slide(
    path: pathlib.Path,
    pixels: np.ndarray,
    compression: int = JPEG,
    rgb: bool = False,
    order: str = "<",
    big: bool = False,
) -> pathlib.Path:
    """Writes levels of 1, 1/2 and 1/4 of uint8 [h, w, 3] or [h, w] in tiles, with thumbnail, label
    and macro picture in strips between and after them.

    Args:
      rgb: JPEG tiles of RGB, not of YCbCr, as some of Aperio's are.
      order: of bytes, "<" or ">".
      big: BigTIFF.
    """
    small = [np.ascontiguousarray(pixels[::step, ::step]) for step in (1, 2, 4)]
    levels = [_tiled(one, compression, rgb) for one in small]
    strip = _strip(small[2])
    pages = [levels[0], strip, *levels[1:], strip, strip]
    path.write_bytes(_file(pages, order, big))
    return path


def encoded(picture: Image.Image, rgb: bool) -> tuple[bytes, bytes]:
    """(tables, scan) of a picture in JPEG, as TIFF Technical Note 2 divides them."""
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=95, subsampling=0, keep_rgb=rgb)
    data = out.getvalue()
    tables, rest, at = b"", b"", 2
    while data[at + 1] != 0xDA:  # start of scan
        (length,) = struct.unpack_from(">H", data, at + 2)
        segment = data[at : at + 2 + length]
        if data[at + 1] in (0xDB, 0xC4):
            tables += segment
        elif data[at + 1] not in range(0xE0, 0xF0):  # of applications: TIFF says the colours
            rest += segment
        at += 2 + length
    return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + rest + data[at:]


def _tiled(pixels: np.ndarray, compression: int, rgb: bool) -> Page:
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else 3
    pad = [(0, -height % TILE), (0, -width % TILE), (0, 0)][: pixels.ndim]
    padded = np.pad(pixels, pad, mode="edge")
    tiles, tables = [], b""
    for top in range(0, padded.shape[0], TILE):
        for left in range(0, padded.shape[1], TILE):
            tile = padded[top : top + TILE, left : left + TILE]
            if compression == JPEG:
                tables, data = encoded(Image.fromarray(tile), rgb)
            elif compression in (YCBCR_2000, RGB_2000):
                shown, out = Image.fromarray(tile), io.BytesIO()
                if compression == YCBCR_2000:
                    shown = Image.frombytes("RGB", shown.size, shown.convert("YCbCr").tobytes())
                shown.save(out, "JPEG2000", no_jp2=True, irreversible=False, mct=0)
                data = out.getvalue()
            else:
                data = zlib.compress(tile.tobytes()) if compression == DEFLATE else tile.tobytes()
            tiles.append(data)
    ycbcr = channels == 3 and ((compression == JPEG and not rgb) or compression == YCBCR_2000)
    photometric = 1 if channels == 1 else 6 if ycbcr else 2
    fields = _fields(width, height, channels, compression, photometric)
    fields |= {322: (3, [TILE]), 323: (3, [TILE])}
    if tables:
        fields[347] = (7, tables)
    if ycbcr:
        fields[530] = (3, [1, 1])
    return Page(fields, tiles, True)


def _strip(pixels: np.ndarray) -> Page:
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else 3
    fields = _fields(width, height, channels, 1, 1 if channels == 1 else 2)
    return Page(fields | {278: (4, [height])}, [pixels.tobytes()], False)


def _fields(width: int, height: int, channels: int, compression: int, photometric: int) -> dict:
    return {
        254: (4, [0]),
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [8] * channels),
        259: (3, [compression]),
        262: (3, [photometric]),
        270: (2, DESCRIPTION),
        277: (3, [channels]),
        284: (3, [1]),
    }


def _file(pages: list[Page], order: str, big: bool) -> bytes:
    """Each directory stands before its tiles or strips: benchmarks/mutated_files.py damages the
    start of a file most.
    """
    place = "Q" if big else "I"
    body = bytearray({"<": b"II", ">": b"MM"}[order])
    body += struct.pack(f"{order}HHHQ", 43, 8, 0, 16) if big else struct.pack(f"{order}HI", 42, 8)
    for number, page in enumerate(pages, 1):
        parts = [part + b"\0" * (len(part) % 2) for part in page.parts]
        starts = [0] * len(parts)
        for _ in range(2):  # the first time for the length
            at, counts = (324, 325) if page.tiled else (273, 279)
            fields = page.fields | {at: (16 if big else 4, starts)}
            fields[counts] = (4, [len(part) for part in page.parts])
            end = len(body) + len(_directory(fields, len(body), 0, order, place))
            starts = [end + sum(map(len, parts[:before])) for before in range(len(parts))]
        after = 0 if number == len(pages) else end + sum(map(len, parts))
        body += _directory(fields, len(body), after, order, place) + b"".join(parts)
    return bytes(body)


def _directory(fields: dict, at: int, after: int, order: str, place: str) -> bytes:
    """A directory that stands at `at`, its long values behind it, and points to the one `after`."""
    width, entries, behind = struct.calcsize(place), b"", b""
    head = struct.pack(f"{order}{'Q' if width == 8 else 'H'}", len(fields))
    end = at + len(head) + len(fields) * (4 + 2 * width) + width
    for tag, (kind, values) in sorted(fields.items()):
        letter = {3: "H", 4: "I", 16: "Q"}.get(kind)
        packed = letter and struct.pack(f"{order}{len(values)}{letter}", *values)
        data = packed or bytes(values)
        entries += struct.pack(f"{order}HH{place}", tag, kind, len(values))
        if len(data) > width:
            entries += struct.pack(f"{order}{place}", end + len(behind))
            behind += data + b"\0" * (len(data) % 2)
        else:
            entries += data.ljust(width, b"\0")
    return head + entries + struct.pack(f"{order}{place}", after) + behind
