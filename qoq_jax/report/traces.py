"""The responses of a run's evaluations as a data set for Hugging Face: `qoq report --traces`.
traces_tfds.py writes the same for tensorflow-datasets.

    DIR/README.md          the card; its YAML front matter names the files and their features
    DIR/STAGE/SPLIT.jsonl  a line per row of the evaluation after a stage, with FIELDS

There are no media, patients or attributes in it. A row whose question or response holds the name or
number of its patient is left out, and so is an id that does; the card counts both.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from qoq_jax.base import files, storage
from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.data.answer_format import parse
from qoq_jax.evaluation import saved
from qoq_jax.report import cases_page, gallery, traces_card
from qoq_jax.report.shown import Library
from qoq_jax.report.traces_card import Part

SPLITS = ("test", "validation")
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # as the hub spells them: cc-by-4.0


def export(
    workdir: str,
    out: str,
    licence: str = "unknown",
    roots: Mapping[str, str] | None = None,
) -> list[Part]:
    """Writes the data set of a run and returns its parts.

    Args:
      out: a new folder; may be a URL.
      licence, roots: as for `collect`.

    Raises:
      ConfigError, DataError: as `collect`.
      CheckpointError: `out` is there and not empty.
    """
    parts, provenance = collect(workdir, licence, roots)
    with storage.new_folder(out, last="README.md") as made:
        for part in parts:
            os.makedirs(os.path.join(made, part.stage), exist_ok=True)
            lines = (_line(row, part) for row in part.rows)
            files.write_text(os.path.join(made, *part.path.split("/")), "".join(lines))
        files.write_text(
            os.path.join(made, "README.md"), traces_card.card(parts, licence, provenance)
        )
    return parts


def collect(
    workdir: str, licence: str = "unknown", roots: Mapping[str, str] | None = None
) -> tuple[list[Part], traces_card.Provenance]:
    """The parts of a run's data set, the last stage's first, and where they come from.

    Args:
      licence: of the card, as the hub spells it.
      roots: source -> folder of its rows, beside those that the run read; questions come from them.

    Raises:
      ConfigError: no such spelling of a licence.
      DataError: the run has no evaluation, or one that cannot be read.
    """
    if not _LICENCE.fullmatch(licence):
        raise ConfigError(
            f"--license {licence!r}", hint="use an identifier of the hub, as cc-by-4.0 or other"
        )
    known = cases_page.known_roots(workdir, roots)
    config_file = os.path.join(workdir, "config.json")
    config = files.read_json(config_file, {}, finite=False)
    parts = [
        _part(path, stage, split, Library((), known, split), config.get("seed"))
        for stage in saved.STAGES
        for split in SPLITS
        if storage.is_file(path := _evaluation(workdir, stage, split))
    ]
    if not any(part.rows for part in parts):
        raise DataError(
            "no responses to write",
            where=workdir,
            hint=f"qoq evaluate {workdir}",
        )
    parts = [part for part in parts if part.rows]
    cases_page.check_roots({row["source"] for part in parts for row in part.rows}, roots)
    provenance = traces_card.Provenance(
        config_sha256=_sha256(config_file) if storage.is_file(config_file) else "",
        run=files.read_json(os.path.join(workdir, "run.json"), {}, finite=False),
        sources=files.read_json(os.path.join(workdir, "data.json"), {}).get("sources", {}),
    )
    return parts, provenance


def trace(record: dict, question: str, stage: str, seed: int | None) -> dict[str, Any]:
    """The fields of one row; traces_card.FIELDS says what they are."""
    text = _text(record.get("text", ""))
    iou = record.get("iou")
    boxes = {name: record.get(name) or [] for name in ("boxes", "gold_boxes")}
    images = {
        f"{kind}box_images": record.get(f"{kind}box_images") or [0] * len(boxes[f"{kind}boxes"])
        for kind in ("", "gold_")
    }
    return {
        "id": _text(gallery.shown_id(record)),
        "source": _text(record["source"]),
        "dataset": _text(record["dataset"]),
        "domain": _text(record["domain"]),
        "question": _text(question),
        "allowed_labels": _texts(record.get("vocabulary") or []),
        "gold_labels": _texts(record["labels"]),
        "response": text,
        "reasoning": parse(text).think or "",
        **{name: [list(map(float, box)) for box in found] for name, found in boxes.items()},
        "box_labels": _texts(record.get("box_labels") or []),
        **images,
        "frame_sizes": record.get("frame_sizes") or [],
        "answer": _texts(record["predicted"]),
        "correct": gallery.is_right(record),
        "iou": None if iou is None or not math.isfinite(iou) else float(iou),
        "stage": stage,
        "seed": seed,
    }


def names_patient(record: dict, text: str) -> bool:
    """Whether a free text holds the patient: anywhere in it, or as a word of its own where the name
    has less than four characters, since "7" is in many numbers.
    """
    patient = gallery.words(record.get("patient") or "")
    if len(patient) < 4:
        return bool(patient) and f" {patient} " in f" {gallery.words(text)} "
    return gallery.names_patient(record, text)


def _part(path: str, stage: str, split: str, library: Library, seed: int | None) -> Part:
    records = saved.by_row(saved.read(path)["records"])
    library.look_up(records)
    rows, left_out, patients_known = [], 0, 0
    for key, record in records.items():
        try:
            made = trace(record, library.problem(key), stage, seed)
        except (TypeError, ValueError, AttributeError) as error:  # without its id
            raise DataError(
                "holds what is no record of an evaluation",
                where=path,
                hint="run the evaluation again",
            ) from error
        if names_patient(record, "\n".join(_all_texts({**made, "id": ""}))):
            left_out += 1
            continue
        rows.append(made)
        patients_known += bool(record.get("patient"))
    return Part(stage, split, _sha256(path), rows, patients_known, left_out)


def _sha256(path: str) -> str:
    return hashlib.sha256(files.read_bytes(path)).hexdigest()


def _evaluation(workdir: str, stage: str, split: str) -> str:
    return os.path.join(workdir, "eval", f"{stage if split == 'test' else f'{stage}-{split}'}.json")


def _all_texts(row: dict[str, Any]) -> list[str]:
    lists = (value if isinstance(value, list) else [value] for value in row.values())
    return [one for values in lists for one in values if isinstance(one, str)]


def _line(row: dict[str, Any], part: Part) -> str:
    try:
        return json.dumps(row, allow_nan=False) + "\n"
    except ValueError as error:
        raise not_finite(part) from error


def not_finite(part: Part) -> DataError:
    """Of a row whose boxes cannot be written."""
    return DataError("a box is no finite number", where=part.path, hint="run the evaluation again")


def _texts(values: Sequence[object]) -> list[str]:
    return list(map(_text, values))


def _text(value: object) -> str:
    """Text that is UTF-8: readers of JSON lines refuse half of a surrogate pair."""
    return str(value).encode("utf-8", "replace").decode()
