"""The words around a sample: the Qwen chat template of the prompt, and the answer format to learn.

A prompt is a list of parts, `Special` tokens and plain texts, so that text from a row stays text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from qoq_jax.base.errors import DataError
from qoq_jax.data.answer_format import PIXELS, RELATIVE_1000
from qoq_jax.data.tokenizer import ECG_TOKEN, END_OF_TURN, Special

SYSTEM = "You are a helpful assistant."
IMAGE, VIDEO, ECG = "<image>", "<video>", "<ecg>"
_PLACEHOLDER = re.compile("(<image>|<video>|<ecg>)")
_PADS = {IMAGE: "<|image_pad|>", VIDEO: "<|video_pad|>", ECG: ECG_TOKEN}


def prompt_parts(
    problem: str,
    *,
    images: Sequence[int] = (),
    videos: Sequence[int] = (),
    ecgs: Sequence[int] = (),
    video_times: Sequence[Sequence[float]] = (),
    system: str = SYSTEM,
    opening: str = "",
    where: str = "problem",
) -> list[str]:
    """The prompt up to and including the assistant's opening.

    Args:
      problem: the question. "<image>", "<video>", "<ecg>" are replaced in order; media of a kind
        without placeholder come first (images, then videos, then ECGs).
      images, videos, ecgs: how many pad tokens each medium takes.
      video_times: for Qwen3-VL, the seconds of each temporal step of each video. The steps stand
        apart, each as "<1.2 seconds>" and its share of the pads; else a video is one run of pads.
      system: system text; "" leaves the system turn out.
      opening: words that the response is made to begin with, as "<think>\n" for models that reason
        first.
      where: what to name in an error.

    Raises:
      DataError: a kind has placeholders, but not one for each medium.
    """
    media = {IMAGE: list(images), VIDEO: list(videos), ECG: list(ecgs)}
    pieces = _PLACEHOLDER.split(problem)
    first: list[str] = []
    for mark, counts in media.items():
        if (written := pieces.count(mark)) not in (0, len(counts)):
            raise DataError(
                f"the text has {written} {mark} for {len(counts)} media",
                where=where,
                hint="write one for each, or none",
            )
        if not written:
            first += [mark] * len(counts)
    times = list(video_times)
    parts: list[str] = []
    if system:
        parts += [Special("<|im_start|>"), "system\n" + system, Special(END_OF_TURN), "\n"]
    parts += [Special("<|im_start|>"), "user\n"]
    for piece in (*first, *pieces):
        if media.get(piece):
            pads = [Special(_PADS[piece])] * media[piece].pop(0)
            if piece == ECG:
                parts += pads
            elif piece == VIDEO and times:
                steps = times.pop(0)
                for seconds in steps:
                    parts += [f"<{seconds:.1f} seconds>", *_vision(pads[: len(pads) // len(steps)])]
            else:
                parts += _vision(pads)
        else:
            parts.append(piece)
    return [*parts, Special(END_OF_TURN), "\n", Special("<|im_start|>"), "assistant\n" + opening]


def _vision(pads: list[str]) -> list[str]:
    return [Special("<|vision_start|>"), *pads, Special("<|vision_end|>")]


def prompt_text(
    problem: str, *, images: int = 0, videos: int = 0, ecgs: int = 0, system: str = SYSTEM
) -> str:
    """The prompt as one string with one pad token a medium, for people to read and for other
    engines.
    """
    return "".join(
        prompt_parts(
            problem, images=[1] * images, videos=[1] * videos, ecgs=[1] * ecgs, system=system
        )
    )


def answer_text(
    labels: Sequence[str],
    boxes: Sequence[Sequence[float]] = (),
    box_labels: Sequence[str] = (),
    reasoning: str = "",
    frame_sizes: Sequence[tuple[int, int]] = (),
    answer_only: bool = False,
    box_images: Sequence[int] = (),
    coordinates: str = PIXELS,
) -> str:
    """What the model should write: boxes, reasoning, diagnosis. The end-of-turn token is not part
    of it.

    Args:
      labels: the gold label set.
      boxes: (x1, y1, x2, y2) in pixels of the resized picture; rounded to integers, at least 1 x 1.
      box_labels: one for each box.
      reasoning: text of <think>.
      frame_sizes: (width, height) of each picture; rounded boxes stay inside it.
      answer_only: the diagnosis alone.
      box_images: the picture of each box; () = all are on the first.
      coordinates: how the model family writes boxes (answer_format.COORDINATES).

    Raises:
      DataError: a text that would break the format which rewards parse.
    """
    diagnosis = ", ".join(labels)
    if diagnosis.count("{") != diagnosis.count("}"):
        raise DataError(
            f"unbalanced braces in the label {diagnosis!r}", where="answer", hint="rename the label"
        )
    if answer_only:
        return f"\\boxed{{{diagnosis}}}"
    for mark in ("</think>", "<think>", "\\boxed", "```"):
        if mark in reasoning:
            raise DataError(
                f"the text holds {mark!r}, which is part of the answer format",
                where="reasoning",
                hint="remove it",
            )
    regions = []
    pictures = box_images or [0] * len(boxes)
    for box, label, picture in zip(boxes, box_labels, pictures, strict=True):
        frame = frame_sizes[picture] if picture < len(frame_sizes) else None
        region = {"bbox_2d": _written_box(box, frame, coordinates), "label": label}
        regions.append(region | ({"image": picture} if picture else {}))
    boxes_json = json.dumps(regions, ensure_ascii=False)
    return f"```json\n{boxes_json}\n```\n<think>{reasoning}</think>\n\\boxed{{{diagnosis}}}"


def _written_box(
    box: Sequence[float], frame_size: tuple[int, int] | None, coordinates: str
) -> list[int]:
    """Whole numbers, inside the frame where it is known."""
    if coordinates == RELATIVE_1000 and frame_size:
        sides = (*frame_size, *frame_size)
        box = [1000 * v / side for v, side in zip(box, sides, strict=True)]
        frame_size = (1000, 1000)
    x1, y1, x2, y2 = (round(v) for v in box)
    if frame_size:
        width, height = frame_size
        x1, y1 = min(x1, width - 1), min(y1, height - 1)
        x2, y2 = min(x2, width), min(y2, height)
    return [x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)]
