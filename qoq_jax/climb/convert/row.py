"""From an example to the row of a row file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qoq_jax.climb import qa
from qoq_jax.climb.catalogue import table
from qoq_jax.climb.convert.example import Converter, Example
from qoq_jax.data import rows as schema


def to_row(converter: Converter, example: Example, seed: int) -> schema.Row:
    """The row of an example, with the split that the source gives it; nothing but the catalogue and
    these arguments decides it.

    Raises:
      DataError: the example breaks a rule of rows (a label out of the vocabulary, a box without
        area): a mistake of the converter or a file that is not as published.
    """
    dataset = table.find(converter.name)
    about = (converter.name, dataset.domain, converter.question, dataset.labels)
    return row_of(example, *about, example.split, seed)


def row_of(
    example: Example,
    dataset: str,
    domain: str,
    question: qa.Question,
    labels: Sequence[str],
    split: str,
    seed: int,
) -> schema.Row:
    """The row of an example of any data set.

    Args:
      dataset, domain: fields of the row.
      question, labels: what is asked, and the allowed answers.
      seed: of the wording and the order of the labels.

    Raises:
      DataError: the example breaks a rule of rows.
    """
    marks = (
        "<image>" * len(example.images)
        + "<video>" * len(example.videos)
        + "<ecg>" * len(example.time_series)
        + (f"{example.text}\n" if example.text else "")
    )
    fields: dict[str, Any] = {
        "id": example.id,
        "dataset": dataset,
        "domain": domain,
        "problem": qa.problem(question, labels, marks, seed, example.id),
        "answer": ", ".join(example.labels),
        "labels": list(labels),
        "patient": example.patient,
        "split": split,
        "images": list(example.images),
        "videos": list(example.videos),
        "time-series": list(example.time_series),
        "bbox": [list(box) for box in example.boxes],
        "bbox_labels": list(example.box_labels),
        "bbox_images": list(example.box_images),
        "segmentation_path": example.mask,
        "source": dataset,
        "attributes": dict(example.attributes),
    }
    return schema.validate_row(
        {name: value for name, value in fields.items() if value not in ([], {}, None, "")},
        f"{dataset}: {example.id}",
    )
