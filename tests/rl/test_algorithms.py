"""The table of algorithms: each row's advantage, ratio and mean against plain numpy."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qoq_jax.models import critic as critic_lib
from qoq_jax.rl import algorithms
from qoq_jax.rl.algorithms import ALGORITHMS
from qoq_jax.rl.batches import GroupBatch, UpdateBatch
from qoq_jax.train import minibatches, policy
from qoq_jax.train.config import RlConfig

Q, G, S = 5, 3, 6


@pytest.fixture(scope="module")
def outcome():
    """Answers of several lengths; the last row holds no question."""
    rng = np.random.default_rng(0)
    mask = (np.arange(S) < rng.integers(1, S + 1, (Q, G, 1))).astype(np.float32)
    mask[-1] = 0

    def f32(*shape):
        return rng.uniform(0, 1, shape).astype(np.float32)

    return GroupBatch(
        rewards=f32(Q, G),
        domains=np.array([0, 1, 0, 1, 0], np.int32),
        valid=np.array([1, 1, 1, 1, 0], bool),
        mask=mask,
        kl=f32(Q, G),
        penalty=0.1 * f32(Q, G, S) * mask,
        greedy=f32(Q),
        values=f32(Q, G, S) * mask,
    )


def rows_of(o):
    """(reward on the last token less penalty, mask), each [Q * G, S], with loops."""
    rewards = -o.penalty.copy()
    for q, g in np.ndindex(Q, G):
        if o.mask[q, g].any():
            rewards[q, g, int(o.mask[q, g].sum()) - 1] += o.rewards[q, g]
    return rewards.reshape(-1, S), o.mask.reshape(-1, S)


def whitened(x, mask):
    valid = x[mask > 0]
    return (x - valid.mean()) / np.sqrt(valid.var(ddof=1) + 1e-8) * mask


def expected(name, o, rl):
    """Advantages of each algorithm, and the critic's targets, by the formulas of docs/rl.md."""
    net = o.rewards - o.penalty.sum(-1)
    mean, std = net.mean(1, keepdims=True), net.std(1, ddof=1, keepdims=True)
    if name in ("grpo", "dapo", "gspo"):
        return (net - mean) / (std + 1e-6), None
    if name == "f_grpo":
        return (1 - mean.clip(0, 1)) * (net - mean) / (std + 1e-6), None
    if name == "disco":  # two domains of two questions each
        return np.log1p(2) / (mean.clip(0) + 1e-5) * (net - mean), None
    if name == "rloo":
        return np.stack([net[:, i] - np.delete(net, i, 1).mean(1) for i in range(G)], 1), None
    if name == "dr_grpo":
        return net - mean, None
    if name == "remax":
        return net - o.greedy[:, None], None
    rewards, mask = rows_of(o)
    if name == "reinforce_pp":
        returns = np.zeros_like(rewards)
        for b in range(len(rewards)):
            for t in range(int(mask[b].sum())):
                returns[b, t] = sum(
                    rl.gamma ** (k - t) * rewards[b, k] for k in range(t, int(mask[b].sum()))
                )
        return whitened(returns, mask).reshape(Q, G, S), None
    values, scores = o.values.reshape(-1, S), np.zeros_like(rewards)  # ppo
    for b in range(len(rewards)):
        length, following = int(mask[b].sum()), 0.0
        for t in reversed(range(length)):
            delta = (
                rewards[b, t]
                + rl.gamma * (values[b, t + 1] if t + 1 < length else 0.0)
                - values[b, t]
            )
            following = scores[b, t] = delta + rl.gamma * rl.critic.gae_lambda * following
    return whitened(scores, mask).reshape(Q, G, S), (scores + values).reshape(Q, G, S)


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - {"drpo"}))
def test_advantages_equal_the_formulas(name, outcome):
    rl = dataclasses.replace(
        RlConfig(algorithm=name, gamma=0.9),
        critic=dataclasses.replace(RlConfig().critic, gae_lambda=0.8),
    )
    found = ALGORITHMS[name].advantage(outcome, rl)
    wanted, returns = expected(name, outcome, rl)
    valid = outcome.valid.reshape(-1, *[1] * (wanted.ndim - 1))
    np.testing.assert_allclose(found.advantages, wanted * valid, atol=2e-5)
    if returns is not None:
        np.testing.assert_allclose(
            np.asarray(found.returns) * outcome.mask, returns * outcome.mask, atol=1e-5
        )
    assert all(np.isfinite(value) for value in found.diagnostics.values())


@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_question_with_a_reward_that_is_not_finite_counts_as_invalid(name, fault, outcome):
    """The others' advantages are those of a batch in which its row is empty."""
    rl = RlConfig(algorithm=name)
    broken = outcome.rewards.copy()
    broken[1, 2] = fault
    found = ALGORITHMS[name].advantage(outcome.replace(rewards=broken), rl)
    empty, mask = outcome.valid.copy(), outcome.mask.copy()
    empty[1], mask[1] = False, 0
    wanted = ALGORITHMS[name].advantage(outcome.replace(valid=empty, mask=mask), rl)
    np.testing.assert_array_equal(found.advantages, wanted.advantages)
    assert not np.asarray(found.advantages[1]).any()
    assert np.isfinite(found.advantages).all()
    assert found.diagnostics["nonfinite_questions"] == 1
    assert wanted.diagnostics["nonfinite_questions"] == 0


def test_a_greedy_reward_that_is_not_finite_makes_its_question_invalid(outcome):
    greedy = outcome.greedy.copy()
    greedy[0] = np.nan
    found = ALGORITHMS["remax"].advantage(outcome.replace(greedy=greedy), RlConfig())
    assert np.isfinite(found.advantages).all() and not np.asarray(found.advantages[0]).any()
    assert np.isfinite(found.diagnostics["greedy_reward"])


def test_the_critic_learns_nothing_from_a_question_without_a_finite_reward(outcome):
    broken = outcome.rewards.copy()
    broken[1] = np.nan
    found = ALGORITHMS["ppo"].advantage(outcome.replace(rewards=broken), RlConfig())
    np.testing.assert_array_equal(found.returns[1], outcome.values[1])
    assert np.isfinite(found.returns).all()


def surrogate(name, rng, **changes):
    """(loss of the policy update as the trainer makes it, log-probs and masks for numpy)."""
    rl = RlConfig(algorithm=name, **changes)
    old = rng.normal(-1, 0.4, (Q, G, S)).astype(np.float32)
    new = old + rng.normal(0, 0.3, old.shape).astype(np.float32)
    mask = (np.arange(S) < rng.integers(1, S + 1, (Q, G, 1))).astype(np.float32)
    advantages = rng.normal(size=(Q, G)).astype(np.float32)
    data = UpdateBatch(
        prompts=None,
        tokens=None,
        mask=mask,
        sampler_logprobs=old - 0.5,
        old_logprobs=old,
        ref_logprobs=old,
        advantages=advantages,
    )
    row = algorithms.resolve(rl)
    loss, _ = policy._surrogate(row, rl, jnp.asarray(new), old, data)
    return (
        float(loss / algorithms.loss_weights(mask, row.mean)[1]),
        new.astype(np.float64),
        old,
        mask,
        advantages,
    )


def clipped(ratio, advantage, low, high, dual=math.inf):
    loss = np.maximum(-advantage * ratio, -advantage * np.clip(ratio, 1 - low, 1 + high))
    return np.where(advantage < 0, np.minimum(loss, -advantage * dual), loss)


def test_dapo_means_over_tokens_and_clips_higher():
    found, new, old, mask, a = surrogate("dapo", np.random.default_rng(1))
    tokens = clipped(np.exp(new - old), a[..., None], 0.2, 0.28)
    assert found == pytest.approx((tokens * mask).sum() / mask.sum(), rel=1e-5)


def test_dr_grpo_divides_by_a_constant():
    found, new, old, mask, a = surrogate("dr_grpo", np.random.default_rng(2))
    tokens = clipped(np.exp(new - old), a[..., None], 0.2, 0.2)
    assert found == pytest.approx((tokens * mask).sum() / (Q * G * S), rel=1e-5)


def test_gspo_has_one_ratio_an_answer():
    found, new, old, mask, a = surrogate("gspo", np.random.default_rng(3))
    ratio = np.exp(((new - old) * mask).sum(-1) / mask.sum(-1))
    assert found == pytest.approx(clipped(ratio, a, 3e-4, 4e-4).mean(), rel=1e-5)


def test_clips_of_the_config_replace_the_algorithms_own_and_importance_weighs_tokens():
    found, new, old, mask, a = surrogate(
        "drpo",
        np.random.default_rng(4),
        clip_low=0.1,
        clip_high=0.5,
        clip_dual=2.0,
        old_logprobs="trainer",
        importance_cap=1.2,
    )
    tokens = clipped(np.exp(new - old), a[..., None], 0.1, 0.5, 2.0) * min(math.exp(0.5), 1.2)
    assert found == pytest.approx((tokens * mask).sum() / mask.sum(), rel=1e-5)


def test_sequence_mean_weighs_answers_alike_and_skips_empty_ones():
    mask = np.zeros((2, 2, 4), np.float32)
    mask[0, 0, :1], mask[0, 1, :4] = 1, 1
    factors, divisor = algorithms.loss_weights(mask, "sequence")
    assert (
        float(divisor) == 2
        and float((factors * mask)[0, 0].sum()) == float((factors * mask)[0, 1].sum()) == 1
    )


def test_overlong_answers_are_charged_linearly():
    lengths = np.array([[10, 16, 18, 20]])
    np.testing.assert_allclose(algorithms.overlong_penalty(lengths, 20, 0.2), [[0, 0, 0.5, 1]])
    assert not algorithms.overlong_penalty(lengths, 20, 0.0).any()


def test_the_kl_coefficient_follows_its_target():
    def step(kl):
        options = {"target": 0.5, "horizon": 1000, "answers": 100}
        return float(algorithms.next_kl_coefficient(jnp.float32(1.0), kl, **options))

    assert (
        step(0.5) == pytest.approx(1.0)
        and step(50.0) == pytest.approx(1.02)
        and step(0.0) == pytest.approx(0.98)
    )
    assert step(0.55) == pytest.approx(1.01)


def test_kl_in_the_reward_lowers_what_the_advantage_sees(outcome):
    plain = dataclasses.replace(outcome, penalty=None)
    np.testing.assert_array_equal(algorithms.answer_rewards(plain), outcome.rewards)
    np.testing.assert_allclose(
        algorithms.answer_rewards(outcome), outcome.rewards - outcome.penalty.sum(-1)
    )
    np.testing.assert_allclose(
        algorithms.token_rewards(outcome).reshape(-1, S), rows_of(outcome)[0], atol=1e-6
    )


def test_the_critic_is_its_formula_and_never_moves_the_policy():
    rng = np.random.default_rng(5)

    def f32(*shape):
        return rng.normal(size=shape).astype(np.float32)

    critic = {
        "hidden": {"kernel": f32(4, 4), "bias": f32(4)},
        "out": {"kernel": f32(4), "bias": f32()},
    }
    critic["out"]["bias"] = jnp.float32(0.3)
    hidden = f32(2, 3, 4)
    h = hidden @ critic["hidden"]["kernel"] + critic["hidden"]["bias"]
    gelu = 0.5 * h * (1 + np.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
    np.testing.assert_allclose(
        critic_lib.values(critic, hidden), gelu @ critic["out"]["kernel"] + 0.3, atol=1e-5
    )
    gradient = jax.grad(lambda x: critic_lib.values(critic, x).sum())(hidden)
    assert not np.asarray(gradient).any()


def test_shuffled_questions_keep_their_media():
    batch = {"tokens": jnp.arange(6 * 2).reshape(6, 2), "patches": jnp.arange(3)}
    moved = minibatches.reorder(batch, jnp.array([2, 0, 1]))
    np.testing.assert_array_equal(moved["patches"], [2, 0, 1])
    np.testing.assert_array_equal(moved["tokens"][:, 0] // 4, [2, 2, 0, 0, 1, 1])
