"""Row files (data/rows.py) -> questions of classification, or of where the finding is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data import images, media, readers, sources
from qoq_jax.data import rows as schema
from qoq_jax.data.answer_format import PIXELS
from qoq_jax.data.meta import SampleMeta
from qoq_jax.evaluation.tasks.question import Question

_MARKS = ("<image>", "<video>", "<ecg>")


def rows(root: str) -> Iterator[Question]:
    """The questions of root/test.jsonl as they are written."""
    yield from _questions(root, regions=False)


def regions(root: str) -> Iterator[Question]:
    """Where what the gold boxes are called is, for each row with a box or mask; the words are those
    of Qwen2.5-VL's grounding.
    """
    yield from _questions(root, regions=True)


def _questions(root: str, regions: bool) -> Iterator[Question]:
    with media.opened(root) as folder:
        for row in sources.load(root, "test"):
            if regions and not (row.bbox or row.segmentation_path):
                continue
            named = ", ".join(dict.fromkeys(row.bbox_labels or row.answers))
            marks = [
                mark * len(paths)
                for mark, paths in zip(
                    _MARKS, (row.images, row.videos, row.time_series), strict=True
                )
            ]
            where = f"{''.join(marks)}Locate every {named} in the picture and output the "
            yield Question(
                id=row.id,
                kind="region" if regions else "labels",
                text=f"{where}bbox_2d coordinates in JSON format." if regions else row.problem,
                answers=row.answers,
                options=row.labels,
                images=_paths(folder, row.images),
                videos=_paths(folder, row.videos),
                ecgs=_paths(folder, row.time_series),
                group=row.patient,
                row=row,
                root=str(folder),
            )


def _paths(folder: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(str(schema.resolve(folder, name)) for name in names)


def meta_of(
    question: Question,
    task: str,
    frame_sizes: tuple[tuple[int, int], ...] = (),
    box_coordinates: str = PIXELS,
    frames: int = 4,
) -> SampleMeta:
    """What the response to a row is scored by: gold boxes and mask in the frame that it wrote in.

    Args:
      frame_sizes: (w, h) of each picture as the model saw it; () = as it is stored.
      box_coordinates: how the response writes boxes. frames: of a volume, for its mask.

    Raises:
      DataError: a picture of a row with a region cannot be read, or the sizes do not fit its count.
    """
    row = question.row
    boxes, mask, sizes = [], None, list(frame_sizes)
    if row.bbox or row.segmentation_path:
        stored = [readers.read_image(path).shape[1::-1] for path in question.images]
        stored += [readers.read_frames(path, frames).shape[2:0:-1] for path in question.videos]
        sizes = sizes or stored
        if len(sizes) != len(stored):
            raise DataError(
                f"{len(sizes)} frame_sizes for {len(stored)} pictures", where=f"row {row.id!r}"
            )
        for box, picture in zip(row.bbox, row.bbox_images or (0,) * len(row.bbox), strict=True):
            scale = np.array(sizes[picture]) / np.array(stored[picture])
            boxes.append(tuple(map(float, np.array(box) * np.tile(scale, 2))))
        if row.segmentation_path:
            full = readers.read_mask(schema.resolve(question.root, row.segmentation_path), frames)
            mask = images.resize_mask(full, sizes[0][1], sizes[0][0])
    return SampleMeta(
        id=row.id,
        dataset=row.dataset,
        domain=row.domain,
        labels=row.answers,
        vocabulary=row.labels,
        boxes=tuple(boxes),
        box_labels=row.bbox_labels or (", ".join(row.answers),) * len(boxes),
        box_images=row.bbox_images or (0,) * len(boxes),
        mask=mask,
        frame_sizes=tuple((int(w), int(h)) for w, h in sizes),
        source=task,
        row=row,
        box_coordinates=box_coordinates,
    )
