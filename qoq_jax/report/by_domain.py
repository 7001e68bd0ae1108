"""The report's section on each domain while RL trained: entropy, KL, share of the advantages, and
the labels that were sampled; so that a domain that falls onto one label is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qoq_jax.report import charts
from qoq_jax.report.gallery import escape, title
from qoq_jax.report.run import Run
from qoq_jax.report.sections import chart, is_number

SHOWN = {
    "entropy": "Entropy, nats per token",
    "advantage_share": "Share of advantages",
    "kl": "KL to the reference, nats",
}
MAX_COLUMNS = 60  # of a label chart; more log rows are added up
COLLAPSED = 0.9  # share of the responses that name one label, from which on a domain has collapsed
OTHERS, NONE = "(others)", "(no answer)"  # as train/domains.py writes them
PALETTE = (
    "#0b7285",
    "#e8a33d",
    "#8452a8",
    "#2f9e61",
    "#c2571a",
    "#2563a8",
    "#b5476b",
    "#7a8b2d",
)
GREYS = {OTHERS: "#d3d9de", NONE: "#8b97a3"}


class Column(NamedTuple):
    """The labels of one or more log rows of a domain: label -> number of responses."""

    step: float
    responses: int
    sampled: dict[str, int]
    gold: dict[str, int]


def over_training(run: Run) -> str:
    """Charts of each domain in stage rl, after a sentence on each that has collapsed; "" without
    such rows.
    """
    rows = [line for line in run.curves if line.get("stage") == "rl" and "labels" in line]
    names = sorted({name for line in rows for name in line["labels"]})
    if not names:
        return ""
    # One scale for all domains, from 0: small multiples are there to be compared.
    ranges = {key: _range(rows, [f"domain/{name}/{key}" for name in names]) for key in SHOWN}
    parts, warnings = [], []
    for name in names:
        columns, heading = _columns(rows, name), escape(title(name), 40)
        if warning := collapse(columns):
            warnings.append(f'<p class="no">{heading}: {escape(warning, 200)}</p>')
            heading += '<span class="chip no">one answer</span>'
        figures = [
            chart(rows, words, f"domain/{name}/{key}", (205, 125), ranges[key])
            for key, words in SHOWN.items()
        ]
        figures.append(label_areas(columns))
        cells = "".join(f"<figure>{figure}</figure>" for figure in figures)
        parts.append(f'<h3>{heading}</h3><div class="domain">{cells}</div>')
    return (
        f"{''.join(warnings)}<p>One row per domain, one scale per column. A domain whose "
        "responses all say the same earns the same with all of them: its entropy falls, its share "
        "of the advantages goes to 0, and it stays as it is. The areas are the labels that its "
        "sampled responses name; the column beside them is the gold labels of the same prompts."
        f"</p>{''.join(parts)}"
    )


def _range(rows: Sequence[dict], keys: Sequence[str]) -> tuple[float, float]:
    """From 0 to the largest values of some keys, outliers of half a percent cut."""
    found = [line[key] for line in rows for key in keys if is_number(line.get(key))]
    high = float(np.quantile(found, 0.995)) if found else 0.0
    return 0.0, 1.06 * high if high > 0 else 1.0


def _columns(rows: Sequence[dict], name: str) -> list[Column]:
    """The label counts of a domain, log rows added up to `MAX_COLUMNS`."""
    lines = [line for line in rows if name in line["labels"]]
    columns = []
    for chunk in np.array_split(np.arange(len(lines)), min(len(lines), MAX_COLUMNS)):
        parts = [lines[i]["labels"][name] for i in chunk]
        sampled = _total([part.get("sampled", {}) for part in parts])
        columns.append(
            Column(
                float(lines[chunk[-1]]["step"]),
                sum(part.get("responses", 0) for part in parts) or sum(sampled.values()),
                sampled,
                _total([part.get("gold", {}) for part in parts]),
            )
        )
    return columns


def collapse(columns: Sequence[Column]) -> str | None:
    """A sentence on a domain that has ended on one answer in the last fifth of its columns, though
    its gold labels have not; else None.
    """
    last = columns[-max(1, len(columns) // 5) :]
    sampled, gold = _total([c.sampled for c in last]), _total([c.gold for c in last])
    counted = {label: count for label, count in sampled.items() if label != OTHERS}
    responses = sum(c.responses for c in last)
    if not counted or not gold:
        return None
    label = max(counted, key=counted.get)
    share, of_gold = counted[label] / responses, gold.get(label, 0) / responses
    if share < COLLAPSED or of_gold >= COLLAPSED * share:
        return None
    said = "have no readable answer" if label == NONE else f"name “{_short(label, 60)}”"
    right = "" if label == NONE else f", which is a gold label of {of_gold:.0%}"
    return f"{share:.0%} of the last sampled responses {said}{right}."


def _total(parts: Sequence[dict[str, int]]) -> dict[str, int]:
    labels = dict.fromkeys(label for part in parts for label in part)
    return {label: sum(part.get(label, 0) for part in parts) for label in labels}


def label_areas(columns: Sequence[Column]) -> str:
    """Shares of the sampled labels over steps as stacked areas, the gold ones in a column beside
    them, the names at the right; the labels beyond the eight most frequent are added up.
    """
    width, height, left, top, bottom, end, bar, gap = 440, 125, 4, 28, 26, 268, 12, 20
    colours = _colours(_total([part for c in columns for part in (c.sampled, c.gold)]))
    if len(columns) == 1:
        columns = [columns[0]._replace(step=columns[0].step - 1), columns[0]]
    steps = np.array([c.step for c in columns])
    xs = left + (steps - steps[0]) / (steps[-1] - steps[0]) * (end - bar - gap - left)
    scale = height - top - bottom
    sampled = top + scale * _edges([c.sampled for c in columns], list(colours))
    gold = top + scale * _edges([_total([c.gold for c in columns])], list(colours))[0]
    body = [charts.text(0, 14, "Labels sampled", 13, charts.INK, extra='font-weight="600"')]
    for number, colour in enumerate(colours.values()):
        edges = [*zip(xs, sampled[:, number], strict=True)]
        edges += reversed([*zip(xs, sampled[:, number + 1], strict=True)])
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in edges)
        body.append(f'<polygon points="{path}" fill="{colour}"/>')
        size = gold[number + 1] - gold[number]
        body.append(charts.rect(end - bar, gold[number], bar, size, colour))
    for x, step, anchor in ((xs[0], steps[0], "start"), (xs[-1], steps[-1], "end")):
        body.append(charts.text(x, height - 10, charts.tick(step), 11, charts.MUTED, anchor))
    body.append(charts.text(end, height - 10, "gold", 11, charts.MUTED, "end"))
    first = top + scale / 2 - (len(colours) - 1) * 11.5 / 2
    for number, (label, colour) in enumerate(colours.items()):
        y = first + number * 11.5
        body += [
            charts.rect(end + 10, y - 4, 8, 8, colour, 'rx="1.5"'),
            charts.text(end + 23, y + 3.5, _short(label, 24), 10.5, charts.INK),
        ]
    return charts.svg(width, height, body, "labels of the sampled responses over training")


def _colours(counts: dict[str, int]) -> dict[str, str]:
    """Colours of what a chart shows, the most frequent label first; `OTHERS` stands for what has
    none.
    """
    labels = sorted((x for x in counts if x not in GREYS), key=counts.get, reverse=True)
    greys = [x for x in GREYS if x in counts or (x == OTHERS and len(labels) > len(PALETTE))]
    return dict(zip(labels, PALETTE, strict=False)) | {x: GREYS[x] for x in greys}


def _edges(parts: Sequence[dict[str, int]], names: Sequence[str]) -> np.ndarray:
    """[parts, names + 1]: where the share of each label begins and ends, from 0 to 1; labels
    without a name are added to `OTHERS`.
    """
    counts = np.array([[part.get(name, 0) for name in names] for part in parts], float)
    if OTHERS in names:
        rest = [sum(n for label, n in part.items() if label not in names) for part in parts]
        counts[:, names.index(OTHERS)] += rest
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    return np.concatenate([np.zeros((len(parts), 1)), np.cumsum(shares, axis=1)], axis=1)


def _short(label: str, length: int) -> str:
    return label if len(label) <= length else label[: length - 1] + "…"
