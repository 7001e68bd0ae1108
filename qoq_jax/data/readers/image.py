"""Pictures: PNG, JPEG, TIFF, BMP by Pillow, single-frame DICOM by readers.dicom."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from qoq_jax.base.errors import DataError
from qoq_jax.data.readers import dicom, files

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")


def read_image(path: files.Path) -> np.ndarray:
    """The picture as uint8 [h, w, 3].

    EXIF orientation is applied (boxes are in the upright frame), palettes and grey become RGB,
    transparency is laid over black, 16-bit and float grey go through `files.window`.

    Raises:
      DataError: not there, not one of `FORMATS` or DICOM, damaged, truncated, over 100 million
        pixels.
    """
    path = files.check_file(path)
    if dicom.is_dicom(path):
        return dicom.read_frames(path, single=True)[0]
    picture = _open(path)
    if picture.ndim == 2:
        picture = files.grey_to_rgb(files.window(picture))
    return picture


def read_levels(path: files.Path) -> np.ndarray:
    """A mask picture as it is stored, one channel: [h, w]."""
    path = files.check_file(path)
    picture = _open(path, levels=True)
    return picture if picture.ndim == 2 else picture.max(axis=-1)


def _open(path, levels: bool = False) -> np.ndarray:
    """uint8 [h, w, 3], or [h, w] of any number type where the file has no colours."""
    with (
        files.decoding(path, "an image (PNG, JPEG, TIFF or BMP)"),
        Image.open(path, formats=FORMATS) as picture,
    ):
        if picture.width * picture.height > files.MAX_PIXELS:
            raise DataError(
                f"{picture.width}x{picture.height} is over {files.MAX_PIXELS:,} pixels",
                where=str(path),
                hint="downsample or tile it",
            )
        files.check_declared(picture.width * picture.height // 8, path.stat().st_size, path, True)
        picture.load()
        picture = ImageOps.exif_transpose(picture)
        if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
            grey = np.asarray(picture)
            if not np.isfinite(grey).all():
                raise DataError(
                    "has values that are not finite",
                    where=str(path),
                    hint="write it as 8 or 16 bit",
                )
            return grey
        if levels and picture.mode in ("1", "L", "P"):
            # a palette mask holds class numbers, not colours
            return np.asarray(picture).astype(np.uint8)
        if picture.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in picture.info:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(
                Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture
            )
        return np.array(picture.convert("RGB"))
