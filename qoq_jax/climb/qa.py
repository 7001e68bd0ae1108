"""CLIMB-QA: the question of a row, from what is asked and the allowed labels.

psi of the CLIMB paper (arXiv 2503.07667, section 3): (x, y, V) -> (question, answer), the question
a prompt with a cue of the modality and the list of allowed labels. Several wordings, and the order
of the labels, are drawn by (seed, id of the row), so that a model learns neither by heart.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Sequence

_ONE = "Answer with one of the following: {labels}."
_MANY = "Answer with one or multiple phrases from the following: {labels}."
WORDINGS = (
    "Above is {shown}. What is {asked}? {list}",
    "Given {shown}, what is {asked}? {list}",
    "Look at {shown} above and name {asked}. {list}",
    "Above is {shown}. Please determine {asked}. {list}",
)


@dataclasses.dataclass(frozen=True)
class Question:
    """What a data set asks.

    Attributes:
      shown: the media in words, with article: "a chest X-ray of a patient".
      asked: what is to be named, with article: "the diagnosis".
      many: whether several labels may be right at once.
    """

    shown: str
    asked: str = "the diagnosis"
    many: bool = False


def problem(question: Question, labels: Sequence[str], marks: str, seed: int, identity: str) -> str:
    """The text of a row's `problem`.

    Args:
      question: of the data set.
      labels: the allowed ones.
      marks: "<image>", "<video>" and "<ecg>", one per medium.
      seed, identity: of the conversion and of the row; they choose wording and order.
    """
    digest = hashlib.sha256(f"{seed}\t{identity}".encode()).digest()
    draw = random.Random(int.from_bytes(digest, "big"))
    wording, order = draw.choice(WORDINGS), list(labels)
    draw.shuffle(order)
    allowed = (_MANY if question.many else _ONE).format(labels=", ".join(order))
    return marks + wording.format(shown=question.shown, asked=question.asked, list=allowed)
