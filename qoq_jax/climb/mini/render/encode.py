"""Media files as bytes. Nothing depends on the clock: the same case is the same file."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile

import numpy as np
from PIL import Image


def image(pixels: np.ndarray, suffix: str) -> bytes:
    """uint8 [h, w] or [h, w, 3] as PNG, or as JPEG when the suffix is .jpg."""
    out = io.BytesIO()
    if suffix == ".jpg":
        Image.fromarray(pixels).save(out, "JPEG", quality=93, subsampling=0)
    else:
        Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    """The arrays as a compressed .npz."""
    out = io.BytesIO()
    # numpy.savez_compressed has only the slow level 6.
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
    return out.getvalue()


#: Voxel size [mm] in x, y, z of the volumes.
SPACING = (2.8, 2.8, 5.0)


def nifti(volume: np.ndarray) -> bytes:
    """uint8 [n, h, w] (axial, patient's left on the viewer's right) -> gzipped NIfTI-1.

    The header says that x runs to the patient's left, y to the back and z upwards (LPS), so that
    viewers turn it the right way up. Written here because nibabel takes longer than drawing does.
    """
    n, h, w = volume.shape
    dx, dy, dz = SPACING
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, w, h, n, 1, 1, 1, 1)
    struct.pack_into("<2h", head, 70, 2, 8)  # uint8, 8 bits
    struct.pack_into("<8f", head, 76, 1.0, dx, dy, dz, 1.0, 1.0, 1.0, 1.0)
    struct.pack_into("<3f", head, 108, 352.0, 1.0, 0.0)  # offset of the voxels, slope, intercept
    struct.pack_into("<b", head, 123, 2)  # millimetres
    struct.pack_into("<2h", head, 252, 0, 1)  # the affine below is the scanner's
    struct.pack_into("<4f", head, 280, -dx, 0.0, 0.0, dx * w / 2)
    struct.pack_into("<4f", head, 296, 0.0, -dy, 0.0, dy * h / 2)
    struct.pack_into("<4f", head, 312, 0.0, 0.0, dz, -dz * n / 2)
    head[344:348] = b"n+1\0"
    return gzip.compress(
        bytes(head) + np.ascontiguousarray(volume).tobytes(), compresslevel=1, mtime=0
    )
