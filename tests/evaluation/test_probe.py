"""The linear probe: what it can and cannot read, its optimum, and its threshold."""

from __future__ import annotations

import numpy as np
import pytest

from qoq_jax.base.errors import DataError
from qoq_jax.evaluation import probe

NAMES = ("linear", "hidden", "constant")


def rows(count, seed):
    """Features of which the first decides the label "linear" and the second its square decides
    "hidden".
    """
    x = np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)
    return x * [5.0, 1.0, 1.0, 0.0] + 3.0, np.stack(
        [x[:, 0] > 0.5, np.abs(x[:, 1]) > 0.7, x[:, 0] > 99], axis=1
    )


def test_a_linear_label_is_read_and_a_hidden_one_is_not():
    result = probe.linear_probe(*rows(600, 0), *rows(400, 1), NAMES)
    assert result["per_label"].keys() == {"linear", "hidden"}, (
        "a label without positives is left out"
    )
    assert (
        result["per_label"]["linear"]["auroc"] > 0.99 and result["per_label"]["linear"]["f1"] > 0.95
    )
    assert 0.4 < result["per_label"]["hidden"]["auroc"] < 0.6
    assert result["auroc"] == pytest.approx(
        np.mean([one["auroc"] for one in result["per_label"].values()])
    )
    with pytest.raises(DataError, match="no label"):
        probe.linear_probe(*rows(50, 0), rows(50, 1)[0], np.zeros((50, 3), bool), NAMES)


def test_the_regression_is_at_its_optimum():
    features, labels = rows(300, 2)
    x, y = (
        (features - features.mean(0)) / (features.std(0) + 1e-6),
        np.where(labels[:, 0], 1.0, -1.0),
    )
    weights = probe._logistic(x, labels[:, 0])
    slope = -y / (1 + np.exp(y * (x @ weights[:-1] + weights[-1])))
    np.testing.assert_allclose(x.T @ slope + weights[:-1], 0, atol=0.05)
    assert abs(slope.sum()) < 0.05


def test_the_threshold_is_the_best_one():
    rng = np.random.default_rng(0)
    scores, positive = rng.standard_normal(80), rng.random(80) < 0.3

    def f1(threshold):
        chosen = scores >= threshold
        return 2 * (chosen & positive).sum() / (chosen.sum() + positive.sum())

    assert f1(probe._best_threshold(scores, positive)) == max(f1(t) for t in scores)
