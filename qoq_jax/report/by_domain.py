"""The report's section on each domain while RL trained: entropy, KL, share of the advantages, and
the labels that were sampled; so that a domain that falls onto one label is seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qoq_jax.report import charts
from qoq_jax.report.gallery import escape, title
from qoq_jax.report.run import Run
from qoq_jax.report.sections import chart

SHOWN = {
    "entropy": "Entropy, nats per token",
    "kl": "KL to the warm start, nats",
    "advantage_share": "Share of advantages",
}
MAX_COLUMNS = 60  # of a label chart; more log rows are added up
COLLAPSED = 0.9  # share of one label from which on a domain counts as fallen onto it
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
REST = "#c9d0d7"

Column = tuple[float, dict[str, int], dict[str, int]]  # step, sampled labels, gold labels


def over_training(run: Run) -> str:
    """Charts of each domain in stage rl, the collapsed ones named first; "" without such rows."""
    rows = [line for line in run.curves if line.get("stage") == "rl" and "labels" in line]
    names = sorted({name for line in rows for name in line["labels"]})
    if not names:
        return ""
    parts, fallen = [], []
    for name in names:
        columns = _columns(rows, name)
        if label := collapsed(columns):
            fallen.append(f"{escape(title(name), 40)} (“{escape(label, 60)}”)")
        figures = [
            chart(rows, words, f"domain/{name}/{key}", (205, 125)) for key, words in SHOWN.items()
        ]
        figures.append(label_areas(columns))
        cells = "".join(f"<figure>{figure}</figure>" for figure in figures)
        parts.append(f'<h3>{escape(title(name), 40)}</h3><div class="domain">{cells}</div>')
    warning = (
        f'<p class="no">Fallen onto one label, though the gold labels are not: {", ".join(fallen)}.'
        "</p>"
        if fallen
        else ""
    )
    return (
        f"{warning}<p>What RL did to each domain. Entropy is the mean of -log π of the sampled "
        "tokens. A domain whose responses all say the same earns the same for all of them: it has "
        "no share of the advantages any more, and stays as it is. The areas are the labels that "
        "its sampled responses named; the narrow column at their right shows the gold labels of "
        f"the same prompts.</p>{''.join(parts)}"
    )


def _columns(rows: Sequence[dict], name: str) -> list[Column]:
    """The label counts of a domain, log rows added up to `MAX_COLUMNS`."""
    found = [line for line in rows if name in line["labels"]]
    chunks = np.array_split(np.arange(len(found)), min(len(found), MAX_COLUMNS))
    return [
        (
            float(found[chunk[-1]]["step"]),
            _total([found[i]["labels"][name].get("sampled", {}) for i in chunk]),
            _total([found[i]["labels"][name].get("gold", {}) for i in chunk]),
        )
        for chunk in chunks
    ]


def collapsed(columns: Sequence[Column]) -> str | None:
    """The label that a domain has fallen onto in the last fifth of its columns, or None."""
    last = columns[-max(1, len(columns) // 5) :]
    sampled = _total([sampled for _, sampled, _ in last])
    gold = _total([gold for *_, gold in columns])
    if not sampled or not gold:
        return None
    label = max(sampled, key=sampled.get)
    share = sampled[label] / sum(sampled.values())
    of_gold = gold.get(label, 0) / sum(gold.values())
    return label if share >= COLLAPSED and of_gold < COLLAPSED * share else None


def _total(parts: Sequence[dict[str, int]]) -> dict[str, int]:
    labels = dict.fromkeys(label for part in parts for label in part)
    return {label: sum(part.get(label, 0) for part in parts) for label in labels}


def label_areas(columns: Sequence[Column]) -> str:
    """Shares of the sampled labels over steps as stacked areas, the gold ones in a column beside
    them, the names at the right; those beyond the eight most frequent, and what is no label, are
    grey.
    """
    width, height, left, top, bottom, end, bar = 440, 125, 4, 28, 26, 268, 12
    both = _total([part for _, sampled, gold in columns for part in (sampled, gold)])
    # "(no answer)" and "(others)" last, in grey
    names = sorted(both, key=lambda name: (name.startswith("("), -both[name]))
    answers = [name for name in names if not name.startswith("(")]
    colours = dict(zip(answers, PALETTE, strict=False))
    if len(columns) == 1:
        columns = [(columns[0][0] - 1, *columns[0][1:]), columns[0]]
    steps = np.array([step for step, *_ in columns])
    xs = left + (steps - steps[0]) / (steps[-1] - steps[0]) * (end - bar - 6 - left)
    sampled = _edges([side for _, side, _ in columns], names)
    gold = _edges([_total([side for *_, side in columns])], names)[0]
    scale = height - top - bottom
    body = [charts.text(0, 14, "Labels sampled", 13, charts.INK, extra='font-weight="600"')]
    for number, label in enumerate(names):
        low, high = (top + sampled[:, number + i] * scale for i in (0, 1))
        points = [*zip(xs, low, strict=True), *reversed([*zip(xs, high, strict=True)])]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        colour = colours.get(label, REST)
        body.append(f'<polygon points="{path}" fill="{colour}"/>')
        size = (gold[number + 1] - gold[number]) * scale
        body.append(charts.rect(end - bar, top + gold[number] * scale, bar, size, colour))
    for x, step, anchor in ((xs[0], steps[0], "start"), (xs[-1], steps[-1], "end")):
        body.append(charts.text(x, height - 10, charts.tick(step), 11, charts.MUTED, anchor))
    body.append(charts.text(end, top - 5, "gold", 11, charts.MUTED, "end"))
    for number, (label, colour) in enumerate(colours.items()):
        y, short = top + 2 + number * 11.5, label if len(label) <= 24 else label[:23] + "…"
        body += [
            charts.rect(end + 10, y - 6, 8, 8, colour, 'rx="1.5"'),
            charts.text(end + 23, y + 2, short, 10.5, charts.INK),
        ]
    return charts.svg(width, height, body, "labels of the sampled responses over training")


def _edges(parts: Sequence[dict[str, int]], names: Sequence[str]) -> np.ndarray:
    """[parts, labels + 1]: where the share of each label begins and ends, from 0 to 1."""
    counts = np.array([[part.get(name, 0) for name in names] for part in parts], float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    return np.concatenate([np.zeros((len(parts), 1)), np.cumsum(shares, axis=1)], axis=1)
