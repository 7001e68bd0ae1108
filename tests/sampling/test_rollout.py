"""Rollouts: what is sampled, what is never sampled, and that one row of G answers equals G rows of
one.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.train import prompt_batch, tiny_model

from qoq_jax.models import sizes as variants
from qoq_jax.models import spec, vlm
from qoq_jax.sampling import rollout
from qoq_jax.sampling.schedule import Settings

Q, G, S = 4, 3, 6


@pytest.fixture(scope="module")
def model():
    cfg = tiny_model()
    return cfg, spec.init_params(vlm.param_specs(cfg), jax.random.key(0))


@pytest.fixture(scope="module")
def sampler(model):
    cfg, _ = model

    def sample(params, batch, key, banned, temperature, top_p):
        settings = Settings(S, temperature=temperature, top_p=top_p, num_samples=G)
        return rollout.sample(params, cfg, batch, key, banned, settings)

    return jax.jit(sample, static_argnums=(4, 5))


def test_log_probabilities_of_sampler_and_trainer_agree(model, sampler):
    cfg, params = model
    batch = prompt_batch(cfg, Q)
    drawn = sampler(
        params, batch, jax.random.key(1), jnp.zeros(cfg.decoder.vocab_size, bool), 0.7, 1.0
    )
    logprobs, entropy = jax.jit(
        lambda: rollout.score(params, cfg, batch, drawn.tokens, drawn.mask, 0.7)
    )()
    np.testing.assert_allclose(logprobs, drawn.logprobs, atol=2e-5)
    assert float(entropy.max()) <= np.log(cfg.decoder.vocab_size) + 1e-4


def test_banned_tokens_never_appear_and_ended_answers_stay_ended(model, sampler):
    cfg, params = model
    allowed = [5, 6, cfg.eos_ids[0]]
    banned = jnp.ones(cfg.decoder.vocab_size, bool).at[jnp.array(allowed)].set(False)
    drawn = sampler(params, prompt_batch(cfg, Q), jax.random.key(2), banned, 1.0, 1.0)
    tokens, mask = np.asarray(drawn.tokens), np.asarray(drawn.mask)
    assert set(tokens[mask > 0]) <= set(allowed)
    assert (tokens[mask == 0] == cfg.pad_id).all()
    ended = (tokens == cfg.eos_ids[0]) & (mask > 0)
    assert (ended.sum(-1) <= 1).all()
    after = np.cumsum(ended, axis=-1) - ended > 0
    assert (mask[after] == 0).all() and (mask[~after] == 1).all()


def test_rows_without_a_question_sample_nothing(model, sampler):
    cfg, params = model
    batch = prompt_batch(cfg, Q)
    batch["segment_ids"] = batch["segment_ids"].at[1].set(0)
    drawn = sampler(
        params, batch, jax.random.key(1), jnp.zeros(cfg.decoder.vocab_size, bool), 1.0, 1.0
    )
    assert float(drawn.mask[1].sum()) == 0 and float(drawn.mask[0].sum()) > 0


@pytest.mark.slow
def test_greedy_takes_the_most_likely_token(model, sampler):
    cfg, params = model
    batch = prompt_batch(cfg, Q)
    drawn = sampler(
        params, batch, jax.random.key(1), jnp.zeros(cfg.decoder.vocab_size, bool), 0.0, 1.0
    )
    logits = vlm.logits(params, cfg, batch)
    last = (batch["segment_ids"] > 0).sum(1) - 1
    first = jnp.argmax(jnp.take_along_axis(logits, last[:, None, None], axis=1)[:, 0], axis=-1)
    np.testing.assert_array_equal(drawn.tokens[:, :, 0], jnp.broadcast_to(first[:, None], (Q, G)))


@pytest.mark.slow
def test_one_row_of_answers_equals_rows_of_one_answer(model):
    """Log-probabilities and gradients of [prompt | a1 | a2 | a3] equal those of three rows [prompt
    | a].
    """
    cfg, params = model
    batch = prompt_batch(cfg, Q)
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(1, 900, (Q, G, S)), jnp.int32)
    mask = jnp.asarray(np.arange(S)[None, None] < rng.integers(1, S + 1, (Q, G, 1)), jnp.float32)
    # One media row a question, so that rows can be taken apart and repeated.
    repeat = jax.tree.map(lambda x: jnp.repeat(x, G, axis=0), batch)

    def shared(p):
        return (rollout.score(p, cfg, batch, tokens, mask)[0] * weight).sum()

    def apart(p):
        rows = rollout.score(
            p, cfg, repeat, tokens.reshape(Q * G, 1, S), mask.reshape(Q * G, 1, S)
        )[0]
        return (rows.reshape(Q, G, S) * weight).sum()

    weight = jnp.asarray(rng.normal(size=(Q, G, S)), jnp.float32)
    (a, grad_a), (b, grad_b) = (jax.jit(jax.value_and_grad(f))(params) for f in (shared, apart))
    np.testing.assert_allclose(a, b, rtol=1e-5)

    def close(x, y):
        # Float32 sums in another order: what they may differ by grows with the gradient.
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * max(np.abs(y).max(), 1))

    jax.tree.map(close, grad_a, grad_b)


def test_tiny_model_is_the_real_code_with_small_numbers():
    cfg = tiny_model()
    real = variants.get("7b")
    assert {f.name for f in dataclasses.fields(cfg)} == {f.name for f in dataclasses.fields(real)}
