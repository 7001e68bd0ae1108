"""The report's charts, drawn as SVG text: no plotting library, sharp at any size, every label real
text.

Each function takes numbers and returns one `<svg>` string that also stands alone as a file. Text
that came from a model or a data set goes through `text`, which escapes it. Pictures and ECGs are in
figures.py.
"""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Sequence

import numpy as np

INK, MUTED, GRID, PAPER = "#1b2733", "#5c6975", "#e4e8ec", "#ffffff"
BEFORE, AFTER = "#b3bdc7", "#0b7285"
PARTS = {
    "total": INK,
    "accuracy": "#2563a8",
    "iou": "#8452a8",
    "format": "#a8792a",
    "length": "#7c8793",
}
FONT = "'Inter','Helvetica Neue',Helvetica,Arial,sans-serif"


@dataclasses.dataclass(frozen=True)
class Series:
    """One line: name at its end, x and y of equal length (NaN leaves a gap out), colour."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str = AFTER


def svg(width: float, height: float, body: Sequence[str], label: str) -> str:
    """An SVG element that fills its container; `label` is what a screen reader says."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{html.escape(label)}" font-family="{FONT}">{"".join(body)}</svg>'
    )


def text(
    x: float,
    y: float,
    words: object,
    size: float = 12,
    fill: str = INK,
    anchor: str = "start",
    extra: str = "",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{fill}" '
        f'text-anchor="{anchor}" {extra}>'
        f"{html.escape(str(words))}</text>"
    )


def rect(x: float, y: float, width: float, height: float, fill: str, extra: str = "") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}"'
    return f'<rect {place} fill="{fill}" {extra}/>'


def line(
    x1: float,
    y1: float,
    x2: float,
    y2: float,
    colour: str = GRID,
    width: float = 1,
    extra: str = "",
) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-width="{width:g}" {extra}/>'
    )


def number(value: float) -> str:
    """A value at a glance, two or three digits: 2.1e-5, 0.0043, 0.52, 14.2, 1.24k."""
    size = abs(value)
    if not math.isfinite(value):
        return "n/a"
    if size >= 1000:
        return f"{value / 1000:.3g}k"
    if size >= 0.1:
        return f"{value:.2f}" if size < 10 else f"{value:.3g}"
    if 0 < size < 1e-3:
        return f"{value:.1e}".replace("e-0", "e-")
    return f"{value:.2g}"


def tick(value: float) -> str:
    if 0 < abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten) inside [low, high]."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    return [
        round(step * i, 12)
        for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


def smooth(y: np.ndarray, share: float = 0.05) -> np.ndarray:
    """Centred moving average over `share` of the points, windows cut at the ends."""
    half = max(int(len(y) * share / 2), 0)
    sums = np.concatenate([[0.0], np.cumsum(y)])
    low, high = (
        np.maximum(np.arange(len(y)) - half, 0),
        np.minimum(np.arange(len(y)) + half + 1, len(y)),
    )
    return (sums[high] - sums[low]) / (high - low)


def line_chart(
    title: str,
    series: Sequence[Series],
    width: float = 460,
    height: float = 230,
    y_range: tuple[float, float] | None = None,
    x_name: str = "step",
) -> str:
    """Raw values faint, their moving average strong, each line named with its last value at its
    right end.
    """
    shown = []
    for s in series:
        x, y = np.asarray(s.x, float), np.asarray(s.y, float)
        keep = np.isfinite(x) & np.isfinite(y)
        if keep.any():
            shown.append((s, x[keep], y[keep]))
    if not shown:
        return ""
    named = len(shown) > 1
    small = width < 300
    # room for the longest name and its value
    names = max(104, 44 + 7 * max(len(s.name) for s, *_ in shown))
    left, right, top, bottom = (30, 48, 28, 26) if small else (44, names if named else 52, 34, 30)
    x0, x1 = min(x.min() for _, x, _ in shown), max(x.max() for _, x, _ in shown)
    x1 = x1 if x1 > x0 else x0 + 1
    low, high = y_range or _padded(np.concatenate([y for _, _, y in shown]))

    def at_x(v: np.ndarray) -> np.ndarray:
        return left + (v - x0) / (x1 - x0) * (width - left - right)

    def at_y(v: np.ndarray) -> np.ndarray:
        return (
            height - bottom - (np.clip(v, low, high) - low) / (high - low) * (height - top - bottom)
        )

    body = [text(0, 14, title, 13, INK, extra='font-weight="600"')]
    for v in ticks(low, high, 3 if small else 4):
        body += [
            line(left, at_y(v), width - right, at_y(v)),
            text(left - 6, at_y(v) + 4, tick(v), 11, MUTED, "end"),
        ]
    for v in ticks(x0, x1, 2 if small else 4):
        body.append(text(at_x(v), height - 10, tick(v), 11, MUTED, "middle"))
    body.append(text(width - right + 8, height - 10, x_name, 11, MUTED))
    ends = []
    for s, x, y in shown:
        average = smooth(y)
        if len(y) > 12:
            body.append(_path(at_x(x), at_y(y), s.colour, 1, 'opacity="0.22"'))
        body.append(_path(at_x(x), at_y(average), s.colour, 2))
        body.append(
            f'<circle cx="{at_x(x[-1]):.1f}" cy="{at_y(average[-1]):.1f}" r="2.6" '
            f'fill="{s.colour}"/>'
        )
        ends.append(
            (
                float(at_y(average[-1])),
                f"{s.name} {number(average[-1])}" if named else number(average[-1]),
                s.colour,
            )
        )
    for y, words, colour in _spread(ends, 14, top, height - bottom):
        body.append(text(width - right + 8, y + 4, words, 11.5, colour, extra='font-weight="600"'))
    return svg(width, height, body, f"{title}: " + ", ".join(words for _, words, _ in ends))


def paired_bars(rows: Sequence[dict], width: float = 760, high: float = 1.0) -> str:
    """Two bars per row, before above after, each with its value; whiskers are 95 % intervals.

    rows: {"name", "note", "before", "after", "before_interval", "after_interval"}; values may be
    None.
    """
    left, right, pitch, bar, top = 170, 60, 46, 13, 24
    height = top + pitch * len(rows) + 6
    scale = (width - left - right) / high
    body = []
    for v in ticks(0, high, 5):
        body += [
            line(left + v * scale, top - 6, left + v * scale, height - 6),
            text(left + v * scale, 12, f"{v:g}", 11, MUTED, "middle"),
        ]
    for i, row in enumerate(rows):
        y = top + i * pitch
        body += [
            text(0, y + 15, row["name"], 13, INK, extra='font-weight="600"'),
            text(0, y + 30, row["note"], 11, MUTED),
        ]
        for side, offset, colour in (("before", 2, BEFORE), ("after", 2 + bar + 3, AFTER)):
            value = row.get(side)
            if value is None:
                continue
            body.append(rect(left, y + offset, value * scale, bar, colour, 'rx="1.5"'))
            end, middle = value, y + offset + bar / 2
            if span := row.get(f"{side}_interval"):
                end = max(value, span[1])
                body.append(
                    line(
                        left + span[0] * scale,
                        middle,
                        left + span[1] * scale,
                        middle,
                        INK,
                        1,
                        'opacity="0.7"',
                    )
                )
            body.append(
                text(
                    left + end * scale + 6,
                    middle + 4,
                    f"{value:.2f}",
                    11.5,
                    INK if side == "after" else MUTED,
                )
            )
    return svg(
        width,
        height,
        body,
        "; ".join(f"{r['name']} {r.get('before')} to {r.get('after')}" for r in rows),
    )


def histogram(
    before: Sequence[float], after: Sequence[float], width: float = 760, height: float = 250
) -> str:
    """Shares of values in twenty bins of [0, 1]: before as bars, after as an outline; means marked
    on top.
    """
    left, right, top, bottom, bins = 44, 20, 40, 34, 20
    sides = [
        (np.asarray(v, float), c, n)
        for v, c, n in ((before, BEFORE, "before"), (after, AFTER, "after"))
        if len(v)
    ]
    shares = [np.histogram(v, bins=bins, range=(0, 1))[0] / len(v) for v, _, _ in sides]
    high = max(float(s.max()) for s in shares) * 1.05
    step = (width - left - right) / bins

    def at_y(v: np.ndarray) -> np.ndarray:
        return height - bottom - v / high * (height - top - bottom)

    body = []
    for v in ticks(0, high, 4):
        body += [
            line(left, at_y(v), width - right, at_y(v)),
            text(left - 8, at_y(v) + 4, f"{v * 100:.0f}%", 11, MUTED, "end"),
        ]
    for v in (0, 0.25, 0.5, 0.75, 1):
        body.append(text(left + v * step * bins, height - 14, f"{v:g}", 11, MUTED, "middle"))
    body.append(
        line(
            left + step * bins / 2,
            top,
            left + step * bins / 2,
            height - bottom,
            MUTED,
            1,
            'stroke-dasharray="2 3"',
        )
    )
    marks = []
    for share, (values, colour, name) in zip(shares, sides, strict=True):
        if name == "before":
            body += [
                rect(left + i * step + 1, at_y(s), step - 2, height - bottom - at_y(s), colour)
                for i, s in enumerate(share)
            ]
        else:
            xs = np.repeat(left + step * np.arange(bins + 1), 2)
            ys = np.concatenate([[height - bottom], np.repeat(at_y(share), 2), [height - bottom]])
            body.append(_path(xs, ys, colour, 2, f'fill-opacity="0.12" fill="{colour}"'))
        marks.append(
            (left + float(values.mean()) * step * bins, name, float(values.mean()), colour)
        )
    for (x, name, mean, colour), words_y in zip(marks, (12, 26), strict=False):
        body += [
            line(x, words_y + 4, x, height - bottom, colour if name == "after" else MUTED, 1.5),
            text(
                x,
                words_y,
                f"{name} mean {mean:.2f}",
                11.5,
                colour if name == "after" else MUTED,
                "middle",
                'font-weight="600"',
            ),
        ]
    return svg(
        width, height, body, "; ".join(f"{name}: mean IoU {mean:.2f}" for _, name, mean, _ in marks)
    )


def confusion_matrix(
    labels: Sequence[str], matrix: Sequence[Sequence[float]], outside: str = "not in list"
) -> str:
    """Counts in cells, rows gold, shaded by share of the row; the last column is all else."""
    counts = np.asarray(matrix, float)
    rows, columns = counts.shape
    cell, names = 38, [_cut(label, 24) for label in labels]
    lengths = [6.1 * len(n) + 1.7 * sum(c.isupper() for c in n) for n in (*names, outside)]
    left, top = 12 + max(lengths), 14 + 0.75 * max(lengths)
    width, height = left + cell * columns + 0.75 * lengths[-1], top + cell * rows + 4
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    body = []
    for j, name in enumerate((*names, outside)):
        x = left + cell * (j + 0.5) + (6 if j == columns - 1 else 0)
        body.append(
            text(
                x + 3,
                top - 8,
                name,
                11.5,
                MUTED,
                "start",
                f'transform="rotate(-45 {x:.1f} {top - 8:.1f})"',
            )
        )
    for i in range(rows):
        middle = top + cell * (i + 0.5)
        body.append(text(left - 8, middle + 4, names[i], 11.5, INK, "end"))
        for j in range(columns):
            x = left + cell * j + (6 if j == columns - 1 else 0)
            tone = AFTER if i == j else "#c2571a"
            body.append(rect(x + 1, top + cell * i + 1, cell - 2, cell - 2, "#f4f6f8", 'rx="2"'))
            if counts[i, j]:
                body.append(
                    rect(
                        x + 1,
                        top + cell * i + 1,
                        cell - 2,
                        cell - 2,
                        tone,
                        f'rx="2" fill-opacity="{share[i, j]:.2f}"',
                    )
                )
                colour = PAPER if share[i, j] > 0.55 else INK
                body.append(
                    text(x + cell / 2, middle + 4, f"{counts[i, j]:.3g}", 11.5, colour, "middle")
                )
    return svg(width, height, body, "confusion matrix, rows gold, columns predicted").replace(
        "<svg ", f'<svg style="width:{width:.0f}px;max-width:100%" ', 1
    )


def range_plot(
    before: tuple[float, list[float]] | None, after: tuple[float, list[float]] | None
) -> str:
    """Two dots with their 95 % intervals on one [0, 1] scale: the headline's picture."""
    width, height, left, right = 460, 74, 60, 16
    scale = width - left - right
    body = []
    for v in (0, 0.25, 0.5, 0.75, 1):
        body += [
            line(left + v * scale, 4, left + v * scale, 54),
            text(left + v * scale, 70, f"{v:g}", 11, MUTED, "middle"),
        ]
    for y, name, colour, side in ((18, "before", "#8b97a3", before), (40, "after", AFTER, after)):
        if side is None:
            continue
        value, span = side
        body.append(text(0, y + 4, name, 12, colour, extra='font-weight="600"'))
        if span:
            body.append(
                line(
                    left + span[0] * scale,
                    y,
                    left + span[1] * scale,
                    y,
                    colour,
                    5,
                    'stroke-linecap="round" opacity="0.35"',
                )
            )
        body.append(f'<circle cx="{left + value * scale:.1f}" cy="{y}" r="5.5" fill="{colour}"/>')
    return svg(width, height, body, "macro-F1 before and after with 95 % intervals")


def _padded(y: np.ndarray) -> tuple[float, float]:
    """Range of the values, outliers of half a percent cut, some air; from 0 when that is near."""
    low, high = (float(v) for v in np.quantile(y, (0.005, 0.995)))
    if 0 < low < 0.4 * high:
        low = 0.0
    air = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return (low if low == 0 else low - air), high + air


def _path(xs: np.ndarray, ys: np.ndarray, colour: str, width: float, extra: str = "") -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    pen = f'stroke="{colour}" stroke-width="{width:g}" stroke-linejoin="round"'
    fill = "" if "fill=" in extra else 'fill="none"'
    return f'<polyline points="{points}" {fill} {pen} {extra}/>'


def _spread(ends: Sequence[tuple], gap: float, low: float, high: float) -> list[tuple]:
    """Moves labels (y, ...) apart to at least `gap`, keeping their order, inside [low, high]."""
    placed = sorted(ends, key=lambda e: e[0])
    ys = []
    for y, *_ in placed:
        ys.append(max(y, ys[-1] + gap) if ys else max(y, low))
    for i in range(len(ys) - 1, -1, -1):
        ys[i] = min(ys[i], high if i == len(ys) - 1 else ys[i + 1] - gap)
    return [(y, *rest) for y, (_, *rest) in zip(ys, placed, strict=True)]


def _cut(words: str, length: int) -> str:
    return words if len(words) <= length else words[: length - 1] + "…"
