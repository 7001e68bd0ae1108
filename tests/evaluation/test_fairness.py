"""Subgroups on records that can be counted by hand."""

import numpy as np
import pytest

from qoq_jax.evaluation import fairness


def records(group, patients, right, gold=("a", "b"), attribute="sex"):
    """One row per patient; of each gold label the first `right` shares are answered by it."""
    made = []
    for number in range(patients):
        label = gold[number % len(gold)]
        hit = number // len(gold) < right * (patients // len(gold))
        other = gold[(number + 1) % len(gold)]
        made.append(
            {"id": f"{group}{number}", "source": "s", "domain": "ct", "dataset": "d"}
            | {"patient": f"{group}{number}", "labels": [label]}
            | {"predicted": [label if hit else other], "attributes": {attribute: group}}
        )
    return made


def test_gaps_by_hand():
    rows = records("female", 40, 1.0) + records("male", 40, 0.5)
    found = fairness.summarize(rows, draws=200)["sex"]
    one = found["datasets"]["ct/d"]
    # male: half of either label named rightly, the others as the other label.
    assert one["groups"]["male"] == pytest.approx(
        {"count": 40, "patients": 40, "f1": 0.5, "tpr": 0.5, "fpr": 0.5, "fdr": 0.5}
    )
    assert one["worst"] == "male" and one["labels"] == 2 and one["hidden"] == 0
    assert one["f1_gap"] == one["tpr_gap"] == one["equalized_odds_difference"] == 0.5
    std = np.std([1, 0.5], ddof=1)
    assert one["f1_std"] == pytest.approx(std)
    assert one["f1_es"] == pytest.approx(0.75 / (1 + std))
    low, high = one["f1_gap_interval"]
    assert 0.3 < low < 0.5 < high < 0.7
    assert found["mean"]["fdr_gap"] == 0.5
    (line,) = fairness.lines({"sex": found})
    assert line.startswith("by sex, mean over 1 data sets: F1 gap 0.500")


def test_small_groups_are_not_shown():
    rows = records("female", 40, 1.0) + records("male", 40, 0.5)
    small = records("other", fairness.MIN_PATIENTS - 1, 0.0)
    one = fairness.summarize(rows + small, draws=10)["sex"]["datasets"]["ct/d"]
    assert set(one["groups"]) == {"female", "male"} and one["hidden"] == 1
    assert fairness.summarize(rows[:40] + small, draws=10) == {}
    # Many rows of few patients are a small group too.
    few = [r | {"patient": r["patient"][:5]} for r in rows[40:]]
    assert fairness.summarize(rows[:40] + few, draws=10) == {}
    assert fairness.summarize([r | {"attributes": {}} for r in rows], draws=10) == {}


def test_labels_that_a_group_lacks_are_no_gap():
    rows = records("female", 60, 1.0, ("a", "b", "c")) + records("male", 40, 1.0)
    one = fairness.summarize(rows, draws=10)["sex"]["datasets"]["ct/d"]
    assert one["labels"] == 2 and one["f1_gap"] == 0


def test_intervals_are_wider_where_rows_are_of_few_patients():
    rows = records("A", 200, 0.5, attribute="site") + records("B", 200, 0.75, attribute="site")

    def width(rows):
        low, high = fairness.summarize(rows)["site"]["datasets"]["ct/d"]["f1_gap_interval"]
        return high - low

    alike = [r | {"patient": f"{r['attributes']['site']} {i // 8}"} for i, r in enumerate(rows)]
    assert width(alike) > 1.2 * width(rows)
