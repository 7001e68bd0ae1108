"""Two evaluations of the same rows, compared row by row, patients being what is drawn: rows of one
patient say less than rows of as many patients.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.evaluation import metrics, saved

DRAWS = 10_000  # of signs, where not all are tried


def paired_test(
    first: Sequence[bool], second: Sequence[bool], patients: Sequence[str], seed: int = 0
) -> dict:
    """Whether two models are right equally often on the same rows: a permutation test of signs.

    Were the models alike, which of them is which could be exchanged for each patient. With one row
    per patient that is the exact McNemar test (1947).

    Args:
      first, second: whether each model is right, row by row.
      patients: whose each row is.

    Returns:
      {"lost": rows that only the first has right, "won": only the second, "p": two-sided}.
    """
    gained: dict[str, int] = collections.defaultdict(int)
    won = lost = 0
    for a, b, patient in zip(first, second, patients, strict=True):
        won, lost = won + bool(b and not a), lost + bool(a and not b)
        gained[patient] += int(bool(b)) - int(bool(a))
    steps = np.array([abs(gain) for gain in gained.values() if gain], np.int64)
    if not len(steps):
        return {"lost": lost, "won": won, "p": 1.0}
    if steps.max() == 1:
        from scipy import stats  # slow to import

        up = sum(gain > 0 for gain in gained.values())
        return {"lost": lost, "won": won, "p": float(stats.binomtest(up, len(steps)).pvalue)}
    signs = np.random.default_rng(seed).integers(0, 2, (DRAWS, len(steps))) * 2 - 1
    extreme = int((np.abs(signs @ steps) >= abs(sum(gained.values()))).sum())
    return {"lost": lost, "won": won, "p": (extreme + 1) / (DRAWS + 1)}


def compare(first: Sequence[dict], second: Sequence[dict], draws: int = 1000) -> list[dict]:
    """A row for all domains, then one per domain, of the rows that both evaluations hold.

    Returns:
      [{"name": "all" or a domain, "count", "patients", "first" and "second": macro-F1, "gain",
      "interval": 95 % of the gain, Bayesian bootstrap over patients (Rubin 1981) with the same
      weights for both, "lost", "won", "p": `paired_test` of exact matches}]. A row that names no
      patient is one of its own.

    Raises:
      DataError: they are no records, share no row, hold a row twice, or a shared row has other gold
        labels.
    """
    sides = [saved.by_row(rows) for rows in (first, second)]
    shared = sorted(sides[0].keys() & sides[1].keys())
    if not shared:
        raise DataError(
            "the two evaluations share no row", hint="evaluate both on the same data set and split"
        )
    changed = [
        key for key in shared if set(sides[0][key]["labels"]) != set(sides[1][key]["labels"])
    ]
    if changed:  # without ids, which may hold the patient's name
        raise DataError(
            f"{len(changed)} of {len(shared)} shared rows, the first of {changed[0][0]}, have "
            "other gold labels in the two evaluations",
            hint="evaluate both on the same version of the data set",
        )
    rows = [[side[key] for key in shared] for side in sides]
    found = []
    for name in ("all", *sorted({r["domain"] for r in rows[0]})):
        pair = [[r for r in side if name in ("all", r["domain"])] for side in rows]
        patients = [r.get("patient") or f"{r['source']}/{r['id']}" for r in pair[0]]
        weights = _weights(patients, draws)
        scores = [macro_f1(side, np.ones((1, len(patients)))) for side in pair]
        drawn = [macro_f1(side, weights) for side in pair]
        right = [[metrics.is_exact(r) for r in side] for side in pair]
        first_score, second_score = (float(score[0]) for score in scores)
        found.append(
            {"name": name, "count": len(patients), "patients": len(set(patients))}
            | {"first": first_score, "second": second_score, "gain": second_score - first_score}
            | {"interval": metrics.interval(drawn[1] - drawn[0])}
            | paired_test(*right, patients)
        )
    return found


def _weights(patients: Sequence[str], draws: int, seed: int = 0) -> np.ndarray:
    """float [draws, rows]: the weight of each row's patient."""
    names, index = np.unique(patients, return_inverse=True)
    return np.random.default_rng(seed).exponential(size=(draws, len(names)))[:, index]


def macro_f1(records: Sequence[dict], weights: np.ndarray) -> np.ndarray:
    """[draws]: labels -> data set -> domain -> all, as in metrics.py, of weighted rows."""
    groups: dict[str, dict[str, list[int]]] = {}
    for place, r in enumerate(records):
        groups.setdefault(r["domain"], {}).setdefault(r["dataset"], []).append(place)
    domains = []
    for sets in groups.values():
        each = []
        for places in sets.values():
            _, gold, predicted = metrics.indicators([records[place] for place in places])
            each.append(metrics.weighted_macro_f1(gold, predicted, weights[:, places]))
        domains.append(np.mean(each, axis=0))
    return np.mean(domains, axis=0)
