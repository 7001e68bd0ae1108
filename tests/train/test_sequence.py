"""Rows cut by their tokens: losses and gradients are those of one device."""

from __future__ import annotations

import jax
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
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.rl.batches import UpdateBatch
from qoq_jax.sampling import rollout
from qoq_jax.train import policy, sft
from qoq_jax.train.config import Config, RlConfig
from qoq_jax.train.plan import plan

ROWS, PROMPT, G, S = 4, 8, 3, 4
STAGE = plan(Config(rl=RlConfig(rollouts=G)), "rl")


def assert_equal_to_one_device(function, ways, batch, one=None):
    """Values and gradients; `one`: the result of one device, where it is there."""
    run = jax.jit(jax.value_and_grad(function, has_aux=True))
    params, mesh = random_params(), mesh_lib.make_mesh(**ways)
    one = one or run(params, batch)
    with jax.set_mesh(mesh):
        params = jax.device_put(params, spec.shardings(vlm.param_specs(TINY), mesh))
        several = run(params, jax.device_put(batch, mesh_lib.batch_sharding(mesh)))
    for a, b, tolerance in zip(one, several, (1e-5, 2e-4), strict=True):
        jax.tree.map(lambda x, y, t=tolerance: np.testing.assert_allclose(x, y, atol=t), a, b)


def prompts(rng, segments):
    return text_batch(rng.integers(1, 120, segments.shape), segment_ids=segments)


def test_supervised_loss_of_packed_rows():
    """Two key-value heads over four devices: each has half of the query heads of one."""
    ways = dict(data=2, sequence=4)
    rng = np.random.default_rng(0)
    segments = np.repeat([[1, 2, 0]] * ROWS, [7, 6, 3], axis=1)
    mask = (rng.uniform(size=segments.shape) < 0.5) & (segments > 0)
    batch = prompts(rng, segments) | {"loss_mask": mask.astype(np.float32)}
    assert_equal_to_one_device(lambda p, x: sft.sft_loss(p, TINY, x, 7.0), ways, batch)


def update_batch() -> UpdateBatch:
    rng = np.random.default_rng(1)
    lengths = rng.integers(3, PROMPT + 1, (ROWS, 1))
    responses = (ROWS, G, S)
    mask = np.arange(S) < rng.integers(1, S + 1, (ROWS, G, 1))
    old, ref, sampled = rng.normal(-4.8, 0.1, (3, *responses)).astype(np.float32)
    return UpdateBatch(
        prompts=prompts(rng, (np.arange(PROMPT)[None] < lengths).astype(np.int32)),
        tokens=rng.integers(1, 120, responses).astype(np.int32),
        mask=mask.astype(np.float32),
        sampler_logprobs=sampled,
        old_logprobs=old,
        ref_logprobs=ref,
        advantages=rng.normal(size=(ROWS, G)).astype(np.float32),
    )


def test_policy_loss_of_grouped_rows():
    """And the scorer's log-probabilities."""
    ways = dict(fsdp=2, sequence=2, tensor=2)

    def loss(params, batch):
        divisors = dict.fromkeys(("tokens", "responses", "loss"), 20.0)
        found, facts = policy.policy_loss(params, TINY, STAGE, batch, None, 0.1, divisors)
        scored = rollout.score(params, TINY, batch.prompts, batch.tokens, batch.mask)
        return found, (facts, scored)

    assert_equal_to_one_device(loss, ways, update_batch())


@pytest.mark.slow
def test_rows_with_media():
    ways = dict(fsdp=2, sequence=4)
    assert_equal_to_one_device(loss_and_scores, ways, shared_batch(), one_device_result())


def test_heads_that_do_not_divide_are_refused():
    assert sequence.repeats(28, 4, 4) == 1
    assert sequence.repeats(16, 2, 4) == 2
    with pytest.raises(ConfigError, match="28 heads with 4 key-value heads do not divide over 8"):
        sequence.repeats(28, 4, 8)
