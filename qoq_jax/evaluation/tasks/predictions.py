"""Responses of any engine, from a file: scored without a model.

A line is {"id", "response"}, and where needed "task" (without it the line belongs to the one task
that is evaluated), "scores" {label: probability}, "frame_sizes" [[w, h], ...] of the pictures as
the model saw them, and "box_coordinates" ("pixels", which is taken, or "relative_1000").
"""

from __future__ import annotations

import dataclasses
import json
import os

from qoq_jax.base.errors import DataError, did_you_mean
from qoq_jax.data import row_files
from qoq_jax.data.answer_format import COORDINATES, PIXELS

_FIELDS = ("id", "task", "response", "scores", "frame_sizes", "box_coordinates")


@dataclasses.dataclass(frozen=True)
class Response:
    """One response.

    Attributes:
      text: as the model wrote it.
      scores: {label: probability} or {}.
      frame_sizes: (w, h) of the pictures as the model saw them; () = as they are stored.
      box_coordinates: of answer_format.COORDINATES.
    """

    text: str
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    frame_sizes: tuple[tuple[int, int], ...] = ()
    box_coordinates: str = PIXELS


def read(path: str, tasks: list[str]) -> dict[tuple[str, str], Response]:
    """{(task, id): response}.

    Raises:
      DataError: a line is not as above, is there twice, or names a task that is not evaluated.
    """
    found: dict[tuple[str, str], Response] = {}
    with row_files.opened(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{os.path.basename(path)}:{number}"
            try:
                content = json.loads(line)
            except ValueError as error:
                raise DataError(f"is not JSON: {error}", where=where) from error
            key, response = _line(content, where, tasks)
            if key in found:
                raise DataError(f"{key[1]!r} of {key[0]} is there twice", where=where)
            found[key] = response
    return found


def _line(content: object, where: str, tasks: list[str]) -> tuple[tuple[str, str], Response]:
    if not isinstance(content, dict):
        raise DataError("is no JSON object", where=where, hint='{"id": "...", "response": "..."}')
    for name in content:
        if name not in _FIELDS:
            hint = did_you_mean(name, _FIELDS, "known: " + ", ".join(_FIELDS))
            raise DataError(f"unknown field {name!r}", where=where, hint=hint)
    task = content.get("task", tasks[0] if len(tasks) == 1 else None)
    if task not in tasks:
        hint = "evaluated are " + ", ".join(tasks)[:200]
        if task is None:
            raise DataError("names no task", where=where, hint=hint)
        raise DataError(f"belongs to the task {task!r}", where=where, hint=hint)
    identity, text = content.get("id"), content.get("response")
    if type(identity) not in (str, int) or not isinstance(text, str):
        raise DataError("needs id and response", where=where, hint="an empty response is a text")
    sizes, scores = content.get("frame_sizes") or (), content.get("scores") or {}
    coordinates = content.get("box_coordinates", PIXELS)
    try:
        sizes = tuple((int(w), int(h)) for w, h in sizes)
        scores = {str(label): float(score) for label, score in scores.items()}
    except (TypeError, ValueError, AttributeError):
        raise DataError(
            "frame_sizes are pairs of numbers, scores numbers by label", where=where
        ) from None
    if coordinates not in COORDINATES:
        hint = did_you_mean(str(coordinates), COORDINATES, "use " + " or ".join(COORDINATES))
        raise DataError(f"box_coordinates {coordinates!r}", where=where, hint=hint)
    return (task, str(identity)), Response(text, scores, sizes, coordinates)
