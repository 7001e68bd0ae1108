"""DRPO with bounded weights: the formula by hand, and the propositions of docs/rl.md on random
batches.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qoq_jax.rl import drpo_bounded
from qoq_jax.rl.drpo import DRPOConfig

Q, G, N = 12, 6, 4
CFG = DRPOConfig(num_domains=N, variant="bounded", cluster=False)
CASES = 10_000


def by_hand(rewards, domains, kl, bound=4.0, quantile=0.75):
    """The docstring's formula without clusters, in float64."""
    std = rewards.std(axis=1, ddof=1)
    score = (rewards - rewards.mean(axis=1, keepdims=True)) / (std[:, None] + 1e-6)
    overall = rewards.mean()
    counts = np.bincount(domains, minlength=N)
    usual = counts.sum() / (counts > 0).sum()
    mean = np.array([rewards[domains == g].mean() if counts[g] else 0 for g in range(N)])
    shrunken = (counts * mean + overall) / (counts + 1)
    weight = np.sqrt(usual / counts[domains]) * overall / shrunken[domains]
    weight = weight.clip(1 / bound, bound)
    signal = np.ptp(rewards, axis=1) > 0
    drift = kl.mean(axis=1)
    threshold = np.quantile(drift[signal], quantile)
    damping = np.minimum(1, threshold / drift)
    scale = weight * damping
    return score * (scale / scale[signal].mean())[:, None], weight, threshold


def draw(key):
    """Rewards like those of training (many equal groups, graded values), skewed domains, KL."""
    keys = jax.random.split(key, 6)
    level = jax.random.beta(keys[0], 0.5, 0.8, (Q, 1))
    rewards = (jax.random.uniform(keys[1], (Q, G)) < level) * (
        0.8 + 0.2 * jax.random.bernoulli(keys[2], 0.5, (Q, G))
    )
    share = jnp.array([0.7, 0.2, 0.08, 0.02])
    domains = jax.random.categorical(keys[3], jnp.log(share), shape=(Q,))
    kl = jnp.exp(2 * jax.random.normal(keys[4], (Q, G)) - 2)
    return rewards.astype(jnp.float32), domains, kl


@functools.cache
def many(cluster):
    """(inputs, outputs) of 10,000 random batches."""
    cfg = DRPOConfig(num_domains=N, variant="bounded", cluster=cluster, k_max=3)
    inputs = jax.vmap(draw)(jax.random.split(jax.random.key(0), CASES))

    def one(rewards, domains, kl):
        return drpo_bounded.advantages(rewards, domains, kl, cfg=cfg)

    return jax.device_get((inputs, jax.jit(jax.vmap(one))(*inputs)))


def test_the_formula_is_the_docstrings():
    rng = np.random.default_rng(0)
    rewards = rng.random((Q, G))
    rewards[3] = 0.5
    domains = np.array([0] * 7 + [1] * 3 + [2, 3])
    kl = rng.exponential(size=(Q, G))
    found, _, facts = drpo_bounded.advantages(
        jnp.asarray(rewards, jnp.float32), jnp.asarray(domains), jnp.asarray(kl), cfg=CFG
    )
    wanted, _, threshold = by_hand(rewards, domains, kl)
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-6)
    assert facts["damping_threshold"] == pytest.approx(threshold, rel=1e-5)
    assert facts["zero_variance_groups"] == 1


@pytest.mark.parametrize("cluster", [False, True])
def test_every_case_is_finite_and_its_groups_sum_to_zero(cluster):
    _, (advantages, _, facts) = many(cluster)
    assert np.isfinite(advantages).all() and all(np.isfinite(v).all() for v in facts.values())
    scale = np.abs(advantages).max(axis=-1).clip(1)
    assert (np.abs(advantages.sum(axis=-1)) / scale).max() < 1e-4


@pytest.mark.parametrize("cluster", [False, True])
def test_weights_of_two_questions_differ_at_most_by_the_square_of_the_bound(cluster):
    (rewards, _, kl), (advantages, _, facts) = many(cluster)
    centred = rewards - rewards.mean(axis=-1, keepdims=True)
    score = centred / (rewards.std(axis=-1, ddof=1, keepdims=True) + 1e-6)
    signal = np.ptp(rewards, axis=-1) > 0
    size = np.abs(score).max(axis=-1)
    scale = np.where(signal, np.abs(advantages).max(axis=-1) / size.clip(1e-6), np.nan)
    threshold = facts["damping_threshold"][:, None]
    undamped = np.where(kl.mean(axis=-1) <= threshold, scale, np.nan)
    with np.errstate(all="ignore"):
        spread = np.nanmax(undamped, axis=1) / np.nanmin(undamped, axis=1)
    assert np.nanmax(spread) <= 4.0**2 * (1 + 1e-4)


def test_the_mean_weight_of_informative_questions_is_one():
    (rewards, *_), (advantages, *_) = many(False)
    score = rewards - rewards.mean(axis=-1, keepdims=True)
    score /= rewards.std(axis=-1, ddof=1, keepdims=True) + 1e-6
    signal = np.ptp(rewards, axis=-1) > 0
    size = np.where(signal, np.abs(score).max(axis=-1), 1.0)
    scale = np.where(signal, np.abs(advantages).max(axis=-1) / size, 0.0)
    count = signal.sum(axis=1)
    mean = scale.sum(axis=1)[count > 0] / count[count > 0]
    np.testing.assert_allclose(mean, 1, rtol=1e-4)


def scales(rewards, domains, kl=None, **changes):
    """|A| over |s| of the first response of each question."""
    cfg = DRPOConfig(num_domains=N, variant="bounded", cluster=False, **changes)
    found, *_ = drpo_bounded.advantages(jnp.asarray(rewards), jnp.asarray(domains), kl, cfg=cfg)
    score = rewards - rewards.mean(axis=1, keepdims=True)
    score /= rewards.std(axis=1, ddof=1, keepdims=True) + 1e-6
    return np.abs(np.asarray(found)[:, 0]) / np.maximum(np.abs(score[:, 0]), 1e-6)


HALF = np.array([1, 0, 1, 0, 1, 0], np.float32)
ONE = np.array([1, 0, 0, 0, 0, 0], np.float32)


def test_of_equal_difficulty_the_rarer_domain_weighs_more():
    found = scales(np.stack([HALF] * 5), np.array([0, 0, 0, 0, 1]))
    assert found[4] == pytest.approx(2 * found[0], rel=1e-4)  # the root of 4


def test_of_equal_frequency_the_harder_domain_weighs_more():
    found = scales(np.stack([HALF, HALF, ONE, ONE]), np.array([0, 0, 1, 1]))
    assert found[2] > found[0]


def test_a_single_lucky_response_in_a_hopeless_domain_does_not_fill_the_batch():
    hopeless = np.zeros((40, G), np.float32)
    hopeless[0, 0] = 1
    batch = np.concatenate([[HALF] * 4, hopeless]), np.array([0] * 4 + [1] * 40)
    found, unbounded = scales(*batch), scales(*batch, bound=1e9)
    assert found[4] <= 16 * found[0] and unbounded[4] > 16 * unbounded[0]


def test_damping_goes_by_drift_alone_good_and_bad_responses_alike():
    rewards, domains = np.stack([HALF] * 4), np.array([0, 0, 0, 1])
    kl = np.full((4, G), 0.1, np.float32)
    plain = scales(rewards, domains, jnp.asarray(kl))
    kl[3] = 0.4
    damped = scales(rewards, domains, jnp.asarray(kl), quantile=0.5)
    assert damped[3] / damped[0] == pytest.approx(plain[3] / plain[0] / 4, rel=1e-4)


def test_rewards_may_be_scaled():
    rng = np.random.default_rng(1)
    rewards, domains = rng.random((Q, G)).astype(np.float32), rng.integers(0, N, Q)
    np.testing.assert_allclose(scales(10 * rewards, domains), scales(rewards, domains), rtol=1e-3)


def test_empty_rows_and_the_order_of_questions_change_nothing():
    rewards, domains, kl = (np.asarray(x) for x in draw(jax.random.key(5)))
    plain, *_ = drpo_bounded.advantages(rewards, domains, kl, cfg=CFG)
    order = np.random.default_rng(0).permutation(Q)
    valid = np.concatenate([np.ones(Q, bool), np.zeros(3, bool)])
    padded, *_ = drpo_bounded.advantages(
        np.concatenate([rewards[order], np.full((3, G), np.nan, np.float32)]),
        np.concatenate([domains[order], [0, 1, 2]]),
        np.concatenate([kl[order], np.ones((3, G), np.float32)]),
        cfg=CFG,
        valid=valid,
    )
    np.testing.assert_allclose(padded[:Q], np.asarray(plain)[order], rtol=1e-5, atol=1e-6)
    assert not np.asarray(padded[Q:]).any()


def test_past_questions_count_for_difficulty():
    cfg = DRPOConfig(num_domains=N, variant="bounded", cluster=False, history_size=8)
    hard, easy = np.stack([ONE] * 4), np.stack([1 - ONE] * 4)
    domains = np.array([0, 0, 1, 1])
    past = np.concatenate([hard[:2], easy[:2]])
    _, history, _ = drpo_bounded.advantages(past, domains, cfg=cfg)
    now = np.stack([HALF] * 4)
    found, _, _ = drpo_bounded.advantages(now, domains, history=history, cfg=cfg)
    assert abs(float(found[0, 0])) > 1.2 * abs(float(found[2, 0]))
