"""Losses and gradients against the reference numbers, exact accumulation, and what padding may
hold.
"""

from __future__ import annotations

import pathlib

import hypothesis
import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qoq_jax.rl import losses

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "losses.npz")
OLD, NEW, REF, ADV, MASK = (
    jnp.asarray(GOLDEN[name]) for name in ("old", "new", "ref", "adv", "mask")
)

few = hypothesis.settings(max_examples=100, deadline=None)
tokens = npst.arrays(np.float32, (3, 4), elements=st.floats(-30, 0, width=32))


def close(actual, expected):
    np.testing.assert_allclose(np.asarray(actual), expected, atol=1e-5, rtol=0)


policy_value_and_grad = jax.jit(jax.value_and_grad(lambda *args: losses.policy_loss(*args)[0]))


def mean(function, *args, **kwargs):
    total, denominator, *_ = function(*args, **kwargs)
    return total / denominator


def test_policy_loss_matches_the_reference_with_its_gradient():
    total, denominator, sums = jax.jit(losses.policy_loss)(NEW, OLD, ADV, MASK)
    close(total / denominator, GOLDEN["loss"])
    close(sums["clipped_high"] / denominator, GOLDEN["clipfrac_high"])
    close(sums["clipped_low"] / denominator, GOLDEN["clipfrac_low"])
    close(sums["kl"] / denominator, GOLDEN["ppo_kl"])
    gradient = jax.jit(jax.grad(lambda new: mean(losses.policy_loss, new, OLD, ADV, MASK)))
    close(gradient(NEW), GOLDEN["grad_new"])


@pytest.mark.parametrize(
    "estimator, golden",
    [("kl", "kl_kl"), ("abs", "kl_abs"), ("mse", "kl_mse"), ("low_var", "kl_low_var_kl")],
)
def test_kl_estimators_match_the_reference(estimator, golden):
    close(losses.kl(NEW, REF, estimator), GOLDEN[golden])


def test_value_loss_matches_the_reference():
    values, returns, old = (jnp.asarray(GOLDEN[name]) for name in ("vpreds", "vreturns", "vvalues"))
    total, denominator, sums = jax.jit(losses.value_loss)(values, old, returns, MASK)
    close(total / denominator, GOLDEN["value_loss"])
    close(sums["clipped"] / denominator, GOLDEN["value_clipfrac"])


def test_accumulated_micro_batches_equal_the_whole_batch():
    parts = [
        losses.policy_loss(NEW[i : i + 7], OLD[i : i + 7], ADV[i : i + 7], MASK[i : i + 7])
        for i in range(0, len(NEW), 7)
    ]
    total, denominator = sum(part[0] for part in parts), sum(part[1] for part in parts)
    close(total / denominator, GOLDEN["loss"])


def test_one_advantage_a_response_spreads_over_its_tokens():
    narrow = mean(losses.policy_loss, NEW, OLD, ADV[:, :1], MASK)
    close(narrow, mean(losses.policy_loss, NEW, OLD, jnp.broadcast_to(ADV[:, :1], ADV.shape), MASK))


def test_on_policy_gradient_is_the_policy_gradient():
    gradient = jax.grad(
        lambda new: losses.policy_loss(new, jax.lax.stop_gradient(new), ADV, MASK)[0]
    )(NEW)
    close(gradient, -ADV * MASK)


@few
@hypothesis.given(
    tokens, tokens, npst.arrays(np.float32, (3, 4), elements=st.floats(-5, 5, width=32))
)
def test_policy_loss_is_finite_and_bounded_for_negative_advantages(new, old, advantages):
    mask = jnp.ones((3, 4))
    value, gradient = policy_value_and_grad(new, old, -abs(advantages), mask)
    assert np.isfinite(np.asarray(value)) and np.isfinite(np.asarray(gradient)).all()
    assert value <= 3.0 * abs(advantages).sum() + 1e-3


@pytest.mark.parametrize("rubbish", [np.nan, np.inf, -np.inf])
def test_padding_may_hold_anything(rubbish):
    dirty = jnp.where(MASK > 0, NEW, rubbish)
    value, gradient = jax.value_and_grad(lambda new: mean(losses.policy_loss, new, OLD, ADV, MASK))(
        dirty
    )
    close(value, GOLDEN["loss"])
    close(gradient, GOLDEN["grad_new"])
    weights = losses.truncated_importance_weights(dirty, OLD, MASK)
    close(weights[MASK == 0], 1.0)


@few
@hypothesis.given(tokens, tokens)
def test_kl_estimators_obey_their_bounds(new, ref):
    k1, k2, k3 = (
        losses.kl(jnp.asarray(new), jnp.asarray(ref), name) for name in ("kl", "mse", "low_var")
    )
    assert (
        (np.asarray(k2) >= 0).all() and (np.asarray(k3) >= 0).all() and (np.asarray(k3) <= 10).all()
    )
    close(k2, 0.5 * np.square(np.asarray(k1)))


def test_low_variance_kl_has_a_finite_gradient_where_the_reference_overflows():
    gradient = jax.grad(lambda x: losses.kl(x, jnp.zeros(3), "low_var").sum())
    close(gradient(jnp.array([-200.0, 0.0, 200.0])), np.zeros(3))


def test_sequence_loss_uses_one_ratio_a_response():
    mask = jnp.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    old = jnp.full((3, 3), -1.0)
    new = old + jnp.array([[2e-4, -2e-4, 9.0], [1e-4, 0.0, 0.0], [5.0, 5.0, 5.0]])
    advantage = jnp.array([1.0, 2.0, 7.0])
    total, responses, _ = losses.sequence_policy_loss(new, old, advantage, mask)
    close(total, -(1.0 + 2.0 * np.exp(1e-4)))
    assert responses == 2
    gradient = jax.grad(lambda x: losses.sequence_policy_loss(x, old, advantage, mask)[0])(new)
    close(gradient, [[-0.5, -0.5, 0.0], [-2.0 * np.exp(1e-4), 0.0, 0.0], [0.0, 0.0, 0.0]])


def test_importance_weights_are_capped_constants_of_the_loss():
    trainer, sampler = jnp.array([[-1.0, -1.0, -1.0]]), jnp.array([[-1.0, -3.0, -0.5]])
    mask = jnp.ones((1, 3))
    close(losses.truncated_importance_weights(trainer, sampler, mask), [[1.0, 2.0, np.exp(-0.5)]])
    weights = jnp.array([[1.0, 2.0, 0.5]])
    gradient = jax.grad(lambda x: losses.policy_loss(x, trainer, mask, mask, weights=weights)[0])(
        trainer
    )
    close(gradient, -weights)


def test_entropy_of_known_distributions():
    close(
        losses.entropy(jnp.array([[0.0, 0.0, 0.0, 0.0], [80.0, 0.0, 0.0, 0.0]])), [np.log(4.0), 0.0]
    )


def test_unknown_names_and_ranks_are_refused():
    with pytest.raises(ValueError, match="unknown KL estimator 'k3'"):
        losses.kl(NEW, REF, "k3")
    with pytest.raises(ValueError, match="advantages of shape"):
        losses.policy_loss(NEW, OLD, ADV[:, 0], MASK)


def test_importance_weights_make_the_gradient_of_another_sampler_unbiased():
    """One token of five words: the expectation over the sampler's words, weighed, is that over the
    policy's; without weights it is not.
    """
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(0, 1, 5), jnp.float32)
    sampler = jax.nn.log_softmax(logits + jnp.asarray(rng.normal(0, 0.3, 5), jnp.float32))
    advantages = jnp.asarray(rng.normal(0, 1, 5), jnp.float32)
    old, words = jax.nn.log_softmax(logits), jnp.ones((5, 1))

    def expected(logits, drawn_from, weights):
        """The loss of each word, times the probability that it is drawn."""
        new = jax.nn.log_softmax(logits)[:, None]
        each = [
            losses.policy_loss(
                new[i : i + 1],
                old[i : i + 1, None],
                jnp.broadcast_to(advantages[i], (1, 1)),
                words[:1],
                clip_low=0.2,
                clip_high=0.2,
                weights=weights[i : i + 1],
            )[0]
            for i in range(5)
        ]
        return (jnp.exp(drawn_from) * jnp.stack(each)).sum()

    weights = losses.truncated_importance_weights(old[:, None], sampler[:, None], words, 100.0)
    gradient = jax.grad(expected)
    wanted = gradient(logits, old, words)
    np.testing.assert_allclose(gradient(logits, sampler, weights), wanted, atol=1e-6)
    assert np.abs(gradient(logits, sampler, words) - wanted).max() > 1e-2
