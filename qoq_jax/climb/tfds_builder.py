"""Rows as a data set of tensorflow-datasets: `qoq data tfds`.

The builder is called qoq_rows and has one configuration per data set, so that

    tfds.data_source("qoq_rows/ham10000", data_dir=DIR, split="train")

is a source of rows for Grain, and `data.extra = ("tfds:qoq_rows/ham10000@DIR",)` one for training.
TensorFlow is not needed. A prepared data set cannot hold a missing value, so "", 0 and empty
sequences mean absent, as data/tfds_rows.py reads them; boxes are rounded to 32 bits, which is what
it stores numbers with.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from qoq_jax.base import terminal
from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.data import rows as schema
from qoq_jax.data import sources
from qoq_jax.data.index import Rows
from qoq_jax.data.readers import parts
from qoq_jax.data.readers.files import check_file

NAME = "qoq_rows"
VERSION = "1.0.0"
_TEXTS = (
    *("id", "dataset", "domain", "problem", "answer", "patient", "split"),
    *("segmentation_path", "reasoning", "source"),
)
_LISTS = ("labels", "images", "videos", "time_series", "bbox_labels")


class QoqRows(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """One row per element, its fields as features of the same names.

    Attributes:
      rows: split -> rows, of what is to be prepared.
    """

    VERSION = tfds.core.Version(VERSION)
    pkg_dir_path = None
    rows: dict[str, Rows]

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=_features())

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {split: self._generate_examples(rows) for split, rows in self.rows.items()}

    def _generate_examples(self, rows: Rows) -> Iterator[tuple[str, dict[str, Any]]]:
        for row in rows:
            yield row.id, element(row)


def prepare(root: str | os.PathLike, data_dir: str | os.PathLike, name: str = "") -> str:
    """Prepares the rows of a folder as ArrayRecord files of tensorflow-datasets; returns the folder
    of the version.

    The media that rows name lie there too: hard links where the file system has them, else copies.

    Args:
      root: folder with {split}.jsonl and the media.
      data_dir: of tensorflow-datasets.
      name: of the configuration; default: that of the folder.

    Raises:
      ConfigError: a name that tensorflow-datasets does not take, or a data set of that name is
        there already.
      DataError: no row file, a broken row, or a medium that is not there.
    """
    root = os.fspath(root)
    name = name or os.path.basename(os.path.abspath(root))
    if not re.fullmatch(r"[a-zA-Z0-9][\w.-]*", name):
        raise ConfigError(f"{name!r} is no name of a data set", hint="give another with --name")
    found = {s: sources.load(root, s) for s in schema.SPLITS if sources.find(root, s)}
    if not found:
        raise DataError(
            "no train.jsonl, validation.jsonl or test.jsonl there",
            where=root,
            hint="name a data set folder",
        )

    config = tfds.core.BuilderConfig(name=name, version=tfds.core.Version(VERSION))
    builder = QoqRows(data_dir=os.fspath(data_dir), config=config, file_format="array_record")
    builder.rows = found
    out = os.fspath(builder.data_dir)
    if os.path.exists(out):
        raise ConfigError("is there already", where=out, hint="delete it, or give another --name")
    try:
        builder.download_and_prepare()
        _link_media(found, root, out)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)  # half of a data set would look like a whole one
        raise
    return out


def _features() -> tfds.features.FeaturesDict:
    features, text = tfds.features, tfds.features.Text()
    return features.FeaturesDict(
        {
            **dict.fromkeys(_TEXTS, text),
            **{name: features.Sequence(text) for name in _LISTS},
            "bbox": features.Sequence(features.Tensor(shape=(4,), dtype=np.float32)),
            "bbox_images": features.Sequence(features.Scalar(np.int64)),
            "difficulty": features.Scalar(np.int64),
            "attributes": features.Sequence(text),
        }
    )


def element(row: schema.Row) -> dict[str, Any]:
    """A row as the features have it."""
    values = {name: getattr(row, name) or "" for name in _TEXTS}
    values |= {name: list(getattr(row, name)) for name in _LISTS}
    return values | {
        "bbox": [np.array(box, np.float32) for box in row.bbox],
        "bbox_images": list(row.bbox_images),
        "difficulty": row.difficulty or 0,
        "attributes": [f"{name}={value}" for name, value in row.attributes],
    }


def _link_media(found: dict[str, Rows], root: str, out: str) -> None:
    """The files that rows name and those that belong to them (`parts.files_of`)."""
    linked: set[str] = set()
    with terminal.Bar("linking media", sum(map(len, found.values()))) as bar:
        for number, row in enumerate((row for rows in found.values() for row in rows), 1):
            for name in parts.files_of(row, root):
                if name not in linked:
                    _link(check_file(schema.resolve(root, name)), os.path.join(out, name))
                    linked.add(name)
            bar.update(number)


def _link(source: pathlib.Path, target: str) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
