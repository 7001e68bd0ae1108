"""Agreement of raters beyond chance, for categories and ordered grades.

All take `values`, [raters, units] of numbers, NaN where a rater gave none, and return None where
chance agrees as well: where only one value was given, or too few units were rated.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Level = Literal["nominal", "ordinal"]


def cohen_kappa(values: np.ndarray) -> float | None:
    """Cohen's kappa, unweighted, over the units that both of two raters rated.

    (p_o - p_e) / (1 - p_e), with p_o the share of units rated alike and p_e what the raters' own
    shares of each value would give. Cohen, "A coefficient of agreement for nominal scales",
    Educational and Psychological Measurement 20(1), 1960.

    Args:
      values: [2, units].
    """
    first, second = values[:, ~np.isnan(values).any(0)]
    if not len(first):
        return None
    seen = np.unique([first, second])
    expected = sum(float(np.mean(first == v) * np.mean(second == v)) for v in seen)
    return _beyond(float(np.mean(first == second)), expected)


def fleiss_kappa(values: np.ndarray) -> float | None:
    """Fleiss' kappa over the units that all raters rated.

    As Cohen's, with p_o the share of pairs of raters that agree and p_e from the shares of all
    ratings. Fleiss, "Measuring nominal scale agreement among many raters", Psychological Bulletin
    76(5), 1971.
    """
    full = values[:, ~np.isnan(values).any(0)]
    raters, units = full.shape
    if raters < 2 or not units:
        return None
    counts = _counts(full, np.unique(full))
    observed = float((counts * (counts - 1)).sum() / (units * raters * (raters - 1)))
    return _beyond(observed, float(((counts.sum(0) / counts.sum()) ** 2).sum()))


def krippendorff_alpha(values: np.ndarray, level: Level = "nominal") -> float | None:
    """Krippendorff's alpha, 1 - D_o / D_e, over the values of units with two or more of them.

    D_o is the mean difference of two values of one unit, D_e that of any two values. The difference
    of two values is 0 or 1 (nominal), or the square of how many values lie between them, half of
    each of the two counted (ordinal). Krippendorff, "Computing Krippendorff's alpha-reliability",
    University of Pennsylvania, 2011.
    """
    paired = values[:, (~np.isnan(values)).sum(0) >= 2]
    seen = np.unique(paired[~np.isnan(paired)])
    if len(seen) < 2:
        return None
    counts = _counts(paired, seen)  # [units, values]
    of_unit, of_value = counts.sum(1), counts.sum(0)
    # Equal values differ by 0, so their pairs, the diagonals, need not be right.
    pairs = counts[:, :, None] * counts[:, None, :]  # [units, values, values]
    coincidences = (pairs / (of_unit - 1)[:, None, None]).sum(0)
    chance = np.outer(of_value, of_value) / (of_value.sum() - 1)
    if level == "nominal":
        difference = 1 - np.eye(len(seen))
    else:
        place = np.cumsum(of_value) - of_value / 2  # middle of each value among all, in order
        difference = (place[:, None] - place[None, :]) ** 2
    return 1 - float((coincidences * difference).sum() / (chance * difference).sum())


def _counts(values: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """float [units, values]: how many raters gave each value to each unit."""
    return (values[:, :, None] == seen).sum(0).astype(float)


def _beyond(observed: float, expected: float) -> float | None:
    return None if expected >= 1 else (observed - expected) / (1 - expected)
