"""Grades that people gave to the responses of two evaluations, without knowing whose they were.

The sheet and its key are of report/grading.py; this file reads the key and the graders' files:

  key      {"sheet": hash, "evaluations": [name, name], "rows": [{"source", "id", "domain", "A": 0
           or 1, which evaluation is A}]}
  answers  {"grader": code, "sheet": hash, "answers": {"0": {question: answer}}}, by row; what was
           not answered is not there
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qoq_jax.base import files
from qoq_jax.base.errors import DataError
from qoq_jax.evaluation import agreement, metrics

_YES_NO = {"no": 0.0, "yes": 1.0}
# Questions about each response: answers and what they count as.
QUESTIONS: dict[str, dict[str, float]] = {
    "evidence": _YES_NO,
    "reasoning": {str(grade): float(grade) for grade in range(1, 6)},
    "harm": _YES_NO,
}
BETTER = ("A", "B", "same")
FIRST, SECOND, SAME = 0.0, 1.0, 2.0  # of "better", once unblinded
COMMENT = "comment"
DRAWS = 2000  # of the bootstrap


def read(key: str, answers: Sequence[str]) -> tuple[dict, dict[str, dict[str, np.ndarray]]]:
    """The key, and the unblinded grades of each grader.

    Returns:
      (key, {grader: {"better": float [rows] of FIRST, SECOND, SAME, and each of QUESTIONS: float
      [2, rows], the first evaluation's grades and the second's}}); NaN where nothing was answered.

    Raises:
      DataError: a file is no key or no answers, or answers are of another sheet, of one grader
        twice, or none that the sheet offers.
    """
    content = files.read_json(key, hint="name the sheet's -key.json")
    names = ("sheet", "evaluations", "rows")
    if (
        not isinstance(content, dict)
        or any(name not in content for name in names)
        or any(row.get("A") not in (0, 1) for row in content["rows"])
    ):
        raise DataError("is no key of a grading sheet", where=key, hint="name the -key.json")
    graders: dict[str, dict[str, np.ndarray]] = {}
    for path in answers:
        found = files.read_json(path, hint="name the files that the graders downloaded")
        if not isinstance(found, dict) or not isinstance(found.get("answers"), dict):
            raise DataError("has no answers", where=path, hint="name what a grader downloaded")
        if found.get("sheet") != content["sheet"]:
            raise DataError(
                "its answers are of another sheet than the key",
                where=path,
                hint="name the key that was written with the sheet",
            )
        code = str(found.get("grader", ""))
        if not code or code in graders:
            what = f"grader {code!r} is there twice" if code else "names no grader"
            raise DataError(what, where=path, hint="one file per grader")
        graders[code] = _unblinded(found["answers"], content["rows"], path)
    return content, graders


def _unblinded(answers: dict, rows: Sequence[dict], path: str) -> dict[str, np.ndarray]:
    better = np.full(len(rows), np.nan)
    grades = {name: np.full((2, len(rows)), np.nan) for name in QUESTIONS}
    known = {str(i): i for i in range(len(rows))}
    for row, given in answers.items():
        where = f"{path}, row {row}"
        if row not in known or not isinstance(given, dict):
            raise DataError("is no row of the sheet", where=where, hint="the file was changed")
        i = known[row]
        first = rows[i]["A"]  # 0 or 1: the evaluation that A is; B is the other
        for name, answer in given.items():
            question, side = name[:-1], name[-1:]
            if name == COMMENT:
                continue
            if name == "better" and answer in BETTER:
                better[i] = SAME if answer == "same" else abs(first - (answer == "B"))
            elif side in ("A", "B") and str(answer) in QUESTIONS.get(question, {}):
                grades[question][abs(first - (side == "B")), i] = QUESTIONS[question][str(answer)]
            else:
                raise DataError(
                    f"{name}={answer!r} is no answer of the sheet",
                    where=where,
                    hint="the file was changed",
                )
    return {"better": better} | grades


def summary(key: dict, graders: dict[str, dict[str, np.ndarray]], seed: int = 0) -> dict[str, Any]:
    """What the graders found.

    Returns:
      {"evaluations", "graders", "rows", "wins": {"judgements", "first", "second", "same": shares of
      all judgements with "first_interval", ..., each 95 %}, "questions": {name: {"first", "second":
      means, a share of yes where that is asked, "difference": second - first where both were
      graded, "interval": 95 % of it}}, "agreement": {name: {"units", "cohen" of two graders,
      "fleiss" of more, "alpha", "level"}}}. Intervals are of a bootstrap that draws rows (Efron
      1979), with all grades of a row.
    """
    all_of = {
        name: np.stack([one[name] for one in graders.values()]) for name in ("better", *QUESTIONS)
    }
    better = all_of["better"]  # [graders, rows]
    wins: dict[str, Any] = {"judgements": int((~np.isnan(better)).sum())}
    for name, value in (("first", FIRST), ("second", SECOND), ("same", SAME)):
        won = np.where(np.isnan(better), np.nan, better == value)
        wins[name], wins[f"{name}_interval"] = _mean(won, seed)
    questions = {}
    for name in QUESTIONS:
        first, second = all_of[name][:, 0], all_of[name][:, 1]  # [graders, rows] each
        difference, interval = _mean(second - first, seed)
        questions[name] = {"first": _mean(first, seed)[0], "second": _mean(second, seed)[0]}
        questions[name] |= {"difference": difference, "interval": interval}
    rated = {name: all_of[name].reshape(len(graders), -1) for name in all_of}
    return {
        "evaluations": key["evaluations"],
        "graders": list(graders),
        "rows": len(key["rows"]),
        "wins": wins,
        "questions": questions,
        "agreement": {name: _agreement(name, values) for name, values in rated.items()},
    }


def _mean(values: np.ndarray, seed: int) -> tuple[float | None, list[float]]:
    """Mean of [graders, rows] without its NaN, and the 95 % interval of a bootstrap of rows."""
    counts = (~np.isnan(values)).sum(0)
    sums, counts = np.nansum(values, 0)[counts > 0], counts[counts > 0]
    if not len(counts):
        return None, []
    drawn = np.random.default_rng(seed).integers(0, len(counts), (DRAWS, len(counts)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    return float(sums.sum() / counts.sum()), metrics.interval(means)


def _agreement(name: str, values: np.ndarray) -> dict[str, Any]:
    """Of [graders, units]: rows, or the responses of both evaluations."""
    level: agreement.Level = "ordinal" if name == "reasoning" else "nominal"
    kappa: dict[str, Callable] = {2: {"cohen": agreement.cohen_kappa}}.get(
        len(values), {"fleiss": agreement.fleiss_kappa}
    )
    return (
        {"units": int(((~np.isnan(values)).sum(0) >= 2).sum())}
        | {kind: of(values) for kind, of in kappa.items()}
        | {"alpha": agreement.krippendorff_alpha(values, level), "level": level}
    )


def write(path: str | os.PathLike, found: dict[str, Any]) -> None:
    """Writes a summary as JSON."""
    files.write_json(path, found)
