"""From examples to row files: questions, splits, checks, and a report of what was dropped."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from qoq_jax.base import files
from qoq_jax.base.errors import DataError
from qoq_jax.climb import qa
from qoq_jax.climb.catalogue import table
from qoq_jax.climb.convert import splits
from qoq_jax.climb.convert.example import Converter, Dropped, Example, Found
from qoq_jax.data import rows as schema

REPORT = "conversion.json"
_SHOWN = 5  # ids per reason in the report


def to_row(converter: Converter, example: Example, split: str, seed: int) -> schema.Row:
    """The row of an example; nothing but the catalogue and these arguments decides it.

    Raises:
      DataError: the example breaks a rule of rows (a label out of the vocabulary, a box without
        area): a mistake of the converter or a file that is not as published.
    """
    dataset = table.find(converter.name)
    about = (converter.name, dataset.domain, converter.question, dataset.labels)
    return row_of(example, *about, split, seed)


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


def convert(converter: Converter, root: str | os.PathLike, seed: int = 0) -> dict[str, Any]:
    """Writes train.jsonl, validation.jsonl, test.jsonl and conversion.json into `root`, beside the
    media, and returns the content of the last one.

    The same folder and seed give the same bytes. Files of an earlier conversion are replaced, each
    at once; one of a split that is empty now is removed.

    Raises:
      DataError: the folder is not laid out as published, or gives no row.
    """
    folder = converter.open(root)
    examples, dropped = _read(converter.found(folder), folder.files)
    if not examples:
        why = "; ".join(f"{len(ids)} {reason}" for reason, ids in dropped.items())
        raise DataError(
            f"no record of {converter.name} gives a row" + (f": {why}" if why else ""),
            where=folder.root,
            hint="give the folder into which the published archives were unpacked",
        )
    chosen = splits.assign(examples.values(), converter.name, seed)
    counts: dict[str, Counter[str]] = {split: Counter() for split in schema.SPLITS}
    with contextlib.ExitStack() as opened:
        out = {
            split: opened.enter_context(
                open(
                    opened.enter_context(
                        files.replacing(os.path.join(folder.root, f"{split}.jsonl"))
                    ),
                    "w",
                    encoding="utf-8",
                )
            )
            for split in schema.SPLITS
            if split in chosen.values()
        }
        for identity in sorted(examples):
            split = chosen[identity]
            row = to_row(converter, examples[identity], split, seed)
            out[split].write(json.dumps(row.to_dict(), ensure_ascii=False) + "\n")
            counts[split].update(row.answers)
    for split in set(schema.SPLITS) - set(chosen.values()):
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(folder.root, f"{split}.jsonl"))
    report = {
        "dataset": converter.name,
        "seed": seed,
        "rows": {split: sum(1 for s in chosen.values() if s == split) for split in counts},
        "labels": {split: dict(sorted(found.items())) for split, found in counts.items()},
        "patients": len({example.patient for example in examples.values()}),
        "own_split": sum(1 for example in examples.values() if example.split),
        "splits_sha256": splits.fingerprint(chosen),
        "dropped": dropped_facts(dropped),
    }
    files.write_json(os.path.join(folder.root, REPORT), report)
    return report


def _read(found: Found, present: frozenset[str]) -> tuple[dict[str, Example], dict[str, list[str]]]:
    """(examples by id, ids of dropped records by reason).

    Raises:
      DataError: two examples have one id.
    """
    examples: dict[str, Example] = {}
    dropped: dict[str, list[str]] = {}
    for one in found:
        if isinstance(one, Example):
            if one.id in examples:
                raise DataError(f"two records have the id {one.id!r}")
            if all(path in present for path in one.media):
                examples[one.id] = one
                continue
            one = Dropped(one.id, "a file that the tables name is not there")
        dropped.setdefault(one.reason, []).append(one.id)
    return examples, dropped


def dropped_facts(dropped: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
    """What a report says of the records that were left out: ids by reason -> counts and some."""
    return {
        reason: {"records": len(ids), "as": sorted(ids)[:_SHOWN]}
        for reason, ids in sorted(dropped.items())
    }


def summary(report: Mapping[str, Any]) -> str:
    """The report in a few lines."""
    return lines(report["dataset"], f"{report['patients']} patients", report)


def lines(name: str, patients: str, report: Mapping[str, Any], *more: str) -> str:
    """Rows by split, `more`, and what was left out."""
    rows = ", ".join(f"{count} {split}" for split, count in report["rows"].items())
    found = [f"{name}: {rows}; {patients}", *more]
    for reason, ids in report["dropped"].items():
        shown = ", ".join(ids["as"][:3])
        found.append(f"  left out: {ids['records']}, {reason} ({shown})")
    return "\n".join(found)
