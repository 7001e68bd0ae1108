"""Writes tests/golden/kmeans_inertia.npz: reward vectors, and the inertia that scikit-learn's
k-means reaches on them.

Needs scikit-learn, which the test suite does not:  python tests/rl/make_kmeans_fixtures.py

sets [S, P, G]: sorted reward vectors as in benchmarks/drpo_advantages.py, some on a coarse grid.
best [S, 10]: inertia of k = 1 .. 10 with ten k-means++ starts; single [S, 10]: with one,
scikit-learn's default.
"""

from __future__ import annotations

import pathlib

import numpy as np
from sklearn.cluster import KMeans

OUT = pathlib.Path(__file__).parents[1] / "golden" / "kmeans_inertia.npz"
SETS, POINTS, DIM, K_MAX = 12, 120, 5, 10


def main() -> None:
    rng = np.random.default_rng(0)
    difficulty = rng.choice([0.15, 0.4, 0.6, 0.9], (SETS, POINTS, 1))
    sets = (
        0.6 * (rng.random((SETS, POINTS, DIM)) < difficulty)
        + 0.2 * rng.random((SETS, POINTS, DIM))
        + 0.2
    )
    sets[SETS // 2 :] = np.round(sets[SETS // 2 :] * 10) / 10
    sets = np.sort(sets, axis=2).astype(np.float32)

    def fit(x: np.ndarray, k: int, starts: int) -> float:
        return KMeans(k, n_init=starts, random_state=0).fit(x.astype(np.float64)).inertia_

    found = {
        name: np.array([[fit(x, k, starts) for k in range(1, K_MAX + 1)] for x in sets])
        for name, starts in (("best", 10), ("single", 1))
    }
    np.savez_compressed(OUT, sets=sets, **found)


if __name__ == "__main__":
    main()
