"""A converter: what the published tables say, as records, and the examples that a record gives.

The records come from one look at the folder. What a record gives depends on the record and on its
own media alone, so that any worker may do it, in any order and twice (climb/convert/tasks.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from qoq_jax.base.errors import DataError
from qoq_jax.climb.convert.folder import Folder
from qoq_jax.climb.qa import Question
from qoq_jax.data.attributes import Attributes
from qoq_jax.data.paths import split_member

Box = tuple[float, float, float, float]
_MISSING = "a file that the tables name is not there"
LEADS_OUT = "a file is behind a link that leads out of the data folder"


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
        """All files that a row of this example names, or names a part of."""
        masks = () if self.mask is None else (self.mask,)
        named = self.images + self.videos + self.time_series + masks
        return tuple(dict.fromkeys(split_member(path)[0] for path in named))


@dataclasses.dataclass(frozen=True)
class Dropped:
    """A record that gives no row, by its id, and why, in a few words that many records share."""

    id: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Record:
    """What the tables and names of files say of one thing that is shown or asked about.

    Attributes:
      id: of its example, or what the ids of its examples begin with.
      patient, split: as those of an example.
      facts: what `Converter.examples` needs to know, as JSON has it.
      place: what was read last when the record was made (`Folder.place`), for errors.
    """

    id: str
    patient: str
    split: str = ""
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    place: str = ""

    def example(self, labels: tuple[str, ...], **more: Any) -> Example:
        """The example of a record that gives one; `more`: its other fields."""
        return Example(self.id, labels, self.patient, self.split, **more)


Records = Iterator[Record | Dropped]
Found = Iterator[Example | Dropped]


@dataclasses.dataclass(frozen=True)
class Converter:
    """How a published data set becomes examples.

    Attributes:
      name: of the data set in the catalogue, which has its domain and its labels.
      question: what is asked.
      records: of a folder, in an order that depends on its content alone; opens tables, no media.
        `Dropped`: what can be seen only beside other records, as a second copy.
      examples: what a record gives. It reads the media of this record alone, and what it writes
        (parts of media, below the folder) appears whole and is the same at each call.
      at_once: records of a task; fewer where a record takes longer.
    """

    name: str
    question: Question
    records: Callable[[Folder], Records]
    examples: Callable[[Record, Folder], Found]
    at_once: int = 1000

    def read(self, folder: Folder) -> Records:
        """What `records` yields, with the place of each record; errors about a cell name table and
        line.

        Raises:
          DataError: the folder is not laid out as published.
        """
        with _errors_at(folder.root, lambda: folder.place):
            for one in self.records(folder):
                if isinstance(one, Record):
                    one = dataclasses.replace(one, place=folder.place)
                check_text(one, folder)
                yield one

    def found(self, record: Record, folder: Folder) -> Found:
        """What `examples` yields, without examples whose media are not there; errors about a cell
        name table and line.

        Raises:
          DataError: a cell without a meaning, or a medium that cannot be read.
        """
        with _errors_at(folder.root, lambda: record.place):
            for one in self.examples(record, folder):
                if isinstance(one, Example) and not all(map(folder.has, one.media)):
                    out = any(map(folder.leads_out, one.media))
                    one = Dropped(one.id, LEADS_OUT if out else _MISSING)
                yield one


def check_text(one: Record | Example | Dropped, folder: Folder) -> None:
    """Refuses names of files that are not UTF-8, as some archives unpack: JSON cannot hold them."""
    try:
        json.dumps(vars(one), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        before, after = error.object[: error.start], error.object[error.start :]
        name = before.rpartition('"')[2] + after.partition('"')[0]
        raise DataError(
            f"the name of a file is not UTF-8: {name!a}",
            where=folder.root,
            hint="rename it (convmv renames whole folders)",
        ) from None


@contextlib.contextmanager
def _errors_at(root: str, place: Callable[[], str]) -> Iterator[None]:
    """Errors that name no file of the folder are about `place`, where that is known."""
    try:
        yield
    except DataError as error:
        if not place() or (error.where or "").startswith(root):
            raise
        at = os.path.join(root, place())
        where = f"{at}: {error.where}" if error.where else at
        hint = error.hint or "download the file again"
        raise DataError(error.what, where=where, hint=hint) from None
