"""The report's sections on what is evaluated beside the test rows before and after RL: every
evaluation of the run, and the published tasks of `qoq evaluate --tasks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qoq_jax.evaluation import paper_table
from qoq_jax.report import subgroups, tables
from qoq_jax.report.gallery import escape, title
from qoq_jax.report.run import Run

STAGES = {"sft": "warm start", "align": "alignment", "rl": "RL"}
COLUMNS = {
    "macro_f1": "macro-F1",
    "exact_match": "exact match",
    "balanced_accuracy": "balanced acc.",
    "auroc": "AUROC",
    "iou": "IoU",
    "format": "format",
}


def every(run: Run) -> str:
    """A row per stage, split and data set; "" where the other sections have shown all of it."""
    shown = {(stage, "test") for stage in run.stages.values()}
    if not set(run.evaluations) - shown:
        return ""
    rows = []
    for (stage, split), content in run.evaluations.items():
        for source, group in content.get("summary", {}).get("sources", {}).items():
            values, span = group["overall"], group["overall"].get("macro_f1_interval")
            rows.append(
                [
                    f"after {STAGES[stage]}",
                    split,
                    escape(source, 60),
                    f"{group['count']:,}",
                    *(tables.change(None, values.get(key)) for key in COLUMNS),
                    f"{span[0]:.2f} to {span[1]:.2f}" if span else "–",
                ]
            )
    headings = ["stage", "split", "data set", "rows", *COLUMNS.values(), "macro-F1, 95 %"]
    return rows and (
        "<p>All rows that were evaluated after each stage. The sections above are about test rows "
        "alone.</p>" + tables.table(headings, rows, (0, 1, 2))
    )


# -------------------------------------------------------------------------------------------- tasks


def tasks(run: Run) -> str:
    """Published tasks: a row per task and metric with its standard error, the groups, and of tasks
    of classification the paper's table, calibration and fairness; "" without any.
    """
    found = run.tasks
    if not found.get("results"):
        return ""
    counts, config, own = (found.get(key, {}) for key in ("n-samples", "config", "qoq"))
    limit = config.get("limit")
    words = f"the first {limit:,} questions of each" if limit else "all questions"
    out = (
        f"<p>Published tasks (qoq evaluate --tasks), {words}"
        f"{', asked for a boxed answer' if config.get('boxed') else ''}. Standard errors weigh "
        "patients, or pictures where no patient is known.</p>"
    )
    rows = [row for name, one in found["results"].items() for row in _rows(name, one, counts)]
    out += tables.table(["task", "questions", "metric", "value"], rows, (0, 2))
    if groups := [
        row for name, one in found.get("groups", {}).items() for row in _rows(name, one, {})
    ]:
        out += "<h3>Groups of tasks</h3>" + tables.table(
            ["group", "metric", "value"], [row[:1] + row[2:] for row in groups], (0, 1)
        )
    if made := own.get("table"):
        out += "<h3>The paper's table</h3>" + _paper_table(made)
    if sure := own.get("calibration"):
        out += (
            f"<p>Confidence on {sure['count']:,} of these rows: expected calibration error "
            f"{sure['ece']:.3f}, Brier score {sure['brier']:.3f}, area under the risk-coverage "
            f"curve {sure['aurc']:.3f}.</p>"
        )
    if own.get("fairness"):
        out += "<h3>Fairness on these tasks</h3>" + subgroups.of_sides({"after": own["fairness"]})
    return out


def _rows(name: str, numbers: Mapping, counts: Mapping) -> list[list[str]]:
    """A row per metric, the task's name in the first one."""
    rows: list[list[str]] = []
    for key, value in numbers.items():
        metric, _, how = key.partition(",")
        if not how or metric.endswith("_stderr"):
            continue
        error = numbers.get(f"{metric}_stderr,{how}")
        rows.append(
            [
                "" if rows else escape(name, 80),
                f"{counts[name]['original']:,}" if name in counts and not rows else "",
                escape(metric if how == "none" else f"{metric} ({how})", 60),
                f"{value:.3f}" + (f" ± {error:.3f}" if isinstance(error, float) else ""),
            ]
        )
    return rows


def _paper_table(made: Mapping) -> str:
    columns: Sequence[str] = [*made["domains"], "vision", "all"]
    rows = [
        [
            escape(paper_table.TITLES[name], 80),
            *(tables.change(None, values.get(column), ".3f") for column in columns),
        ]
        for name, values in made["rows"].items()
    ]
    return tables.table(["", *(escape(title(one), 40) for one in columns)], rows)
