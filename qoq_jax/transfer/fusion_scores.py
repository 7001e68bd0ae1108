"""Scores of fusions on the test admissions of a task, all with the same bootstrap draws, so that
any two can be compared draw by draw.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from qoq_jax.climb.mimic.admissions import Admissions
from qoq_jax.evaluation.metrics import BOOTSTRAP_DRAWS, auroc, interval, one_vs_rest
from qoq_jax.transfer.scores import weighted_auroc


@dataclasses.dataclass(frozen=True)
class Area:
    """A macro AUROC: its mean over seeds, and of each bootstrap draw, NaN for a draw in which no
    class is both there and not.
    """

    value: float
    drawn: np.ndarray

    def told(self) -> dict[str, Any]:
        """{"value", "interval"}."""
        return {"value": self.value, "interval": interval(self.drawn[~np.isnan(self.drawn)])}

    def over(self, other: Area) -> dict[str, Any]:
        """The same of the gain over another one on the same admissions."""
        return Area(self.value - other.value, self.drawn - other.drawn).told()


class HeldOut:
    """The test admissions of a task, or some of them.

    Args:
      found: admissions of the task.
      chosen: bool [n], which of all admissions count, if they are for testing.
    """

    def __init__(self, found: Admissions, chosen: np.ndarray):
        self.rows = np.flatnonzero(chosen & (found.split == "test"))
        self.labels = found.labels[self.rows]
        # of two classes the AUROC is that of the second, the event
        count = len(found.classes)
        held = [k for k in range(count) if 0 < (self.labels == k).sum() < len(self.labels)]
        self.classes = [k for k in held if count > 2 or k == 1]
        # a patient has one admission, so to draw admissions is to draw patients
        rng = np.random.default_rng(0)
        size = len(self.rows)
        draws = rng.integers(max(size, 1), size=(BOOTSTRAP_DRAWS, size))
        self._weights = np.stack([np.bincount(one, minlength=size) for one in draws]) * 1.0

    def area(self, scores: np.ndarray) -> Area | None:
        """Of log-probabilities [seeds, n, c] of all admissions; None where no class is both there
        and not.
        """
        if not self.classes:
            return None
        values, drawn = [], []
        for seed in scores[:, self.rows]:
            each = [(seed[:, k], self.labels == k) for k in self.classes]
            values.append(np.mean([auroc(*one) for one in each]))
            areas = np.stack([weighted_auroc(*one, self._weights) for one in each])
            seen = ~np.isnan(areas)
            total, count = np.where(seen, areas, 0).sum(axis=0), seen.sum(axis=0)
            drawn.append(np.where(count > 0, total / np.maximum(count, 1), np.nan))
        return Area(float(np.mean(values)), np.mean(drawn, axis=0))

    def sensitivity_and_specificity(self, scores: np.ndarray, priors: np.ndarray) -> dict[str, Any]:
        """Means over seeds and classes, where a class is called that is likelier than its share
        of the training admissions.

        Args:
          priors: [c], those shares.
        """
        found: dict[str, list[float]] = {"sensitivity": [], "specificity": []}
        for seed in np.exp(scores[:, self.rows]):
            for k in self.classes:
                gold, called = self.labels == k, seed[:, k] > priors[k]
                counts = (gold & called, ~gold & called, gold & ~called, ~gold & ~called)
                one = one_vs_rest(*(int(count.sum()) for count in counts))
                found["sensitivity"].append(one["recall"])
                found["specificity"].append(one["specificity"])
        return {name: float(np.mean(values)) for name, values in found.items() if values}
