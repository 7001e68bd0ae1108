"""DRPO against the reference numbers and a plain numpy version, and its invariances on arbitrary
rewards.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib

import hypothesis
import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from qoq_jax.base.errors import ConfigError
from qoq_jax.rl import drpo

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "drpo_running_history.npz")
QUESTIONS, GROUP, DOMAINS = 24, 4, 3
PAPER = drpo.DRPOConfig(num_domains=DOMAINS)
UNDAMPED = dataclasses.replace(PAPER, damping=False)
SHORT_HISTORY = dataclasses.replace(PAPER, history_size=5)
RELEASED = drpo.DRPOConfig(num_domains=DOMAINS, variant="released", history_size=32)

# More cases by hand: QOQ_EXAMPLES=10000 pytest tests/rl/test_drpo.py
properties = hypothesis.settings(
    max_examples=int(os.environ.get("QOQ_EXAMPLES", "200")), deadline=None
)
any_rewards = npst.arrays(
    np.float32,
    (QUESTIONS, GROUP),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)
# A coarse grid makes equal vectors, equal distances and equal means: the hard case for order
# independence.
grid_rewards = npst.arrays(np.int8, (QUESTIONS, GROUP), elements=st.integers(0, 5)).map(
    lambda r: r.astype(np.float32) / 5
)
kls = npst.arrays(np.int8, (QUESTIONS, GROUP), elements=st.integers(0, 7)).map(
    lambda k: k.astype(np.float32) / 4
)
domain_ids = npst.arrays(np.int32, QUESTIONS, elements=st.integers(0, DOMAINS - 1))


def advantages(rewards, domains, kl=None, history=None, cfg=PAPER, valid=None):
    """drpo.advantages with every argument given and one shape a config, so that each config
    compiles once.
    """
    count = len(rewards)
    kl = np.zeros_like(rewards) if kl is None else kl
    valid = np.ones(count, bool) if valid is None else valid
    if cfg.history_size and history is None:
        history = drpo.init_history(cfg, GROUP)
    pad = [(0, QUESTIONS - count)]
    result, history, diagnostics = drpo.advantages(
        np.pad(rewards, [*pad, (0, 0)]),
        np.pad(domains, pad),
        np.pad(kl, [*pad, (0, 0)]),
        history,
        cfg=cfg,
        valid=np.pad(valid, pad),
    )
    return np.asarray(result)[:count], history, jax.tree.map(np.asarray, diagnostics)


def tight_groups(seed):
    """Groups so far apart that k-means has one answer: (rewards, domains, groups, kl, rng)."""
    rng = np.random.default_rng(seed)
    # Each group occurs in each domain at least once; the sizes differ.
    cells = np.concatenate([np.arange(9), rng.integers(0, 9, QUESTIONS - 9)])
    domains, groups = cells // 3, cells % 3
    rewards = np.array([0.1, 0.5, 0.9])[groups][:, None] + rng.uniform(
        -0.02, 0.02, (QUESTIONS, GROUP)
    )
    kl = rng.exponential(1.0, rewards.shape).astype(np.float32)
    return rewards.astype(np.float32), domains.astype(np.int32), groups, kl, rng


def reference(rewards, domains, groups, kl, cfg):
    """The formulas of the paper with loops, in float64; the clusters are given."""
    rewards = rewards.astype(np.float64)
    scores = (rewards - rewards.mean(1, keepdims=True)) / (
        rewards.std(1, ddof=1, keepdims=True) + cfg.eps
    )
    for q in range(len(rewards)):
        same_domain = domains == domains[q]
        same_cluster = same_domain & (groups == groups[q])
        mean = rewards[same_domain].mean()
        if cfg.cluster_balanced_mean:
            present = [same_domain & (groups == c) for c in np.unique(groups[same_domain])]
            weights = np.array([1 / cluster.sum() for cluster in present])
            mean = (
                weights * [rewards[cluster].mean() for cluster in present]
            ).sum() / weights.sum()
        scores[q] /= max(np.sqrt(same_domain.sum()) * mean, cfg.eps)
        if cfg.cluster:
            scores[q] /= max(np.sqrt(same_cluster.sum()) * rewards[same_cluster].mean(), cfg.eps)
    if cfg.damping:
        products = (abs(scores) if cfg.damping_symmetric else scores) * kl
        threshold = np.quantile(products, cfg.quantile)
        scores = scores * threshold / (threshold + np.maximum(products, 0))
    return scores / scores.std(ddof=1)


# --------------------------------------------------------------------------------------------------
# Numbers


def test_released_variant_matches_three_steps_of_the_reference():
    names = list(dict.fromkeys(GOLDEN["domains"]))
    domains = np.array([names.index(name) for name in GOLDEN["domains"]], np.int32)
    group, history = int(GOLDEN["group_size"]), None
    for step in range(3):
        actual, history, _ = advantages(
            GOLDEN[f"rewards_{step}"], domains, history=history, cfg=RELEASED
        )
        mask = GOLDEN[f"response_mask_{step}"]
        expected = GOLDEN[f"advantages_{step}"].reshape(len(domains), group, -1)
        actual = actual[:, :, None] * mask.reshape(expected.shape)
        np.testing.assert_allclose(actual, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"damping": False},
        {"damping_symmetric": True},
        {"cluster": False},
        {"cluster_balanced_mean": True, "quantile": 0.9},
    ],
)
def test_paper_variant_matches_the_formulas(changes):
    cfg = dataclasses.replace(PAPER, **changes)
    for seed in range(3):
        rewards, domains, groups, kl, _ = tight_groups(seed)
        actual, _, diagnostics = advantages(rewards, domains, kl, cfg=cfg)
        np.testing.assert_allclose(
            actual, reference(rewards, domains, groups, kl, cfg), atol=2e-4, rtol=2e-4
        )
        np.testing.assert_array_equal(diagnostics["domain_questions"], np.bincount(domains))
        np.testing.assert_array_equal(diagnostics["domain_clusters"], 3 if cfg.cluster else 0)
        assert (diagnostics["damping_mean"] < 1) == cfg.damping


def test_one_cluster_counts_the_domain_twice():
    rewards, domains, _, _, _ = tight_groups(0)
    cfg = dataclasses.replace(UNDAMPED, k_max=1)
    expected = reference(rewards, domains, np.zeros_like(domains), None, cfg)
    np.testing.assert_allclose(
        advantages(rewards, domains, cfg=cfg)[0], expected, rtol=2e-4, atol=2e-4
    )


def test_scarce_and_hard_domains_get_larger_advantages():
    # The same pattern within each question; domain 1 is rarer than domain 0, and its rewards are
    # lower.
    pattern = np.array([0.0, 0.1, 0.1, 0.2], np.float32)
    rewards = np.concatenate([np.tile(pattern + 0.7, (10, 1)), np.tile(pattern + 0.1, (2, 1))])
    domains = np.array([0] * 10 + [1] * 2, np.int32)
    actual, _, diagnostics = advantages(rewards, domains, cfg=UNDAMPED)
    assert abs(actual[-1]).max() > 5 * abs(actual[0]).max()
    np.testing.assert_array_equal(diagnostics["domain_clusters"], [1, 1, 0])
    expected = [np.sqrt(10) * 0.8, np.sqrt(2) * 0.2, 0]
    np.testing.assert_allclose(diagnostics["domain_temperature"], expected, rtol=1e-5)


def test_damping_lowers_positive_products_only():
    rewards, domains, _, kl, _ = tight_groups(0)
    undamped, _, _ = advantages(rewards, domains, cfg=UNDAMPED)
    factor = advantages(rewards, domains, kl)[0] / undamped
    # The factor is damping times one common rescaling, which negative advantages show alone.
    common = factor[undamped < 0]
    np.testing.assert_allclose(common, common[0], rtol=1e-4)
    assert (factor[undamped > 0] < common[0]).all()


def test_questions_without_signal_do_not_move_the_damping_of_others():
    rewards, domains, _, kl, _ = tight_groups(0)
    rewards[6:] = rewards[6:].mean(axis=1, keepdims=True)  # three quarters of the products are 0
    actual, _, diagnostics = advantages(rewards, domains, kl)
    assert diagnostics["zero_variance_groups"] == 18 and diagnostics["damping_threshold"] > 0
    assert actual.max() > 0.3 and not actual[6:].any()


def test_a_kl_of_zero_damps_nothing():
    rewards, domains, _, _, _ = tight_groups(0)
    actual, _, diagnostics = advantages(rewards, domains, np.zeros_like(rewards))
    np.testing.assert_allclose(actual, advantages(rewards, domains, cfg=UNDAMPED)[0], rtol=1e-6)
    assert diagnostics["damping_threshold"] == 0 and diagnostics["damping_mean"] == 1


# --------------------------------------------------------------------------------------------------
# Padding and history


def test_padding_and_unknown_domains_count_nowhere():
    rewards, domains, _, kl, rng = tight_groups(0)
    rewards, domains, kl = rewards[:20], domains[:20], kl[:20]
    plain, history, diagnostics = advantages(rewards, domains, kl, cfg=SHORT_HISTORY)
    where = np.sort(rng.permutation(QUESTIONS)[:20])

    def spread(x, fill):
        out = np.full((QUESTIONS, *x.shape[1:]), fill, x.dtype)
        out[where] = x
        return out

    valid = spread(np.ones(20, bool), False)
    for fill, mask in ((1, valid), (-1, valid), (-1, None), (DOMAINS, None)):
        padded, padded_history, padded_diagnostics = advantages(
            spread(rewards, np.nan),
            spread(domains, fill),
            spread(kl, np.nan),
            cfg=SHORT_HISTORY,
            valid=mask,
        )
        np.testing.assert_allclose(padded[where], plain, atol=1e-6)
        assert not padded[~valid].any()
        jax.tree.map(np.testing.assert_array_equal, padded_history, history)
        for name, value in padded_diagnostics.items():
            np.testing.assert_allclose(value, diagnostics[name], rtol=1e-5, err_msg=name)


def test_history_takes_part_as_if_its_questions_were_in_the_batch():
    cfg = dataclasses.replace(UNDAMPED, history_size=32)
    past, past_domains, past_groups, _, _ = tight_groups(0)
    now, now_domains, now_groups, _, _ = tight_groups(1)
    _, history, _ = advantages(past, past_domains, cfg=cfg)
    actual, _, diagnostics = advantages(now, now_domains, history=history, cfg=cfg)
    both = reference(
        np.concatenate([past, now]),
        np.concatenate([past_domains, now_domains]),
        np.concatenate([past_groups, now_groups]),
        None,
        cfg,
    )[QUESTIONS:]
    np.testing.assert_allclose(actual, both / both.std(ddof=1), atol=2e-4, rtol=2e-4)
    assert diagnostics["domain_questions"].sum() == 2 * QUESTIONS


def test_history_keeps_the_last_questions_of_each_domain():
    rng, history, seen = np.random.default_rng(0), None, {domain: [] for domain in range(DOMAINS)}
    for _ in range(9):
        rewards = np.sort(rng.random((QUESTIONS, GROUP)).astype(np.float32), axis=1)
        domains = rng.choice(DOMAINS, QUESTIONS, p=[0.9, 0.1, 0.0]).astype(np.int32)
        _, history, _ = advantages(rewards, domains, history=history, cfg=SHORT_HISTORY)
        for vector, domain in zip(rewards, domains):
            seen[domain].append(vector)
        for domain, vectors in seen.items():
            kept = np.asarray(history.vectors[domain])[: min(int(history.count[domain]), 5)]
            expected = np.array(vectors[-5:], np.float32).reshape(-1, GROUP)
            np.testing.assert_array_equal(
                kept[np.lexsort(kept.T)], expected[np.lexsort(expected.T)]
            )
    assert (np.asarray(history.count) < 10).all()  # counts stay small for ever


def test_a_history_goes_on_with_a_new_domain_and_the_same_bits():
    rng, more = np.random.default_rng(2), dataclasses.replace(SHORT_HISTORY, num_domains=4)
    history, extended = None, None
    for step in range(4):
        rewards = rng.random((QUESTIONS, GROUP), np.float32)
        domains = rng.integers(0, DOMAINS, QUESTIONS, np.int32)
        here, history, _ = advantages(rewards, domains, history=history, cfg=SHORT_HISTORY)
        if step:
            there, extended, _ = advantages(rewards, domains, history=extended, cfg=more)
            assert np.asarray(here).tobytes() == np.asarray(there).tobytes()
            assert (np.asarray(extended.vectors[:DOMAINS]) == np.asarray(history.vectors)).all()
        else:
            extended = drpo.extend_history(history, DOMAINS + 1)
    assert extended.count.tolist() == [*history.count.tolist(), 0]


# --------------------------------------------------------------------------------------------------
# Invariances


@properties
@hypothesis.given(any_rewards, any_rewards, domain_ids, npst.arrays(bool, QUESTIONS))
def test_any_finite_input_gives_finite_advantages(rewards, kl, domains, valid):
    for cfg in (PAPER, RELEASED):
        leaves = jax.tree.leaves(advantages(rewards, domains, kl, cfg=cfg, valid=valid))
        assert all(np.isfinite(np.asarray(leaf)).all() for leaf in leaves)


@pytest.mark.parametrize(
    "rewards",
    [
        np.zeros((QUESTIONS, GROUP)),
        np.full((QUESTIONS, GROUP), 0.7),
        np.full((QUESTIONS, GROUP), -1.0),
        np.tile([-1.0, 1.0, -1.0, 1.0], (QUESTIONS, 1)),
        np.tile([-1.0, 0.0, -0.5, -0.2], (QUESTIONS, 1)),
    ],
    ids=["zero", "equal", "negative", "mean zero", "mean negative"],
)
@pytest.mark.parametrize("cfg", [PAPER, RELEASED], ids=["paper", "released"])
def test_degenerate_rewards(rewards, cfg):
    rewards = rewards.astype(np.float32)
    for domains in (np.zeros(QUESTIONS, np.int32), np.arange(QUESTIONS, dtype=np.int32) % DOMAINS):
        actual, _, diagnostics = advantages(rewards, domains, np.ones_like(rewards), cfg=cfg)
        assert np.isfinite(actual).all()
        if np.ptp(rewards) == 0:
            assert not actual.any() and diagnostics["zero_variance_groups"] == QUESTIONS
        else:
            assert abs(actual.std(ddof=1) - 1) < 1e-3 and diagnostics["zero_variance_groups"] == 0


def test_one_question_alone():
    rewards = np.array([[0.0, 1.0, 1.0, 1.0]], np.float32)
    actual, _, diagnostics = advantages(rewards, np.array([1], np.int32), np.ones_like(rewards))
    assert np.isfinite(actual).all() and actual[0, 0] < 0 < actual[0, 1]
    np.testing.assert_array_equal(diagnostics["domain_clusters"], [0, 1, 0])


@properties
@hypothesis.given(
    grid_rewards,
    kls,
    domain_ids,
    st.permutations(range(QUESTIONS)),
    st.permutations(range(GROUP)),
    st.permutations(range(DOMAINS)),
)
def test_order_and_names_do_not_matter(rewards, kl, domains, questions, rollouts, names):
    plain, _, diagnostics = advantages(rewards, domains, kl)
    close = dict(atol=1e-4, rtol=1e-3)
    for cut in ((questions, slice(None)), (slice(None), rollouts)):
        shuffled, _, _ = advantages(rewards[cut], domains[cut[0]], kl[cut])
        np.testing.assert_allclose(shuffled, plain[cut], **close)
    renamed, _, renamed_diagnostics = advantages(rewards, np.array(names, np.int32)[domains], kl)
    np.testing.assert_allclose(renamed, plain, **close)
    renamed_clusters = renamed_diagnostics["domain_clusters"][names]
    np.testing.assert_array_equal(renamed_clusters, diagnostics["domain_clusters"])


@properties
@hypothesis.given(grid_rewards, kls, domain_ids, st.sampled_from([0.5, 3.0, 100.0]))
def test_the_unit_of_rewards_and_kl_does_not_matter(rewards, kl, domains, unit):
    plain, _, _ = advantages(rewards, domains, kl)
    # eps in the group's std is the only term with a unit: 1e-6 beside a std of at least 0.1.
    for other, _, _ in (
        advantages(rewards * np.float32(unit), domains, kl),
        advantages(rewards, domains, kl * np.float32(unit)),
    ):
        np.testing.assert_allclose(other, plain, atol=1e-3, rtol=1e-3)


@properties
@hypothesis.given(grid_rewards, kls, domain_ids)
def test_rewards_are_ranked_alike_within_a_question_and_the_batch_has_unit_spread(
    rewards, kl, domains
):
    actual, _, _ = advantages(rewards, domains, kl, cfg=UNDAMPED)
    same = np.sign(actual) == np.sign(np.round(rewards - rewards.mean(1, keepdims=True), 5))
    # A mean that is not exact in float32 leaves a trace beside 0.
    assert (same | (np.abs(actual) < 1e-3)).all()
    if np.ptp(rewards, axis=1).any():
        assert abs(actual.std(ddof=1) - 1) < 1e-4


# --------------------------------------------------------------------------------------------------
# The same in bulk: Hypothesis draws seeds, a seed draws BULK cases, and one vmapped call computes
# them

BULK, BULK_SHAPE = 250, (12, GROUP)
bulk = hypothesis.settings(max_examples=40, deadline=None)  # 10,000 cases
seeds = st.integers(0, 2**32 - 1)


@functools.partial(jax.jit, static_argnames="cfg")
def in_bulk(rewards, domains, kl, valid, cfg=PAPER):
    def one(r, d, k, v):
        found, _, facts = drpo.advantages(r, d, k, cfg=cfg, valid=v)
        return found, facts

    return jax.vmap(one)(rewards, domains, kl, valid)


def bulk_cases(seed):
    """(rng, rewards on a coarse grid, domains, KL on a coarse grid, valid), each with BULK on axis
    0.
    """
    rng = np.random.default_rng(seed)
    levels = rng.integers(1, 6, (BULK, 1, 1))
    rewards = (rng.integers(0, 1 << 30, (BULK, *BULK_SHAPE)) % (levels + 1) / 5).astype(np.float32)
    kl = (rng.integers(0, 8, rewards.shape) / 4).astype(np.float32)
    return (
        rng,
        rewards,
        rng.integers(0, DOMAINS, rewards.shape[:2]).astype(np.int32),
        kl,
        np.ones(rewards.shape[:2], bool),
    )


@pytest.mark.slow
@bulk
@hypothesis.given(seeds)
def test_bulk_any_finite_input_gives_finite_advantages(seed):
    """Any bit pattern that is a finite float32, from denormal to the largest."""
    rng = np.random.default_rng(seed)
    shape = (BULK, *BULK_SHAPE)
    rewards, kl = rng.integers(0, 1 << 32, (2, *shape), dtype=np.uint32).view(np.float32)
    grid = bulk_cases(seed)[1] * (10.0 ** rng.integers(-38, 38, (BULK, 1, 1))).astype(np.float32)
    rewards = np.where(rng.random((BULK, 1, 1)) < 0.5, rewards, grid)
    rewards, kl = (np.where(np.isfinite(x), x, 0).astype(np.float32) for x in (rewards, kl))
    found, facts = in_bulk(
        rewards,
        rng.integers(-1, DOMAINS + 1, shape[:2]).astype(np.int32),
        kl,
        rng.random(shape[:2]) < 0.8,
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((found, facts)))


@pytest.mark.slow
@bulk
@hypothesis.given(seeds)
def test_bulk_order_and_names_do_not_matter(seed):
    rng, rewards, domains, kl, valid = bulk_cases(seed)
    plain = np.asarray(in_bulk(rewards, domains, kl, valid)[0])
    close = dict(atol=1e-4, rtol=1e-3)
    questions = np.argsort(rng.random(domains.shape), axis=1)

    def move(x):
        index = questions.reshape(questions.shape + (1,) * (x.ndim - 2))
        return np.take_along_axis(x, index, axis=1)

    np.testing.assert_allclose(
        in_bulk(move(rewards), move(domains), move(kl), valid)[0], move(plain), **close
    )
    rollouts = np.broadcast_to(np.argsort(rng.random((BULK, 1, GROUP)), axis=2), rewards.shape)

    def turn(x):
        return np.take_along_axis(x, rollouts, axis=2)

    np.testing.assert_allclose(
        in_bulk(turn(rewards), domains, turn(kl), valid)[0], turn(plain), **close
    )
    names = np.argsort(rng.random((BULK, DOMAINS)), axis=1).astype(np.int32)
    np.testing.assert_allclose(
        in_bulk(rewards, np.take_along_axis(names, domains, 1), kl, valid)[0], plain, **close
    )


@pytest.mark.slow
@bulk
@hypothesis.given(seeds)
def test_bulk_the_unit_of_rewards_and_kl_does_not_matter(seed):
    rng, rewards, domains, kl, valid = bulk_cases(seed)
    plain = in_bulk(rewards, domains, kl, valid)[0]
    unit = rng.choice([0.5, 3.0, 100.0], (BULK, 1, 1)).astype(np.float32)
    for scaled in ((rewards * unit, domains, kl), (rewards, domains, kl * unit)):
        np.testing.assert_allclose(in_bulk(*scaled, valid)[0], plain, atol=1e-3, rtol=1e-3)


# --------------------------------------------------------------------------------------------------
# Mistakes


def test_without_kl_nothing_is_damped():
    rewards, domains = (
        np.random.default_rng(0).uniform(size=(6, 4)).astype(np.float32),
        np.arange(6, dtype=np.int32) % 3,
    )
    none, zero, some = (
        np.asarray(drpo.advantages(rewards, domains, kl, cfg=PAPER)[0])
        for kl in (None, 0 * rewards, 1 + rewards)
    )
    np.testing.assert_array_equal(none, zero)
    assert np.abs(none - some).max() > 0.01


def test_mistakes_are_named():
    rewards, domains = np.zeros((4, 2), np.float32), np.zeros(4, np.int32)
    with pytest.raises(ConfigError, match="quantile=1.5"):
        drpo.DRPOConfig(num_domains=1, quantile=1.5)
    with pytest.raises(ConfigError, match="variant 'papers'"):
        drpo.DRPOConfig(num_domains=1, variant="papers")
    with pytest.raises(ConfigError, match="k_max=0"):
        drpo.DRPOConfig(num_domains=1, k_max=0)
    with pytest.raises(ValueError, match=r"rewards must be \[Q, G\]"):
        drpo.advantages(rewards, domains[:3], rewards, cfg=PAPER)
    with pytest.raises(ValueError, match="shape of rewards"):
        drpo.advantages(rewards, domains, domains, cfg=PAPER)
    with pytest.raises(ValueError, match="valid must be"):
        drpo.advantages(rewards, domains, rewards, cfg=PAPER, valid=domains[:3] > 0)


def test_a_question_with_a_reward_that_is_not_finite_is_ignored_and_not_remembered():
    rewards = np.random.default_rng(0).uniform(0, 1, (4, 3)).astype(np.float32)
    rewards[2, 1] = np.nan
    domains = np.array([0, 0, 0, 1])
    cfg = drpo.DRPOConfig(num_domains=2, history_size=3)
    found, history, facts = drpo.advantages(rewards, domains, cfg=cfg)
    assert np.isfinite(found).all() and not np.asarray(found[2]).any()
    assert list(history.count) == [2, 1] and np.isfinite(history.vectors).all()
    assert facts["ignored_questions"] == 1
