"""The whole of a conversion: its tasks, then one merge into row files, with a report of what was
left out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple

from qoq_jax.base import files
from qoq_jax.base.errors import DataError
from qoq_jax.climb import pipeline
from qoq_jax.climb.convert import splits, tasks
from qoq_jax.climb.convert.example import Converter, Dropped, Example
from qoq_jax.data import rows as schema

REPORT = "conversion.json"
_SHOWN = 5  # ids per reason in the report


def convert(
    converter: Converter, root: str | os.PathLike, seed: int = 0, run: pipeline.Run = pipeline.here
) -> dict[str, Any]:
    """Writes train.jsonl, validation.jsonl, test.jsonl and conversion.json into `root`, beside the
    media, and returns the content of the last one.

    The same folder and seed give the same bytes, whatever runs the tasks. What a conversion that
    was ended has made is kept. Files of an earlier conversion are replaced, each at once; one of a
    split that is empty now is removed.

    Raises:
      DataError: the folder is not laid out as published, or gives no row; or a file or cell of a
        task cannot be read, after the other tasks.
      ConfigError: another process converts in this folder.
    """
    work = tasks.Conversion(converter, os.fspath(root), seed)
    with tasks.alone(work):
        planned, dropped = tasks.plan(work)
        run(tasks.make, [task.number for task in planned if not task.done], work)
        with tempfile.TemporaryFile(dir=work.root) as spool:
            known = _gather(work, planned, dropped, spool)
            report = _merge(work, known, dropped, spool)
        tasks.remove(work)
    return report


class _Known(NamedTuple):
    """What is known of a row before it is written: its patient, the source's split, and which bytes
    of the spool hold it.
    """

    patient: str
    split: str
    start: int
    length: int


def _gather(
    work: tasks.Conversion, planned: Iterable[tasks.Task], dropped: list[Dropped], spool: IO[bytes]
) -> dict[str, _Known]:
    """Copies the rows of all parts into `spool` and adds to `dropped` what they left out; returns
    what is known of the rows, by id.

    Raises:
      DataError: a task has failed, or two rows have one id.
    """
    known: dict[str, _Known] = {}
    for task in planned:
        left_out, lines = tasks.read(task, work)
        dropped += left_out
        for line in lines:
            row = json.loads(line)
            if row["id"] in known:
                raise DataError(f"two records have the id {row['id']!r}", where=work.root)
            found = _Known(row.get("patient", ""), row.get("split", ""), spool.tell(), len(line))
            known[row["id"]] = found
            spool.write(line)
    return known


def _merge(
    work: tasks.Conversion, known: dict[str, _Known], dropped: Sequence[Dropped], spool: IO[bytes]
) -> dict[str, Any]:
    """Writes the row files, by id, and the report; returns the latter."""
    name, left_out = work.converter.name, _by_reason(dropped)
    if not known:
        why = "; ".join(f"{len(ids)} {reason}" for reason, ids in left_out.items())
        raise DataError(
            f"no record of {name} gives a row" + (f": {why}" if why else ""),
            where=work.root,
            hint="give the folder into which the published archives were unpacked",
        )
    examples = (Example(one, (), row.patient, row.split) for one, row in known.items())
    chosen = splits.assign(examples, name, work.seed)
    counts: dict[str, Counter[str]] = {split: Counter() for split in schema.SPLITS}
    used = [split for split in schema.SPLITS if split in chosen.values()]
    with _row_files(work.root, used) as out:
        for identity in sorted(known):
            split = chosen[identity]
            spool.seek(known[identity].start)
            row = schema.parse(spool.read(known[identity].length), f"{name}: {identity}")
            row = dataclasses.replace(row, split=split)
            out[split].write(json.dumps(row.to_dict(), ensure_ascii=False) + "\n")
            counts[split].update(row.answers)
    for split in set(schema.SPLITS) - set(used):
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(work.root, f"{split}.jsonl"))
    report = {
        "dataset": name,
        "seed": work.seed,
        "rows": {split: sum(1 for s in chosen.values() if s == split) for split in counts},
        "labels": {split: dict(sorted(found.items())) for split, found in counts.items()},
        "patients": len({row.patient for row in known.values()}),
        "own_split": sum(1 for row in known.values() if row.split),
        "splits_sha256": splits.fingerprint(chosen),
        "dropped": dropped_facts(left_out),
    }
    files.write_json(os.path.join(work.root, REPORT), report)
    return report


@contextlib.contextmanager
def _row_files(root: str, used: Iterable[str]) -> Iterator[dict[str, IO[str]]]:
    """{split: its row file}, which appear whole."""
    with contextlib.ExitStack() as opened:
        out = {}
        for split in used:
            path = os.path.join(root, f"{split}.jsonl")
            partial = opened.enter_context(files.replacing(path))
            out[split] = opened.enter_context(open(partial, "w", encoding="utf-8"))
        yield out


def _by_reason(dropped: Iterable[Dropped]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in dropped:
        found.setdefault(one.reason, []).append(one.id)
    return found


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
