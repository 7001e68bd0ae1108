"""K-means with the elbow rule, against the best of all partitions where those can be counted."""

from __future__ import annotations

import functools
import pathlib

import numpy as np
import pytest

from qoq_jax.rl.kmeans import kmeans_elbow

POINTS, DIM = 7, 3


@functools.cache
def partitions(count, most):
    """All label vectors of `count` points in at most `most` clusters, each partition once."""
    rows = [[0]]
    for _ in range(count - 1):
        rows = [[*row, label] for row in rows for label in range(min(max(row) + 2, most))]
    return np.array(rows)


def inertia(x, labels):
    return sum(
        np.square(x[labels == c] - x[labels == c].mean(axis=0)).sum() for c in np.unique(labels)
    )


def best_inertia(x, k):
    return min(inertia(x, labels) for labels in partitions(len(x), k))


def elbow(x, k_max):
    """The rule as the paper's code applies it, on optimal inertias."""
    k_cap = min(k_max, len(np.unique(x, axis=0)))
    inertias = [best_inertia(x, k) for k in range(1, k_cap + 1)]
    drops = -np.diff(inertias)
    return next((k for k in range(2, k_cap) if drops[k - 1] < 0.1 * drops[k - 2]), k_cap)


def cluster(x, k_max, groups=None, num_groups=3):
    groups = np.zeros(len(x), np.int32) if groups is None else groups
    labels, k = kmeans_elbow(x.astype(np.float32), groups, num_groups, k_max)
    return np.asarray(labels), np.asarray(k)


def test_two_clusters_are_close_to_the_best_partition():
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(100):
        x = np.sort(rng.random((POINTS, DIM)), axis=1)
        labels, k = cluster(x, 2)
        assert k[0] == 2
        ratios.append(inertia(x, labels) / best_inertia(x, 2))
    assert np.mean(ratios) < 1.05 and np.mean(np.isclose(ratios, 1)) > 0.7 and max(ratios) < 1.6


@pytest.mark.parametrize("seed", range(10))
def test_separate_groups_are_found_with_the_k_of_the_rule(seed):
    rng = np.random.default_rng(seed)
    truth = np.array([0, 0, 1, 1, 2, 2, 2])
    x = np.array([0.0, 0.45, 1.0])[truth][:, None] + rng.uniform(-0.02, 0.02, (POINTS, DIM))
    labels, k = cluster(x, 6)
    assert k[0] == elbow(x, 6) == 3
    assert ((labels[:, None] == labels) == (truth[:, None] == truth)).all()


@pytest.mark.parametrize("distinct, k_max, expected", [(1, 6, 1), (2, 6, 2), (7, 1, 1), (7, 2, 2)])
def test_limits_of_k(distinct, k_max, expected):
    x = np.arange(POINTS)[:, None] % distinct * np.ones((1, DIM))
    labels, k = cluster(x, k_max)
    assert k[0] == expected and len(np.unique(labels)) == expected


def test_groups_do_not_touch_each_other_and_absent_points_stay_out():
    rng = np.random.default_rng(0)
    x = rng.random((4 * POINTS, DIM))
    groups = np.repeat([0, 2, -1, 3], POINTS).astype(np.int32)
    x[groups != 0] *= 1e7  # a domain with rewards of another size
    shuffle = rng.permutation(len(x))
    labels, k = cluster(x[shuffle], 6, groups[shuffle])
    alone = [cluster(x[groups == group], 6) for group in (0, 2)]
    assert k[1] == 0 and not labels[np.isin(groups[shuffle], (-1, 3))].any()
    for group, (expected, expected_k) in zip((0, 2), alone):
        assert k[group] == expected_k[0]
        np.testing.assert_array_equal(labels[np.argsort(shuffle)][groups == group], expected)


def test_rounding_noise_makes_no_clusters():
    noise = np.random.default_rng(0).uniform(0, 1e-7, (POINTS, DIM))
    x = np.where(np.arange(POINTS) < 3, 0.2, 0.7)[:, None] + noise
    labels, k = cluster(x, 6)
    assert k[0] == 2
    assert len(set(labels[:3])) == len(set(labels[3:])) == 1


def test_inertia_is_that_of_scikit_learn():
    """On reward vectors, at the k that the rule takes: against ten starts of its k-means++, and
    against its default of one.
    """
    golden = np.load(pathlib.Path(__file__).parents[1] / "golden" / "kmeans_inertia.npz")
    ratios = []
    for k_max in (3, 10):
        for x, best, single in zip(golden["sets"], golden["best"], golden["single"]):
            labels, k = cluster(x, k_max, num_groups=1)
            found = inertia(x.astype(np.float64), labels)
            ratios.append((found / best[k[0] - 1], found / single[k[0] - 1]))
    to_best, to_single = np.array(ratios).T
    assert to_best.mean() < 1.05 and to_best.max() < 1.2
    assert to_single.mean() < 1, "better than one start"
