"""Weights in 8 bits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.generation import config, weights
from helpers.train import prompt_batch

from qoq_jax.models import int8, sizes, spec, vlm
from qoq_jax.rl import losses

CFG = config()


@pytest.mark.parametrize(
    ("equation", "shape", "axes"),
    [("btd,dnh->btnh", (16, 4, 6), 0), ("btf,fd->btd", (16, 6), 0)],
)
def test_a_product_with_stored_weights_is_that_with_what_they_stand_for(equation, shape, axes):
    rng = np.random.default_rng(0)
    kernel = int8.quantise(jnp.asarray(rng.normal(size=shape), jnp.float32), axes)
    x = jnp.asarray(rng.normal(size=(2, 3, 16)), jnp.float32)
    wanted = jnp.einsum(equation, x, int8.read(kernel, x.dtype))
    np.testing.assert_allclose(int8.einsum(equation, x, kernel), wanted, atol=1e-5)


def test_a_scale_is_that_of_an_output():
    """An output with large weights does not make those of the others coarse."""
    kernel = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
    kernel[:, 0] *= 1e4
    error = np.abs(int8.read(int8.quantise(jnp.asarray(kernel), 0), jnp.float32) - kernel)
    assert (error <= 0.5001 * np.abs(kernel).max(axis=0) / 127).all()


def test_kernels_of_the_decoder_have_8_bits_and_the_rest_has_not():
    there = vlm.sampling_params(weights(), CFG, "int8")
    declared = vlm.sampling_specs(CFG, "int8")
    assert jax.tree.map(jnp.shape, there) == jax.tree.map(lambda one: one.shape, declared)
    layer = there["decoder"]["layers"][0]
    kernels = [layer[name]["kernel"] for name in "qkvo"]
    kernels += [one["kernel"] for one in layer["mlp"].values()]
    assert all(one.quantised.dtype == jnp.int8 for one in kernels)
    assert layer["q"]["bias"].dtype == layer["attention_norm"]["scale"].dtype == jnp.float32
    assert there["decoder"]["lm_head"].dtype == jnp.float32
    # what decoding reads is this copy itself
    assert vlm.decode_params(there, CFG)["decoder"]["layers"][0]["q"]["kernel"] is kernels[0]


def test_weights_are_rounded_from_those_that_are_stored():
    """And not from a copy in bfloat16, which would round twice."""
    there = vlm.sampling_params(weights(), config(compute_dtype="bfloat16"), "int8")
    kernel = weights()["decoder"]["layers"]["mlp"]["up"]["kernel"][0]
    stored = there["decoder"]["layers"][0]["mlp"]["up"]["kernel"]
    np.testing.assert_array_equal(stored.quantised, int8.quantise(kernel, 0).quantised)


def test_half_the_bytes_of_bfloat16():
    """Layers of the 7B model: 2 bytes a weight become 1, and a scale for each output."""
    cfg = sizes.get("7b")
    one = jax.tree.leaves(vlm.sampling_specs(cfg, "int8")["decoder"]["layers"][0])
    plain = spec.count(vlm.sampling_specs(cfg)["decoder"]["layers"][0])
    scales = sum(np.prod(x.shape) for x in one if not x.hf_key)
    assert spec.count({str(i): x for i, x in enumerate(one)}) - scales == plain
    assert 4 * scales < 0.002 * plain


def test_importance_weights_correct_the_sampler():
    """The expectation of any function of the next token under the trainer, from the tokens that
    weights in 8 bits draw; without importance weights it is another.
    """
    batch = prompt_batch(CFG, 4)

    @jax.jit
    def log_probabilities(params):
        hidden, _ = vlm.prefill(params, CFG, batch, rollouts=1, max_new_tokens=1)
        return jax.nn.log_softmax(vlm.unembed(params, hidden[:, None])[:, 0])

    trainer = log_probabilities(weights())
    sampler = log_probabilities(vlm.sampling_params(weights(), CFG, "int8"))
    value = jnp.asarray(np.random.default_rng(0).normal(size=trainer.shape), jnp.float32)
    factor = losses.truncated_importance_weights(trainer, sampler, jnp.ones_like(trainer))
    drawn = jnp.exp(sampler) * value
    wanted = (jnp.exp(trainer) * value).sum(axis=-1)
    np.testing.assert_allclose((drawn * factor).sum(axis=-1), wanted, atol=1e-6)
    assert np.abs(drawn.sum(axis=-1) - wanted).max() > 1e-4
