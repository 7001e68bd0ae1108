"""The report's gallery: one case as HTML, with its pictures, question, reasoning, answer and
reward.

A case file (gallery/case_*.json) is a record of metrics.py and, beside it:
  prompt         the question as the model saw it (optional)
  image          path of a PNG or JPEG, relative to the gallery's folder; or
  images         several such paths, each drawn with its own boxes; or
  frames         paths of the frames of one video or volume, drawn as a strip
  ecg            path of an .npz with "signal" float [8, 2500] in mV
Paths must stay inside the gallery's folder. Model text is cut at MAX_SHOWN characters and always
escaped.
"""

from __future__ import annotations

import html
import itertools
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from qoq_jax.base import files
from qoq_jax.base.errors import DataError
from qoq_jax.data.answer_format import fold, parse
from qoq_jax.report.charts import PARTS
from qoq_jax.report.figures import boxes_svg, draw_ecg

MAX_SHOWN = 4000  # characters of any one text
MAX_PICTURES = 8  # of one case


def read_cases(folder: pathlib.Path) -> list[dict]:
    """The case files in name order, each with "folder" added."""
    return [{**read_json(path), "folder": folder} for path in sorted(folder.glob("case_*.json"))]


def choose(cases: Sequence[dict], most: int) -> list[dict]:
    """At most `most` cases: of every domain and source, right and wrong answers in turn.

    They are returned with those of one domain and source together. Cases with a gold region come
    before those without.
    """
    groups: dict[tuple[str, str], list[dict]] = {}
    for case in sorted(cases, key=lambda c: not c.get("gold_boxes")):
        groups.setdefault((case["domain"], case.get("source", "")), []).append(case)
    for key, members in groups.items():
        right, wrong = ([c for c in members if is_right(c) == side] for side in (True, False))
        groups[key] = [
            c for pair in itertools.zip_longest(right, wrong) for c in pair if c is not None
        ]
    turns = [c for turn in itertools.zip_longest(*groups.values()) for c in turn if c is not None]
    kept = {id(c) for c in turns[:most]}
    return [c for key in sorted(groups) for c in groups[key] if id(c) in kept]


def failures_first(cases: Sequence[dict], most: int) -> list[dict]:
    """At most `most` cases: wrong answers of every domain and source in turn while they last, then
    right ones.
    """
    right, wrong = ([c for c in cases if is_right(c) == side] for side in (True, False))
    failures = choose(wrong, most)
    return failures + choose(right, most - len(failures))


def shown_id(record: dict) -> str:
    """A row's id; "" where it holds its patient's, as names of files often do.

    Case and what stands between the words make no difference: Meier^Anna is in meier_anna-01.
    """
    return "" if names_patient(record, record["id"]) else str(record["id"])


def names_patient(record: dict, text: object) -> bool:
    """Whether a text holds the patient of a record: in any case and with any separators, or all
    words of a name in another order.
    """
    if not record.get("patient"):
        return False
    patient, found = words(record["patient"]), words(text)
    return patient in found or set(patient.split()) <= set(found.split())


def words(text: object) -> str:
    """The words of a text, lower case, with one space between."""
    return re.sub(r"[\W_]+", " ", str(text)).strip().casefold()


def is_right(r: dict) -> bool:
    return {fold(v) for v in r["predicted"]} == {fold(v) for v in r["labels"]}


def case_html(case: dict, before: dict | None = None) -> str:
    """One case; `before` is the same row's record from the evaluation before RL."""
    pictures, wide = _pictures(case)
    right = is_right(case)
    answer = parse(case["text"])
    said = (
        _labels(case["predicted"])
        or f"<em>nothing readable</em> in “{escape(answer.boxed or case['text'], 160)}”"
    )
    rows = [
        ("Answer", f'<b class="{"ok" if right else "no"}">{said}</b>'),
        ("Gold", f"<b>{_labels(case['labels'])}</b>"),
    ]
    if before:
        rows.append(("Before RL", f"{_labels(before['predicted']) or 'nothing readable'}"))
    if case.get("gold_boxes") or case.get("boxes"):
        found = f", IoU {case['iou']:.2f}" if case.get("iou") is not None else ""
        keys = (
            f'<span style="color:var(--gold)">■</span> {len(case.get("gold_boxes") or [])} gold, '
        )
        keys += (
            f'<span style="color:var(--predicted)">■</span> {len(case.get("boxes") or [])} '
            "predicted"
        )
        rows.append(("Boxes", keys + found))
    reasoning = f"<blockquote>{escape(answer.think)}</blockquote>" if answer.think else ""
    prompt = case.get("prompt") or case.get("problem")
    raw = (
        f"<details><summary>Prompt</summary><pre>{escape(prompt)}</pre></details>" if prompt else ""
    )
    raw += (
        "<details><summary>Response as "
        f"written</summary><pre>{escape(case['text'])}</pre></details>"
    )
    chip = f'<span class="chip {"ok" if right else "no"}">{"right" if right else "wrong"}</span>'
    known = (case.get("dataset"), case.get("source"), case.get("id") and shown_id(case))
    where = " · ".join(escape(word, 80) for word in known if word)
    definitions = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows)
    return (
        f'<article class="case{" wide" if wide else ""}"><figure>{pictures}</figure><div '
        'class="body"><div>'
        f'<h3>{escape(title(case["domain"]))}{chip}</h3><div class="note">{where}</div>'
        f'<dl class="answers">{definitions}</dl>{reward_bars(case.get("reward") or {})}</div>'
        f"<div>{reasoning}{raw}</div></div></article>"
    )


def reward_bars(reward: dict) -> str:
    """Small bars of the reward and its parts."""
    bars = []
    for name in ("total", "accuracy", "iou", "format", "length"):
        value = reward.get(name)
        if value is None:
            continue
        share = min(max(float(value), 0.0), 1.0) * 100
        label = {"iou": "IoU", "total": "reward"}.get(name, name)
        bars.append(
            f'<span>{label}</span><div class="bar"><i '
            f'style="width:{share:.0f}%;background:{PARTS[name]}">'
            "</i></div>"
            f"<em>{float(value):.2f}</em>"
        )
    return f'<div class="parts">{"".join(bars)}</div>' if bars else ""


def escape(value: object, limit: int = MAX_SHOWN) -> str:
    """HTML-safe text; control characters become spaces, and what is over the limit is said to be
    cut.
    """
    words = "".join(c if c.isprintable() or c == "\n" else " " for c in str(value)[: limit + 1])
    return html.escape(words if len(words) <= limit else words[:limit] + " … (cut)")


def title(domain: str) -> str:
    """A domain's name for people: chest_xray -> Chest X-ray."""
    known = {"ecg": "ECG", "ct": "CT", "mri": "MRI", "chest_xray": "Chest X-ray"}
    return known.get(domain, domain.replace("_", " ").capitalize())


def read_json(path: pathlib.Path) -> Any:
    """The content of a JSON file of a run; DataError when it cannot be read."""
    return files.read_json(path, finite=False, hint="run the evaluation again")


def _labels(labels: Sequence[str]) -> str:
    return ", ".join(escape(label, 80) for label in labels[:12])


def _pictures(case: dict) -> tuple[str, bool]:
    """The case's SVGs, and whether they need the page's full width."""
    pictures, wide = [], False
    paths = [case["image"]] if case.get("image") else case.get("frames") or []
    for number, path in enumerate((case.get("images") or [])[:MAX_PICTURES]):
        sizes = case.get("frame_sizes") or []
        drawn = boxes_svg(
            read_picture(inside(case["folder"], path)),
            _boxes_on(case, "gold_", number),
            _boxes_on(case, "", number),
            frame_size=sizes[number] if number < len(sizes) else None,
        )
        pictures.append(f'<div class="picture">{drawn}</div>')
    if paths:
        frames = [read_picture(inside(case["folder"], p)) for p in paths[:MAX_PICTURES]]
        frames = [f for f in frames if f.shape == frames[0].shape]
        boxes = [_boxes_on(case, kind, 0) for kind in ("gold_", "")]
        drawn = boxes_svg(np.stack(frames), *boxes, frame_size=case.get("frame_size"))
        pictures.append(f'<div class="{"strip" if len(frames) > 1 else "picture"}">{drawn}</div>')
        wide = len(frames) > 1
    if case.get("ecg"):
        pictures.append(draw_ecg(read_signal(case)))
        wide = True
    return "".join(pictures), wide


def _boxes_on(case: dict, kind: str, picture: int) -> list:
    """The gold boxes (kind "gold_") or predicted ones ("") that lie on a picture."""
    boxes = [box for box in case.get(f"{kind}boxes") or [] if len(box) == 4]
    on = case.get(f"{kind}box_images") or [0] * len(boxes)
    return [box for box, number in zip(boxes, on, strict=False) if number == picture][:32]


def read_signal(case: dict) -> np.ndarray:
    """float [8, 2500] mV: the ECG of a case."""
    path = inside(case["folder"], case["ecg"])
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["signal"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"cannot be read as an ECG ({error})", where=str(path)) from error


def read_picture(path: pathlib.Path) -> np.ndarray:
    """uint8 [h, w, 3] of a PNG or JPEG."""
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            return np.asarray(picture.convert("RGB"))
    except OSError as error:
        raise DataError(f"cannot be read as a PNG or JPEG ({error})", where=str(path)) from error


def inside(folder: pathlib.Path, name: str) -> pathlib.Path:
    """The path of a file of the gallery; DataError when the name leads out of it."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise DataError(
            f"points outside of the gallery: {name!r}",
            where=str(folder),
            hint="keep media in the gallery",
        )
    return path
