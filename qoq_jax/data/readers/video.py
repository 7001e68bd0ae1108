"""Volumes, cine loops and videos as a few frames."""

from __future__ import annotations

import pathlib

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data.readers import dicom, files, grey, image, kinds, nifti

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv")
PAGE_SUFFIXES = (".tif", ".tiff")
_VIDEOS = ("an AVI video", "an MP4 or MOV video", "a Matroska or WebM video")


def frame_indices(total: int, count: int) -> np.ndarray:
    """`count` uniformly spaced frames of `total`, first and last included: round(linspace(0,
    total-1, count)).

    Fewer frames than `count` are repeated, in order. A mask of the same volume uses the same rule,
    so both show the same slices.
    """
    return np.rint(np.linspace(0, total - 1, count)).astype(int)


def read_frames(path: files.Path, count: int = 4) -> np.ndarray:
    """uint8 [count, h, w, 3] from a volume (.nii, .nii.gz, .nrrd, .mhd, .mha), multi-frame DICOM,
    TIFF pages, .npz or video file.

    An .npz holds "frames": uint8 [n, h, w] or [n, h, w, 3]. Volumes are turned to the canonical
    axial view (readers.nifti) and mapped to grey by `grey.window` over the whole volume.

    Raises:
      DataError: not there, another type, damaged, truncated, or too large.
    """
    path = files.check_file(path)
    suffix = files.suffix(path)
    if suffix == ".npz":
        return _npz(path, count)
    if nifti.is_volume(path):
        volume = nifti.read_volume(path)
        return grey.grey_to_rgb(grey.window(volume)[frame_indices(len(volume), count)])
    if suffix in VIDEO_SUFFIXES:
        return _movie(path, count)
    if dicom.is_dicom(path):
        return dicom.read_frames(path, lambda total: frame_indices(total, count))
    if suffix in PAGE_SUFFIXES:
        return image.read_pages(path, lambda total: frame_indices(total, count))
    found = kinds.of_file(path)
    raise DataError(
        f"unknown type {suffix or 'without extension'} for a volume or video"
        + (f": it is {found[0]}" if found else ""),
        where=str(path),
        hint="use .nii.gz, .nii, .nrrd, .mhd, .mha, .dcm, .tif, .npz or "
        + ", ".join(VIDEO_SUFFIXES),
    )


def _npz(path: pathlib.Path, count: int) -> np.ndarray:
    frames = files.read_npz(path, "frames").get("frames")
    if (
        frames is None
        or frames.dtype != np.uint8
        or frames.ndim not in (3, 4)
        or 0 in frames.shape
        or (frames.ndim == 4 and frames.shape[-1] != 3)
    ):
        found = "no such array" if frames is None else f"{frames.dtype} {list(frames.shape)}"
        raise DataError(
            f'needs "frames" as uint8 [n, h, w] or [n, h, w, 3], found {found}',
            where=str(path),
            hint="write it with numpy.savez_compressed(path, frames=...)",
        )
    frames = frames[frame_indices(len(frames), count)]
    return frames if frames.ndim == 4 else grey.grey_to_rgb(frames)


def _movie(path: pathlib.Path, count: int) -> np.ndarray:
    cv2 = files.need("cv2", "video", path, "reading a video file")
    with files.decoding(path, "a video", _VIDEOS):
        capture = cv2.VideoCapture(str(path))
        try:
            total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            size = [
                int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
            ]
            if not 0 < total <= 1_000_000 or not 0 < size[0] * size[1] <= files.MAX_PIXELS:
                raise ValueError("no frames")
            wanted = frame_indices(total, count)
            frames = {}
            # read in order: seeking is inexact in compressed video
            for index in range(int(wanted[-1]) + 1):
                if not capture.grab():
                    raise ValueError("fewer frames than declared")
                if index in wanted:
                    frames[index] = capture.retrieve()[1][..., ::-1]
            return np.stack([frames[int(i)] for i in wanted])
        finally:
            capture.release()
