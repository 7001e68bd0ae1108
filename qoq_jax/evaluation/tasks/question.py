"""A question of an evaluation task, and the words it is asked with.

The words of visual question answering are those of MedEvalKit (alibaba-damo-academy/MedEvalKit,
commit 9b12e3b, utils/question_formats.py), so that figures compare; with `boxed` they are its words
for models that reason and put the answer into \\boxed{}.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, TypeAlias

from qoq_jax.data.rows import Row

# choice: the letter of an option. yes_no. short: a closed answer in a word or phrase. open: free
# text. set: some of `options`. labels: a row of classification. region: a row's boxes or mask.
Kind: TypeAlias = Literal["choice", "yes_no", "short", "open", "set", "labels", "region"]

_PLAIN = {
    "choice": "Answer with the option's letter from the given choices directly.",
    "yes_no": "Please output 'yes' or 'no'(no extra output).",
    "short": "Answer the question using a single word or phrase.",
    "open": "Please answer the question concisely.",
}
_BOXED = {
    "choice": "Answer with the option's letter from the given choices and put the letter in one "
    '"\\boxed{}".',
    "yes_no": 'Please output "yes" or "no" and put the answer in one "\\boxed{}".',
    "short": "Answer the question using a single word or phrase and put the answer in one "
    '"\\boxed{}".',
    "open": 'Please answer the question concisely and put the answer in one "\\boxed{}".',
}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclasses.dataclass(frozen=True)
class Question:
    """One question with its gold answer.

    Attributes:
      id: unique in its task; what a file of predictions names.
      kind: see `Kind`.
      text: the question as published; for kinds labels and region the whole prompt.
      answers: gold answers: one letter (choice), one text (yes_no, short, open), labels.
      options: the allowed answers; of a choice, those of A, B, ... as they are listed.
      images, videos, ecgs: paths, or the bytes of a picture.
      group: what questions share that are alike: a patient, or where none is known a picture.
      row, root: of kinds labels and region: the row, and the folder of its media.
    """

    id: str
    kind: Kind
    text: str
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()
    images: tuple[str | bytes, ...] = ()
    videos: tuple[str, ...] = ()
    ecgs: tuple[str, ...] = ()
    group: str = ""
    row: Row | None = None
    root: str = ""


def prompt(question: Question, boxed: bool = False) -> str:
    """What a model is asked. Media come first, but where a row's text marks their places."""
    if question.kind in ("labels", "region"):
        return question.text
    # A mark in published text is no place of a medium.
    text = question.text.replace("<image>", "").replace("<video>", "").replace("<ecg>", "")
    if question.kind == "set":
        end = " Put the answer in one \\boxed{}." if boxed else ""
        return (
            f"{text}\nAnswer with one or several of the following, separated by commas: "
            f"{', '.join(question.options)}.{end}"
        )
    if question.kind == "choice":
        text = f"\nQuestion: {text}\nOptions: \n" + "\n".join(question.options)
    return f"{text}\n{(_BOXED if boxed else _PLAIN)[question.kind]}"


def lettered(options: Sequence[str]) -> tuple[str, ...]:
    """ "CT", "MRI" -> "A. CT", "B. MRI"."""
    return tuple(f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False))
