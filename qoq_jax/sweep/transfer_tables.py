"""The tables of a sweep of encoders: OUT/table.json and .csv (a line per run and data set), and .md
(as the CLIMB paper lays them out).

Means over seeds, or over draws, with 95 % intervals of Student's t; differences are paired.
"""

from __future__ import annotations

import csv
import io
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from qoq_jax.base import files, storage, terminal
from qoq_jax.sweep.tables import shown
from qoq_jax.sweep.transfer_plan import FEW_SHOT, MULTITASK, Cell, TransferSweep
from qoq_jax.transfer import few_shot, scores
from qoq_jax.transfer.run import RESULT

MARKDOWN = "table.md"
Line = dict[str, Any]
_SHORT = {"auroc": "AUC", "sensitivity": "Sens", "specificity": "Spec"}


def write(sweep: TransferSweep, cells: Sequence[Cell], out: str) -> None:
    """Writes the tables of the runs that are finished."""
    lines = collect(cells)
    files.write_json(os.path.join(out, "table.json"), lines)
    text = io.StringIO()
    if lines:
        names = dict.fromkeys(name for line in lines for name in line)
        writer = csv.DictWriter(text, list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    files.write_text(os.path.join(out, "table.csv"), text.getvalue())
    columns, rows = table(sweep, lines)
    body = [f"| {' | '.join(cells)} |" for cells in (columns, *rows)]
    body.insert(1, "|---" * len(columns) + "|")
    files.write_text(os.path.join(out, MARKDOWN), "\n".join(body) + "\n")


def show(sweep: TransferSweep, cells: Sequence[Cell]) -> None:
    """Prints the table."""
    columns, rows = table(sweep, collect(cells))
    terminal.table(
        sweep.experiment, columns, rows, plain=("  ".join(columns), *map("  ".join, rows))
    )


def collect(cells: Sequence[Cell]) -> list[Line]:
    """A line per run and data set of "multitask"; per target, start, method, shots and draw of
    "few_shot".
    """
    return [line for cell in cells for line in _lines(cell)]


def _lines(cell: Cell) -> list[Line]:
    folder = cell.config.workdir
    if not storage.exists(os.path.join(folder, "run.json")):
        return []
    facts = files.read_json(os.path.join(folder, "sets.json"))
    if cell.kind == FEW_SHOT:
        text = files.read_bytes(os.path.join(folder, few_shot.FILE)).decode()
        mine = {"target": cell.dataset, "domain": facts["target_domain"], "seed": cell.seed}
        return [mine | json.loads(line) for line in text.splitlines()]
    found = files.read_json(os.path.join(folder, RESULT))["sets"]
    return [
        {
            "domain": one["domain"],
            "dataset": name,
            "trained": cell.kind,
            "seed": cell.seed,
            "steps": cell.config.training.steps,
            "train": facts["trained_on"][name]["samples"]["train"],
            "test": one["count"],
            **{score: one[score] for score in scores.NAMES},
            # "" of a set whose test split is one patient
            **dict(zip(("auroc_low", "auroc_high"), one["auroc_interval"] or ("", ""))),
        }
        for name, one in found.items()
    ]


def table(
    sweep: TransferSweep, lines: Sequence[Line]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(columns, rows) as text."""
    return _few_shot(lines) if sweep.experiment == FEW_SHOT else _multitask(sweep, lines)


# --------------------------------------------------------------------------------------- multitask


def _multitask(
    sweep: TransferSweep, lines: Sequence[Line]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    kinds = [*sweep.budgets, MULTITASK]
    said = {kind: kind if kind == MULTITASK else f"single, same {kind}" for kind in kinds}
    columns = ["domain", "data set", "train"]
    columns += [f"{said[kind]}: {_SHORT[score]}" for kind in kinds for score in scores.NAMES]
    columns += [f"AUC less {said[kind]}" for kind in sweep.budgets]
    groups: dict[str, list[str]] = {}
    for line in lines:
        groups.setdefault(line["domain"], [])
        if line["dataset"] not in groups[line["domain"]]:
            groups[line["domain"]].append(line["dataset"])
    every = [name for names in groups.values() for name in names]
    rows = []
    for domain, names in groups.items():
        for name in names:
            train = str(next(line["train"] for line in lines if line["dataset"] == name))
            rows.append((domain, name, train, *_row(lines, [name], kinds)))
        if len(names) > 1:
            rows.append((domain, "mean", "", *_row(lines, names, kinds)))
    if every:
        rows.append(("all", "mean", "", *_row(lines, every, kinds)))
    return tuple(columns), rows


def _row(lines: Sequence[Line], names: Sequence[str], kinds: Sequence[str]) -> list[str]:
    """Scores of each kind of run, means over the sets, and differences of multitask's AUC."""
    found = {
        kind: {score: _by_seed(lines, names, kind, score) for score in scores.NAMES}
        for kind in kinds
    }
    cells = [shown(list(found[kind][score].values())) for kind in kinds for score in scores.NAMES]
    multi = found[MULTITASK]["auroc"]
    for kind in kinds[:-1]:
        alone = found[kind]["auroc"]
        cells.append(shown([multi[s] - alone[s] for s in multi if s in alone], signed=True))
    return cells


def _by_seed(
    lines: Sequence[Line], names: Sequence[str], kind: str, score: str
) -> dict[int, float]:
    """Seed -> mean over the sets, of the seeds that have all of them."""
    of: dict[int, dict[str, float]] = {}
    for line in lines:
        if line["trained"] == kind and line["dataset"] in names:
            of.setdefault(line["seed"], {})[line["dataset"]] = line[score]
    whole = {seed: found for seed, found in of.items() if len(found) == len(names)}
    return {seed: statistics.fmean(found.values()) for seed, found in whole.items()}


# ---------------------------------------------------------------------------------------- few-shot


def _few_shot(lines: Sequence[Line]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    starts = (few_shot.RANDOM, few_shot.ONE_OTHER, few_shot.ALL_OTHERS)
    columns = ("domain", "target", "method", "per label", *starts)
    columns += (f"{starts[2]} less {starts[0]}", f"{starts[2]} less {starts[1]}")
    rows = []
    wanted = dict.fromkeys(
        (line["domain"], line["target"], line["method"], line["shots"]) for line in lines
    )
    for key in wanted:
        of = {start: _by_draw(lines, key, start) for start in starts}
        differences = [
            [
                of[starts[2]][draw] - area
                for draw, area in of[other].items()
                if draw in of[starts[2]]
            ]
            for other in starts[:2]
        ]
        cells = [shown(list(of[start].values())) for start in starts]
        cells += [shown(one, signed=True) for one in differences]
        rows.append((*key[:3], str(key[3]), *cells))
    return columns, rows


def _by_draw(
    lines: Sequence[Mapping[str, Any]], key: tuple[Any, ...], start: str
) -> dict[tuple[int, int], float]:
    names = ("domain", "target", "method", "shots")
    return {
        (line["seed"], line["draw"]): line["auroc"]
        for line in lines
        if tuple(line[name] for name in names) == key and line["start"] == start
    }
