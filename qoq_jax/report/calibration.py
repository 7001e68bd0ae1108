"""The report's sections on confidence: reliability diagrams, the fitted temperature, and what is
left of the errors when the model may keep silent where it is unsure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from qoq_jax.evaluation import calibration as numbers
from qoq_jax.report import charts, sections, tables
from qoq_jax.report.run import SIDES, Run

COLOURS = {"before": charts.BEFORE, "after": charts.AFTER}
COVERAGES = (1.0, 0.9, 0.75, 0.5, 0.25, 0.1)  # shares of the rows that are answered, of the table


def calibration(run: Run) -> str:
    """Of the main data set; "" where the evaluations have no scores (`eval.scores`)."""
    sides = {side: run.of_source(side, run.main_source) for side in SIDES}
    tiles = [_tile(rows, COLOURS[side], SIDES[side]) for side, rows in sides.items()]
    if not any(tiles):
        return ""
    return (
        "<p>The model's probability of the label that it finds likeliest (across), and how often "
        "that label is right (up). On the dashed line the two agree; below it the model is too "
        "sure. The area of a dot is its share of the rows.</p>"
        f'<div class="grid2">{"".join(tiles)}</div>{_temperature(run, sides)}'
    )


def _tile(records: Sequence[dict], colour: str, name: str) -> str:
    """A reliability diagram with its numbers; "" without scores."""
    found = numbers.summarize(records)
    if found is None:
        return ""
    words = (
        f"{found['count']:,} rows · expected calibration error {found['ece']:.3f} · "
        f"Brier score {found['brier']:.3f} · area under the risk-coverage curve "
        f"{found['aurc']:.3f}"
    )
    drawn = reliability(found["bins"], colour, name)
    return f"<figure><h3>{name}</h3>{drawn}<figcaption>{words}</figcaption></figure>"


def _temperature(run: Run, sides: Mapping[str, Sequence[dict]]) -> str:
    """What `qoq evaluate --temperature` has found: a row per side, and the main data set's diagram
    at that temperature.
    """
    found = run.parts("temperature")
    if not found:
        return ""
    low, high = numbers.TEMPERATURES
    headings = {"nll": "NLL", "ece": "calibration error", "brier": "Brier score", "aurc": "AURC"}
    rows = [
        [
            SIDES[side],
            f"{one['temperature']:.3f}",
            f"{one['fitted_on']:,}",
            *(tables.change(one["before"][key], one["after"][key], ".3f") for key in headings),
        ]
        for side, one in found.items()
    ]
    tiles = (
        _tile(numbers.rescaled(sides[side], one["temperature"]), COLOURS[side], f"{name}, rescaled")
        for side, one in found.items()
        if (name := SIDES[side])
    )
    return (
        "<h3>Before and after one temperature</h3><p>The probabilities of the test rows, p, become "
        "softmax(log p / T), with the T of least negative log-likelihood (NLL) on the validation "
        f"rows, from {low:g} to {high:g}. A T above 1 says that the model was too sure. The "
        "likeliest label stays.</p>"
        + tables.table(["evaluation", "T", "validation rows", *headings.values()], rows)
        + '<p class="note">Of all data sets together. Grey: at T = 1. AURC: area under the '
        f'risk-coverage curve.</p><div class="grid2">{"".join(tiles)}</div>'
    )


def selective(run: Run) -> str:
    """Selective prediction on the main data set: errors by the share of the rows that the model
    answers, the surest ones; "" without scores.
    """
    curves, columns = {}, {}
    for side in SIDES:
        confidence, right = numbers.confidences(run.of_source(side, run.main_source))
        if len(confidence):
            curves[side] = numbers.risks(confidence, right)
            columns[side] = [_kept(curves[side], confidence, share) for share in COVERAGES]
    if not curves:
        return ""
    headings = ["share answered"]
    for side in columns:
        headings += [f"{words}, {SIDES[side]}" for words in ("error", "from confidence")]
    rows = [
        [f"{share:.0%}", *(cell for side in columns.values() for cell in side[place])]
        for place, share in enumerate(COVERAGES)
    ]
    return (
        "<p>A model that is unsure may leave a row to a clinician. Across is the share of the rows "
        "that it answers, those of the highest probability of the likeliest label first; up is the "
        "share of errors among them. A line that rises to the right says that its probabilities "
        "tell which answers to trust; a flat one that they do not.</p>"
        + sections.keys(curves)
        + tables.figure(
            risk_coverage(curves),
            "At the right end every row is answered; at the left few rows make the line jump.",
        )
        + tables.table(headings, rows)
    )


def _kept(risks: np.ndarray, confidence: np.ndarray, share: float) -> tuple[str, str]:
    """Error and least confidence of a share of the rows, rounded up to a whole number of them."""
    count = math.ceil(share * len(risks) - 1e-9)
    return f"{risks[count - 1]:.3f}", f"{np.sort(confidence)[-count]:.2f}"


def risk_coverage(curves: Mapping[str, np.ndarray]) -> str:
    """Lines of the error over the share of the rows that are answered: side -> `numbers.risks`."""
    width, height, left, top = 690, 220, 40, 12
    high = max(0.05, *(float(risks.max()) for risks in curves.values()))
    body = []
    for value in charts.ticks(0, high, 5):
        y = top + (1 - value / high) * height
        body += [
            charts.line(left, y, left + width, y),
            charts.text(left - 6, y + 4, f"{value:g}", 11, charts.MUTED, "end"),
        ]
    for value in (0, 0.25, 0.5, 0.75, 1):
        x = left + value * width
        body.append(charts.text(x, top + height + 16, f"{value:.0%}", 11, charts.MUTED, "middle"))
    for side, risks in curves.items():
        places = np.unique(np.linspace(0, len(risks) - 1, 200).astype(int))
        points = " ".join(
            f"{left + (place + 1) / len(risks) * width:.1f},"
            f"{top + (1 - risks[place] / high) * height:.1f}"
            for place in places
        )
        body.append(
            f'<polyline points="{points}" fill="none" stroke="{COLOURS[side]}" stroke-width="2.2" '
            'stroke-linejoin="round"/>'
        )
    ends = "; ".join(f"{SIDES[side]} {risks[-1]:.2f}" for side, risks in curves.items())
    said = f"error by the share answered; of all rows: {ends}"
    return charts.svg(left + width + 24, top + height + 26, body, said)


def reliability(bins: Sequence[dict], colour: str, name: str) -> str:
    """Dots of (confidence, accuracy), both in [0, 1], of `calibration.bins`."""
    side, left, top = 300, 40, 10
    total = sum(one["count"] for one in bins)
    body = []
    for value in (0, 0.25, 0.5, 0.75, 1):
        x, y = left + value * side, top + (1 - value) * side
        body += [
            charts.line(x, top, x, top + side),
            charts.line(left, y, left + side, y),
            charts.text(x, top + side + 16, f"{value:g}", 11, charts.MUTED, "middle"),
            charts.text(left - 6, y + 4, f"{value:g}", 11, charts.MUTED, "end"),
        ]
    body.append(
        charts.line(left, top + side, left + side, top, charts.MUTED, 1, 'stroke-dasharray="4 4"')
    )
    for one in bins:
        x, y = left + one["confidence"] * side, top + (1 - one["accuracy"]) * side
        radius = 3 + 22 * (one["count"] / total) ** 0.5
        body.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}" '
            'fill-opacity="0.55"/>'
        )
        body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{charts.INK}"/>')
    said = "; ".join(f"{one['confidence']:.2f} right {one['accuracy']:.2f}" for one in bins)
    return charts.svg(left + side + 30, top + side + 24, body, f"reliability {name}: {said}")
