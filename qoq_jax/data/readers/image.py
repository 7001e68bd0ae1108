"""Pictures: PNG, JPEG, TIFF, BMP and WebP by Pillow, single-frame DICOM by readers.dicom, regions
of whole slides by readers.slide.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from qoq_jax.base.errors import DataError
from qoq_jax.data import paths
from qoq_jax.data.readers import dicom, files, grey, jpeg, kinds, slide

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
_KINDS = tuple(f"a {name} picture" for name in ("PNG", "JPEG", "TIFF", "BigTIFF", "BMP", "WebP"))
_KIND = "a picture (PNG, JPEG, TIFF, BMP or WebP)"
_MAX_PAGES = 20_000
_SUBFILE_TYPE, _OLD_SUBFILE_TYPE, _PHOTOMETRIC = 254, 255, 262  # tags of TIFF
_ORIENTATION = 274  # tag of EXIF


def read_image(path: files.Path) -> np.ndarray:
    """The picture as uint8 [h, w, 3].

    EXIF orientation is applied (boxes are in the upright frame), palettes, CMYK and grey become
    RGB, transparency is laid over black, 16-bit and float grey go through `grey.window`.

    Raises:
      DataError: not there, not one of `FORMATS` or DICOM, damaged, truncated, over 100 million
        pixels, of several pages, or a whole slide.
    """
    if paths.is_part(path):
        return _to_rgb(picture := _region(path, levels=False), colour=picture.ndim == 3)
    path = files.check_file(path)
    if dicom.is_dicom(path):
        return dicom.read_frames(path, single=True)[0]
    picture = _open(path)
    return _to_rgb(picture, colour=picture.ndim == 3)


def read_levels(path: files.Path) -> np.ndarray:
    """A mask picture as it is stored, one channel: [h, w]."""
    if paths.is_part(path):
        picture = _region(path, levels=True)
    else:
        picture = _open(files.check_file(path), levels=True)
    return picture if picture.ndim == 2 else picture.max(axis=-1)


def read_pages(path: files.Path, indices: Callable[[int], Sequence[int]]) -> np.ndarray:
    """The pages of a TIFF as frames, uint8 [n, h, w, 3]; thumbnails and masks are no pages.

    Grey levels of more than 8 bits are mapped over all pages, as those of a volume are.

    Args:
      path: a TIFF file.
      indices: function from the number of pages to the pages wanted.
    """
    path = files.check_file(path)
    with _reading(path), Image.open(path, formats=("TIFF",)) as picture:
        pages = _pages(picture, _MAX_PAGES)
        wanted = [pages[int(i)] for i in indices(len(pages))]
        taken: dict[int, np.ndarray] = {}
        for page in pages if _is_deep(picture) else sorted(set(wanted)):
            picture.seek(page)
            _check_size(picture, path, len(pages))
            taken[page] = _levels(picture, path, levels=False)
        if len({(frame.shape, frame.dtype) for frame in taken.values()}) > 1:
            raise DataError(
                "has pages of several sizes or kinds",
                where=str(path),
                hint='list the pages as single pictures under "images"',
            )
        stack = np.stack(list(taken.values()))
        shown = _to_rgb(stack, colour=stack.ndim == 4)
        return shown[np.searchsorted(list(taken), wanted)]


def from_picture(picture: Image.Image, where: str) -> np.ndarray:
    """A Pillow picture as `read_image` gives the file that it was opened from: uint8 [h, w, 3]."""
    try:
        _check_one_page(picture, where, "give picture.copy() of the page that is meant")
        _check_size(picture, where, 1)
        levels = _levels(picture, where, levels=False)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(
            f"cannot be loaded ({type(error).__name__})",
            where=where,
            hint="check that the file it was opened from is whole",
        ) from None
    return _to_rgb(levels, colour=levels.ndim == 3)


def from_array(array: np.ndarray, where: str, frames: bool = False) -> np.ndarray:
    """An array as `read_image` or `read_frames` gives the file that holds it: uint8 [..., h, w, 3].

    Grey of any number type [h, w], or [n, h, w] with `frames`; grey with one channel; RGB and RGBA
    as uint8.
    """
    axes = 4 if frames else 3
    if array.ndim == axes and array.shape[-1] == 1:
        array = array[..., 0]
    is_grey = array.ndim == axes - 1 and array.dtype.kind in "buif"
    is_colour = array.ndim == axes and array.shape[-1] in (3, 4) and array.dtype == np.uint8
    if array.size == 0 or not (is_grey or is_colour):
        shape = "[frames, h, w] or [frames, h, w, 3]" if frames else "[h, w] or [h, w, 3]"
        raise DataError(
            f"is {array.dtype} {list(array.shape)}",
            where=where,
            hint=f"give a path, or {shape}: grey as any numbers, colours as uint8",
        )
    if not is_colour:
        return _to_rgb(grey.check_finite(array, where), colour=False)
    if array.shape[-1] == 3:
        return array
    each = array.reshape(-1, *array.shape[-3:])
    laid = [np.asarray(_over_black(Image.fromarray(one)).convert("RGB")) for one in each]
    return np.stack(laid).reshape(*array.shape[:-1], 3)


def _to_rgb(picture: np.ndarray, colour: bool) -> np.ndarray:
    """uint8 colours as they are; grey of any number type by `grey.window`."""
    return picture if colour else grey.grey_to_rgb(grey.window(picture))


@contextlib.contextmanager
def _reading(path: pathlib.Path) -> Iterator[None]:
    """`files.decoding` for pictures: what Pillow cannot do is told apart from damage."""
    with files.decoding(path, _KIND, _KINDS):
        try:
            yield
        except Image.DecompressionBombError:
            raise _too_large(path) from None
        except UnidentifiedImageError:
            found = kinds.of_file(path)
            if found is None or found[0] not in _KINDS:
                raise
            raise DataError(
                f"is {found[0]} of a kind that Pillow does not read, or its header is broken",
                where=str(path),
                hint="save it as PNG",
            ) from None
        except OSError as error:
            if "decoder" not in str(error):
                raise
            raise DataError(
                "is compressed in a way that Pillow does not decode",
                where=str(path),
                hint="save it as PNG",
            ) from None


def _region(path: files.Path, levels: bool) -> np.ndarray:
    return _levels(slide.region(path), path, levels)


def _open(path: pathlib.Path, levels: bool = False) -> np.ndarray:
    """uint8 [h, w, 3], or [h, w] of any number type where the file has no colours."""
    if files.suffix(path) == slide.SUFFIX:
        raise DataError(
            "is a whole slide", where=str(path), hint=f'name a region of it: "FILE{slide.EXAMPLE}"'
        )
    with _reading(path), Image.open(path, formats=FORMATS) as picture:
        _check_one_page(picture, path, 'list it under "videos": its pages are frames there')
        _check_size(picture, path, 1)
        files.check_declared(picture.width * picture.height // 8, path.stat().st_size, path, True)
        if picture.format == "JPEG" and picture.mode == "RGB" and not levels and _upright(picture):
            decoded = jpeg.decode(path, picture.size)
            if decoded is not None:
                return decoded
        return _levels(picture, path, levels)


def _upright(picture: Image.Image) -> bool:
    return picture.getexif().get(_ORIENTATION, 1) == 1


def _check_size(picture: Image.Image, where: files.Path, pages: int) -> None:
    if picture.width * picture.height > files.MAX_PIXELS:
        raise _too_large(where)
    bytes_each = picture.width * picture.height * 4
    if pages > 1:
        files.check_declared(bytes_each * pages, files.MAX_ARRAY_BYTES, where, False)


def _too_large(where: files.Path) -> DataError:
    return DataError(
        f"is over {files.MAX_PIXELS:,} pixels",
        where=str(where),
        hint=f'downsample or tile it; of a tiled TIFF name a region: "FILE{slide.EXAMPLE}"',
    )


def _check_one_page(picture: Image.Image, where: files.Path, hint: str) -> None:
    """Refuses a file of several pictures, unless one of them was chosen with `seek`."""
    if picture.format == "TIFF":
        several = picture.tell() == 0 and len(_pages(picture, 2)) > 1
        what = "has several pages where one picture is expected"
    else:
        # MPO is what phones write: the picture, and previews of it
        several = picture.format != "MPO" and getattr(picture, "is_animated", False)
        what = "is animated, where one picture is expected"
        hint = "save the frame that is meant as PNG"
    if several:
        raise DataError(what, where=str(where), hint=hint)


def _pages(picture: Image.Image, most: int) -> list[int]:
    """The first `most` pages of a TIFF that are pictures, not thumbnails or masks of another."""
    pages, start = [], picture.tell()
    for page in range(_MAX_PAGES):
        try:
            picture.seek(page)
        except EOFError:
            break
        reduced_or_mask = int(picture.tag_v2.get(_SUBFILE_TYPE, 0)) & 5
        if page == 0 or not (reduced_or_mask or picture.tag_v2.get(_OLD_SUBFILE_TYPE) == 2):
            pages.append(page)
        if len(pages) == most:
            break
    picture.seek(start)
    return pages


def _levels(picture: Image.Image, where: files.Path, levels: bool) -> np.ndarray:
    """The picture upright: uint8 [h, w, 3], or [h, w] of any number type where it has no colours.

    `levels`: one channel is kept as it is stored, palettes too.
    """
    # Pillow inverts 8-bit TIFFs whose zero is white; the deeper ones are left to us.
    white_is_zero = picture.format == "TIFF" and picture.tag_v2.get(_PHOTOMETRIC) == 0
    picture.load()
    if not _upright(picture):  # else it would be copied for nothing
        picture = ImageOps.exif_transpose(picture)
    if _is_deep(picture):
        values = grey.check_finite(np.asarray(picture), where)
        if white_is_zero and not levels:
            values = (2**16 - 1 if values.dtype.itemsize == 2 else values.max()) - values
        return values
    if levels and picture.mode in ("1", "L", "P"):
        # a palette mask holds class numbers, not colours
        return np.asarray(picture).astype(np.uint8)
    if picture.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in picture.info:
        picture = _over_black(picture.convert("RGBA"))
    if picture.mode in ("LAB", "HSV"):
        raise DataError(
            f"has colours in {picture.mode}", where=str(where), hint="save it as RGB in PNG"
        )
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))


def _is_deep(picture: Image.Image) -> bool:
    """Grey of more than 8 bits."""
    return picture.mode in ("I", "F") or picture.mode.startswith("I;16")


def _over_black(picture: Image.Image) -> Image.Image:
    """RGBA over opaque black."""
    return Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture)
