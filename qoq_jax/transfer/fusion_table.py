"""The table of a comparison of fusions, in Markdown and CSV."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from typing import Any

from qoq_jax.base import files

TASKS = {"los": "length of stay, 4 bins", "ihm": "death within 48 h"}
METHODS = {
    "late": "late",
    "concat": "MLP on concatenated features",
    "attention": "cross-attention",
    "head": "own head",
}
_AREAS = {
    "all": "AUROC, all",
    "complete": "AUROC, with all media",
    "over_record": "gain over the record",
    "over_random": "gain over random encoders",
}


def write(folder: str, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes fusion.md and fusion.csv, and prints the former."""
    text = markdown(results)
    files.write_text(os.path.join(folder, "fusion.md"), text)
    files.write_text(os.path.join(folder, "fusion.csv"), _csv(results))
    print(text)


def markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One table per task: 100 x macro AUROC with 95 % of a bootstrap over patients."""
    parts = []
    for task, result in results.items():
        counts = result["counts"]
        parts += [
            f"**{TASKS[task]}**: {counts['train']} admissions for training, {counts['all']} for "
            f"testing ({counts['complete']} with all media), {result['seeds']} seeds",
            "",
            f"| inputs | fusion | encoders | {' | '.join(_AREAS.values())} | sensitivity | "
            "specificity |",
            f"|---|---|---|{'---|' * (len(_AREAS) + 2)}",
        ]
        for row in result["rows"]:
            cells = [row["inputs"], METHODS[row["method"]], row["encoders"] or "-"]
            if row["inputs"] == "record":
                cells[1] = "-"
            cells += [_cell(row.get(name), name.startswith("over")) for name in _AREAS]
            cells += [
                f"{100 * row[name]:.1f}" if name in row else "-"
                for name in ("sensitivity", "specificity")
            ]
            parts.append(f"| {' | '.join(cells)} |")
        parts.append("")
    return "\n".join(parts)


def _cell(found: Mapping[str, Any] | None, signed: bool) -> str:
    if not found:
        return "-"
    sign = "+" if signed else ""
    low, high = found["interval"]
    return f"{100 * found['value']:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def _csv(results: Mapping[str, Mapping[str, Any]]) -> str:
    out = io.StringIO()
    columns = [f"{name}{end}" for name in _AREAS for end in ("", "_low", "_high")]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["task", "inputs", "method", "encoders", *columns, "sensitivity", "specificity"]
    )
    for task, result in results.items():
        for row in result["rows"]:
            numbers = []
            for name in _AREAS:
                found = row.get(name)
                numbers += [found["value"], *found["interval"]] if found else ["", "", ""]
            writer.writerow(
                [task, row["inputs"], row["method"], row["encoders"], *numbers]
                + [row.get(name, "") for name in ("sensitivity", "specificity")]
            )
    return out.getvalue()
