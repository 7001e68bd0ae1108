"""What a case shows of its media: pictures in the size of the model's frame, and the ECG.

They come from the gallery that an evaluation left, or from the data sets that it read.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from PIL import Image

from qoq_jax.base.errors import DataError
from qoq_jax.data import media, readers, sources
from qoq_jax.data import rows as schema
from qoq_jax.report import gallery

IMAGES, FRAMES = "images", "frames"
Key = tuple[str, str]  # source and id of a row


@dataclasses.dataclass(frozen=True)
class Shown:
    """Media of one case.

    Attributes:
      kind: IMAGES, each with boxes of its own, or FRAMES of one video or volume.
      pictures: uint8 [h, w, 3] each.
      ecg: float [8, 2500] in mV, or None.
      problem: the question, when the row is known.
      fault: why media cannot be shown; "" when they can.
    """

    kind: str = IMAGES
    pictures: tuple[np.ndarray, ...] = ()
    ecg: np.ndarray | None = None
    problem: str = ""
    fault: str = ""


def pictures(
    row: schema.Row, root: str | os.PathLike, sizes: Sequence[Sequence[int]]
) -> tuple[str, list[Image.Image]]:
    """(kind, pictures) of a row: its images, or the frames of its first video.

    Args:
      root: folder that the paths of its media are relative to.
      sizes: (width, height) of each picture as the model saw it, one for all frames of a video.
        Pictures are twice as large: what the model saw, in a size that a person can look at.
    """
    images = row.images[: gallery.MAX_PICTURES]
    frames = [readers.read_image(schema.resolve(root, path)) for path in images]
    if not frames:
        clips = [readers.read_frames(schema.resolve(root, path)) for path in row.videos[:1]]
        frames = [frame for clip in clips for frame in clip]
        sizes = list(sizes[:1]) * len(frames)
    resized = [
        Image.fromarray(frame).resize((2 * size[0], 2 * size[1]), Image.Resampling.BICUBIC)
        for frame, size in zip(frames, sizes, strict=False)
    ]
    return (IMAGES if row.images else FRAMES), resized


def ecg(row: schema.Row, root: str | os.PathLike, length: str) -> np.ndarray:
    """float [8, 2500] mV of a row's first ECG; `length`: `data.ecg_length` of the config."""
    path = schema.resolve(root, row.time_series[0])
    return readers.read_ecg(path, root=root, length=length)


def from_gallery(case: dict) -> Shown:
    """Media of a case file (gallery.read_cases)."""
    images = case.get("images") or ([case["image"]] if case.get("image") else [])
    names = (images or case.get("frames") or [])[: gallery.MAX_PICTURES]
    read = [gallery.read_picture(gallery.inside(case["folder"], name)) for name in names]
    signal = gallery.read_signal(case) if case.get("ecg") else None
    kind = IMAGES if images or not names else FRAMES
    return Shown(kind, tuple(read), signal, str(case.get("prompt") or ""))


class Library:
    """Media of many cases, read one by one.

    Args:
      galleries: folders with case files.
      roots: source -> folder of its rows and media.
      split: that the evaluation read.
      ecg_length: `data.ecg_length` of the config.
    """

    def __init__(
        self,
        galleries: Iterable[pathlib.Path] = (),
        roots: Mapping[str, str] | None = None,
        split: str = "test",
        ecg_length: str = "refuse",
    ):
        cases = [case for folder in galleries for case in gallery.read_cases(folder)]
        self._cases = {(case["source"], case["id"]): case for case in cases}
        self._roots, self._split, self._ecg_length = dict(roots or {}), split, ecg_length
        self._rows: dict[Key, schema.Row] = {}

    def look_up(self, keys: Iterable[Key]) -> None:
        """Finds the rows of these cases in the data sets, each file being read once."""
        wanted: dict[str, set[str]] = {}
        for source, name in keys:
            if (source, name) not in self._cases and source in self._roots:
                wanted.setdefault(source, set()).add(name)
        for source, names in wanted.items():
            for row in sources.load(self._roots[source], self._split):
                if row.id in names:
                    self._rows[source, row.id] = row
                    names.discard(row.id)
                    if not names:
                        break

    def problem(self, key: Key) -> str:
        """The question of a row that `look_up` has found; "" without it."""
        row = self._rows.get(key)
        return "" if row is None else row.problem

    def of(self, record: dict) -> Shown | None:
        """Media of a record; None when neither a gallery nor a data set has them."""
        key = (record["source"], record["id"])
        if key in self._cases:
            return from_gallery(self._cases[key])
        row = self._rows.get(key)
        if row is None:
            return None
        try:
            with media.opened(self._roots[key[0]]) as root:
                kind, found = pictures(row, root, record.get("frame_sizes") or [])
                signal = ecg(row, root, self._ecg_length) if row.time_series else None
        except DataError as error:  # without its path, which may name the patient
            return Shown(problem=row.problem, fault=error.what)
        return Shown(kind, tuple(map(np.asarray, found)), signal, row.problem)
