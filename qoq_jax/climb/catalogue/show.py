"""The catalogue as text: lines of `qoq data list`, pages of `qoq data info`, JSON and CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from qoq_jax.climb import sizes
from qoq_jax.climb.catalogue import citations, select
from qoq_jax.climb.catalogue.table import Dataset, Source, licences

COLUMNS = (
    "name",
    "domain",
    "records",
    "train",
    "test",
    "labels",
    "licence",
    "commercial",
    "access",
)
LICENCE_COLUMNS = ("name", "licence", "commercial", "pass on", "why")


def cells(row: Dataset) -> tuple[str, ...]:
    """One line of the list; a star marks counts of the paper that do not add up."""
    return (
        row.name,
        row.domain,
        _count(row.records) + ("" if row.adds_up else "*"),
        _count(row.train),
        _count(row.test),
        str(len(row.labels) or ""),
        row.licence.removeprefix("LicenseRef-"),
        select.permission(row),
        row.access.kind,
    )


def licence_cells(row: Dataset) -> tuple[str, ...]:
    """One line of the licence view; (SA): under the same licence only."""
    return (
        row.name,
        row.licence.removeprefix("LicenseRef-"),
        select.permission(row),
        select.permission(row, "redistribution")
        + (" (SA)" if licences()[row.licence].share_alike else ""),
        select.reason(row),
    )


# Left out of the list one after the other where a terminal is too narrow.
_SPARE = ("test", "train", "labels", "domain", "access", "licence")


def fitting(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> tuple[list[str], list[list[str]]]:
    """The columns and rows of a list without those of `_SPARE` that `width` has no room for."""
    kept = list(range(len(columns)))
    for name in ("", *_SPARE):
        kept = [i for i in kept if columns[i] != name]
        widest = [max(len(line[i]) for line in (columns, *rows)) for i in kept]
        if sum(widest) + 3 * len(kept) + 1 <= width:
            break
    return [columns[i] for i in kept], [[row[i] for i in kept] for row in rows]


def page(row: Dataset, width: int) -> str:
    """Everything about one data set, in lines of at most `width` where words allow it."""
    licence = licences()[row.licence]
    facts = [
        ("domain", f"{row.domain}: {row.modality}"),
        ("dimensions", row.dimensionality),
        ("task", row.task),
        ("labels", ", ".join(row.labels)),
        ("in the source", "; ".join(row.source_labels)),
        ("also", "; ".join(row.also)),
        ("regions", ", ".join(row.regions)),
        ("windows", "; ".join(f"{w.name} {w.level} / {w.width} HU" for w in row.windows)),
        ("records", _records(row)),
        ("", row.records_note),
        ("patients", f"{row.patients:,}" if row.patients else "not known"),
        ("grouped by", row.patient_key),
        ("split", f"{_SPLITS[row.split]}: {row.split_note}"),
        ("QoQ-Med", "one of its thirty classification sets" if row.qoq_med else "no"),
        ("licence", f"{licence.title} ({licence.id}), {licence.url}"),
        ("", f"in CLIMB: {row.climb_licence}" if row.climb_licence else ""),
        ("commercial", f"{select.permission(row)}: {select.reason(row)}"),
        ("passing on", select.permission(row, "redistribution") + _share_alike(row)),
        ("homepage", row.homepage),
    ]
    facts += [("not certain", f"{field}: {why}") for field, why in row.unsure.items()]
    lines = [f"{row.name}: {row.title}", ""]
    for name, value in facts:
        if value:
            lines += _fact(name, value, width)
    lines += ["", "How to get it", *_access(row, width), "", "Citation", ""]
    lines += [citations.load()[key] for key in row.citation]
    return "\n".join(lines)


_SPLITS = {"source": "the source's own", "patient": "our own"}


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _records(row: Dataset) -> str:
    if row.records is None:
        return f"not counted ({row.unit})"
    parts = "" if row.train is None else f" (train {row.train:,}, test {row.test or 0:,})"
    wrong = "" if row.adds_up else ", which do not add up"
    return f"{row.records:,}{parts}{wrong}, unit: {row.unit}"


def _share_alike(row: Dataset) -> str:
    return ", under the same licence" if licences()[row.licence].share_alike else ""


def _fact(name: str, value: str, width: int) -> list[str]:
    return textwrap.wrap(
        value,
        max(width, 40),
        initial_indent=f"  {name:<14}",
        subsequent_indent=" " * 16,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _access(row: Dataset, width: int) -> list[str]:
    access = row.access
    lines = _fact("route", _route(access), width)
    if access.files:
        lines += _fact("files", ", ".join(access.files), width)
    if access.bytes:
        lines += _fact("size", sizes.readable(access.bytes), width)
    for number, step in enumerate(access.steps, 1):
        lines += _fact(f"{number}.", step, width)
    if access.kind != "request":
        lines += _fact("then", f"qoq data download {row.name} --root DIR", width)
    for check in access.checks:
        files = "" if check.count is None else f" ({check.count:,})"
        lines += _fact("complete with", f"{check.path}{files}", width)
    return lines


def _route(access: Source) -> str:
    version = f", version {access.version}" if access.version else ""
    return f"{access.kind}: {access.source}{version}"


# ----------------------------------------------------------------------------- for other programs


def as_dict(row: Dataset) -> dict[str, Any]:
    """All fields, with what the licence allows and the BibTeX text."""
    fields = dataclasses.asdict(dataclasses.replace(row, unsure=dict(row.unsure)))
    fields["adds_up"] = row.adds_up
    fields["commercial"] = select.permission(row)
    fields["redistribution"] = select.permission(row, "redistribution")
    fields["share_alike"] = licences()[row.licence].share_alike
    fields["bibtex"] = [citations.load()[key] for key in row.citation]
    return fields


def to_json(rows: Iterable[Dataset]) -> str:
    return json.dumps([as_dict(row) for row in rows], indent=2, ensure_ascii=False)


def to_csv(rows: Iterable[Dataset]) -> str:
    """One line per data set; lists are joined by "; ", access and unsure are JSON."""
    table = [as_dict(row) for row in rows]
    out = io.StringIO()
    names = [field.name for field in dataclasses.fields(Dataset)]
    names += ["adds_up", "commercial", "redistribution", "share_alike"]
    writer = csv.DictWriter(out, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for fields in table:
        writer.writerow({name: _cell(value) for name, value in fields.items()})
    return out.getvalue().rstrip("\n")


def _cell(value: Any) -> Any:
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        return "; ".join(value)
    return (
        json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list | tuple) else value
    )
