"""One token from logits: the sets that top-k and top-p keep, the distribution that is drawn from,
independence of rows.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qoq_jax.sampling import tokens as sampling

VOCABULARY = 700  # three blocks, the last one short


def kept(logits) -> list[int]:
    return np.flatnonzero(np.isfinite(np.asarray(logits))).tolist()


@pytest.mark.parametrize(("top_p", "count"), [(0.4, 1), (0.6, 2), (0.99, 4), (1.0, 4), (0.0, 1)])
def test_nucleus_keeps_the_smallest_sufficient_set(top_p, count):
    logits = jnp.log(jnp.array([0.15, 0.5, 0.05, 0.3]))
    if top_p == 0:  # nothing is needed, but something must be left to draw from
        top_p = 1e-9
    assert kept(sampling.nucleus(logits, top_p)) == sorted([1, 3, 0, 2][:count])


def test_sets_equal_those_of_a_sort():
    logits = np.random.default_rng(0).normal(size=(5, VOCABULARY), scale=3).astype(np.float32)
    logits[:, 7] = -np.inf
    order = np.argsort(-logits, axis=-1)
    probability = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum(
        -1, keepdims=True
    )
    top_k, top_p = jax.jit(lambda x: (sampling.keep_top_k(x, 20), sampling.nucleus(x, 0.9)))(logits)
    for row in range(5):
        assert kept(top_k[row]) == sorted(order[row, :20])
        count = int(
            (np.cumsum(probability[row, order[row]]) - probability[row, order[row]] < 0.9).sum()
        )
        assert kept(top_p[row]) == sorted(order[row, :count])


def test_draws_follow_the_probabilities_and_never_leave_the_allowed_set():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=VOCABULARY, scale=2).astype(np.float32)
    banned = rng.uniform(size=VOCABULARY) < 0.5
    count = 20_000
    uniform = jnp.concatenate(
        [jax.random.uniform(jax.random.key(0), (count - 2,)), jnp.array([0.0, 1 - 2.0**-24])]
    )
    token, logprob = jax.jit(
        lambda: sampling.choose(
            jnp.broadcast_to(logits, (count, VOCABULARY)),
            uniform,
            jnp.asarray(banned),
            temperature=1.5,
        )
    )()
    assert not banned[np.asarray(token)].any()
    scaled = logits.astype(np.float64) / 1.5
    expected = np.where(banned, 0, np.exp(scaled))
    found = np.bincount(token, minlength=VOCABULARY) / count
    # total variation; 0.5 for another temperature's mode
    assert 0.5 * np.abs(found - expected / expected.sum()).sum() < 0.06
    np.testing.assert_allclose(
        logprob, (scaled - np.log(np.exp(scaled).sum()))[np.asarray(token)], atol=1e-4
    )


@pytest.mark.slow
def test_a_row_draws_the_same_whatever_stands_beside_it():
    logits = np.random.default_rng(2).normal(size=(6, VOCABULARY)).astype(np.float32)
    keys = sampling.row_keys(jax.random.key(3), 6, 1)[:, 0]
    none = jnp.zeros(VOCABULARY, bool)
    position = jnp.arange(6, dtype=jnp.int32)
    together = sampling.choose(
        jnp.asarray(logits), sampling.uniforms(keys, position), none, top_p=0.9
    )[0]
    alone = [
        sampling.choose(
            jnp.asarray(logits[i]), sampling.uniforms(keys[i], position[i]), none, top_p=0.9
        )[0]
        for i in range(6)
    ]
    assert together.tolist() == [int(t) for t in alone] and len(set(together.tolist())) > 3
