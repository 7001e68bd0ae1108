"""Calibration and selective prediction on numbers that can be counted by hand."""

import numpy as np
import pytest

from qoq_jax.base.errors import DataError
from qoq_jax.evaluation import calibration


def record(labels, **scores):
    return {"labels": labels, "scores": scores}


def test_ece_by_hand():
    confidence = np.array([0.95, 0.91, 0.55, 0.55])
    right = np.array([True, False, True, True])
    # bin 0.9: |0.5 - 0.93| * 2 / 4, bin 0.5: |1 - 0.55| * 2 / 4
    assert calibration.ece(confidence, right) == pytest.approx(0.215 + 0.225)
    assert [(b["low"], b["count"]) for b in calibration.bins(confidence, right)] == [
        (0.5, 2),
        (0.9, 2),
    ]
    assert calibration.bins(np.array([1.0]), np.array([True]))[0]["high"] == 1.0


def test_a_calibrated_model_has_no_error():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1, 200_000)
    right = rng.random(200_000) < confidence
    assert calibration.ece(confidence, right) < 0.01
    assert calibration.ece(np.sqrt(confidence), right) > 0.05  # over-confident


def test_aurc_by_hand_and_over_all_orders_of_a_tie():
    confidence = np.array([0.9, 0.8, 0.7])
    assert calibration.aurc(confidence, np.array([True, False, True])) == pytest.approx(
        (0 + 1 / 2 + 1 / 3) / 3
    )
    tied, right = np.array([0.9, 0.5, 0.5]), np.array([True, True, False])
    each = [(0 + 0 / 2 + 1 / 3) / 3, (0 + 1 / 2 + 1 / 3) / 3]  # the error last, or first
    assert calibration.aurc(tied, right) == pytest.approx(np.mean(each))
    assert calibration.aurc(tied, right) == calibration.aurc(tied, right[[0, 2, 1]])


def test_summary_of_records():
    records = [
        record(["a"], a=0.8, b=0.2),
        record(["b"], a=0.6, b=0.4),
        record(["a", "b"], a=0.5, b=0.3, c=0.2),
        {"labels": ["a"]},
    ]
    found = calibration.summarize(records)
    assert found["count"] == 3 and found["accuracy"] == pytest.approx(2 / 3)
    assert found["confidence"] == pytest.approx(1.9 / 3)
    brier = [0.08, 0.72, 0.0 + 0.04 + 0.04]
    assert found["brier"] == pytest.approx(np.mean(brier))
    assert calibration.summarize([{"labels": ["a"]}]) is None


def test_what_is_no_probability_is_refused():
    for scores in ({"a": -3.2, "b": -0.1}, {"a": 0.9, "b": 0.9}):
        with pytest.raises(DataError, match="no probabilities"):
            calibration.summarize([record(["a"], **scores)])
