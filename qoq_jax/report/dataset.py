"""The page of a data set: `qoq data stats ROOT --html PAGE`. One file, no script, nothing fetched.

It shows questions, answers and media, and the ids of rows; never the patients' names that rows
carry, nor an id that holds one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import numpy as np

from qoq_jax.base import files, terminal
from qoq_jax.base.errors import DataError
from qoq_jax.data import media, readers, stats
from qoq_jax.data import rows as schema
from qoq_jax.report import charts, figures, style
from qoq_jax.report.gallery import escape, title

MOST_LABELS = 16  # of one data set; the rest is one bar
CELLS = 16  # of a side of the map of boxes
CSS = """
.sheet { display:grid; grid-template-columns:repeat(auto-fill,minmax(210px,1fr)); gap:22px 20px;
  margin:14px 0 30px; align-items:start; }
.sheet figure.wide { grid-column:1 / -1; } .sheet figure.ecg { grid-column:span 2; }
@media (max-width:520px) { .sheet figure.ecg { grid-column:1 / -1; } }
.sheet figcaption { margin-top:6px; line-height:1.4; overflow-wrap:anywhere; }
.sheet figcaption b { color:var(--ink); }
"""


def write_page(
    root: str | os.PathLike,
    out: str | os.PathLike,
    looked_at: int = 200,
    shown: int = 6,
) -> list[stats.Domain]:
    """Writes the page and returns the numbers on it.

    Args:
      root: folder of the data set.
      out: the HTML file; may be a URL.
      looked_at, shown: as for `stats.collect`.

    Raises:
      DataError: no row file, or a broken row. Media that cannot be read are listed on the page.
    """
    domains = stats.collect(root, looked_at, shown)
    files.write_text(out, page(os.path.basename(os.path.normpath(root)), domains))
    return domains


def page(name: str, domains: Sequence[stats.Domain]) -> str:
    """The page as HTML."""
    total = sum(sum(domain.rows.values()) for domain in domains)
    patients = sum(sum(domain.patients.values()) for domain in domains)
    parts = {
        "domains": ("Domains", _table(domains) + _figure(_domain_bars(domains))),
        "labels": ("Labels", _labels(domains)),
        "media": ("Media", _media(domains)),
        "boxes": ("Boxes", _boxes(domains)),
        "sheet": ("Contact sheet", _sheet(domains)),
        "faults": ("Media that cannot be read", _faults(domains)),
    }
    parts = {key: part for key, part in parts.items() if part[1]}
    nav = "".join(f'<a href="#{key}">{words}</a>' for key, (words, _) in parts.items())
    sections = "".join(
        f'<section id="{key}"><h2>{words}</h2>{content}</section>'
        for key, (words, content) in parts.items()
    )
    named = f", {patients:,} patients" if patients else ""
    body = (
        f'<header><div class="kicker">qoq_jax · data set</div><h1>{escape(name, 120)}</h1>'
        f'<p class="lead">{total:,} rows of {len(domains)} domains{named}.</p></header>'
        f"<nav>{nav}</nav><main>{sections}</main>"
        "<footer>Made by qoq_jax. For research; not for diagnosis.</footer>"
    )
    return style.PAGE.format(title=escape(name, 120), css=style.CSS + CSS, body=body)


def _figure(drawing: str) -> str:
    return f'<figure style="max-width:760px">{drawing}</figure>'


# ------------------------------------------------------------------------------------------ numbers


def _table(domains: Sequence[stats.Domain]) -> str:
    """Rows by split, patients, boxes and what a row brings."""
    splits = [split for split in schema.SPLITS if any(d.rows[split] for d in domains)]
    total = sum(sum(d.rows.values()) for d in domains)
    head = ["domain", *splits, "share", "patients", "with boxes", "boxes", "with mask"]
    lines = []
    for domain in domains:
        count = sum(domain.rows.values())
        people = f"{sum(domain.patients.values()):,}" if domain.unnamed < count else "not named"
        cells = [f"{domain.rows[split]:,}" for split in splits]
        cells += [f"{count / total:.1%}", people, f"{domain.boxed / count:.0%}"]
        cells += [f"{domain.boxes:,}", f"{domain.masked / count:.0%}"]
        brings = "; ".join(f"{words}" for words, _ in domain.media.most_common(4))
        lines.append(
            f"<tr><td>{title(domain.name)}</td>"
            + "".join(f'<td class="n">{cell}</td>' for cell in cells)
            + f"<td>{escape(brings, 120)}</td></tr>"
        )
    top = f"<th>{head[0]}</th>" + "".join(f'<th class="n">{cell}</th>' for cell in head[1:])
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="table">'
        f"<table><tr>{top}<th>a row brings</th></tr>{''.join(lines)}</table>"
        '</div><p class="note">Splits share no patient; a patient of two domains counts in both.'
        "</p>"
    )


def _domain_bars(domains: Sequence[stats.Domain]) -> str:
    counts = {title(domain.name): sum(domain.rows.values()) for domain in domains}
    return bars("rows by domain", counts)


def bars(name: str, counts: Mapping[str, int], width: float = 760) -> str:
    """Horizontal bars, each with its count and its share of all."""
    left, right, pitch = min(0.34 * width, 190), 104, 22
    room = int((left - 8) / 6.8)  # letters of a name
    total, high = sum(counts.values()) or 1, max(counts.values(), default=1) or 1
    body = []
    for i, (label, count) in enumerate(counts.items()):
        y, length = i * pitch, (width - left - right) * count / high
        short = label if len(label) <= room else label[: room - 1] + "…"
        body += [
            charts.text(left - 8, y + 15, short, 12, charts.INK, "end"),
            charts.rect(left, y + 4, max(length, 1), pitch - 8, charts.AFTER, 'rx="1.5"'),
            charts.text(
                left + max(length, 1) + 6,
                y + 15,
                f"{count:,} ({count / total:.0%})",
                11.5,
                charts.MUTED,
            ),
        ]
    said = "; ".join(f"{label} {count}" for label, count in counts.items())
    return charts.svg(width, pitch * max(len(counts), 1), body, f"{name}: {said}")


def _labels(domains: Sequence[stats.Domain]) -> str:
    """Bars of each data set's labels, the most frequent first."""
    blocks = []
    for domain in domains:
        for dataset, labels in domain.labels.items():
            most = labels.most_common(MOST_LABELS)
            counts = dict(most)
            if len(labels) > MOST_LABELS:
                rest = labels.total() - sum(counts.values())
                counts[f"{len(labels) - MOST_LABELS} more labels"] = rest
            drawn = bars(f"labels of {dataset}", counts, 460)
            rarest = f", the rarest {most[-1][1]:,}" if len(labels) <= MOST_LABELS else ""
            note = f"{len(labels)} labels{rarest}"
            blocks.append(
                f"<figure><h3>{escape(dataset, 60)} "
                f'<span class="note">{title(domain.name)}, {note}</span></h3>{drawn}</figure>'
            )
    return f'<div class="grid2">{"".join(blocks)}</div>'


def _media(domains: Sequence[stats.Domain]) -> str:
    """Sizes of pictures, one plot per domain on the same axes."""
    sizes = [size for domain in domains for size in domain.sizes]
    if not sizes:
        return ""
    low, high = min(map(min, sizes)), max(map(max, sizes))
    plots = "".join(
        f"<figure>{sizes_plot(title(domain.name), domain.sizes, low, high)}</figure>"
        for domain in domains
        if domain.sizes
    )
    return (
        '<p class="note">Width (across) and height (up) in pixels of the pictures that were looked '
        f"at, {len(sizes):,} in all; logarithmic, the line is square; a video counts as one "
        f'frame.</p><div class="small">{plots}</div>'
    )


def sizes_plot(name: str, sizes: Sequence[tuple[int, int]], low: float, high: float) -> str:
    """Dots of (width, height) pixels on logarithmic axes from `low` to `high`; a dot's area grows
    with the pictures of that size.
    """
    side, left, top = 200, 34, 24
    low, high = math.log(low / 1.15), math.log(high * 1.15)

    def at(value: float) -> float:
        return (math.log(value) - low) / (high - low) * side

    body = [charts.text(0, 14, name, 13, charts.INK, extra='font-weight="600"')]
    for power in range(3, 18):
        if low < math.log(2**power) < high:
            x, y = left + at(2**power), top + side - at(2**power)
            body += [
                charts.line(x, top, x, top + side),
                charts.line(left, y, left + side, y),
            ]
            if power % 2 == 1 or math.exp(high - low) < 8:
                body += [
                    charts.text(x, top + side + 15, 2**power, 10, charts.MUTED, "middle"),
                    charts.text(left - 5, y + 3.5, 2**power, 10, charts.MUTED, "end"),
                ]
    body.append(
        charts.line(left, top + side, left + side, top, charts.MUTED, 1, 'stroke-dasharray="2 3"')
    )
    values, counts = np.unique(np.asarray(sizes), axis=0, return_counts=True)
    for (width, height), count in zip(values, counts, strict=True):
        radius = 2.5 + 7 * math.sqrt(count / len(sizes))
        body.append(
            f'<circle cx="{left + at(width):.1f}" cy="{top + side - at(height):.1f}" '
            f'r="{radius:.1f}" fill="{charts.AFTER}" fill-opacity="0.45"/>'
        )
    middle = np.median(np.asarray(sizes), axis=0).astype(int)
    said = f"{name}: {len(sizes)} pictures, median {middle[0]} x {middle[1]}"
    return charts.svg(left + side + 6, top + side + 22, body, said)


def _boxes(domains: Sequence[stats.Domain]) -> str:
    """Where boxes lie and how large they are, one map per domain."""
    plots = "".join(
        f"<figure>{box_map(title(domain.name), domain.places)}</figure>"
        for domain in domains
        if domain.places
    )
    if not plots:
        return ""
    return (
        '<p class="note">How often a place of the picture is inside of a box, of the pictures that '
        "were looked at: the darker, the more often. Below: boxes, and the median share of the "
        f'picture that one covers.</p><div class="small">{plots}</div>'
    )


def box_map(name: str, places: Sequence[Sequence[float]]) -> str:
    """A map of the boxes (x1, y1, x2, y2 as shares of the picture) on CELLS x CELLS places."""
    side, top = 180, 22
    boxes = np.clip(np.asarray(places, float), 0, 1)
    middles = (np.arange(CELLS) + 0.5) / CELLS
    across = (boxes[:, None, 0] <= middles) & (middles <= boxes[:, None, 2])
    down = (boxes[:, None, 1] <= middles) & (middles <= boxes[:, None, 3])
    inside = np.einsum("ny,nx->yx", down.astype(float), across.astype(float))  # [y, x]
    high = inside.max() or 1.0
    cell = side / CELLS
    body = [
        charts.text(0, 14, name, 13, charts.INK, extra='font-weight="600"'),
        charts.rect(0, top, side, side, "#f4f6f8"),
    ]
    for y, x in zip(*np.nonzero(inside), strict=True):
        body.append(
            charts.rect(
                x * cell,
                top + y * cell,
                cell,
                cell,
                charts.AFTER,
                f'fill-opacity="{inside[y, x] / high:.2f}"',
            )
        )
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    said = f"{len(boxes):,} boxes, median {np.median(areas):.1%}"
    body.append(charts.text(0, top + side + 16, said, 11.5, charts.MUTED))
    return charts.svg(side, top + side + 22, body, f"{name}: {said} of the picture")


# ------------------------------------------------------------------------------------ contact sheet


def _sheet(domains: Sequence[stats.Domain]) -> str:
    blocks = []
    with terminal.Bar("drawing samples", sum(len(d.samples) for d in domains)) as bar:
        done = 0
        for domain in domains:
            drawn = []
            for root, row in domain.samples:
                drawn.append(_sample(root, row))
                bar.update(done := done + 1)
            if drawn:
                blocks.append(
                    f'<h3>{title(domain.name)}</h3><div class="sheet">{"".join(drawn)}</div>'
                )
    return "".join(blocks)


def _sample(root: str, row: schema.Row) -> str:
    """A row: its pictures with boxes, frames as a strip, its ECG on paper; answer, data set, id."""
    try:
        drawings = _drawings(root, row)
    except DataError as error:
        drawings = [f'<p class="no">{escape(error, 300)}</p>']
    # Ids are often names of files, and these often name the patient.
    named = row.patient and row.patient.lower() in row.id.lower()
    identity = "" if named else f" · {escape(row.id, 80)}"
    words = f"<b>{escape(row.answer, 120)}</b><br>{escape(row.dataset, 60)}{identity}"
    question = f"<details><summary>Question</summary>{escape(row.problem, 2000)}</details>"
    wide = bool(row.videos) or len(row.images) > 1
    kind = "wide" if wide else "ecg" if row.time_series else "one"
    caption = f"<figcaption>{words}{question}</figcaption>"
    return f'<figure class="{kind}">{"".join(drawings)}{caption}</figure>'


def _drawings(root: str, row: schema.Row) -> list[str]:
    """SVGs of a row's media."""
    on = row.bbox_images or (0,) * len(row.bbox)
    boxes: dict[int, list] = {}
    for box, number in zip(row.bbox, on, strict=True):
        boxes.setdefault(number, []).append(box)
    drawings = []
    with media.opened(root) as folder:
        for number, path in enumerate(row.images[:4]):
            picture = readers.read_image(schema.resolve(folder, path))
            drawings.append(figures.boxes_svg(picture, boxes.get(number, ())))
        for number, path in enumerate(row.videos[:2], len(row.images)):
            frames = readers.read_frames(schema.resolve(folder, path))
            drawings.append(figures.boxes_svg(frames, boxes.get(number, ())))
        for path in row.time_series[:1]:
            signal = readers.read_ecg(schema.resolve(folder, path), root=folder, length="repeat")
            drawings.append(figures.draw_ecg(signal))
    return drawings


def _faults(domains: Sequence[stats.Domain]) -> str:
    faults = [fault for domain in domains for fault in domain.unreadable]
    if not faults:
        return ""
    listed = "".join(f"<li>{escape(fault, 300)}</li>" for fault in faults[:50])
    more = f"<p>and {len(faults) - 50} more</p>" if len(faults) > 50 else ""
    return f"<p>Of the rows that were looked at, {len(faults)}:</p><ul>{listed}</ul>{more}"
