"""What a data set holds: numbers by domain for `qoq data stats`, from one pass over its rows and a
look at some of its media.
"""

from __future__ import annotations

import collections
import dataclasses
import os

import numpy as np

from qoq_jax.base import terminal
from qoq_jax.base.errors import DataError
from qoq_jax.data import media, readers, sources, tfds_rows
from qoq_jax.data import rows as schema
from qoq_jax.data.index import Rows

Sample = tuple[str, schema.Row]  # the folder of its media, and the row
_KINDS = {"images": "image", "videos": "video", "time_series": "ECG"}


@dataclasses.dataclass
class Domain:
    """The rows of one domain, all splits together.

    Attributes:
      name: one of `schema.DOMAINS`.
      rows: split -> rows.
      patients: split -> patients; rows that name none count as none.
      unnamed: rows that name no patient.
      labels: data set -> label -> rows; each label of a set counts.
      media: what a row brings, as "1 image" or "2 images, 1 ECG" -> rows.
      boxed, masked: rows with boxes, with a mask.
      boxes: number of boxes.
      sizes: (width, height) of the pictures that were looked at, one of a video's frames.
      places: boxes of those pictures as shares of width and height, (x1, y1, x2, y2).
      unreadable: faults of the media that were looked at.
      samples: rows for the contact sheet.
    """

    name: str
    rows: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    patients: dict[str, int] = dataclasses.field(default_factory=dict)
    unnamed: int = 0
    labels: dict[str, collections.Counter] = dataclasses.field(default_factory=dict)
    media: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    boxed: int = 0
    masked: int = 0
    boxes: int = 0
    sizes: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    places: list[tuple[float, ...]] = dataclasses.field(default_factory=list)
    unreadable: list[str] = dataclasses.field(default_factory=list)
    samples: list[Sample] = dataclasses.field(default_factory=list)


def collect(root: str | os.PathLike, looked_at: int, shown: int, seed: int = 0) -> list[Domain]:
    """The domains of a data set folder, in the schema's order.

    Args:
      root: the folder, or an entry of data.extra.
      looked_at: rows per domain and split, drawn without replacement, whose pictures are opened for
        their sizes.
      shown: rows per domain for the contact sheet: of as many labels as possible, those of training
        first.
      seed: of the draw.

    Raises:
      DataError: no row file, or a broken row.
    """
    root = tfds_rows.folder(os.fspath(root))
    found: dict[str, Domain] = {}
    for split in schema.SPLITS:
        if sources.find(root, split) is None:
            continue
        rows = sources.load(root, split)
        of_domain, patients = rows.column("domain"), rows.column("patient")
        for name in sources.domains(rows):
            places = np.flatnonzero(of_domain == schema.DOMAINS.index(name))
            domain = found.setdefault(name, Domain(name))
            domain.rows[split] = len(places)
            named = patients[places]
            domain.patients[split] = len(np.unique(named[named != 0]))
            domain.unnamed += int((named == 0).sum())
            rng = np.random.default_rng((seed, schema.SPLITS.index(split)))
            drawn = rng.permutation(places)
            _count(domain, rows.take(places), f"{split}, {name}")
            _look(domain, rows.take(drawn[:looked_at]), root)
            _show(domain, rows.take(drawn[: 50 * shown]), root, shown)
    if not found:
        raise DataError(
            "no train.jsonl, validation.jsonl or test.jsonl there",
            where=str(root),
            hint="name a data set folder",
        )
    return sorted(found.values(), key=lambda domain: schema.DOMAINS.index(domain.name))


def _count(domain: Domain, rows: Rows, title: str) -> None:
    with terminal.Bar(title, len(rows)) as bar:
        for number, row in enumerate(rows):
            labels = domain.labels.setdefault(row.dataset, collections.Counter())
            labels.update(row.answers)
            domain.media[in_words(row)] += 1
            domain.boxed += bool(row.bbox)
            domain.boxes += len(row.bbox)
            domain.masked += row.segmentation_path is not None
            bar.update(number + 1)


def in_words(row: schema.Row) -> str:
    """What a row brings: "1 image", "2 images, 1 ECG", "text alone"."""
    counts = {name: len(getattr(row, field)) for field, name in _KINDS.items()}
    words = [f"{n} {name}{'s' if n > 1 else ''}" for name, n in counts.items() if n]
    return ", ".join(words) or "text alone"


def _look(domain: Domain, rows: Rows, root: str) -> None:
    for row in rows:
        try:
            sizes = [picture.shape[1::-1] for picture in first_pictures(row, root)]
        except DataError as error:
            domain.unreadable.append(str(error))
            continue
        domain.sizes += sizes
        on = row.bbox_images or (0,) * len(row.bbox)
        for box, picture in zip(row.bbox, on, strict=True):
            if picture < len(sizes):
                domain.places.append(tuple(np.asarray(box) / (*sizes[picture], *sizes[picture])))


def first_pictures(row: schema.Row, root: str) -> list[np.ndarray]:
    """Pictures uint8 [h, w, 3] of a row: each of its images and the middle frame of each video.

    Raises:
      DataError: one cannot be read.
    """
    with media.opened(root) as folder:
        images = [readers.read_image(schema.resolve(folder, path)) for path in row.images]
        clips = [readers.read_frames(schema.resolve(folder, path)) for path in row.videos]
    return images + [clip[len(clip) // 2] for clip in clips]


def _show(domain: Domain, rows: Rows, root: str, most: int) -> None:
    """Adds rows up to `most`, labels not seen yet first."""
    seen = {row.answer for _, row in domain.samples}
    later = []
    for row in rows:
        if len(domain.samples) >= most:
            return
        if row.answer in seen:
            later.append(row)
        else:
            seen.add(row.answer)
            domain.samples.append((root, row))
    domain.samples += [(root, row) for row in later[: most - len(domain.samples)]]
