"""Rows cut by their tokens: what one device computes, by all programs that cut them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.models import (
    TINY,
    loss_and_scores,
    one_device_result,
    random_params,
    shared_batch,
    text_batch,
)

from qoq_jax.base.errors import ConfigError
from qoq_jax.models import sequence, spec, vlm
from qoq_jax.models.logprobs import token_logprobs
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.sampling import rollout

ROWS, PROMPT, G, S = 4, 8, 3, 4


def on_mesh(function, ways, params, batch):
    """`function` and its gradient with weights and rows over a mesh."""
    run = jax.jit(jax.value_and_grad(function, has_aux=True))
    if ways is None:
        return run(params, batch)
    mesh = mesh_lib.make_mesh(**ways)
    with jax.set_mesh(mesh):
        params = jax.device_put(params, spec.shardings(vlm.param_specs(TINY), mesh))
        return run(params, jax.device_put(batch, mesh_lib.batch_sharding(mesh)))


def compare(one, several):
    """Values, then gradients."""
    for a, b, tolerance in zip(one, several, (1e-5, 2e-4), strict=True):
        jax.tree.map(lambda x, y, t=tolerance: np.testing.assert_allclose(x, y, atol=t), a, b)


def packed():
    rng = np.random.default_rng(0)
    segments = np.repeat([[1, 2, 0]] * ROWS, [7, 6, 3], axis=1)
    return text_batch(rng.integers(1, 120, (ROWS, 16)), segment_ids=segments)


def of_packed(params, batch):
    hidden = vlm.hidden(params, TINY, batch)
    logprob, entropy = token_logprobs(params["decoder"], hidden, batch["tokens"], scores=500)
    mask = batch["segment_ids"] > 0
    return jnp.where(mask, logprob + 0.1 * entropy, 0).sum(), jnp.where(mask, logprob, 0)


def grouped():
    rng = np.random.default_rng(1)
    lengths = rng.integers(3, PROMPT + 1, (ROWS, 1))
    prompts = text_batch(
        rng.integers(1, 120, (ROWS, PROMPT)), segment_ids=np.arange(PROMPT)[None] < lengths
    )
    tokens = rng.integers(1, 120, (ROWS, G, S)).astype(np.int32)
    mask = (np.arange(S) < rng.integers(1, S + 1, (ROWS, G, 1))).astype(np.float32)
    return prompts, tokens, mask


def of_grouped(params, batch):
    prompts, tokens, mask = batch
    logprob, entropy = rollout.score(params, TINY, prompts, tokens, mask)
    return (logprob + 0.1 * entropy).sum(), logprob


# two key-value heads: each device of the second mesh has half of the query heads of one
@pytest.mark.parametrize("ways", [dict(fsdp=2, sequence=2, tensor=2), dict(data=2, sequence=4)])
@pytest.mark.parametrize("function, batch", [(of_packed, packed), (of_grouped, grouped)])
def test_several_devices_a_row_equal_one(function, batch, ways):
    params = random_params()
    one = on_mesh(function, None, params, batch())
    compare(one, on_mesh(function, ways, params, batch()))


@pytest.mark.slow
def test_rows_with_media_equal_one_device():
    compare(
        one_device_result(),
        on_mesh(loss_and_scores, dict(fsdp=2, sequence=4), random_params(), shared_batch()),
    )


def test_heads_that_do_not_divide_are_refused():
    assert sequence.repeats(28, 4, 4) == 1
    assert sequence.repeats(16, 2, 4) == 2
    with pytest.raises(ConfigError, match="28 heads with 4 key-value heads do not divide over 8"):
        sequence.repeats(28, 4, 8)
