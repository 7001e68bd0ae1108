"""Volumes, cine loops and videos as a few frames."""

from __future__ import annotations

import io
import pathlib
import re
from types import ModuleType
from typing import Any

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data import paths
from qoq_jax.data.paths import VIDEO_SUFFIXES
from qoq_jax.data.readers import dicom, files, grey, image, kinds, nifti

PAGE_SUFFIXES = (".tif", ".tiff")
_SECONDS = r"([0-9]{1,6}(?:\.[0-9]{1,6})?)"
_INTERVAL = re.compile(f"#start={_SECONDS},end={_SECONDS}")
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

    "a.mp4#start=12,end=15.5" names an interval of a video, in seconds: the frames from the one at
    its start to the last one before its end.

    An .npz holds "frames": uint8 [n, h, w] or [n, h, w, 3]. Volumes are turned to the canonical
    axial view (readers.nifti) and mapped to grey by `grey.window` over the whole volume.

    Raises:
      DataError: not there, another type, damaged, truncated, or too large.
    """
    if paths.is_part(path):
        return _interval(path, count)
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
    frames = _npz_frames(path)
    frames = frames[frame_indices(len(frames), count)]
    return frames if frames.ndim == 4 else grey.grey_to_rgb(frames)


def _npz_frames(path: pathlib.Path) -> np.ndarray:
    """uint8 [n, h, w] or [n, h, w, 3], all that an .npz holds."""
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
    return frames


def parse_interval(path: files.Path) -> tuple[float, float]:
    """(start, end), seconds, of "a.mp4#start=12,end=15.5".

    Raises:
      DataError: another form, or an empty interval.
    """
    name, member = paths.split_member(path)
    if files.suffix(name) not in VIDEO_SUFFIXES:
        raise DataError(
            "names a region of a slide, which is no video",
            where=str(path),
            hint='list it under "images"',
        )
    found = _INTERVAL.fullmatch(member)
    if found is None or not float(found[1]) < float(found[2]):
        raise DataError(
            f"{member!r} names no interval",
            where=str(path),
            hint='write "FILE#start=12,end=15.5" in seconds, the end after the start',
        )
    return float(found[1]), float(found[2])


def _interval(path: files.Path, count: int) -> np.ndarray:
    """Frames of a part of a video. Each is sought, which the tests of OpenCV's own positions in
    docs/data.md found to be exact; a video of which the position differs is refused.
    """
    start, end = parse_interval(path)
    if pathlib.Path(path).is_file():
        return _kept(pathlib.Path(path), count)
    file = files.check_file(paths.split_member(path)[0], whole=False)
    cv2 = files.need("cv2", "video", file, "reading a video file")
    with files.decoding(file, "a video", _VIDEOS):
        capture = cv2.VideoCapture(str(file))
        try:
            total, rate = _total(cv2, capture), capture.get(cv2.CAP_PROP_FPS)
            if not 0 < rate <= 1000:
                raise ValueError("no rate")
            first, stop = round(start * rate), round(end * rate)
            if not first < stop <= total:
                raise DataError(
                    f"has {total / rate:.2f} s of {rate:.2f} frames per second",
                    where=str(path),
                    hint="give an interval inside of it that holds a frame",
                )
            frames: dict[int, np.ndarray] = {}
            wanted = [first + int(place) for place in frame_indices(stop - first, count)]
            for place in sorted(set(wanted)):
                capture.set(cv2.CAP_PROP_POS_FRAMES, place)
                if int(capture.get(cv2.CAP_PROP_POS_FRAMES)) != place or not capture.grab():
                    raise DataError(
                        f"its frame {place} cannot be sought",
                        where=str(path),
                        hint="cut the interval into a file of its own",
                    )
                frames[place] = capture.retrieve()[1][..., ::-1]
            return np.stack([frames[place] for place in wanted])
        finally:
            capture.release()


def cut(path: files.Path, count: int) -> bytes:
    """The frames that `read_frames` reads from an interval, as .npz: shards have them in the place
    of the video. As a file of the whole name, with "#start=...", they are what it reads.
    """
    out = io.BytesIO()
    np.savez(out, frames=_interval(path, count))  # of a fixed date
    return out.getvalue()


def _kept(path: pathlib.Path, count: int) -> np.ndarray:
    frames = _npz_frames(path)
    if len(frames) != count:
        raise DataError(
            f"the shards hold {len(frames)} frames of it, not {count}",
            where=str(path),
            hint=f"make the shards again: qoq data shards --frames {count}",
        )
    return frames


def _total(cv2: ModuleType, capture: Any) -> int:
    """Frames that an opened video declares; ValueError where it is none."""
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    size = [int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)]
    if not 0 < total <= 1_000_000 or not 0 < size[0] * size[1] <= files.MAX_PIXELS:
        raise ValueError("no frames")
    return total


def _movie(path: pathlib.Path, count: int) -> np.ndarray:
    cv2 = files.need("cv2", "video", path, "reading a video file")
    with files.decoding(path, "a video", _VIDEOS):
        capture = cv2.VideoCapture(str(path))
        try:
            wanted = frame_indices(_total(cv2, capture), count)
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
