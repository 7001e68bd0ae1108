"""Linear probe: how much of the labels a frozen encoder's vectors hold, read out by logistic
regression.

One regression a label (a row may have several), on features standardised with the training rows,
with an L2 penalty of weight 1 (half the squared weights beside the summed log loss; the bias is
free). It is convex, so the result does not depend on a seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.evaluation.metrics import auroc, one_vs_rest


def linear_probe(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    names: Sequence[str],
) -> dict:
    """Fits on the training rows and scores the held-out ones.

    Args:
      train, test: float [n, W] and [m, W] features.
      train_labels, test_labels: bool [n, K] and [m, K].
      names: the K labels.

    Returns:
      {"auroc": macro AUROC, "macro_f1": ..., "per_label": {name: {"auroc", "f1", "count" held-out
      positives}}}. Means are over the labels that have positives and negatives on both sides. F1 is
      at the threshold that is best on the training rows.

    Raises:
      DataError: no label has positives and negatives on both sides.
    """
    mean, spread = train.mean(axis=0), train.std(axis=0) + 1e-6
    x, y = (train - mean) / spread, (test - mean) / spread
    per_label = {}
    for k, name in enumerate(names):
        fitted, gold = train_labels[:, k], test_labels[:, k]
        if fitted.all() or not fitted.any() or gold.all() or not gold.any():
            continue
        weights = _logistic(x, fitted)
        seen, scores = x @ weights[:-1] + weights[-1], y @ weights[:-1] + weights[-1]
        hit = scores >= _best_threshold(seen, fitted)
        counts = (
            (gold & hit).sum(),
            (~gold & hit).sum(),
            (gold & ~hit).sum(),
            (~gold & ~hit).sum(),
        )
        per_label[name] = {
            "auroc": auroc(scores, gold),
            "f1": float(one_vs_rest(*map(int, counts))["f1"]),
            "count": int(gold.sum()),
        }
    if not per_label:
        raise DataError(
            "no label is both present and absent in training and held-out rows",
            where="linear probe",
            hint="use more labelled samples",
        )

    def mean_of(key: str) -> float:
        return float(np.mean([one[key] for one in per_label.values()]))

    return {"auroc": mean_of("auroc"), "macro_f1": mean_of("f1"), "per_label": per_label}


def _logistic(x: np.ndarray, positive: np.ndarray, penalty: float = 1.0) -> np.ndarray:
    """Weights [W + 1] (bias last) that minimise Σ log(1 + exp(-y (w·x + b))) + penalty/2 |w|², y =
    ±1.
    """
    from scipy.optimize import minimize  # scipy comes with jax
    from scipy.special import expit

    x, y = x.astype(np.float64), np.where(positive, 1.0, -1.0)

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        margin = y * (x @ w[:-1] + w[-1])
        slope = -y * expit(-margin)
        value = np.logaddexp(0, -margin).sum() + penalty / 2 * (w[:-1] @ w[:-1])
        return value, np.append(x.T @ slope + penalty * w[:-1], slope.sum())

    return minimize(
        loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 500}
    ).x


def _best_threshold(scores: np.ndarray, positive: np.ndarray) -> float:
    """The score at and above which calling a row positive gives the highest F1."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    f1 = 2 * hits / (np.arange(1, len(scores) + 1) + positive.sum())
    return float(scores[order][np.argmax(f1)])
