"""Masks of findings as one boolean picture."""

from __future__ import annotations

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data import paths
from qoq_jax.data.readers import dicom, files, image, nifti, video


def read_mask(path: files.Path, frames: int = 4) -> np.ndarray:
    """bool [h, w]: True in the region, in the frame of the image or volume the mask belongs to.

    A picture, or a region of a slide: nonzero = region. A volume (.nii, .nii.gz, .nrrd, .mhd, .mha,
    .npz with "mask", multi-frame DICOM): nonzero in any of the frames that `read_frames(path,
    frames)` takes from a volume of this length. A DICOM segmentation object of one slice: any of
    its segments. NaN is no region.
    """
    if paths.is_part(path):
        return _region(image.read_levels(path))
    path = files.check_file(path)
    if nifti.is_volume(path):
        volume = _region(nifti.read_volume(path))
    elif dicom.is_dicom(path):
        volume = dicom.read_mask(path)
    elif files.suffix(path) == ".npz":
        volume = files.read_npz(path, "mask").get("mask")
        if (
            volume is None
            or volume.dtype.kind not in "bui"
            or volume.ndim not in (2, 3)
            or 0 in volume.shape
        ):
            raise DataError(
                'needs "mask" as numbers [h, w] or [n, h, w]',
                where=str(path),
                hint="write it with numpy.savez_compressed(path, mask=...)",
            )
        volume = volume != 0
    else:
        volume = _region(image.read_levels(path))
    if volume.ndim == 2:
        return volume
    return volume[video.frame_indices(len(volume), frames)].any(axis=0)


def _region(values: np.ndarray) -> np.ndarray:
    return (values != 0) & ~np.isnan(values)
