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


def sharpened(count, factor, seed):
    """Records whose true label is drawn from p, and whose scores are p to the power of `factor`."""
    rng = np.random.default_rng(seed)
    made = []
    for p in rng.dirichlet((1, 1, 1), count):
        q = p**factor / (p**factor).sum()
        made.append(record(["abc"[rng.choice(3, p=p)]], **dict(zip("abc", map(float, q)))))
    return made


def test_a_temperature_undoes_what_made_it_too_sure():
    validation, test = sharpened(4000, 2.5, 0), sharpened(4000, 2.5, 1)
    found = calibration.temperature(validation, test)
    assert found["temperature"] == pytest.approx(2.5, rel=0.06) and found["fitted_on"] == 4000
    assert found["after"]["nll"] < found["before"]["nll"]
    assert found["after"]["ece"] < found["before"]["ece"] / 3
    # Least where it was fitted, and the order of the labels stays.
    best = calibration.nll(validation, found["temperature"])
    assert all(best < calibration.nll(validation, found["temperature"] * x) for x in (0.98, 1.02))
    for a, b in zip(test, calibration.rescaled(test, found["temperature"]), strict=True):
        assert max(a["scores"], key=a["scores"].get) == max(b["scores"], key=b["scores"].get)
        assert sum(b["scores"].values()) == pytest.approx(1)


def test_temperature_by_hand():
    # Two of three right at odds of 9 to 1: softmax(log p / T) is best at odds of 2 to 1.
    rows = [record([gold], a=0.9, b=0.1) for gold in "aab"]
    assert calibration.fit_temperature(rows) == pytest.approx(np.log(9) / np.log(2))
    assert calibration.fit_temperature([record(["a"], a=1.0, b=0.0)]) == pytest.approx(0.01)
    with pytest.raises(DataError, match="no record has scores"):
        calibration.temperature([{"labels": ["a"]}], rows)
