"""The report's section on the real samples: few patients, so every number has its interval and a
constant answer beside it.
"""

from __future__ import annotations

from qoq_jax.evaluation import few, metrics
from qoq_jax.report.gallery import escape
from qoq_jax.report.run import Run
from qoq_jax.report.sections import source_rows


def real(run: Run) -> str:
    """Rows, patients, accuracy and macro-F1 of each question, then the rows; "" without any."""
    sides = {side: run.of_source(side, "real") for side in ("before", "after")}
    found = {side: few.summarize(rows) for side, rows in sides.items() if rows}
    if not found:
        return ""
    last = found.get("after") or found["before"]
    patients = last["all"]["patients"]
    whose = "patients that were not recorded" if patients is None else f"{patients} patients"
    listed = source_rows(run, "real") if "real" in run.other_sources else ""
    return (
        f"<p><strong>{few.WARNING}</strong> {last['all']['rows']:,} held-out rows of {whose}, kept "
        "apart from the synthetic rows. Rows of one patient are alike, so a question that one "
        f"patient answers is an anecdote.</p>{_table(found)}{_changes(sides)}{listed}"
    )


def _table(found: dict[str, dict]) -> str:
    """One line per question, and one for all."""
    last = found.get("after") or found["before"]
    lines = []
    for name, numbers in [*last["questions"].items(), ("All", last["all"])]:
        cells = []
        for metric in ("accuracy", "macro_f1"):
            for side in ("before", "after"):
                summary = found.get(side, {"questions": {}, "all": None})
                part = summary["all"] if name == "All" else summary["questions"].get(name)
                cells.append(_value(part, metric))
            cells.append(f"{numbers[f'constant_{metric}']:.2f}")
        known = "–" if numbers["patients"] is None else numbers["patients"]
        columns = (numbers["rows"], known, *cells)
        css = ' class="sum"' if name == "All" else ""
        lines.append(
            f"<tr{css}><td>{escape(name, 80)}</td>"
            + "".join(f'<td class="n">{cell}</td>' for cell in columns)
            + "</tr>"
        )
    headings = ["rows", "patients"]
    for metric in ("accuracy", "macro-F1"):
        headings += [f"{metric}, {what}" for what in ("before", "after", "constant")]
    head = "".join(f'<th class="n">{heading}</th>' for heading in headings)
    note = (
        "In brackets: 95 % intervals. Accuracy: Wilson, with the number of patients for n, as if "
        "all rows of a patient were one observation. Macro-F1: Bayesian bootstrap over patients, "
        f"then their rows, from {few.MIN_PATIENTS} patients on. Constant: an answer that is always "
        "the most frequent gold answer of these rows. All: accuracy over rows, macro-F1 the mean "
        "over questions."
    )
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="table">'
        f"<table><tr><th>question</th>{head}</tr>{''.join(lines)}</table></div>"
        f'<p class="note">{note}</p>'
    )


def _value(numbers: dict | None, metric: str) -> str:
    if numbers is None:
        return "–"
    limits = ", ".join(f"{limit:.2f}" for limit in numbers[f"{metric}_interval"])
    return f"{numbers[metric]:.2f}" + (f' <span class="was">[{limits}]</span>' if limits else "")


def _changes(sides: dict[str, list[dict]]) -> str:
    """How many rows became right, and how many wrong: the same rows before and after."""
    before, after = ({r["id"]: metrics.is_exact(r) for r in rows} for rows in sides.values())
    both = before.keys() & after.keys()
    if not both:
        return ""
    gained = sum(after[name] and not before[name] for name in both)
    lost = sum(before[name] and not after[name] for name in both)
    return (
        f"<p>Of {len(both):,} rows answered before and after, {gained:,} became right and "
        f"{lost:,} became wrong.</p>"
    )
