"""Metrics of few patients: intervals by patient, a constant answer, old records."""

import numpy as np
import pytest

from qoq_jax.evaluation import few, metrics


def row(i, gold, predicted, patient="p", dataset="a"):
    return dict(
        id=f"{dataset}-{i}",
        dataset=dataset,
        domain="ct",
        source="real",
        patient=patient,
        labels=[gold],
        predicted=[predicted],
        vocabulary=["N", "P"],
    )


def test_wilson_by_hand():
    # p = 0.5, n = 4: (0.5 + 0.4802 +- 1.95996 * sqrt(0.0625 + 0.06002)) / 1.9604
    assert few.wilson(0.5, 4) == pytest.approx((0.1500, 0.8500), abs=1e-4)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_wilson_leaves_room_when_all_rows_agree(share):
    low, high = few.wilson(share, 1)
    assert 0 <= low <= share <= high <= 1 and high - low == pytest.approx(0.7935, abs=1e-4)


def test_rows_of_one_patient_count_as_one_for_the_interval():
    rows = [row(i, "N", "N" if i < 8 else "P") for i in range(10)]
    found = few.summarize(rows)["questions"]["a"]
    assert (found["rows"], found["patients"], found["accuracy"]) == (10, 1, 0.8)
    assert found["accuracy_interval"] == pytest.approx(few.wilson(0.8, 1))


def test_more_patients_narrow_the_interval():
    rows = [row(i, "N", "N" if i < 8 else "P", patient=f"p{i}") for i in range(10)]
    found = few.summarize(rows)["questions"]["a"]
    assert found["accuracy_interval"] == pytest.approx(few.wilson(0.8, 10))


def test_macro_f1_of_fewer_than_five_patients_has_no_interval():
    rows = [row(i, "NP"[i % 2], "N", patient=f"p{i % 4}") for i in range(12)]
    assert few.summarize(rows)["all"]["macro_f1_interval"] == []


@pytest.mark.parametrize("said", ["N", "P"])
def test_macro_f1_of_rows_that_are_all_right_or_all_wrong_has_no_interval(said):
    rows = [row(i, "N", said, patient=f"p{i}") for i in range(8)]
    assert few.summarize(rows)["all"]["macro_f1_interval"] == []


def test_macro_f1_varies_with_the_patients_not_with_copies_of_their_rows():
    def width(copies):
        rows = [
            row(i, "NP"[i % 2], "NP"[i % 2] if i % 3 else "P", patient=f"p{i % 6}")
            for i in range(6 * copies)
        ]
        low, high = few.summarize(rows)["all"]["macro_f1_interval"]
        return high - low

    assert width(20) > 0.7 * width(1)


def test_macro_f1_is_that_of_the_metrics():
    rows = [row(i, "NPP"[i % 3], "NP"[i % 2]) for i in range(12)]
    found = few.summarize(rows)["questions"]["a"]
    assert found["macro_f1"] == pytest.approx(metrics.dataset_metrics(rows)["macro_f1"])


def test_a_constant_answer_is_the_most_frequent_gold_one():
    rows = [row(i, "N" if i < 6 else "P", "P") for i in range(8)]
    found = few.summarize(rows)["questions"]["a"]
    assert found["constant_accuracy"] == 0.75
    assert found["constant_macro_f1"] == pytest.approx((12 / 14 + 0) / 2)


def test_all_is_accuracy_over_rows_and_macro_f1_over_questions():
    rows = [row(i, "N", "N", dataset="a") for i in range(3)] + [row(9, "P", "N", dataset="b")]
    found = few.summarize(rows)["all"]
    assert (found["rows"], found["accuracy"], found["macro_f1"]) == (4, 0.75, 0.5)
    assert (found["constant_accuracy"], found["constant_macro_f1"]) == (1.0, 1.0)


def test_records_without_patients_say_so():
    rows = [{k: v for k, v in row(i, "N", "N").items() if k != "patient"} for i in range(3)]
    found = few.summarize(rows)["all"]
    assert found["patients"] is None
    assert found["accuracy_interval"] == pytest.approx(few.wilson(1.0, 3))


def test_the_line_says_what_it_is_no_evidence_of():
    said = few.line(few.summarize([row(0, "N", "P")]))
    assert "1 rows of 1 patients" in said and "no evidence about patients" in said


def test_weighted_macro_f1_with_whole_weights_is_repetition():
    rows = [row(i, "NPP"[i % 3], "NP"[i % 2]) for i in range(6)]
    weights = np.array([[2, 0, 1, 3, 1, 0]])
    again = [r for r, times in zip(rows, weights[0], strict=True) for _ in range(times)]
    _, gold, predicted = metrics.indicators(rows)
    found = metrics.weighted_macro_f1(gold, predicted, weights)[0]
    assert found == pytest.approx(metrics.dataset_metrics(again)["macro_f1"])
