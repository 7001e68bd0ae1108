"""The card of a data set of traces (report/traces.py): README.md as the Hugging Face hub reads
it.
"""

from __future__ import annotations

import collections
import dataclasses
import importlib.metadata
import json
from collections.abc import Iterable, Sequence
from typing import Any

from qoq_jax.climb.catalogue import table

# (field, type, what it is); a list of a type has one item.
FIELDS: tuple[tuple[str, Any, str], ...] = (
    ("id", "string", "of the row in its source; empty where it held its patient's"),
    ("source", "string", "the folder of rows that it comes from"),
    ("dataset", "string", "the data set"),
    ("domain", "string", "the clinical domain"),
    ("question", "string", "with marks for its media; empty where the rows were not at hand"),
    ("allowed_labels", ["string"], "labels to choose from; empty where the row states none"),
    ("gold_labels", ["string"], "of the data set"),
    ("response", "string", "what the model wrote, greedily decoded"),
    ("reasoning", "string", "of it, what is in `<think>`; empty where there is none"),
    ("boxes", [["float64"]], "predicted (x1, y1, x2, y2), in pixels of `frame_sizes`"),
    ("gold_boxes", [["float64"]], "of the data set, in the same pixels"),
    ("box_labels", ["string"], "of each predicted box"),
    ("box_images", ["int64"], "the picture of each predicted box, from 0"),
    ("gold_box_images", ["int64"], "the picture of each gold box"),
    ("frame_sizes", [["int64"]], "(width, height) of each picture as the model saw it"),
    ("answer", ["string"], "the labels that were read from the response"),
    ("correct", "bool", "whether they are the gold labels, all of them and no other"),
    ("iou", "float64", "of the predicted with the gold boxes; null where it is not defined"),
    ("stage", "string", "of training, after which the model was asked: sft, align or rl"),
    ("seed", "int64", "of the run"),
)
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))


@dataclasses.dataclass(frozen=True)
class Part:
    """One file of the data set.

    Attributes:
      sha256: of the evaluation's file.
      rows: what is written. patients_known: those whose record names a patient.
      left_out: rows whose texts name their patient.
    """

    stage: str
    split: str
    sha256: str
    rows: Sequence[dict[str, Any]]
    patients_known: int
    left_out: int

    @property
    def path(self) -> str:
        return f"{self.stage}/{self.split}.jsonl"


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where the responses come from.

    Attributes:
      config_sha256: of the run's config.json; "" without one.
      run: content of run.json. sources: "sources" of data.json.
    """

    config_sha256: str
    run: dict[str, Any]
    sources: dict[str, Any]


def card(parts: Sequence[Part], licence: str, provenance: Provenance) -> str:
    """README.md: front matter, then what is in the data set, where it comes from, its limits."""
    first = parts[0]
    usage = (
        "```python\nimport datasets\n\n"
        f'traces = datasets.load_dataset("json", data_files={{"{first.split}": "{first.path}"}})\n'
        "```\n\n"
        "`load_dataset` of the folder or of the data set's name on the hub knows the files and "
        "the type of each field. A configuration is the stage of training after which the model "
        "was asked.\n"
    )
    return _front_matter(parts, licence) + text(parts, usage, provenance)


def text(parts: Sequence[Part], usage: str, provenance: Provenance) -> str:
    """The card below its front matter; `usage` says how the data set is read."""
    rest = (_fields(), _origin(parts, provenance), _left_out(parts), _limits(parts))
    return "\n".join((_head(parts) + usage, *rest))


def restricted(parts: Sequence[Part]) -> list[str]:
    """Data sets whose licence, by the catalogue, does not plainly allow passing on copies."""
    return [name for name, allowed in _redistribution(parts).items() if allowed in ("no", "ask")]


def _front_matter(parts: Sequence[Part], licence: str) -> str:
    """YAML, its values as JSON, which YAML includes."""
    total = sum(len(part.rows) for part in parts)
    by_stage: dict[str, list[Part]] = collections.defaultdict(list)
    for part in parts:
        by_stage[part.stage].append(part)
    features = [_feature(name, kind) for name, kind, _ in FIELDS]
    values = {
        "pretty_name": "Reasoning traces of a clinical multimodal model",
        "license": licence,
        "language": ["en"],
        "task_categories": ["image-text-to-text", "visual-question-answering"],
        "tags": ["medical", "reasoning", "model-generated"],
        "size_categories": [next((word for most, word in _SIZES if total < most), "n>1M")],
        "configs": [
            {
                "config_name": stage,
                "default": stage == parts[0].stage,
                "data_files": [{"split": part.split, "path": part.path} for part in members],
            }
            for stage, members in by_stage.items()
        ],
        "dataset_info": [{"config_name": stage, "features": features} for stage in by_stage],
    }
    lines = [f"{name}: {json.dumps(value)}\n" for name, value in values.items()]
    return f"---\n{''.join(lines)}---\n\n"


def _feature(name: str, kind: Any) -> dict[str, Any]:
    if isinstance(kind, str):
        return {"name": name, "dtype": kind}
    (item,) = kind
    return {"name": name, "list": item if isinstance(item, str) else {"list": item[0]}}


def _head(parts: Sequence[Part]) -> str:
    counts = [
        (
            part.stage,
            part.split,
            len(part.rows),
            sum(row["correct"] for row in part.rows),
            sum(bool(row["reasoning"]) for row in part.rows),
            sum(bool(row["boxes"]) for row in part.rows),
        )
        for part in parts
    ]
    columns = ("configuration", "split", "rows", "correct", "with reasoning", "with boxes")
    return (
        "# Reasoning traces of a clinical multimodal model\n\n"
        "Questions about medical images, signals and records, and what a model wrote as its "
        "reasoning, boxes and answer. "
        "**Everything in `response`, `reasoning`, `boxes` and `answer` is model output, right or "
        "wrong. Not for clinical use.**\n\n"
        f"{_table(columns, counts)}\n"
    )


def _fields() -> str:
    rows = [(f"`{name}`", _kind(kind), words) for name, kind, words in FIELDS]
    return f"## Fields\n\n{_table(('field', 'type', 'what it is'), rows)}"


def _origin(parts: Sequence[Part], provenance: Provenance) -> str:
    versions = dict(provenance.run.get("versions", {}))
    try:
        here = importlib.metadata.version("qoq_jax")
    except importlib.metadata.PackageNotFoundError:  # run from its source
        here = "of its source"
    ran = ", ".join(f"{name} {version}" for name, version in versions.items()) or "unknown"
    facts = [
        ("SHA-256 of the run's config.json", provenance.config_sha256 or "unknown"),
        ("seed of the run", parts[0].rows[0]["seed"]),
        ("parameters of the model", provenance.run.get("parameters", "unknown")),
        ("versions of the run", ran),
        ("exported by", f"qoq_jax {here}"),
        *((f"SHA-256 of the evaluation of {part.path}", part.sha256) for part in parts),
        *(
            (f"SHA-256 of the {split} rows of {source}", one.get("sha256", "unknown"))
            for source, found in provenance.sources.items()
            for split, one in found.get("splits", {}).items()
        ),
    ]
    catalogue, allowed = table.load(), _redistribution(parts)
    counts = collections.Counter(row["dataset"] for part in parts for row in part.rows)
    sets = [
        (
            name,
            count,
            catalogue[name].licence if name in catalogue else "unknown",
            allowed.get(name, "unknown"),
        )
        for name, count in sorted(counts.items())
    ]
    columns = ("data set", "rows here", "its licence", "may copies be passed on")
    return (
        f"## Provenance\n\n{_table(('what', 'value'), facts)}\n"
        "Questions, gold labels and gold boxes are of these data sets, and their terms hold for "
        f"them here too:\n\n{_table(columns, sets)}"
    )


def _left_out(parts: Sequence[Part]) -> str:
    rows = [row for part in parts for row in part.rows]
    known = sum(part.patients_known for part in parts)
    return (
        "## What is left out\n\n"
        "- Pictures, videos and signals: get them from the data sets.\n"
        "- Patients, and attributes of patients such as age and sex.\n"
        f"- {sum(part.left_out for part in parts)} rows in whose texts their patient's name or "
        "number stood.\n"
        f"- {sum(not row['id'] for row in rows)} ids in which it stood.\n"
        f"- Of {len(rows) - known} of {len(rows)} rows no patient is known, so neither could be "
        "looked for.\n"
        f"- {sum(not row['question'] for row in rows)} questions whose rows were not at hand.\n"
    )


def _limits(parts: Sequence[Part]) -> str:
    names = restricted(parts)
    said = (
        f"Check the terms of {', '.join(names)} before you pass this on: "
        "by their licences copies may not be passed on, or only on their terms. "
        if names
        else ""
    )
    return (
        "## Limits\n\n"
        "- Not for clinical use: no diagnosis or treatment may rest on it.\n"
        "- No clinician has checked the reasoning. A correct answer does not make it sound, and it "
        "need not be how the model came to the answer.\n"
        "- `correct` compares labels with those of the data set, which have errors of their own.\n"
        "- One greedy response per row and stage.\n"
        "- Only the row's own patient, as its data set writes it, was looked for in texts. Other "
        "identifiers (dates, places, other names) were not.\n"
        f"- {said}Licences of data sets that are not in the table's catalogue are unknown here.\n"
    )


def _redistribution(parts: Sequence[Part]) -> dict[str, str]:
    """Data set -> "yes", "no" or "ask", of those in the catalogue."""
    catalogue, licences = table.load(), table.licences()
    names = sorted({row["dataset"] for part in parts for row in part.rows})
    return {
        name: licences[catalogue[name].licence].redistribution
        for name in names
        if name in catalogue
    }


def _kind(kind: Any) -> str:
    return kind if isinstance(kind, str) else f"list of {_kind(kind[0])}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of Markdown; what would end a cell or start markup in names is escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines)


def _cell(value: object) -> str:
    text = "".join(c if c.isprintable() else " " for c in str(value))
    return text.replace("|", "\\|").replace("<", "&lt;") if "`" not in text else text
