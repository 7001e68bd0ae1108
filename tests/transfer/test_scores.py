"""Scores of a set from the logits of its labels."""

import dataclasses

import numpy as np
import pytest

from qoq_jax.base.errors import DataError
from qoq_jax.evaluation.metrics import auroc
from qoq_jax.transfer import scores


def test_weighted_auroc_counts_a_sample_as_often_as_its_weight():
    rng = np.random.default_rng(0)
    score, positive = rng.integers(0, 5, 20) / 5, rng.random(20) < 0.4  # with ties
    weights = rng.integers(0, 3, (4, 20))
    found = scores.weighted_auroc(score, positive, weights.astype(float))
    expected = [auroc(np.repeat(score, w), np.repeat(positive, w)) for w in weights]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    one_sided = scores.weighted_auroc(score, positive, positive[None].astype(float))
    assert np.isnan(one_sided).all()


def test_right_logits_score_one(sets):
    gold = sets["skin"].splits["test"].gold
    found = scores.of_set(sets["skin"], np.where(gold, 4.0, -4.0), draws=50)
    assert (found["auroc"], found["sensitivity"], found["specificity"]) == (1.0, 1.0, 1.0)
    assert found["auroc_interval"] == [1.0, 1.0]


def test_an_exclusive_sample_is_called_by_its_likeliest_label(sets):
    logits = np.tile([2.0, 1.0], (12, 1))
    per_label = scores.of_set(sets["skin"], logits, draws=10)["per_label"]
    assert per_label["Benign"]["sensitivity"] == 1.0
    assert per_label["Malignant"] == {"auroc": 0.5, "sensitivity": 0.0, "specificity": 1.0}


def test_labels_that_do_not_exclude_each_other_are_called_above_their_share(sets):
    share = sets["chest"].splits["train"].gold.mean(axis=0)
    above = np.log(share / (1 - share)) + 0.01
    found = scores.of_set(sets["chest"], np.tile(above, (12, 1)), draws=10)
    assert (found["sensitivity"], found["specificity"]) == (1.0, 0.0)


def with_test(one, **fields):
    """The set with another test split."""
    test = dataclasses.replace(one.splits["test"], **fields)
    return dataclasses.replace(one, splits={**one.splits, "test": test})


def test_the_interval_draws_patients_not_samples(sets):
    """Samples of one patient are alike: twelve of six patients say less than twelve of twelve."""
    gold = np.repeat(np.eye(2, dtype=bool)[[0, 1, 0, 1, 0, 1]], 2, axis=0)
    logits = np.repeat(np.random.default_rng(1).normal(size=(6, 2)), 2, axis=0)
    people = np.arange(12, dtype=np.uint64)
    six = with_test(sets["skin"], gold=gold, patients=people // 2 + 1)
    twelve = with_test(sets["skin"], gold=gold, patients=people + 1)
    wide, narrow = (scores.of_set(one, logits)["auroc_interval"] for one in (six, twelve))
    assert wide[1] - wide[0] > narrow[1] - narrow[0] > 0


def test_domains_are_means_of_sets_and_the_whole_of_all_sets():
    def one(domain, area):
        return {"domain": domain, "auroc": area, "sensitivity": area, "specificity": area}

    found = scores.together({"a": one("ct", 0.5), "b": one("ct", 0.7), "c": one("mri", 0.9)})
    assert found["domains"]["ct"]["auroc"] == pytest.approx(0.6)
    assert found["auroc"] == pytest.approx(0.7)


def test_a_split_without_both_sides_of_any_label_is_an_error(sets):
    split = sets["skin"].splits["test"]
    one = with_test(sets["skin"], gold=split.gold[:1], patients=split.patients[:1])
    with pytest.raises(DataError, match="no label is both present and absent"):
        scores.of_set(one, np.zeros((1, 2)))


def test_one_patient_has_no_interval(sets):
    one = with_test(sets["skin"], patients=np.full(12, 7, np.uint64))
    logits = np.random.default_rng(1).normal(size=(12, 2))
    assert scores.of_set(one, logits)["auroc_interval"] == []
