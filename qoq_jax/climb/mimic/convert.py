"""`qoq data convert mimic-iv`: the tables of MIMIC-IV to rows, and to the inputs behind them."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qoq_jax.base import files
from qoq_jax.base.errors import DataError
from qoq_jax.climb.convert import splits, write
from qoq_jax.climb.convert.example import Example
from qoq_jax.climb.mimic import cohort, events, media, record, tables
from qoq_jax.climb.mimic.cohort import Stay
from qoq_jax.climb.mimic.items import ITEMS, rounded
from qoq_jax.climb.mimic.tasks import NAME, TASKS
from qoq_jax.data import rows as schema


def convert(root: str | os.PathLike, name: str = NAME, seed: int = 0) -> dict[str, Any]:
    """Writes train.jsonl, validation.jsonl, test.jsonl, mimic_inputs.jsonl.gz and conversion.json
    into `root`, and returns the content of the last one.

    The same folder and seed give the same bytes. A patient's split depends on the seed and the
    patient, not on the task.

    Args:
      root: folder of MIMIC-IV and, where they are there, MIMIC-IV-ECG and MIMIC-CXR-JPG.
      name: "mimic-iv" for all data sets, or one of `tasks.DATASETS`.

    Raises:
      DataError: the tables are not as published, or no admission suits the tasks.
    """
    layout, names = tables.find(root), record.wanted(name)
    stays, left_out = cohort.first_admissions(layout)
    ids = {stay.hadm: record.hidden("admission", stay.hadm) for stay in stays}
    stays.sort(key=lambda stay: ids[stay.hadm])
    chosen = splits.assign(
        (Example(ids[stay.hadm], (), record.hidden("patient", stay.subject)) for stay in stays),
        NAME,
        seed,
    )
    counts: dict[str, Counter[str]] = {split: Counter() for split in schema.SPLITS}
    labels: dict[str, Counter[str]] = {task: Counter() for task in TASKS}
    asked: set[str] = set()
    with contextlib.ExitStack() as opened:
        out = {
            split: opened.enter_context(_replaced(layout.root, f"{split}.jsonl"))
            for split in schema.SPLITS
        }
        inputs = opened.enter_context(_replaced(layout.root, record.INPUTS_FILE))
        for line in _lines(layout, stays, left_out):
            split = chosen[line["id"]]
            made = list(record.rows(line, split, seed, names))
            if not made:
                continue
            inputs.write(json.dumps(line, separators=(",", ":")) + "\n")
            asked.add(line["patient"])
            labels[line["task"]][line["label"]] += 1
            for row in made:
                out[split].write(json.dumps(row.to_dict(), ensure_ascii=False) + "\n")
                counts[split][row.dataset] += 1
        if not asked:
            why = "; ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
            raise DataError(
                f"no admission gives a row of {name}: {why}",
                where=layout.root,
                hint="docs/convert.md",
            )
    for split, found in counts.items():
        if not found:
            os.remove(os.path.join(layout.root, f"{split}.jsonl"))
    report = {
        "dataset": name,
        "seed": seed,
        "rows": {split: found.total() for split, found in counts.items()},
        "datasets": {split: dict(sorted(found.items())) for split, found in counts.items()},
        "labels": {task: dict(sorted(found.items())) for task, found in labels.items()},
        "patients": len(asked),
        "splits_sha256": splits.fingerprint(chosen),
        # Counts alone: what identifies an admission stays in the tables.
        "dropped": {reason: {"records": left_out[reason]} for reason in sorted(left_out)},
    }
    files.write_json(os.path.join(layout.root, write.REPORT), report)
    return report


@contextlib.contextmanager
def _replaced(root: str, name: str) -> Iterator[io.TextIOBase]:
    """A text file that appears whole; packed, without a time inside, where its name ends in .gz."""
    with contextlib.ExitStack() as opened:
        partial = opened.enter_context(files.replacing(os.path.join(root, name)))
        stream: Any = opened.enter_context(open(partial, "wb"))
        if name.endswith(".gz"):
            stream = opened.enter_context(gzip.GzipFile("", "wb", 6, stream, mtime=0))
        yield opened.enter_context(io.TextIOWrapper(stream, "utf-8", newline="\n"))


def _lines(
    layout: tables.Layout, stays: Sequence[Stay], left_out: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Lines of mimic_inputs.jsonl.gz, in the order of stays, then of TASKS; what is left out is
    added to `left_out`.
    """
    values, more = events.collect(layout, stays)
    left_out.update(more)
    ecgs, more = media.ecgs(layout, stays)
    left_out.update(more)
    pictures, more = media.pictures(layout, stays)
    left_out.update(more)
    units = cohort.care_units(layout, {stay.hadm: n for n, stay in enumerate(stays)})
    for place, stay in enumerate(stays):
        for number, (name, task) in enumerate(TASKS.items()):
            label, why = cohort.label(stay, task)
            if why:
                left_out[f"{name}: {why}"] += 1
                continue
            predicted = stay.predicted(task)
            entered, unit = units.get(stay.hadm, (predicted + 1, ""))
            known = stay.arrived <= entered <= predicted
            yield {
                "id": record.hidden("admission", stay.hadm),
                "patient": record.hidden("patient", stay.subject),
                "task": name,
                "label": label,
                "arrived": tables.written(stay.arrived),
                "admitted": tables.written(stay.admitted),
                "predicted": tables.written(predicted),
                "outcome": {
                    "discharged": tables.written(stay.discharged),
                    "died": None if stay.died is None else tables.written(stay.died),
                },
                "sex": stay.sex,
                "age": stay.age_group,
                "admission_type": stay.kind,
                "admission_location": stay.place,
                "unit": {"name": unit, "source": record.UNITS, "time": tables.written(entered)}
                if known
                else None,
                "ecg": _medium(ecgs.get((name, place)), media.ECG),
                "xray": _medium(pictures.get((name, place)), media.XRAY),
                "values": list(_values(values, (number, place), stay)),
            }


def _medium(found: tuple[int, str] | None, source: str) -> dict[str, str] | None:
    if found is None:
        return None
    return {"path": found[1], "source": source, "time": tables.written(found[0])}


def _values(found: events.Values, at: tuple[int, int], stay: Stay) -> Iterator[list[Any]]:
    """Values of a stay in the columns of `record.COLUMNS`; the lowest and the highest only where
    they are not the last.
    """
    names = {0: "", int(stay.hadm): record.hidden("admission", stay.hadm)}
    for item, about in enumerate(ITEMS):
        last = found.value[(*at, item, 0)]
        for kind, name in enumerate(events.KINDS):
            place = (*at, item, kind)
            value = found.value[place]
            if value != value or (kind and value == last):
                continue
            of = int(found.hadm[place])
            yield [
                about.name,
                name,
                rounded(float(value)),
                about.table,
                tables.written(stay.arrived + int(found.charted[place])),
                tables.written(stay.arrived + int(found.stored[place])),
                names[of] if of in names else record.hidden("admission", str(of)),
            ]


def summary(report: Mapping[str, Any]) -> str:
    """The report in a few lines."""
    rows = ", ".join(f"{count} {split}" for split, count in report["rows"].items())
    found = [f"{report['dataset']}: {rows}; {report['patients']} patients"]
    for task, labels in report["labels"].items():
        if labels:
            told = ", ".join(f"{count} {label}" for label, count in labels.items())
            found.append(f"  {task}: {told}")
    found += [f"  left out: {one['records']}, {why}" for why, one in report["dropped"].items()]
    return "\n".join(found)
