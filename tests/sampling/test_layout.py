"""Rollouts on a mesh of their own: the same responses as on the trainer's."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from helpers.generation import config, weights
from helpers.train import prompt_batch

from qoq_jax.base.errors import ConfigError
from qoq_jax.models import spec, vlm
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.sampling.layout import Layout
from qoq_jax.sampling.rollout import make_scorer
from qoq_jax.sampling.sampler import make_sampler
from qoq_jax.sampling.schedule import Settings

Q, G, S = 8, 2, 12
CFG = config(eos_ids=tuple(range(100)))
SAMPLED = Settings(max_new_tokens=S, temperature=1.5, num_samples=G, rows=0)


def one_device():
    banned = jax.device_put(np.zeros(CFG.decoder.vocab_size, bool))
    return make_sampler(CFG, SAMPLED, None)(
        weights(), prompt_batch(CFG, Q), jax.random.key(3), banned
    )


@pytest.mark.parametrize("rows", [0, 8])
def test_responses_are_those_of_one_device(rows):
    """All at once, and by slots that are filled again."""
    wanted = one_device()
    mesh = mesh_lib.make_mesh(fsdp=8)
    layout = Layout(CFG, mesh, tensor=2)
    assert dict(layout.mesh.shape) == {"data": 4, "fsdp": 1, "sequence": 1, "tensor": 2}
    with jax.set_mesh(mesh):
        cut = spec.shardings(vlm.param_specs(CFG), mesh)
        there = layout.weights(jax.device_put(weights(), cut))
        batch = jax.device_put(prompt_batch(CFG, Q), mesh_lib.batch_sharding(mesh))
        banned = jax.device_put(
            np.zeros(CFG.decoder.vocab_size, bool), mesh_lib.named_sharding(mesh, (None,), (1,))
        )
        settings = Settings(max_new_tokens=S, temperature=1.5, num_samples=G, rows=rows)
        sampler = make_sampler(CFG, settings, layout.mesh)
        with layout.on_mesh():
            found = sampler(there, layout.prompts(batch), jax.random.key(3), banned)
        found = layout.responses(found)
    assert found.tokens.sharding == mesh_lib.batch_sharding(mesh)
    np.testing.assert_array_equal(found.tokens, wanted.tokens)
    np.testing.assert_array_equal(found.mask, wanted.mask)
    np.testing.assert_allclose(found.logprobs, wanted.logprobs, atol=1e-4)


def test_weights_are_cut_as_often_as_asked_and_layers_lie_apart():
    mesh = mesh_lib.make_mesh(fsdp=8)
    layout = Layout(CFG, mesh, tensor=2)
    there = layout.weights(weights())
    gate = there["decoder"]["layers"][0]["mlp"]["gate"]["kernel"]
    width, hidden = gate.shape
    assert gate.addressable_shards[0].data.shape == (width, hidden // 2)
    assert len(there["decoder"]["layers"]) == CFG.decoder.num_layers
    on_first = (x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(there))
    assert layout.moved == sum(on_first)
    # what decoding reads is this copy itself, not another
    apart = vlm.decode_params(there, CFG)["decoder"]["layers"]
    assert apart[0]["mlp"]["gate"]["kernel"] is gate


@pytest.mark.parametrize(
    ("tensor", "form", "cache", "most"),
    [(2, "auto", "int8", 0.1), (0, "int8", "auto", 0.25), (2, "int8", "int8", 0.25)],
)
def test_eight_bits_over_a_mesh(tensor, form, cache, most):
    """Log-probabilities are near the trainer's, which scores the responses in float32 on the mesh
    of training; the tokens are those of one device with the same rounding.
    """
    cfg, mesh = config(eos_ids=tuple(range(100)), kv_cache_dtype=cache), mesh_lib.make_mesh(fsdp=8)
    layout = Layout(cfg, mesh, tensor, form)
    assert layout.moves == (tensor > 0 or form == "int8")
    with jax.set_mesh(mesh):
        cut = spec.shardings(vlm.param_specs(cfg), mesh)
        params = jax.device_put(weights(), cut)
        batch = jax.device_put(prompt_batch(cfg, Q), mesh_lib.batch_sharding(mesh))
        banned = jax.device_put(
            np.zeros(cfg.decoder.vocab_size, bool), mesh_lib.named_sharding(mesh, (None,), (1,))
        )
        there = layout.weights(params)
        with layout.on_mesh():
            sampler = make_sampler(cfg, SAMPLED, layout.mesh)
            found = sampler(there, layout.prompts(batch), jax.random.key(3), banned)
        found = layout.responses(found)
        trainer = make_scorer(CFG, 1.5)(params, batch, found.tokens, found.mask)
    difference = np.abs(np.asarray(trainer - found.logprobs))
    assert found.mask.sum() > Q * G * 4 and 1e-5 < difference.max() < most
    assert difference.mean() < most / 5
    alone = vlm.sampling_params(weights(), cfg, form)
    nothing = np.zeros(cfg.decoder.vocab_size, bool)
    wanted = make_sampler(cfg, SAMPLED, None)(
        alone, prompt_batch(cfg, Q), jax.random.key(3), jax.device_put(nothing)
    )
    np.testing.assert_array_equal(found.tokens, wanted.tokens)
    np.testing.assert_allclose(found.logprobs, wanted.logprobs, atol=1e-3)


def test_a_critic_stays_behind():
    layout = Layout(CFG, mesh_lib.make_mesh(fsdp=8), tensor=2)
    there = layout.weights(weights() | {"critic": {"out": jax.numpy.ones(8)}})
    assert there.keys() == vlm.param_specs(CFG).keys()


def test_without_a_number_nothing_moves():
    mesh = mesh_lib.make_mesh(fsdp=8)
    layout = Layout(CFG, mesh, tensor=0)
    params = weights()
    assert layout.mesh is mesh and not layout.moves and layout.weights(params) is params
    assert layout.moved == 0


def test_ways_that_do_not_divide_the_devices_are_refused():
    with pytest.raises(ConfigError, match=r"mesh.rollout_tensor = 3 does not divide 8 devices"):
        Layout(CFG, mesh_lib.make_mesh(fsdp=8), tensor=3)
