"""The one table of a sweep of evaluations, as CSV, Parquet and a page.

A row is what an evaluation says of one domain of one source: `domain` "" is all domains, `source`
"" all sources. Metrics are those of evaluation/metrics.py, over `responses`; of published questions
that are not classification those of evaluation/tasks/scores.py, where `domain` "" is all questions
and "closed", "open", "choice" or "set" those of a kind. `metric` names the first one, `value` is
its value again, and `stderr` the spread of a Bayesian bootstrap over patients (scores.py), empty
where all rows are of one patient. With several samples each response counts as a row, and of each
row

  any_exact_match    share of rows with at least one sample that is exactly right (pass@k)
  vote_exact_match   share of rows whose most frequent predicted set of labels is exactly right, the
                     first of equals (self-consistency, arXiv 2203.11171)

`best` marks, for each run, stage and way of decoding, the checkpoint with the highest macro-F1 on
task "validation", mean over seeds; the first of equals. Without that task none is marked.
"""

from __future__ import annotations

import collections
import csv
import functools
import io
import os
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from qoq_jax.base import files, terminal
from qoq_jax.data.answer_format import fold
from qoq_jax.evaluation import compare, metrics
from qoq_jax.evaluation.row_files import DONE
from qoq_jax.evaluation.tasks import scores
from qoq_jax.report import charts, style, tables
from qoq_jax.report.gallery import escape
from qoq_jax.sweep.evaluation_plan import Cell
from qoq_jax.sweep.tables import COLOURS

TABLE = "table.json"
METRICS = (
    "macro_f1",
    "exact_match",
    "acc",
    "acc_nearest",
    "token_f1",
    "token_recall",
    "any_exact_match",
    "vote_exact_match",
    "balanced_accuracy",
    "label_accuracy",
    "precision",
    "recall",
    "specificity",
    "auroc",
    "iou",
    "iou_over_half",
    "format",
    "unparseable",
    "reward",
)
# Column -> its type: of the values, and of Parquet's column.
COLUMNS: dict[str, type] = {
    "run": str,
    "stage": str,
    "step": int,
    "task": str,
    "decoding": str,
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "samples": int,
    "seed": int,
    "best": bool,
    "source": str,
    "domain": str,
    "rows": int,
    "responses": int,
    "metric": str,
    "value": float,
    "stderr": float,
    **dict.fromkeys(METRICS, float),
}
SHOWN = ("run", "stage", "step", "task", "decoding", "seed", "rows")
SHOWN_METRICS = ("macro_f1", "exact_match", "acc", "vote_exact_match", "auroc", "iou", "format")
# Names of scores.of_task -> columns; those of words are no recall and no F1 of labels.
_OF_ANSWERS = {
    "exact_match,none": "exact_match",
    "acc,none": "acc",
    "acc,nearest": "acc_nearest",
    "f1,none": "token_f1",
    "recall,none": "token_recall",
    "unparseable,none": "unparseable",
    "iou,none": "iou",
    "iou_over_half,none": "iou_over_half",
}

# ----------------------------------------------------------------------------- of one evaluation


def is_there(folder: str) -> bool:
    """Whether the evaluation in a folder is finished."""
    return os.path.exists(os.path.join(folder, TABLE))


def summarise(cell: Cell, folder: str) -> None:
    """Writes the rows of the table that a finished evaluation gives, if they are not there."""
    if is_there(folder):
        return
    records = files.read_json(os.path.join(folder, DONE))["records"]
    files.write_json(os.path.join(folder, TABLE), rows_of(cell, records))


def rows_of(cell: Cell, records: Sequence[dict]) -> list[dict[str, Any]]:
    """The rows of the table, without `best`, from the records of an evaluation in order."""
    labels = records[0].get("kind", "labels") == "labels"
    about = {
        "run": cell.run,
        "stage": cell.stage,
        "step": cell.step,
        "task": cell.task,
        "decoding": cell.decoding,
        "temperature": float(cell.how.temperature),
        "top_p": float(cell.how.top_p),
        "top_k": cell.how.top_k,
        "samples": cell.how.samples,
        "seed": cell.seed,
    }
    found = []
    for source, domain, mine, numbers in (_of_labels if labels else _of_answers)(records):
        of_these = {
            "source": source,
            "domain": domain,
            "rows": len({(r["source"], r["id"]) for r in mine}),
            "responses": len(mine),
        }
        several = cell.how.samples > 1 and mine[0].get("kind") != "region"
        found.append(about | of_these | numbers | (of_samples(mine) if several else {}))
    return found


# (source, domain, their records, their numbers)
_Part: TypeAlias = tuple[str, str, Sequence[dict], dict[str, Any]]


def _of_labels(records: Sequence[dict]) -> Iterator[_Part]:
    by_source: dict[str, list[dict]] = {"": list(records)}
    for r in records:
        by_source.setdefault(r["source"], []).append(r)
    if len(by_source) == 2:  # all of one source
        del by_source[records[0]["source"]]
    for source, of_it in by_source.items():
        group = metrics.summarize_group(of_it, draws=0)
        for domain, numbers in {"": group["overall"], **group["domains"]}.items():
            mine = [r for r in of_it if domain in ("", r["domain"])]
            error = scores.spread(mine, functools.partial(compare.macro_f1, mine))
            first = _first("macro_f1", numbers["macro_f1"], error)
            named = {name: numbers[name] for name in METRICS if name in numbers}
            yield source, domain, mine, first | named


def _of_answers(records: Sequence[dict]) -> Iterator[_Part]:
    for part, numbers in scores.of_task(records).items():
        mine = [r for r in records if part in ("", scores.kind_of(r))]
        first = next(iter(numbers)).partition(",")[0]  # as scores.py writes it first
        named = {_OF_ANSWERS[name]: n for name, n in numbers.items() if name in _OF_ANSWERS}
        error = numbers[f"{first}_stderr,none"]
        yield "", part, mine, _first(first, named[first], error) | named


def _first(metric: str, value: float, error: float | str | None) -> dict[str, Any]:
    """Without the rounding of sums, which differs between machines."""
    shown = round(error, 6) if isinstance(error, float) else None
    return {"metric": metric, "value": value, "stderr": shown}


def of_samples(records: Sequence[dict]) -> dict[str, float]:
    """any_exact_match and vote_exact_match of rows with several samples each."""
    rows: dict[tuple[str, str], list[dict]] = collections.defaultdict(list)
    for r in records:
        rows[r["source"], r["id"]].append(r)
    right = [any(map(_is_exact, samples)) for samples in rows.values()]
    voted = [_is_exact(_elected(samples)) for samples in rows.values()]
    return {
        "any_exact_match": statistics.fmean(right),
        "vote_exact_match": statistics.fmean(voted),
    }


def _is_exact(record: dict) -> bool:
    """As the record says where its question has rules of its own."""
    return record["exact"] if "exact" in record else metrics.is_exact(record)


def _elected(samples: Sequence[dict]) -> dict:
    """The first sample with the most frequent predicted set."""
    sets = [frozenset(map(fold, r["predicted"])) for r in samples]
    votes = collections.Counter(sets)
    return samples[max(range(len(sets)), key=lambda i: (votes[sets[i]], -i))]


# ------------------------------------------------------------------------------------- the table


def read(cells: Iterable[Cell], out: str) -> list[dict[str, Any]]:
    """The rows of all finished evaluations, in the order of the cells, with `best`."""
    rows = [
        row
        for folder in (cell.folder(out) for cell in cells)
        if is_there(folder)
        for row in files.read_json(os.path.join(folder, TABLE))
    ]
    best = best_steps(rows)
    return [row | {"best": best.get(_series(row)) == row["step"]} for row in rows]


def best_steps(rows: Sequence[dict]) -> dict[tuple[str, str, str], int]:
    """(run, stage, decoding) -> step of the best checkpoint on validation."""
    found: dict[tuple[str, str, str], int] = {}
    for key, points in curves(rows, "validation", "macro_f1").items():
        found[key] = max(points, key=lambda point: (point[1], -point[0]))[0]
    return found


def curves(rows: Sequence[dict], task: str, metric: str) -> dict[tuple, list[tuple[int, float]]]:
    """(run, stage, decoding) -> [(step, mean over seeds)] of all domains and sources."""
    scores: dict[tuple, dict[int, list[float]]] = {}
    for row in rows:
        if row["task"] == task and not row["domain"] and not row["source"]:
            by_step = scores.setdefault(_series(row), {})
            by_step.setdefault(row["step"], []).append(row[metric])
    return {
        key: [(step, statistics.fmean(values)) for step, values in sorted(by_step.items())]
        for key, by_step in scores.items()
    }


def _series(row: dict) -> tuple[str, str, str]:
    return row["run"], row["stage"], row["decoding"]


def write(cells: Sequence[Cell], out: str) -> None:
    """Writes OUT/table.csv, table.html, and table.parquet where pyarrow is."""
    rows = read(cells, out)
    files.write_text(os.path.join(out, "table.csv"), as_csv(rows))
    files.write_text(os.path.join(out, "table.html"), page(rows, len(cells)))
    write_parquet(rows, os.path.join(out, "table.parquet"))


def as_csv(rows: Sequence[dict]) -> str:
    """The table as CSV: floats with all their digits, nothing where a metric does not apply."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(COLUMNS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_parquet(rows: Sequence[dict], path: str) -> None:
    """Writes the table as Parquet, or nothing without pyarrow (extra `parquet`)."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return
    types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    types[bool] = pyarrow.bool_()
    schema = pyarrow.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    columns = {name: [row.get(name) for row in rows] for name in COLUMNS}
    with files.replacing(path) as partial:
        parquet.write_table(pyarrow.table(columns, schema=schema), partial)


def show(cells: Sequence[Cell], out: str) -> None:
    """Prints the rows of all domains, and where the files are."""
    rows = [row for row in read(cells, out) if not row["domain"] and not row["source"]]
    names = [*SHOWN, *(m for m in SHOWN_METRICS if any(m in row for row in rows))]
    shown = [[_cell(row, name) for name in names] for row in rows]
    terminal.table("Evaluations (* best on validation)", names, shown, plain=())
    path = os.path.join(out, "table")
    if os.path.exists(f"{path}.parquet"):
        print(f"table: {path}.html, {path}.csv, {path}.parquet")
    else:
        hint = "no table.parquet: pip install 'qoq_jax[parquet]'"
        print(f"table: {path}.html, {path}.csv ({hint})")


def _cell(row: dict, name: str) -> str:
    value = row.get(name)
    if name == "step":
        return f"{value}{'*' if row['best'] else ''}"
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


# --------------------------------------------------------------------------------------- the page


def page(rows: Sequence[dict], wanted: int) -> str:
    """The table as a page without scripts; learning curves where a run has several checkpoints."""
    done = len({tuple(row[name] for name in SHOWN[:-1]) for row in rows})
    parts = []
    for task in dict.fromkeys(row["task"] for row in rows):
        if chart := _chart(rows, task):
            parts.append(f"<section><h2>{escape(task)}</h2>{chart}</section>")
    whole = [row for row in rows if not row["domain"]]
    parts.append(f"<section><h2>All domains</h2>{_html(whole, ('source',))}</section>")
    by_domain = [row for row in rows if row["domain"]]
    parts.append(f"<section><h2>By domain</h2>{_html(by_domain, ('source', 'domain'))}</section>")
    head = (
        f'<header><p class="kicker">qoq sweep</p><h1>{done} of {wanted} evaluations</h1>'
        "<p>Steps with * are the best on validation.</p></header>"
    )
    body = f"{head}<main>{''.join(parts)}</main>"
    return style.PAGE.format(title="Evaluations", css=style.CSS, body=body)


def _chart(rows: Sequence[dict], task: str) -> str:
    found = curves(rows, task, "value")
    series = [
        charts.Series(" ".join(key), *zip(*points, strict=True), COLOURS[i % len(COLOURS)])
        for i, (key, points) in enumerate(found.items())
        if len(points) > 1
    ]
    metric = next(row["metric"] for row in rows if row["task"] == task)
    title = f"{metric} on {task}, mean over seeds"
    return charts.line_chart(title, series, width=760, height=420) if series else ""


def _html(rows: Sequence[dict], more: Sequence[str]) -> str:
    more = [name for name in more if any(row[name] for row in rows)]
    names = [*SHOWN, *more, *(m for m in METRICS if any(m in row for row in rows))]
    numbers = {name for name in names if COLUMNS[name] in (int, float)}

    def line(tag: str, cells: Iterable[str]) -> str:
        made = (
            f"<{tag}{' class=n' if name in numbers else ''}>{escape(cell)}</{tag}>"
            for name, cell in zip(names, cells, strict=True)
        )
        return f"<tr>{''.join(made)}</tr>"

    body = "".join(line("td", (_cell(row, name) for name in names)) for row in rows)
    return tables.scrolling("table", f"<table>{line('th', names)}{body}</table>")
