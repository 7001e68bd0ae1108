"""Reads what the model wrote: boxes, reasoning and the boxed answer.

The answer format (data/chat.py writes it for supervised training):

    ```json
    [{"bbox_2d": [x1, y1, x2, y2], "label": "LABEL"}]
    ```
    <think>REASONING</think>
    \\boxed{LABEL, LABEL}

A box on another picture than the first says which, counted from 0: {..., "image": 2}. Pictures are
the images of a row, then its videos. Coordinates are as the model family writes them (`in_pixels`).

Model text is untrusted. Everything here is a single pass of `str.find` or of a loop under a cap: no
regular expression that can backtrack, no eval, no recursion on the text's own nesting. Any text of
64 KB takes a few milliseconds and gives an `Answer`, never an exception.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any, NoReturn

from qoq_jax.data.labels import split_labels

MAX_TEXT = 64 * 1024  # characters of a response; a longer one counts as unreadable
MAX_JSON = 8 * 1024  # characters of one fenced block: over a hundred boxes
MAX_DEPTH = 8  # brackets inside one another in a fenced block; the format itself needs 3
MAX_DIGITS = 24  # characters of one number
MAX_COORDINATE = 1e6  # pixels; keeps areas finite and exact
MAX_BOXES = 16
MAX_PICTURE = 255  # the largest number of a picture
MAX_FENCES = 4
MAX_BOXED = 512  # characters inside \boxed{}

Box = tuple[float, float, float, float]
# How a model family writes boxes: in pixels of the resized picture (Qwen2.5-VL), or relative to its
# sides, 0 to 1000 (published Qwen3-VL).
PIXELS, RELATIVE_1000 = "pixels", "relative_1000"
COORDINATES = (PIXELS, RELATIVE_1000)
FENCE, BOXED, THINK, END_THINK = "```", "\\boxed{", "<think>", "</think>"


@dataclasses.dataclass(frozen=True)
class Answer:
    """One response, read.

    boxes: (x1, y1, x2, y2) with x1 < x2 and y1 < y2, in the order and the coordinates written.
    box_labels: the label of each box ("" when it has none).
    box_images: the picture of each box, 0 = the first.
    boxed: content of the last \\boxed{...} with balanced braces, stripped; None when there is none.
    think: content of the first <think>...</think>, stripped; None when there is none.
    has_json: a fenced block holds a JSON list.
    boxes_valid: every item of that list is a box with four finite numbers, positive area and a
      label.
    whole: the response is exactly the three parts of the format, in order, each complete, with
      nothing between or after.
    """

    boxes: tuple[Box, ...] = ()
    box_labels: tuple[str, ...] = ()
    box_images: tuple[int, ...] = ()
    boxed: str | None = None
    think: str | None = None
    has_json: bool = False
    boxes_valid: bool = False
    whole: bool = False


def parse(text: str) -> Answer:
    """Reads a response, decoded without special tokens. Never raises; an unreadable part is simply
    absent.
    """
    if len(text) > MAX_TEXT:
        return Answer()
    items = next(
        (v for v in map(load_json, fenced_blocks(text)) if isinstance(v, (list, dict))), None
    )
    boxes, labels, pictures, boxes_valid = _read_boxes(items)
    think_end = text.find(END_THINK, text.find(THINK)) if THINK in text else -1
    think = text[text.find(THINK) + len(THINK) : think_end].strip() if think_end >= 0 else None
    boxed = last_boxed(text)
    return Answer(
        boxes=boxes,
        box_labels=labels,
        box_images=pictures,
        boxed=boxed or None,
        think=think or None,
        has_json=isinstance(items, list),
        boxes_valid=boxes_valid,
        whole=boxes_valid and bool(boxed) and _is_whole(text),
    )


def in_pixels(answer: Answer, frame_sizes: Sequence[tuple[int, int]], coordinates: str) -> Answer:
    """The answer with its boxes in pixels of the resized picture that each belongs to.

    Args:
      frame_sizes: (w, h) of each picture. A box on a picture that is not there stays as written.
      coordinates: PIXELS or RELATIVE_1000, how they are written.
    """
    if coordinates == PIXELS:
        return answer
    boxes = []
    for box, picture in zip(answer.boxes, answer.box_images, strict=True):
        w, h = frame_sizes[picture] if picture < len(frame_sizes) else (1000, 1000)
        x1, y1, x2, y2 = box
        boxes.append((x1 * w / 1000, y1 * h / 1000, x2 * w / 1000, y2 * h / 1000))
    return dataclasses.replace(answer, boxes=tuple(boxes))


def last_boxed(text: str) -> str | None:
    """Content of the last \\boxed{...}, braces balanced; None when it is absent, unclosed or too
    long.
    """
    start = text.rfind(BOXED)
    end = _closing_brace(text, start + len(BOXED)) if start >= 0 else -1
    return text[start + len(BOXED) : end].strip() if end >= 0 else None


def fenced_blocks(text: str) -> list[str]:
    """Contents of the first MAX_FENCES blocks between ``` or ```json and the next ```."""
    blocks, at = [], text.find(FENCE)
    while at >= 0 and len(blocks) < MAX_FENCES:
        start = at + len(FENCE)
        end = text.find(FENCE, start)
        if end < 0:
            break
        blocks.append(text[start:end].removeprefix("json"))
        at = text.find(FENCE, end + len(FENCE))
    return blocks


def load_json(block: str) -> Any:
    """A JSON value under the caps on length, depth and digits, or None.

    NaN and Infinity are refused.
    """
    if len(block) > MAX_JSON or not _is_shallow(block):
        return None
    try:
        return json.loads(block, parse_constant=_refuse, parse_int=_integer, parse_float=_real)
    except ValueError:
        return None


def valid_box(value: Any) -> Box | None:
    """(x1, y1, x2, y2) of a list of four finite numbers (no booleans) with x1 < x2, y1 < y2; else
    None.
    """
    if not isinstance(value, list) or len(value) != 4:
        return None
    # type() and not isinstance(): a boolean is an int to isinstance.
    if any(type(v) not in (int, float) or not abs(v) <= MAX_COORDINATE for v in value):
        return None
    x1, y1, x2, y2 = map(float, value)
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def boxed_labels(boxed: str | None, vocabulary: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The labels inside \\boxed{}: split as gold answers are, in the vocabulary's spelling if it
    has them.
    """
    if boxed is None:
        return ()
    if boxed.startswith("\\text{") and boxed.endswith("}"):  # a LaTeX habit of the base models
        boxed = boxed[len("\\text{") : -1]
    return split_labels(boxed, vocabulary)


def fold(label: str) -> str:
    """The form in which two labels are compared: single spaces, case folded."""
    return " ".join(label.split()).casefold()


def denies_finding(label: str) -> bool:
    """True for labels that say that there is nothing to point at: "Normal", "No DR", "None",
    "non-nodule".

    These few words catch every such label of the CLIMB vocabularies.
    """
    words = fold(label)
    alone = words in {"no", "none", "normal", "negative", "healthy"}
    return alone or words.startswith(("no ", "non-", "normal "))


def _read_boxes(items: Any) -> tuple[tuple[Box, ...], tuple[str, ...], tuple[int, ...], bool]:
    """Boxes, their labels and pictures, and whether every item was a full one.

    A lone {...} is read, but not valid.
    """
    valid = isinstance(items, list) and len(items) <= MAX_BOXES
    if isinstance(items, dict):
        items = items.get("objects_of_interest", [items])
    boxes, labels, pictures = [], [], []
    found = items if isinstance(items, list) else []
    for item in (item if isinstance(item, dict) else {} for item in found[:MAX_BOXES]):
        box, label = valid_box(item.get("bbox_2d")), item.get("label")
        label = label.strip() if isinstance(label, str) else ""
        picture = item.get("image", 0)
        # type() and not isinstance(): a boolean is an int to isinstance.
        if type(picture) is not int or not 0 <= picture <= MAX_PICTURE:
            box = None
        valid = valid and box is not None and bool(label)
        if box is not None:
            boxes.append(box)
            labels.append(label)
            pictures.append(picture)
    return tuple(boxes), tuple(labels), tuple(pictures), valid


def _is_whole(text: str) -> bool:
    """Exactly ```json...```<think>...</think>\\boxed{...}, but for white space; the list is not
    looked at.
    """
    rest = text.strip()
    if not rest.startswith("```json"):
        return False
    end = rest.find(FENCE, len("```json"))
    rest = rest[end + len(FENCE) :].lstrip() if end >= 0 else ""
    end = rest.find(END_THINK)
    if not rest.startswith(THINK) or not rest[len(THINK) : max(end, 0)].strip():
        return False
    return is_boxed_alone(rest[end + len(END_THINK) :])


def is_boxed_alone(text: str) -> bool:
    """One \\boxed{...} that is not empty, and nothing else but white space."""
    text = text.strip()
    return (
        len(text) <= MAX_TEXT
        and text.startswith(BOXED)
        and text.count(BOXED) == 1
        and _closing_brace(text, len(BOXED)) == len(text) - 1
        and bool(text[len(BOXED) : -1].strip())
    )


def _closing_brace(text: str, start: int) -> int:
    """Index of the brace that closes the one open before `start`, at most MAX_BOXED on; else -1."""
    depth = 1
    for i, char in enumerate(text[start : start + MAX_BOXED + 1]):
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return start + i
    return -1


def _is_shallow(block: str) -> bool:
    """False when brackets outside of strings nest deeper than MAX_DEPTH."""
    depth, in_string, escaped = 0, False, False
    for char in block:
        if in_string:
            in_string = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"':
            in_string = True
        elif char in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                return False
        elif char in "]}":
            depth -= 1
    return True


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number of the format")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError("too many digits")
    return int(digits)


def _real(digits: str) -> float:
    if len(digits) > MAX_DIGITS or not math.isfinite(value := float(digits)):
        raise ValueError("too many digits or not finite")
    return value
