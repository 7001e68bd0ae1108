"""One case as a matplotlib figure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.gridspec import SubplotSpec
from matplotlib.patches import Rectangle
from matplotlib.ticker import MultipleLocator

from qoq_jax.report import figures, gallery, viewer
from qoq_jax.report.shown import FRAMES, Shown

_RIGHT, _WRONG = "#1b7f45", "#c0392b"
_COLUMNS = 4
_WIDTH, _POINTS = 72, 11.5  # characters of a line of text, and its height


def case(record: dict, shown: Shown, right: bool) -> list[Axes]:
    """The axes: of each picture, of the ECG, of the text."""
    count = len(shown.pictures)
    tall = -(-count // _COLUMNS) > 1 or shown.ecg is not None
    figure = plt.figure(figsize=(13, 6 if tall else 4.2), layout="constrained")
    left, words = figure.add_gridspec(1, 2, width_ratios=(1.6, 1))
    heights = [1.0] * bool(count) + [1.6] * (shown.ecg is not None)
    parts = left.subgridspec(max(len(heights), 1), 1, height_ratios=heights or [1])
    axes = _pictures(parts[0], record, shown) if count else []
    if shown.ecg is not None:
        axes.append(_ecg(figure.add_subplot(parts[len(heights) - 1]), shown.ecg))
    if not axes:
        empty = figure.add_subplot(parts[0])
        empty.text(0.5, 0.5, shown.fault or "no media", ha="center", color="grey", wrap=True)
        axes.append(empty)
        empty.axis("off")
    axes.append(_text(figure.add_subplot(words), record, shown.problem, right))
    return axes


def _pictures(place: SubplotSpec, record: dict, shown: Shown) -> list[Axes]:
    count = len(shown.pictures)
    grid = place.subgridspec(-(-count // _COLUMNS), min(count, _COLUMNS), wspace=0.02, hspace=0.05)
    block = viewer.sizes_of(record, shown)
    gold, said = viewer.boxes_of(record, "gold_"), viewer.boxes_of(record, "")
    axes = []
    for number, (picture, (width, height)) in enumerate(zip(shown.pictures, block, strict=True)):
        one = place.get_gridspec().figure.add_subplot(grid[number])
        one.imshow(picture, extent=(0, width, height, 0))
        on = 0 if shown.kind == FRAMES else number  # boxes are the same on each frame
        _boxes(one, [box for box in gold if box[4] == on], figures.GOLD, "-")
        _boxes(one, [box for box in said if box[4] == on], figures.PREDICTED, "--")
        one.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
        axes.append(one)
    return axes


def _boxes(axes: Axes, boxes: Sequence[Sequence[float]], colour: str, style: str) -> None:
    for x1, y1, x2, y2, _ in boxes:
        for wide, paint in ((4.5, "black"), (2.2, colour)):  # seen on any picture
            alpha = 0.45 if paint == "black" else 1.0
            line = "-" if paint == "black" else style
            axes.add_patch(
                Rectangle(
                    (x1, y1), x2 - x1, y2 - y1, fill=False, lw=wide, ec=paint, ls=line, alpha=alpha
                )
            )


def _ecg(axes: Axes, signal: np.ndarray) -> Axes:
    """Paper of 25 mm/s and 10 mm/mV: a small square is 0.04 s and 0.1 mV."""
    seconds = np.arange(signal.shape[1]) / figures.ECG_RATE
    for row, (name, lead) in enumerate(zip(figures.LEADS, signal, strict=True)):
        base = -2.0 * row
        axes.plot(seconds, np.clip(lead, -2.5, 2.5) + base, color="#18202a", linewidth=0.7)
        axes.text(0.05, base + 0.6, name, fontsize=8, fontweight="bold")
    for axis, small, large in ((axes.xaxis, 0.04, 0.2), (axes.yaxis, 0.1, 0.5)):
        axis.set_minor_locator(MultipleLocator(small))
        axis.set_major_locator(MultipleLocator(large))
    axes.grid(which="minor", color="#f6dedb", linewidth=0.3)
    axes.grid(which="major", color="#e8a7a2", linewidth=0.5)
    axes.set_facecolor("#fffafa")
    axes.set(xlim=(0, seconds[-1]), ylim=(-2.0 * len(signal) + 0.5, 1.8))
    axes.tick_params(which="both", length=0, labelbottom=False, labelleft=False)
    axes.set_xlabel("25 mm/s, 10 mm/mV", fontsize=8, color="#7a4b48", loc="right")
    axes.spines[:].set_visible(False)
    return axes


def _text(axes: Axes, record: dict, problem: str, right: bool) -> Axes:
    axes.axis("off")
    head = f"{gallery.title(record['domain'])}, {record['dataset']}  {gallery.shown_id(record)}"
    gold, said = (", ".join(viewer.labels_of(record[name])) for name in ("labels", "predicted"))
    iou = record.get("iou")
    verdict = f"{'right' if right else 'wrong'}{'' if iou is None else f', IoU {iou:.2f}'}"
    response = viewer.text_of(record.get("text", ""))
    parts = [
        (head, "bold", "black"),
        (viewer.text_of(problem).strip(), "normal", "#475569"),
        (f"gold: {gold}", "normal", figures.GOLD),
        (f"model: {said or 'no answer that can be read'} ({verdict})", "bold", _colour(right)),
        (response, "normal", "black"),
    ]
    line, room = 0.0, int(axes.figure.get_size_inches()[1] * 72 / _POINTS) - 1
    for text, weight, colour in parts:
        lines = [one for part in text.split("\n") for one in textwrap.wrap(part, _WIDTH) or [""]]
        if line + len(lines) > room:
            lines = [*lines[: max(int(room - line) - 1, 0)], "…"]
        axes.annotate(
            "\n".join(lines),
            (0, 1),
            xycoords="axes fraction",
            xytext=(0, -_POINTS * line),
            textcoords="offset points",
            va="top",
            fontsize=8.5,
            fontweight=weight,
            color=colour,
            parse_math=False,  # what models and data sets write is no formula
        )
        line += len(lines) + 0.5
    return axes


def _colour(right: bool) -> str:
    return _RIGHT if right else _WRONG
