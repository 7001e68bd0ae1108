"""How a real sample is written: media without any header, and the row beside them."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from qoq_jax.data.readers import ecg
from qoq_jax.data.rows import Row

_PICTURE_SIDE = 1024  # the longer side of a picture as written, at most


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked of all files of a data set."""

    domain: str
    dataset: str
    text: str
    labels: tuple[str, ...]

    @property
    def problem(self) -> str:
        several = "one or more of" if self.domain == "ecg" else "one of"
        return f"{self.text} Answer with {several}: {', '.join(self.labels)}."


def make_row(
    name: str, question: Question, answer: str, *, patient: str, split: str, **fields: Any
) -> Row:
    """A row of source "real"; `name` is unique among them, `fields` are further ones of `Row`."""
    return Row(
        id=f"real-{name}",
        dataset=question.dataset,
        domain=question.domain,
        patient=patient,
        split=split,
        problem=question.problem,
        answer=answer,
        labels=question.labels,
        source="real",
        # without any, the gold answer would break the format that RL is paid for; it must not name
        # the answer, which a warm start may replace (data/edits.py NoisyLabels)
        **({"reasoning": "no report"} | fields),
    )


def write_picture(picture: np.ndarray, path: pathlib.Path) -> None:
    """uint8 [h, w, 3] as PNG without metadata, grey where it has no colour, at most 1024 pixels
    long.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(picture)
    image.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE), Image.Resampling.BOX)
    small = np.asarray(image)
    if (small == small[..., :1]).all():
        image = Image.fromarray(np.ascontiguousarray(small[..., 0]))
    image.save(path, format="PNG")


def write_ecg(signal: np.ndarray, path: pathlib.Path) -> None:
    """float32 [8, 2500] in mV, as `read_ecg` gives it and reads it back."""
    write_npz(path, signal=signal, fs=np.float32(ecg.RATE), leads=np.array(ecg.LEADS))


def write_npz(path: pathlib.Path, **arrays: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
