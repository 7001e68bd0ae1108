"""The report's section on fairness by attributes of patients: each group's F1, the worst one, and
the gaps between them, as evaluation/fairness.py has measured them.
"""

from __future__ import annotations

from collections.abc import Mapping

from qoq_jax.evaluation import fairness
from qoq_jax.report import charts, tables
from qoq_jax.report.gallery import escape, title
from qoq_jax.report.run import Run

MEASURES = {
    "f1_gap": "F1 gap",
    "equalized_odds_difference": "equalised odds difference",
    "f1_es": "equity-scaled F1",
    "f1_std": "F1 std",
    "tpr_gap": "TPR gap",
    "fpr_gap": "FPR gap",
    "fdr_gap": "FDR gap",
}
NAMES = {"sex": "sex", "age_band": "age", "site": "site", "device": "device"}
MOST_SETS = 40  # data sets of a chart


def fairness_by_group(run: Run) -> str:
    """A part per attribute; "" where the evaluations have no attributes with two groups large
    enough.
    """
    sides = run.parts("fairness")
    if not sides:
        return ""
    return (
        "<p>Groups of patients, each data set by itself. Rates are means over the labels that "
        "occur in every group shown, so that a gap does not say that groups have other diseases. "
        "The gap is the best group's F1 less the worst group's; the equalised odds difference is "
        "the larger of the gaps in true- and false-positive rate. A group of fewer than "
        f"{fairness.MIN_PATIENTS} patients is not shown. A gap is never negative: an interval "
        "above 0 is no proof of one.</p>" + of_sides(sides)
    )


def of_sides(sides: Mapping[str, dict]) -> str:
    """The same of results of `fairness.summarize`: side -> result, the later one last."""
    names = [name for name in NAMES if any(name in found for found in sides.values())]
    return "".join(
        f"<h3>By {NAMES[name]}</h3>"
        + _of_attribute({side: found[name] for side, found in sides.items() if name in found})
        for name in names
    )


def _of_attribute(sides: Mapping[str, dict]) -> str:
    """The chart of the last side, the measures of both, and the rates of each group."""
    then, now = _pair(sides)
    names = sorted({key for found in sides.values() for key in found["datasets"]})
    last = list(sides.values())[-1]["datasets"]
    measures, groups = [], []
    for name in names:
        was, is_ = (side and side["datasets"].get(name) for side in (then, now))
        shown = is_ or was
        measures.append(
            [
                _title(name),
                f"{escape(shown['worst'], 40)} ({shown['groups'][shown['worst']]['f1']:.2f})",
                *(_measure(was, is_, key) for key in MEASURES),
            ]
        )
        groups += _groups(name, was, is_)
    means = [side and side["mean"] for side in (then, now)]
    measures.append(["Mean over data sets", "", *(_measure(*means, key) for key in MEASURES)])
    of_groups = ("data set", "group", "rows", "patients", "F1", "TPR", "FPR", "FDR")
    return (
        tables.figure(
            dots({name: last[name] for name in list(last)[:MOST_SETS]}),
            "F1 of each group; the line is the gap, the worst group is named.",
        )
        + tables.table(["data set", "worst group (F1)", *MEASURES.values()], measures, (0, 1), 1)
        + f'<p class="note">{"Grey: before RL. " if then else ""}In brackets: 95 % intervals, '
        "Bayesian bootstrap over patients.</p><details><summary>Every group</summary>"
        + tables.table(of_groups, groups, (0, 1))
        + _hidden(last)
        + "</details>"
    )


def _pair(sides: Mapping[str, dict]) -> tuple[dict | None, dict | None]:
    """(before, after); a side alone is what is now."""
    return (sides.get("before"), sides["after"]) if "after" in sides else (None, sides["before"])


def _title(name: str) -> str:
    domain, dataset = name.split("/", 1)
    return f"{escape(dataset, 60)} ({escape(title(domain), 40)})"


def _measure(was: dict | None, is_: dict | None, key: str) -> str:
    shown = is_ or was
    cell = tables.change(was and was[key], is_ and is_[key])
    if span := shown.get(f"{key}_interval"):
        cell += f" [{span[0]:.2f}, {span[1]:.2f}]"
    return cell


def _groups(name: str, was: dict | None, is_: dict | None) -> list[list[str]]:
    shown = is_ or was
    rows = []
    for value, found in shown["groups"].items():
        then = (was or {}).get("groups", {}).get(value) if is_ else None
        worst = value == shown["worst"]
        rows.append(
            [
                _title(name),
                f"<b>{escape(value, 40)}</b>, worst" if worst else escape(value, 40),
                f"{found['count']:,}",
                f"{found['patients']:,}",
                *(tables.change(then and then[k], found[k]) for k in ("f1", "tpr", "fpr", "fdr")),
            ]
        )
    return rows


def _hidden(sets: Mapping[str, dict]) -> str:
    count = sum(one["hidden"] for one in sets.values())
    return f'<p class="note">Groups that are too small to show: {count}.</p>' if count else ""


def dots(sets: Mapping[str, dict]) -> str:
    """A row per data set with a dot at each group's F1, and a line over the gap."""
    left, right, pitch, top, width = 250, 24, 40, 26, 760
    scale, height = width - left - right, top + pitch * len(sets)
    body = []
    for value in (0, 0.25, 0.5, 0.75, 1):
        x = left + value * scale
        body += [
            charts.line(x, top - 8, x, height),
            charts.text(x, 12, f"{value:g}", 11, charts.MUTED, "middle"),
        ]
    for place, (name, one) in enumerate(sets.items()):
        y = top + pitch * (place + 0.5)
        domain, dataset = name.split("/", 1)
        body += [
            charts.text(0, y - 2, _cut(dataset, 34), 13, extra='font-weight="600"'),
            charts.text(0, y + 13, title(domain), 11, charts.MUTED),
        ]
        body += _dots_of(one, left, scale, y)
    said = "; ".join(
        f"{name} worst {one['worst']}, gap {one['f1_gap']:.2f}" for name, one in sets.items()
    )
    return charts.svg(width, height + 4, body, said)


def _dots_of(one: dict, left: float, scale: float, y: float) -> list[str]:
    places = {value: left + group["f1"] * scale for value, group in one["groups"].items()}
    body = [charts.line(min(places.values()), y, max(places.values()), y, charts.BEFORE, 3)]
    worst = one["worst"]
    for value, x in places.items():
        colour = "#c2571a" if value == worst else charts.AFTER
        body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>')
    # On the free side of the worst dot, which is the left end of the line.
    anchor, x = ("end", places[worst] - 9) if places[worst] > left + 90 else ("start", left + 4)
    lower = 0 if anchor == "end" else 16
    body.append(charts.text(x, y + 4 + lower, _cut(worst, 16), 11, charts.MUTED, anchor))
    return body


def _cut(words: str, length: int) -> str:
    return words if len(words) <= length else words[: length - 1] + "…"
