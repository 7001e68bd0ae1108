"""The report's section on confidence: a reliability diagram, and what is left of the errors when
the unsure answers go.
"""

from __future__ import annotations

from collections.abc import Sequence

from qoq_jax.evaluation import calibration as numbers
from qoq_jax.report import charts
from qoq_jax.report.run import Run

NAMES = {"before": "before RL", "after": "after RL"}
COLOURS = {"before": charts.BEFORE, "after": charts.AFTER}


def calibration(run: Run) -> str:
    """Of the main data set; "" where the evaluations have no scores (`eval.scores`)."""
    tiles = []
    for side, name in NAMES.items():
        found = numbers.summarize(run.of_source(side, run.main_source))
        if found is None:
            continue
        words = (
            f"{found['count']:,} rows · expected calibration error {found['ece']:.3f} · "
            f"Brier score {found['brier']:.3f} · area under the risk-coverage curve "
            f"{found['aurc']:.3f}"
        )
        drawn = reliability(found["bins"], COLOURS[side], name)
        tiles.append(f"<figure><h3>{name}</h3>{drawn}<figcaption>{words}</figcaption></figure>")
    if not tiles:
        return ""
    return (
        "<p>The model's probability of the label that it finds likeliest (across), and how often "
        "that label is right (up). On the dashed line the two agree; below it the model is too "
        "sure. The area of a dot is its share of the rows.</p>"
        f'<div class="grid2">{"".join(tiles)}</div>'
    )


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
