"""Fairness by subgroup (sex, age band, site, device; data/attributes.py), of each data set.

The measures are those of FairGRPO (arXiv 2510.19893; its released evaluation is in DDVD233/mirl,
examples/reward_function/evaluation.py): per group the means over labels of F1, true- and
false-positive rate and false-discovery rate FP / (TP + FP), 0 where nothing was named; then

  f1_gap           largest less smallest F1
  f1_std           standard deviation of F1 over the groups (n - 1)
  f1_es            equity-scaled F1, mean F1 / (1 + f1_std)
  tpr_gap, fpr_gap, fdr_gap     largest less smallest; of fdr the predictive-parity gap
  equalized_odds_difference     max(tpr_gap, fpr_gap) (Hardt, Price and Srebro 2016; the released
                                code gives the two gaps alone)

Unlike there, means are over the labels that occur in the gold answers of every group shown: else a
gap would also say that groups have other diseases. A group of fewer than MIN_PATIENTS patients is
not shown, not by name either. Intervals are a Bayesian bootstrap (Rubin 1981) over patients, as in
compare.py; a gap is never negative, so its interval does not reach 0.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

import numpy as np

from qoq_jax.data.attributes import NAMES
from qoq_jax.evaluation import metrics

MIN_PATIENTS = 20
DRAWS = 1000
_RATES = ("f1", "tpr", "fpr", "fdr")
_AVERAGED = (
    *("f1_gap", "f1_std", "f1_es", "tpr_gap", "fpr_gap", "fdr_gap"),
    "equalized_odds_difference",
)


def summarize(records: Sequence[dict], draws: int = DRAWS) -> dict:
    """{attribute: {"datasets": {"domain/dataset": numbers}, "mean": the measures averaged over
    them}}; {} where no attribute has two groups that are large enough.

    Numbers are the measures above, "f1_gap_interval" and "equalized_odds_difference_interval",
    "worst": the group of least F1, "labels": over how many labels, "hidden": how many groups are
    too small, "groups": {value: {"count", "patients", "f1", "tpr", "fpr", "fdr"}}.
    """
    found = {}
    for name in NAMES:
        sets: dict[str, list[dict]] = collections.defaultdict(list)
        for r in records:
            if name in r.get("attributes", {}):
                sets[f"{r['domain']}/{r['dataset']}"].append(r)
        each = {key: made for key, rows in sets.items() if (made := _of_set(rows, name, draws))}
        if each:
            mean = {m: float(np.mean([one[m] for one in each.values()])) for m in _AVERAGED}
            found[name] = {"datasets": each, "mean": mean}
    return found


def _of_set(records: Sequence[dict], name: str, draws: int) -> dict | None:
    """Numbers of one data set; None without two groups, or without a label that they share."""
    patients = np.array(
        [r.get("patient") or f"{r['source']}/{r['id']}" for r in records], dtype=object
    ).astype(str)
    values = np.array([r["attributes"][name] for r in records])
    sizes = {value: len(set(patients[values == value])) for value in np.unique(values).tolist()}
    shown = {v: values == v for v, size in sizes.items() if size >= MIN_PATIENTS}
    _, gold, predicted = metrics.indicators(records)
    shared = np.array([gold[at].any(axis=0) for at in shown.values()])
    if len(shown) < 2 or not (kept := shared.all(axis=0)).any():
        return None
    gold, predicted = gold[:, kept], predicted[:, kept]
    point = {
        value: rates(gold[at], predicted[at], np.ones((1, at.sum()))) for value, at in shown.items()
    }
    # A patient's weight is the same in every group: one with records of two ages is in both.
    names, index = np.unique(patients, return_inverse=True)
    weights = np.random.default_rng(0).exponential(size=(draws, len(names)))
    drawn = _measures(
        [rates(gold[at], predicted[at], weights[:, index[at]]) for at in shown.values()]
    )
    made = {key: float(value[0]) for key, value in _measures(list(point.values())).items()}
    for key in ("f1_gap", "equalized_odds_difference"):
        made[f"{key}_interval"] = metrics.interval(drawn[key])
    groups = {
        value: {"count": int(at.sum()), "patients": sizes[value]}
        | {rate: float(point[value][rate][0]) for rate in _RATES}
        for value, at in shown.items()
    }
    return made | {
        "worst": min(groups, key=lambda value: groups[value]["f1"]),
        "labels": int(kept.sum()),
        "hidden": len(sizes) - len(shown),
        "groups": groups,
    }


def rates(gold: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """{"f1", "tpr", "fpr", "fdr"}: [draws], means over labels of rows that count `weights`.

    gold, predicted: bool [rows, labels]. weights: [draws, rows].
    """
    tp, fp, fn, tn = (
        weights @ one.astype(float)  # [draws, labels]
        for one in (
            gold & predicted,
            ~gold & predicted,
            gold & ~predicted,
            ~gold & ~predicted,
        )
    )
    parts = {
        "f1": (2 * tp, 2 * tp + fp + fn),
        "tpr": (tp, tp + fn),
        "fpr": (fp, fp + tn),
        "fdr": (fp, tp + fp),
    }
    return {
        name: np.divide(part, whole, out=np.zeros_like(part), where=whole > 0).mean(axis=1)
        for name, (part, whole) in parts.items()
    }


def _measures(groups: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The measures of _AVERAGED, each [draws], of the rates of two groups or more."""
    stacked = {name: np.stack([one[name] for one in groups]) for name in _RATES}
    gaps = {f"{name}_gap": np.ptp(values, axis=0) for name, values in stacked.items()}
    std = stacked["f1"].std(axis=0, ddof=1)
    return gaps | {
        "f1_std": std,
        "f1_es": stacked["f1"].mean(axis=0) / (1 + std),
        "equalized_odds_difference": np.maximum(gaps["tpr_gap"], gaps["fpr_gap"]),
    }


def lines(found: dict) -> list[str]:
    """One line per attribute for a terminal."""
    return [
        f"by {name}, mean over {len(one['datasets'])} data sets: F1 gap "
        f"{one['mean']['f1_gap']:.3f}, equalized odds difference "
        f"{one['mean']['equalized_odds_difference']:.3f}, equity-scaled F1 "
        f"{one['mean']['f1_es']:.3f}"
        for name, one in found.items()
    ]
