"""What a converter finds in a data set as it is published: examples, and what it has to leave out.

A converter is a function of a `Folder`. It yields an `Example` per question, or a `Dropped` with
the reason; it writes nothing, decides no split beyond the source's own, and decodes no medium.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator

from qoq_jax.base.errors import DataError
from qoq_jax.climb.convert.folder import Folder
from qoq_jax.climb.qa import Question
from qoq_jax.data.attributes import Attributes

Box = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Example:
    """One question about one patient's media.

    Attributes:
      id: unique in the data set, and the same whenever it is converted.
      labels: gold labels in the spelling of the converter's vocabulary, in its order.
      patient: what splits are grouped by; where the source knows no patients, the nearest thing
        that it knows (lesion, examination, file).
      split: the source's own, train, validation or test; "" = it has none.
      images, videos, time_series: paths below the folder, with "/".
      boxes: (x1, y1, x2, y2) in pixels of the original picture.
      box_labels: one label per box, or ().
      box_images: the picture of each box, counted from 0; () = the first.
      mask: path of the mask of the finding, or None.
      text: what is told beside the media, before the question.
      attributes: of the patient, coarse (data/attributes.py).
    """

    id: str
    labels: tuple[str, ...]
    patient: str
    split: str = ""
    images: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    time_series: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    box_labels: tuple[str, ...] = ()
    box_images: tuple[int, ...] = ()
    mask: str | None = None
    text: str = ""
    attributes: Attributes = ()

    @property
    def media(self) -> tuple[str, ...]:
        """All files that a row of this example names."""
        masks = () if self.mask is None else (self.mask,)
        return self.images + self.videos + self.time_series + masks


@dataclasses.dataclass(frozen=True)
class Dropped:
    """A record that gives no row, by its id, and why, in a few words that many records share."""

    id: str
    reason: str


Found = Iterator[Example | Dropped]


@dataclasses.dataclass(frozen=True)
class Converter:
    """How the records of one data set become examples.

    Attributes:
      name: of the data set in the catalogue, which has its domain and its labels.
      question: what is asked.
      examples: the function; it takes the folder and yields what it finds.
      cut: where rows show parts of the published media: the function that writes these parts below
        the folder, those that are not there yet. None: rows show media as they are published.
    """

    name: str
    question: Question
    examples: Callable[[Folder], Found]
    cut: Callable[[Folder], None] | None = None

    def open(self, root: str | os.PathLike) -> Folder:
        """The folder of the data set, in which all media of its rows are.

        Raises:
          DataError: there is none, or a medium that has to be cut cannot be read.
        """
        folder = Folder(root)
        if self.cut is None:
            return folder
        with _placed(folder):
            self.cut(folder)
        return Folder(root)

    def found(self, folder: Folder) -> Found:
        """What `examples` yields; its errors about a cell name the table and the line.

        Raises:
          DataError: the folder is not laid out as published.
        """
        with _placed(folder):
            yield from self.examples(folder)


@contextlib.contextmanager
def _placed(folder: Folder) -> Iterator[None]:
    """Errors that name no file are about the line that was read last."""
    try:
        yield
    except DataError as error:
        if not folder.place or (error.where or "").startswith(folder.root):
            raise
        where = f"{folder.place}: {error.where}" if error.where else folder.place
        hint = error.hint or "download the file again"
        raise DataError(error.what, where=where, hint=hint) from None
