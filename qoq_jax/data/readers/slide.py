"""Regions of whole slides: tiled pyramids in TIFF, as Aperio's scanners (.svs) and others write.

A row names one as

    slides/a.svs#x=1024,y=2048,width=512,height=512,level=1

x and y are the upper left corner in pixels of level 0 (the finest), width and height are pixels of
`level` (0 when it is left out): the arguments of OpenSlide's `read_region`. Read are the directory
and the tiles that cover the region, nothing else. They become a small TIFF in memory, which Pillow
decodes by libtiff as it would the whole picture; tiles in JPEG 2000, which libtiff does not know,
are decoded one by one.

Sources: TIFF 6.0, section 15 (tiles); TIFF Technical Note 2 (JPEG tables); the layout of Aperio
(openslide.org/formats/aperio): levels are tiled, thumbnail, label and macro picture are strips.
"""

from __future__ import annotations

import io
import pathlib
import re
import struct
from collections.abc import Callable
from typing import BinaryIO, NamedTuple, NoReturn, TypeVar

from PIL import Image

from qoq_jax.base.errors import DataError
from qoq_jax.data import paths
from qoq_jax.data.readers import files, tiff

T = TypeVar("T")
SUFFIX = ".svs"  # what is always a slide; other TIFFs may be pictures
EXAMPLE = "#x=0,y=0,width=1024,height=1024"
_KINDS = ("a TIFF picture", "a BigTIFF picture")
_NUMBER = re.compile(r"[0-9]{1,9}")
# Tags of TIFF.
_SUBFILE, _WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_SAMPLES, _PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_LENGTH = 277, 284, 317, 322, 323
_OFFSETS, _COUNTS, _EXTRA, _JPEG_TABLES, _SUBSAMPLING = 324, 325, 338, 347, 530
_MASK = 4  # bit of _SUBFILE
_NONE, _LZW, _JPEG, _DEFLATE, _OLD_DEFLATE = 1, 5, 7, 8, 32946
_JPEG_2000_YCBCR, _JPEG_2000_RGB = 33003, 33005  # Aperio's
_BY_LIBTIFF = (_NONE, _LZW, _JPEG, _DEFLATE, _OLD_DEFLATE)
_YCBCR = 6
# Photometric interpretation and samples per pixel: white is zero, black is zero, RGB(A), YCbCr.
_COLOURS = ((0, 1), (1, 1), (2, 3), (2, 4), (_YCBCR, 3))


class Region(NamedTuple):
    """x and y in pixels of level 0, width and height in pixels of `level`."""

    x: int
    y: int
    width: int
    height: int
    level: int


def parse(member: str, where: str) -> Region:
    """The region of "#x=1,y=2,width=3,height=4,level=0"; the level may be left out, it is 0 then.

    Raises:
      DataError: another form, or an empty region.
    """
    given = [part.partition("=") for part in member.removeprefix("#").split(",")]
    values = {name: int(text) for name, _, text in given if _NUMBER.fullmatch(text)}
    if len(values) < len(given) or set(values) | {"level"} != set(Region._fields):
        raise DataError(
            f"{member!r} names no region",
            where=where,
            hint=f'write "FILE{EXAMPLE}" in whole numbers, with ",level=1" for a coarser level',
        )
    region = Region(**{"level": 0} | values)
    if not region.width or not region.height:
        raise DataError("the region is empty", where=where, hint="give width and height over 0")
    return region


class _Tiles(NamedTuple):
    """The tiles that cover a region, as they are stored.

    page: of the level. parts: of each tile, row by row. grid: (columns, rows) of tiles. box: the
    region in their pixels, (left, top, right, bottom).
    """

    page: tiff.Page
    parts: list[bytes]
    grid: tuple[int, int]
    box: tuple[int, int, int, int]


def region(path: files.Path) -> Image.Image:
    """The region that a path names, as a picture of Pillow: mode L, RGB or RGBA.

    Raises:
      DataError: no such file, no tiled TIFF, damaged, compressed in another way, or a region that
        is not inside of the slide or covers tiles of over 100 million pixels.
    """
    return _with_tiles(path, _decoded)


def cut(path: files.Path) -> bytes:
    """A TIFF that holds the tiles of a region alone, as they are stored: shards have it in the
    place of the slide. Its last columns and rows are the region. As a file of the whole name, with
    "#x=...", it is what `region` reads.

    Raises:
      DataError: as `region`, but for tiles that cannot be decoded.
    """
    return _with_tiles(path, lambda found: _small(found.page, found.parts, found.box[2:]))


def _with_tiles(path: files.Path, use: Callable[[_Tiles], T]) -> T:
    """What `use` makes of the tiles of a region while its file is open."""
    name, member = paths.split_member(path)
    if files.suffix(name) not in paths.SLIDE_SUFFIXES:
        raise DataError(
            "names an interval of a video, which is no picture",
            where=str(path),
            hint='list it under "videos"',
        )
    asked = parse(member, str(path))
    is_cut = pathlib.Path(path).is_file()
    file = pathlib.Path(path) if is_cut else files.check_file(name, whole=False)
    with files.decoding(file, "a slide", _KINDS), open(file, "rb") as opened:
        levels = _levels(tiff.pages(opened))
        if not levels:
            raise DataError(
                "is no whole slide: its first page has no tiles",
                where=str(path),
                hint="name regions of tiled TIFFs alone; give other pictures whole",
            )
        if is_cut:
            width, length = _size(levels[0])
            start = width - asked.width, length - asked.height
            return use(_tiles(opened, levels[0], (*start, width, length), pathlib.Path(path)))
        if asked.level >= len(levels):
            raise DataError(
                f"has the levels 0 to {len(levels) - 1}, not {asked.level}",
                where=str(path),
                hint="name one of them, or leave the level out for the finest",
            )
        box = _box(levels, asked, str(path))
        return use(_tiles(opened, levels[asked.level], box, pathlib.Path(path)))


def _size(page: tiff.Page) -> tuple[int, int]:
    return page.number(_WIDTH), page.number(_LENGTH)


def _levels(pages: list[tiff.Page]) -> list[tiff.Page]:
    """The first page and the tiled ones after it that are narrower each, if it has tiles."""
    levels: list[tiff.Page] = []
    for page in pages:
        if not page.count(_TILE_WIDTH) or page.number(_SUBFILE, 0) & _MASK:
            if not levels:
                break
        elif not levels or page.number(_WIDTH) < levels[-1].number(_WIDTH):
            levels.append(page)
    return levels


def _box(levels: list[tiff.Page], asked: Region, where: str) -> tuple[int, int, int, int]:
    """The region in pixels of its level: (left, top, right, bottom)."""
    finest = _size(levels[0])
    width, length = _size(levels[asked.level])
    left, top = asked.x * width // finest[0], asked.y * length // finest[1]
    right, bottom = left + asked.width, top + asked.height
    if right > width or bottom > length:
        raise DataError(
            f"the region ends at {right}, {bottom}, and level {asked.level} has {width} x {length} "
            "pixels",
            where=where,
            hint="x and y are pixels of level 0, width and height of the level",
        )
    return left, top, right, bottom


def _tiles(
    file: BinaryIO, page: tiff.Page, box: tuple[int, int, int, int], where: pathlib.Path
) -> _Tiles:
    """The tiles that cover a box (left, top, right, bottom) of a page."""
    left, top, right, bottom = box
    tile = page.number(_TILE_WIDTH), page.number(_TILE_LENGTH)
    columns = range(left // tile[0], -(-right // tile[0]))
    rows = range(top // tile[1], -(-bottom // tile[1]))
    pixels = len(columns) * len(rows) * tile[0] * tile[1]
    if pixels > files.MAX_PIXELS:
        raise DataError(
            f"the region covers tiles of over {files.MAX_PIXELS:,} pixels",
            where=str(where),
            hint="name a smaller region, or one of a coarser level",
        )
    _check_kind(page, where)
    tiles = _read_tiles(file, page, columns, rows, where)
    files.check_declared(pixels // 8, sum(map(len, tiles)), where, True)
    x, y = columns.start * tile[0], rows.start * tile[1]
    inside = left - x, top - y, right - x, bottom - y
    return _Tiles(page, tiles, (len(columns), len(rows)), inside)


def _decoded(found: _Tiles) -> Image.Image:
    by_libtiff = found.page.number(_COMPRESSION) in _BY_LIBTIFF
    decode = _by_libtiff if by_libtiff else _jpeg_2000
    return decode(found.page, found.parts, found.grid).crop(found.box)


def _read_tiles(
    file: BinaryIO, page: tiff.Page, columns: range, rows: range, where: pathlib.Path
) -> list[bytes]:
    """The tiles of some columns and rows as they are stored, row by row."""
    width, length = _size(page)
    across = -(-width // page.number(_TILE_WIDTH))
    if page.count(_OFFSETS) != across * -(-length // page.number(_TILE_LENGTH)):
        raise ValueError("another number of tiles than its size needs")
    tiles, held = [], 0
    for row in rows:
        first = row * across + columns.start
        offsets = page.numbers(_OFFSETS, first, len(columns))
        counts = page.numbers(_COUNTS, first, len(columns))
        if 0 in counts:
            raise DataError(
                "the slide has no pixels in a part of the region",
                where=str(where),
                hint="the scanner left it out: name another region or drop the row",
            )
        held += sum(counts)
        if held > files.MAX_ARRAY_BYTES:
            raise ValueError("tiles are larger than their pixels")
        tiles += [tiff.read(file, *one) for one in zip(offsets, counts, strict=True)]
    return tiles


def _check_kind(page: tiff.Page, where: pathlib.Path) -> None:
    """Refuses what is sound and not read: other compressions, bits and colours."""

    def fail(what: str) -> NoReturn:
        raise DataError(what, where=str(where), hint="save the region as PNG and name that")

    compression = page.number(_COMPRESSION)
    colours = page.number(_PHOTOMETRIC), page.number(_SAMPLES, 1)
    if compression not in (*_BY_LIBTIFF, _JPEG_2000_YCBCR, _JPEG_2000_RGB):
        fail(f"is compressed in a way that is not read (TIFF's number {compression})")
    if set(page.numbers(_BITS)) != {8} or page.number(_PLANAR, 1) != 1:
        fail("is a slide of another kind than 8 bits per colour, colours side by side")
    if colours not in _COLOURS or (colours[0] == _YCBCR and compression in (_NONE, _LZW)):
        fail(f"has colours that are not read (TIFF's number {colours[0]}, {colours[1]} samples)")


def _by_libtiff(page: tiff.Page, tiles: list[bytes], grid: tuple[int, int]) -> Image.Image:
    """Tiles [rows * columns], decoded as a TIFF file of theirs alone.

    Args:
      grid: (columns, rows).
    """
    tile = page.number(_TILE_WIDTH), page.number(_TILE_LENGTH)
    if page.number(_COMPRESSION) == _JPEG:  # libtiff shows a smaller one with a black rest
        for one in tiles:
            _check_tile(Image.open(io.BytesIO(one), formats=("JPEG",)), tile)
    data = _small(page, tiles, (grid[0] * tile[0], grid[1] * tile[1]))
    picture = Image.open(io.BytesIO(data), formats=("TIFF",))
    picture.load()
    return picture


def _small(page: tiff.Page, tiles: list[bytes], size: tuple[int, int]) -> bytes:
    """A TIFF of one page that holds these tiles, as those of `page` are stored; size: of the
    picture, (width, height).
    """
    tile = page.number(_TILE_WIDTH), page.number(_TILE_LENGTH)
    starts, at = [], 8
    for one in tiles:
        starts.append(at)
        at += len(one) + len(one) % 2
    fields = {
        _WIDTH: ("I", (size[0],)),
        _LENGTH: ("I", (size[1],)),
        _TILE_WIDTH: ("I", (tile[0],)),
        _TILE_LENGTH: ("I", (tile[1],)),
        _OFFSETS: ("I", starts),
        _COUNTS: ("I", [len(one) for one in tiles]),
    }
    copied = (_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR, _PREDICTOR, _EXTRA)
    fields |= {tag: ("H", page.numbers(tag)) for tag in (*copied, _SUBSAMPLING) if page.count(tag)}
    if page.count(_JPEG_TABLES):
        fields[_JPEG_TABLES] = ("B", page.numbers(_JPEG_TABLES))
    body = b"".join(one + b"\0" * (len(one) % 2) for one in tiles)
    return _file(page.order, body, fields)


def _check_tile(tile: Image.Image, size: tuple[int, int]) -> None:
    if tile.size != size:
        raise ValueError("a tile of another size")


def _file(order: str, body: bytes, fields: dict[int, tuple[str, list[int]]]) -> bytes:
    """A TIFF of one page: the header, `body` from byte 8 on, and a directory of `fields`."""
    at = 8 + len(body)
    number = {"B": 7, "H": 3, "I": 4}
    entries, behind = [], b""
    after = at + 2 + 12 * len(fields) + 4
    for tag, (letter, values) in sorted(fields.items()):
        data = struct.pack(f"{order}{len(values)}{letter}", *values)
        if len(data) > 4:
            place = struct.pack(f"{order}I", after + len(behind))
            behind += data + b"\0" * (len(data) % 2)
        else:
            place = data.ljust(4, b"\0")
        entries.append(struct.pack(f"{order}HHI", tag, number[letter], len(values)) + place)
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, at)
    directory = struct.pack(f"{order}H", len(fields)) + b"".join(entries)
    return head + body + directory + bytes(4) + behind


def _jpeg_2000(page: tiff.Page, tiles: list[bytes], grid: tuple[int, int]) -> Image.Image:
    """Tiles [rows * columns] in JPEG 2000, RGB.

    Aperio's YCbCr tiles do not say that they are; their three channels would be taken for RGB.
    """
    size = page.number(_TILE_WIDTH), page.number(_TILE_LENGTH)
    whole = Image.new("RGB", (grid[0] * size[0], grid[1] * size[1]))
    for number, data in enumerate(tiles):
        with Image.open(io.BytesIO(data), formats=("JPEG2000",)) as tile:
            _check_tile(tile, size)
            if tile.mode != "RGB":
                raise ValueError("a tile of other colours")
            tile.load()
            if page.number(_COMPRESSION) == _JPEG_2000_YCBCR:
                tile = Image.frombytes("YCbCr", size, tile.tobytes()).convert("RGB")
            row, column = divmod(number, grid[0])
            whole.paste(tile, (column * size[0], row * size[1]))
    return whole
