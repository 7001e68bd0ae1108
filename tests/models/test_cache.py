"""Keys and values in 8 bits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.generation import config, weights
from helpers.train import prompt_batch

from qoq_jax.base.errors import ConfigError
from qoq_jax.models import cache as cache_lib
from qoq_jax.models import int8
from qoq_jax.sampling.rollout import make_scorer
from qoq_jax.sampling.sampler import make_sampler
from qoq_jax.sampling.schedule import Settings

Q, G, S = 4, 3, 12


def test_what_is_stored_comes_back_within_half_a_step_of_its_own_scale():
    x = jnp.asarray(np.random.default_rng(0).normal(0, 1, (2, 3, 5, 8)), jnp.float32)
    x = x.at[0, 0].set(0).at[1].mul(1e4)
    stored = cache_lib.store(x, 3, "int8")
    assert stored.quantised.dtype == jnp.int8 and stored.scale.shape == (2, 3, 5, 1)
    error = jnp.abs(int8.read(stored, x.dtype) - x)
    assert (error <= 0.5001 * jnp.abs(x).max(axis=3, keepdims=True) / 127).all()


def test_the_cache_takes_half_the_bytes_of_bfloat16():
    """With heads of 128 channels, as all published sizes have."""

    def size(dtype: str) -> int:
        prompts = jax.ShapeDtypeStruct((2, 4, 64, 2, 128), jnp.bfloat16)
        mask = jax.ShapeDtypeStruct((4, 64), bool)
        cache = jax.eval_shape(
            lambda k, m: cache_lib.init(k, k, m, rollouts=3, max_new_tokens=32, dtype=dtype),
            prompts,
            mask,
        )
        held = (cache.prompt_k, cache.prompt_v, cache.response_k, cache.response_v)
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(held))

    assert size("int8") == size("auto") * (128 + 4) / 256


@pytest.mark.parametrize("rows", [0, 6])
def test_log_probabilities_are_near_those_of_the_trainer(rows):
    """All at once, and through slots that are filled again."""
    cfg = config(kv_cache_dtype="int8")
    settings = Settings(max_new_tokens=S, temperature=1.0, num_samples=G, rows=rows)
    batch, banned = prompt_batch(cfg, Q), jnp.zeros(cfg.decoder.vocab_size, bool)
    found = make_sampler(cfg, settings, None)(weights(), batch, jax.random.key(3), banned)
    score = make_scorer(config(), 1.0)(weights(), batch, found.tokens, found.mask)
    difference = np.abs(np.asarray(score - found.logprobs))
    # of this loud head; 1e-5 says that 8 bits were used at all
    assert found.mask.sum() > Q * G * 4 and 1e-5 < difference.max() < 0.1
    assert difference.mean() < 0.02


def test_another_dtype_is_refused():
    with pytest.raises(ConfigError, match="kv_cache_dtype='fp8'.*use 'auto' or 'int8'"):
        config(kv_cache_dtype="fp8")
