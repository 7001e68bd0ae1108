"""The responses of a run's evaluations as data sets of tensorflow-datasets:
`qoq report --traces DIR --tfds`.

    DIR/qoq_traces/RUN-STAGE/1.0.0/    a split per evaluation (test, validation), as ArrayRecord,
                                       and the card, README.md

A data set per stage, with the fields of traces_card.FIELDS:

    tfds.data_source("qoq_traces/quickstart-rl", data_dir=DIR, split="test")

What is left out is what traces.py leaves out. A prepared data set cannot hold a missing value, and
holds numbers with 32 bits: where `iou` is not defined it is NaN, and an unknown `seed` is -1. They
are responses to test rows without media, no rows to train on: `data.extra` refuses them.
"""

from __future__ import annotations

import collections
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from qoq_jax.base import files, storage
from qoq_jax.base.errors import ConfigError
from qoq_jax.data import tfds_rows
from qoq_jax.report import traces, traces_card
from qoq_jax.report.traces_card import Part

NAME = tfds_rows.TRACES
VERSION = "1.0.0"
NO_SEED = -1
_TYPES = {"int64": np.int64, "float64": np.float32, "bool": np.bool_}


class QoqTraces(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """One response per element, in the order of the evaluation.

    Attributes:
      parts: of one stage.
    """

    VERSION = tfds.core.Version(VERSION)
    pkg_dir_path = None
    parts: Sequence[Part]

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {name: _feature(name, kind) for name, kind, _ in traces_card.FIELDS}
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description="What a clinical multimodal model wrote, right or wrong. Not for clinical "
            "use. See README.md.",
            features=features,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {part.split: self._generate_examples(part) for part in self.parts}

    def _generate_examples(self, part: Part) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, row in enumerate(part.rows):
            yield number, element(row, part)


def export(
    workdir: str,
    data_dir: str,
    licence: str = "unknown",
    roots: Mapping[str, str] | None = None,
) -> list[tuple[str, list[Part]]]:
    """Prepares a data set per stage of a run; returns (name, parts) of each, the last stage first.

    Args:
      data_dir: of tensorflow-datasets.
      licence, roots: as for `traces.collect`.

    Raises:
      ConfigError: one of them is there already, or data_dir is a URL; or as `traces.collect`.
      DataError: as `traces.collect`.
    """
    if storage.is_url(data_dir):
        raise ConfigError(
            "a data set of tensorflow-datasets is prepared on this machine",
            where=data_dir,
            hint="name a local folder, and copy it",
        )
    found, provenance = traces.collect(workdir, licence, roots)
    run = re.sub(r"[^\w.-]+", "-", os.path.basename(storage.absolute(workdir))).strip("-.") or "run"
    stages: dict[str, list[Part]] = collections.defaultdict(list)
    for part in found:
        stages[f"{run}-{part.stage}"].append(part)
    builders = {name: _builder(data_dir, name, parts) for name, parts in stages.items()}
    for builder in builders.values():
        if os.path.exists(builder.data_dir):
            raise ConfigError(
                "is there already",
                where=os.fspath(builder.data_dir),
                hint="delete it, or name another folder",
            )
    try:
        for name, builder in builders.items():
            builder.download_and_prepare()
            usage = _usage(name, stages[name])
            files.write_text(
                os.path.join(builder.data_dir, "README.md"),
                f"Licence: {licence}\n\n{traces_card.text(stages[name], usage, provenance)}",
            )
    except BaseException:
        for builder in builders.values():  # half of a data set would look like a whole one
            shutil.rmtree(builder.data_dir, ignore_errors=True)
        raise
    return [(f"{NAME}/{name}", parts) for name, parts in stages.items()]


def element(row: dict[str, Any], part: Part) -> dict[str, Any]:
    """A row of `traces.trace` as the features have it.

    Raises:
      DataError: a box is not of four finite numbers.
    """
    boxes = [box for name in ("boxes", "gold_boxes") for box in row[name]]
    if not all(len(box) == 4 and all(map(math.isfinite, box)) for box in boxes):
        raise traces.not_finite(part)
    return row | {
        "iou": math.nan if row["iou"] is None else row["iou"],
        "seed": NO_SEED if row["seed"] is None else row["seed"],
    }


def _builder(data_dir: str, name: str, parts: Sequence[Part]) -> QoqTraces:
    config = tfds.core.BuilderConfig(name=name, version=tfds.core.Version(VERSION))
    builder = QoqTraces(data_dir=data_dir, config=config, file_format="array_record")
    builder.parts = parts
    return builder


def _feature(name: str, kind: Any) -> Any:
    features = tfds.features
    if kind == "string":
        return features.Text()
    if isinstance(kind, str):
        return features.Scalar(_TYPES[kind])
    (item,) = kind
    if isinstance(item, str):
        return features.Sequence(_feature(name, item))
    # (x1, y1, x2, y2) of a box, (width, height) of a picture
    shape = (2,) if name == "frame_sizes" else (4,)
    return features.Sequence(features.Tensor(shape=shape, dtype=_TYPES[item[0]]))


def _usage(name: str, parts: Sequence[Part]) -> str:
    return (
        "```python\nimport tensorflow_datasets as tfds\n\n"
        f'traces = tfds.data_source("{NAME}/{name}", data_dir=DIR, split="{parts[0].split}")\n'
        "```\n\n"
        "DIR is the folder that holds `qoq_traces`. TensorFlow is not needed. Numbers have 32 "
        f"bits; `iou` is NaN where it is not defined, `seed` {NO_SEED} where it is unknown.\n"
    )
