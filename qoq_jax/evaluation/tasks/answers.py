"""Reads the answer out of a response, by kind of question. Nothing is guessed: what cannot be read
is no answer, and counts as wrong.

MedEvalKit instead takes the option that looks most alike; `nearest` gives that too, under a name of
its own. Its "yes" and "no" may stand inside other words ("normal", "know"); here they are words.
"""

from __future__ import annotations

import difflib
import re

from qoq_jax.data.answer_format import END_THINK, MAX_TEXT, fold, last_boxed
from qoq_jax.data.labels import split_labels
from qoq_jax.evaluation.tasks.question import LETTERS, Question

_ANNOUNCED = ("answer is", "answer:", "answer**:", "answer:**", "answer*:")
_LETTER = re.compile(r"(?:option |choice |letter )?(?:\(([a-z])\)|([a-z])(?:[.:),;\n]|$))")
_OPTION_HEAD = re.compile(r"^\s*\(?[A-Za-z]\)?\s*[.:)]\s*")


def said(response: str) -> str:
    """The answer's text: the last \\boxed{}, else <answer>...</answer>, else what follows the last
    "answer is" or "answer:", else all that follows the reasoning.
    """
    text = response[:MAX_TEXT]
    if boxed := last_boxed(text):
        inner = boxed.removeprefix("\\text{")
        return inner.removesuffix("}").strip() if inner != boxed else boxed
    if (start := text.rfind("<answer>")) >= 0:
        start += len("<answer>")
        end = text.find("</answer>", start)
        return text[start : end if end >= 0 else None].strip()
    text = text.rpartition(END_THINK)[2]
    low = text.lower()
    at = max((low.rfind(mark) + len(mark) for mark in _ANNOUNCED if mark in low), default=0)
    return text[at:].strip(" \t\n*:\"'")


def predicted(question: Question, response: str) -> tuple[str, ...]:
    """The answer that a response gives, () when it cannot be read."""
    text = said(response)
    if question.kind == "choice":
        return _letter(question, text)
    if question.kind == "yes_no":
        found = {"yes", "no"} & set(re.findall(r"[a-z]+", text.lower()))
        return tuple(found) if len(found) == 1 else ()
    if question.kind == "set":
        named = split_labels(text, question.options)
        return named if named and set(named) <= set(question.options) else ()
    return (text,) if text else ()


def _letter(question: Question, text: str) -> tuple[str, ...]:
    low = text.strip().lower()
    if head := _LETTER.match(low):
        letter = (head[1] or head[2]).upper()
        return (letter,) if LETTERS.index(letter) < len(question.options) else ()
    alike = [
        letter
        for letter, option in zip(LETTERS, question.options, strict=False)
        if normal(text) in (normal(option), normal(_OPTION_HEAD.sub("", option)))
    ]
    return tuple(alike) if len(alike) == 1 else ()


def nearest(question: Question, response: str) -> tuple[str, ...]:
    """As `predicted`; of a choice that cannot be read, the option most alike by difflib's ratio, as
    MedEvalKit counts.
    """
    found = predicted(question, response)
    if found or question.kind != "choice":
        return found
    text = said(response).lower()[:4096]
    ratios = [
        difflib.SequenceMatcher(None, option.lower(), text).ratio() for option in question.options
    ]
    return (LETTERS[ratios.index(max(ratios))],)


def is_exact(question: Question, found: tuple[str, ...]) -> bool:
    """Whether the answer is the gold one: the same set, in normal form."""
    return {normal(one) for one in found} == {normal(one) for one in question.answers}


def token_f1(gold: str, text: str) -> tuple[float, float]:
    """(F1, recall) between the sets of words, lower case, split at spaces.

    The definition of MedEvalKit's calculate_f1; beware that its "f1" is the recall: the caller
    unpacks (f1, precision, recall) as (precision, recall, f1).
    """
    wanted, given = set(normal(gold).split()), set(normal(text).split())
    shared = len(wanted & given)
    if not shared:
        return 0.0, 0.0
    return 2 * shared / (len(wanted) + len(given)), shared / len(wanted)


def normal(text: str) -> str:
    """Case folded, single spaces, without a last full stop."""
    return fold(text).rstrip(" .")
