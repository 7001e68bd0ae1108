"""Advantage estimators against the reference numbers, and properties that hold for any rewards."""

from __future__ import annotations

import pathlib

import hypothesis
import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qoq_jax.rl import advantages

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "advantages.npz")
QUESTIONS, GROUP = 6, 5

groups = npst.arrays(np.float32, (QUESTIONS, GROUP), elements=st.floats(-1, 1, width=32))
few = hypothesis.settings(max_examples=100, deadline=None)


@pytest.fixture(scope="module")
def batch():
    """The golden batch; `per_token` spreads one number a response over its valid tokens, as the
    loss does.
    """
    mask, tokens = GOLDEN["response_mask"], GOLDEN["token_level_rewards"]
    order = np.argsort(GOLDEN["group"], kind="stable")
    rewards = tokens.sum(axis=1)[order].reshape(QUESTIONS, GROUP)

    def per_token(advantage):
        rows = np.empty(len(order), np.float32)
        rows[order] = np.asarray(advantage).reshape(-1)
        return rows[:, None] * mask

    return dict(rewards=rewards, tokens=tokens, mask=mask, order=order, per_token=per_token)


def close(actual, expected):
    np.testing.assert_allclose(np.asarray(actual), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_group_estimators_match_the_reference(batch, name):
    close(batch["per_token"](jax.jit(getattr(advantages, name))(batch["rewards"])), GOLDEN[name])


def test_remax_matches_the_reference(batch):
    # The reference draws a baseline a response; with one rollout a question the two layouts
    # coincide.
    rewards = batch["tokens"].sum(axis=1)[:, None]
    actual = advantages.remax(jnp.asarray(rewards), jnp.asarray(GOLDEN["remax_baseline"]))
    close(np.asarray(actual) * batch["mask"], GOLDEN["remax"])


def test_reinforce_pp_matches_the_reference(batch):
    actual, returns = jax.jit(advantages.reinforce_pp, static_argnames="gamma")(
        batch["tokens"], batch["mask"], gamma=0.97
    )
    close(actual, GOLDEN["reinforce_pp"])
    close(returns, GOLDEN["reinforce_pp_returns"])


def test_gae_matches_the_reference(batch):
    actual, returns = jax.jit(advantages.gae, static_argnames=("gamma", "lam"))(
        batch["tokens"], GOLDEN["values"], batch["mask"], gamma=0.99, lam=0.95
    )
    close(actual, GOLDEN["gae"])
    close(returns, GOLDEN["gae_returns"])


def test_gae_with_lambda_one_and_no_critic_is_the_return():
    rewards = jnp.array([[0.0, 0.0, 1.0], [0.5, 0.0, 0.0]])
    _, returns = advantages.gae(rewards, jnp.zeros((2, 3)), jnp.ones((2, 3)), gamma=0.5, lam=1.0)
    close(returns, [[0.25, 0.5, 1.0], [0.5, 0.0, 0.0]])


@few
@hypothesis.given(groups)
def test_group_estimators_agree_up_to_scale_and_sum_to_zero(rewards):
    rewards = jnp.asarray(rewards)
    plain = advantages.dr_grpo(rewards)
    close(plain.sum(axis=1), np.zeros(QUESTIONS))
    close(advantages.rloo(rewards), plain * GROUP / (GROUP - 1))
    close(
        advantages.grpo(rewards) * (jnp.std(rewards, axis=1, ddof=1, keepdims=True) + 1e-6), plain
    )


@few
@hypothesis.given(groups, st.permutations(range(GROUP)), st.permutations(range(QUESTIONS)))
def test_group_estimators_follow_permutations(rewards, rollouts, questions):
    for estimator in (advantages.rloo, advantages.dr_grpo):
        close(
            estimator(jnp.asarray(rewards[questions][:, rollouts])),
            np.asarray(estimator(jnp.asarray(rewards)))[questions][:, rollouts],
        )


@pytest.mark.parametrize("reward", [0.0, 0.1, 0.7, -1.3, 1e-30, 1e6])
@pytest.mark.parametrize("group", [2, 3, 5, 7])
def test_equal_rewards_score_exactly_zero(reward, group):
    rewards = jnp.full((2, group), reward, jnp.float32)
    for estimator in (advantages.grpo, advantages.rloo, advantages.dr_grpo):
        assert not np.asarray(estimator(rewards)).any()


def test_whitening_ignores_padding_and_survives_an_empty_batch():
    x, mask = jnp.array([[1.0, 3.0, 1e6]]), jnp.array([[1.0, 1.0, 0.0]])
    close(advantages.whiten(x, mask)[0, :2], np.array([-1.0, 1.0]) / np.sqrt(2.0))
    assert np.isfinite(np.asarray(advantages.whiten(x, jnp.zeros_like(mask)))).all()


def test_wrong_ranks_and_single_rollouts_are_named():
    with pytest.raises(ValueError, match="rank 2"):
        advantages.grpo(jnp.zeros(4))
    with pytest.raises(ValueError, match="at least 2 rollouts"):
        advantages.rloo(jnp.zeros((4, 1)))
    with pytest.raises(ValueError, match="greedy_rewards must have rank 1"):
        advantages.remax(jnp.zeros((4, 2)), jnp.zeros((4, 2)))


def test_f_grpo_weighs_a_group_by_what_it_gets_wrong():
    rewards = np.array([[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]], np.float32)
    plain, focal = advantages.grpo(rewards), advantages.f_grpo(rewards, gamma=2.0)
    np.testing.assert_allclose(focal, plain * np.array([[0.75], [0.25], [0]]) ** 2, rtol=1e-6)


def test_disco_matches_the_formula_by_hand():
    rewards = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0], [9, 0, 0, 0]])
    valid = np.array([True, True, True, True, False])
    found = advantages.disco(
        rewards.astype(np.float32), np.array([0, 0, 0, 1, 1]), valid, num_domains=3
    )
    common = np.log1p(4 / 3)
    np.testing.assert_allclose(found[0], common / 0.25 * (rewards[0] - 0.25), rtol=1e-4)
    np.testing.assert_allclose(found[2], common / 0.75 * (rewards[2] - 0.75), rtol=1e-4)
    assert not np.asarray(found[3:]).any()


def test_disco_weighs_a_rare_domain_more():
    rewards = np.tile(np.array([[1, 0, 1, 0]], np.float32), (5, 1))
    domains, valid = np.array([0, 0, 0, 0, 1]), np.ones(5, bool)
    found = np.asarray(advantages.disco(rewards, domains, valid, num_domains=2))
    assert found[4, 0] / found[0, 0] == pytest.approx(np.log1p(5) / np.log1p(5 / 4), rel=1e-5)
