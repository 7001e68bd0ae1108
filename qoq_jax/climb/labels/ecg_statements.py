"""Statements that an ECG machine prints, to CLIMB's seven classes (MIMIC-IV-ECG's report_0 to
report_17).

    classes(["Sinus rhythm with PAC(s)", "Inferior infarct - age undetermined", "Abnormal ECG"])
    # ("MI", "Other")

tables/ecg_statements.csv has regular expressions in order. Each takes what it matches out of a
statement before the next is tried, and gives it the class of a code of tables/ecg_snomed.csv, or
NORM (a normal ECG), abnormal (the machine says so), uncertain (a finding that it doubts), or
nothing. A statement of which a word is left over is not known, so nothing is guessed from a part
of it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from qoq_jax.base.errors import DataError
from qoq_jax.climb.labels import ecg
from qoq_jax.climb.labels.read import column, rows

TABLE = "ecg_statements"
_NORMAL, _ABNORMAL, _UNCERTAIN = "Normal", "abnormal", "uncertain"
_MARKS = re.compile(r"^[-*>< .]+|[-*>< .]+$")
_WORD = re.compile(r"[a-z0-9]")


def classes(statements: Iterable[str], where: str = "statements") -> tuple[str, ...]:
    """Classes of all statements of one ECG, in order of `ecg.CLASSES`.

    A doubted finding ("possible", "cannot rule out") gives no class. Where one stands beside
    nothing but a normal rhythm, and where the machine calls the ECG abnormal and names no other
    finding, there is no answer.

    Raises:
      DataError: a statement that the table does not know, or no answer.
    """
    found: set[str] = set()
    for statement in statements:
        said = of_statement(statement)
        if said is None:
            raise DataError("a statement that is not known", where=where, hint=f"see {TABLE}.csv")
        found |= said
    doubts = found & {_ABNORMAL, _UNCERTAIN}
    found -= doubts
    if doubts or found - {_NORMAL, "Other"}:
        found.discard(_NORMAL)
    if not found:
        reasons = {
            frozenset(): "no statement of a finding",
            frozenset([_ABNORMAL]): "called abnormal without a finding",
        }
        what = reasons.get(frozenset(doubts), "findings that the machine doubts, and no other")
        raise DataError(what, where=where)
    return tuple(name for name in ecg.CLASSES if name in found)


@functools.lru_cache(1 << 14)
def of_statement(statement: str) -> frozenset[str] | None:
    """Classes, "abnormal" and "uncertain" of one statement; None: the table does not know it."""
    text, found = plain(statement), set()
    for pattern, label in _patterns():
        text, count = pattern.subn(" ; ", text)
        if count and label:
            found.add(label)
    return None if _WORD.search(text) else frozenset(found)


def plain(statement: str) -> str:
    """As the patterns expect it: lower case, single spaces, no marks around it, "nonspecific".

    The makers of the machines write the same statement in capitals, between stars, with a stop.
    """
    return _MARKS.sub("", " ".join(statement.lower().split())).replace("non-", "non")


@functools.cache
def _patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    """(pattern, class, "abnormal", "uncertain" or "") in the order of the table."""
    snomed = column("ecg_snomed", "code", "label")
    words = {"": "", "NORM": _NORMAL, _ABNORMAL: _ABNORMAL, _UNCERTAIN: _UNCERTAIN}
    return tuple(
        (re.compile(row["pattern"]), words.get(row["code"]) or snomed.get(row["code"], ""))
        for row in rows(TABLE)
    )
