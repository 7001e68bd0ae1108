"""The case viewer: cases.html, one page to filter and look through the rows of one or two
evaluations.

It opens from a disk without a network. Text of models and data sets is JSON that the page's script
sets as text; the page's policy lets no other script run. Media of a case are a block of their own,
parsed when the case is first shown: inside the page, or, where that would be over MAX_BYTES, a file
each in the folder cases_files beside it.
"""

from __future__ import annotations

import base64
import concurrent.futures
import dataclasses
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from qoq_jax.base import files, storage
from qoq_jax.base.errors import DataError
from qoq_jax.data.answer_format import parse
from qoq_jax.evaluation import saved
from qoq_jax.report import figures, gallery
from qoq_jax.report.shown import FRAMES, Library, Shown

MOST = 500  # cases of a page
MAX_BYTES = 30_000_000  # of a page that holds its media
AT_ONCE = 4  # cases whose media are read: most of that is decoding, or waiting for a network
MAX_BOXES = 32  # of one case and side
ASSETS = pathlib.Path(__file__).parent / "assets"


@dataclasses.dataclass(frozen=True)
class Side:
    """One evaluation: its name on the page, and its records."""

    name: str
    records: Sequence[dict]


def write(
    out: str | os.PathLike,
    sides: Sequence[Side],
    library: Library,
    title: str = "Cases",
    most: int = MOST,
    report: str = "",
) -> int:
    """Writes the page and returns how many cases it shows.

    Args:
      out: the HTML file; may be a URL.
      sides: one evaluation, or two: before and after. Rows are those of the last one.
      library: media of the rows.
      most: cases; of more, those that `gallery.failures_first` takes.
      report: address of the report that the page links to; "" where there is none.

    Raises:
      DataError: no records, what is no record of an evaluation, or two without a common row.
    """
    found = [saved.by_row(list(side.records)) for side in sides]
    if not found or not found[-1]:
        raise DataError("no records to show", hint="evaluate at least one row")
    if not set(found[0]) & set(found[-1]):
        raise DataError(
            f"no row is in both {sides[0].name} and {sides[-1].name}",
            hint="name evaluations of the same data",
        )
    records = gallery.failures_first(list(found[-1].values()), most)
    keys = [(r["source"], r["id"]) for r in records]
    library.look_up(keys)

    def make(record: dict, key: tuple[str, str]) -> tuple[dict, str | None]:
        shown = library.of(record)
        block = None if shown is None else media_of(record, shown)
        case = _case(record, [of_side.get(key) for of_side in found], shown, block)
        return case, block and to_json(block)

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        made = list(pool.map(make, records, keys))
    cases, blocks = [case for case, _ in made], [block for _, block in made]
    head = {"title": title, "sides": [side.name for side in sides], "total": len(found[-1])}
    head["report"] = report
    content = to_json(head | {"cases": cases})
    inside = len(content) + sum(len(block or "") for block in blocks) <= MAX_BYTES
    name = os.path.splitext(os.path.basename(out))[0] + "_files"
    folder = os.path.join(os.path.dirname(out), name)
    if inside:
        storage.remove_tree(folder)  # of an earlier, larger page
    else:
        with storage.filling(folder) as filled:
            for i, block in enumerate(blocks):
                if block is not None:
                    files.write_text(os.path.join(filled, f"{i}.js"), f"qoqMedia({i}, {block});\n")
    files.write_text(
        out, make_page(title, content, blocks if inside else [], "" if inside else name)
    )
    return len(cases)


def make_page(
    title: str,
    content: str,
    blocks: Sequence[str | None],
    folder: str = "",
    name: str = "viewer",
) -> str:
    """A page of ASSETS with its data.

    Args:
      content: JSON of `to_json` that the page reads first.
      blocks: JSON of each case's media, where they are inside the page.
      folder: of the media that are not.
      name: "viewer" or "grading": NAME.html, NAME.js after draw.js, and NAME.css after viewer.css.
    """
    script = _assets("draw.js", f"{name}.js")
    css = _assets(*dict.fromkeys(("viewer.css", f"{name}.css")))
    body = _assets(f"{name}.html")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = [f'<script type="application/json" id="cases" data-files="{folder}">{content}</script>']
    data += [
        f'<script type="application/json" id="media-{i}">{block}</script>'
        for i, block in enumerate(blocks)
        if block is not None
    ]
    # strict-dynamic: the page's own script may load the files of media, and nothing else may run.
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}' 'strict-dynamic'; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{gallery.escape(title, 120)}</title><style>{css}</style></head>\n"
        f"<body>{body}\n{''.join(data)}\n<script>{script}</script></body></html>\n"
    )


def _assets(*names: str) -> str:
    return "".join((ASSETS / name).read_text("utf-8") for name in names)


def to_json(value: Any) -> str:
    """JSON that may stand in a script element: no "<" of it can end one."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _case(
    record: dict, sides: Sequence[dict | None], shown: Shown | None, block: dict | None
) -> dict:
    """What the list and the texts of a case need."""
    return {
        "id": text_of(gallery.shown_id(record), 80),
        "domain": gallery.title(record["domain"]),
        "dataset": text_of(record["dataset"], 60),
        "source": text_of(record["source"], 60),
        "gold": labels_of(record["labels"]),
        "prompt": text_of(shown.problem) if shown else "",
        "goldBoxes": boxes_of(record, "gold_"),
        "sides": [side and _answer(side, block) for side in sides],
    }


def _answer(record: dict, block: dict | None) -> dict:
    """What one evaluation says on a case."""
    text = str(record.get("text", ""))
    scores = {
        text_of(k, 80): _number(v) for k, v in list((record.get("scores") or {}).items())[:32]
    }
    sure = [v for v in scores.values() if v is not None]
    return {
        "predicted": labels_of(record["predicted"]),
        "right": gallery.is_right(record),
        "iou": _number(record.get("iou")),
        "confidence": max(sure, default=None),
        "scores": scores,
        "boxes": boxes_in(record, block) if block else [],
        "think": text_of(parse(text).think or ""),
        "text": text_of(text),
        "reward": {
            text_of(k, 40): _number(v)
            for k, v in (record.get("reward") or {}).items()
            if _number(v) is not None
        },
    }


def media_of(record: dict, shown: Shown) -> dict:
    """A block: pictures as data URLs with the (w, h) frame that boxes on each are in, and the ECG
    as SVG.
    """
    pictures = [
        {"src": figures.data_url(picture), "size": size}
        for picture, size in zip(shown.pictures, sizes_of(record, shown), strict=True)
    ]
    ecg = None if shown.ecg is None else figures.draw_ecg(shown.ecg)
    return {
        "kind": shown.kind,
        "pictures": pictures,
        "ecg": ecg,
        "fault": text_of(shown.fault, 300),
    }


def sizes_of(record: dict, shown: Shown) -> list[list[int]]:
    """[w, h] of the frame that boxes on each picture are in."""
    sizes, found = record.get("frame_sizes") or [record.get("frame_size")], []
    for i, picture in enumerate(shown.pictures):
        place = 0 if shown.kind == FRAMES else i
        size = sizes[place] if place < len(sizes) and sizes[place] else picture.shape[1::-1]
        found.append(list(map(int, size)))
    return found


def boxes_of(record: dict, kind: str) -> list[list[float]]:
    """[x1, y1, x2, y2, picture] each; what is no box of four finite numbers is left out."""
    boxes = record.get(f"{kind}boxes") or []
    on = record.get(f"{kind}box_images") or [0] * len(boxes)
    pairs = zip(boxes, on, strict=False)
    found = [[_number(v) for v in box] + [int(number)] for box, number in pairs if len(box) == 4]
    return [box for box in found if None not in box][:MAX_BOXES]


def boxes_in(record: dict, block: dict) -> list[list[float]]:
    """The response's boxes in the frames of a block's pictures, which may be of another evaluation
    that saw them in another size.
    """
    sizes = record.get("frame_sizes") or [record.get("frame_size")]
    found = []
    for x1, y1, x2, y2, picture in boxes_of(record, ""):
        if not 0 <= picture < len(block["pictures"]):
            continue
        to = block["pictures"][picture]["size"]
        place = 0 if block["kind"] == FRAMES else picture
        own = sizes[place] if place < len(sizes) and sizes[place] else to
        x, y = to[0] / own[0], to[1] / own[1]
        found.append([round(v, 1) for v in (x1 * x, y1 * y, x2 * x, y2 * y)] + [picture])
    return found


def labels_of(labels: Sequence[str]) -> list[str]:
    return [text_of(label, 80) for label in labels[:12]]


def _number(value: object) -> float | None:
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return round(float(value), 4) if known else None


def text_of(value: object, limit: int = gallery.MAX_SHOWN) -> str:
    """Text without control characters; what is over the limit is said to be cut."""
    text = "".join(c if c.isprintable() or c == "\n" else " " for c in str(value)[: limit + 1])
    return text if len(text) <= limit else text[:limit] + " … (cut)"
