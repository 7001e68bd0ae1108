"""Metrics of a test set of few patients, such as the real samples: with the number of patients,
intervals as wide as so few patients ask for, and what a constant answer would have scored.

Rows of one patient are alike: 118 rows of 9 patients say little more than 9 rows do.

  accuracy   share of rows with exactly the gold labels. The interval is Wilson's (1927) with the
             number of patients for n, as if all rows of a patient were one observation: the widest.
  macro_f1   as in metrics.py, over all rows of a question. The interval is a Bayesian bootstrap
             (Rubin 1981) of two stages: each draw weighs patients by Exp(1), and the rows of each
             by Exp(1) once more. Below `MIN_PATIENTS` it would pretend a certainty that is not
             there (one patient has no spread between patients), and there is none.
  constant   the same two of an answer that is always the most frequent gold answer of these rows.

A question is a data set, in whatever domain it is asked.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence

import numpy as np

from qoq_jax.evaluation import metrics

WARNING = (
    "A smoke test with real files: it shows that they can be read, trained on and answered. It is "
    "no evidence about patients."
)
MIN_PATIENTS = 5  # for an interval of macro-F1
_Z = 1.959964  # 97.5 % quantile of the normal distribution


def summarize(records: Sequence[dict], draws: int = metrics.BOOTSTRAP_DRAWS, seed: int = 0) -> dict:
    """{"warning", "all": numbers, "questions": {data set: numbers}} of records (at least one).

    Numbers are {"rows", "patients", "accuracy", "accuracy_interval", "macro_f1",
    "macro_f1_interval", "constant_accuracy", "constant_macro_f1"}. "all" has the accuracy over all
    rows and the mean of macro_f1 over the questions. "macro_f1_interval" is [] below MIN_PATIENTS
    and where all rows are right, or all wrong. "patients" is None, and each row stands for a
    patient, when some record does not say whose it is.
    """
    questions: dict[str, list[int]] = collections.defaultdict(list)
    for place, r in enumerate(records):
        questions[r["dataset"]].append(place)
    weights = _draw_weights(records, draws, np.random.default_rng(seed))
    found, drawn = {}, []
    for name, places in questions.items():
        rows = [records[place] for place in places]
        drawn.append(_macro_f1(rows, weights[:, places]))
        found[name] = _numbers(rows) | {
            "macro_f1": float(_macro_f1(rows)[0]),
            "macro_f1_interval": _interval(rows, drawn[-1]),
            "constant_accuracy": accuracy(constant(rows)),
            "constant_macro_f1": float(_macro_f1(constant(rows))[0]),
        }
    mean = {
        name: float(np.mean([numbers[name] for numbers in found.values()]))
        for name in ("macro_f1", "constant_macro_f1")
    }
    share = sum(numbers["rows"] * numbers["constant_accuracy"] for numbers in found.values())
    whole = _numbers(records) | mean
    whole["macro_f1_interval"] = _interval(records, np.mean(drawn, axis=0))
    whole["constant_accuracy"] = share / len(records)
    return {"warning": WARNING, "all": whole, "questions": found}


def line(summary: dict) -> str:
    """The summary in one line for a terminal."""
    found = summary["all"]
    low, high = found["accuracy_interval"]
    patients = "an unknown number of" if found["patients"] is None else found["patients"]
    return (
        f"{found['rows']} rows of {patients} patients: accuracy {found['accuracy']:.2f} "
        f"({low:.2f} to {high:.2f}), a constant answer {found['constant_accuracy']:.2f}. "
        f"{summary['warning']}"
    )


def wilson(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a share of n observations (n at least 1), Wilson 1927.

    (p + z²/2n ± z √(p(1 - p)/n + z²/4n²)) / (1 + z²/n)
    """
    square = _Z**2 / n
    half = _Z * math.sqrt(share * (1 - share) / n + square / (4 * n))
    low, high = ((share + square / 2 + sign * half) / (1 + square) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


def constant(records: Sequence[dict]) -> list[dict]:
    """The records of one question, each answered by the most frequent gold answer among them."""
    counts = collections.Counter(tuple(r["labels"]) for r in records)
    answer = list(counts.most_common(1)[0][0])
    return [r | {"predicted": answer} for r in records]


def accuracy(records: Sequence[dict]) -> float:
    """Share of rows answered with exactly the gold labels."""
    return float(np.mean([metrics.is_exact(r) for r in records]))


def _numbers(records: Sequence[dict]) -> dict:
    patients = _patients(records)
    known = all(r.get("patient") for r in records)
    share = accuracy(records)
    return {
        "rows": len(records),
        "patients": len(set(patients)) if known else None,
        "accuracy": share,
        "accuracy_interval": list(wilson(share, len(set(patients)))),
    }


def _interval(records: Sequence[dict], drawn: np.ndarray) -> list[float]:
    """[] too where all rows are right, or all wrong: a bootstrap cannot tell what it never saw."""
    enough = len(set(_patients(records))) >= MIN_PATIENTS and np.ptp(drawn) > 0
    return metrics.interval(drawn) if enough else []


def _patients(records: Sequence[dict]) -> list[str]:
    return [r.get("patient") or f"row {place}" for place, r in enumerate(records)]


def _macro_f1(records: Sequence[dict], weights: np.ndarray | None = None) -> np.ndarray:
    """[draws]: macro-F1 of one question's rows, weighted by `weights` [draws, rows]; None = once,
    each row alike.
    """
    _, gold, predicted = metrics.indicators(records)
    weights = np.ones((1, len(records))) if weights is None else weights
    return metrics.weighted_macro_f1(gold, predicted, weights)


def _draw_weights(records: Sequence[dict], draws: int, rng: np.random.Generator) -> np.ndarray:
    """[draws, rows]: the weight of each row, of its patient times its own."""
    names, patient = np.unique(_patients(records), return_inverse=True)
    return rng.exponential(size=(draws, len(names)))[:, patient] * rng.exponential(
        size=(draws, len(records))
    )
