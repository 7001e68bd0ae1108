"""Adapters: nothing changes at the start, merged equals unmerged, only what is named gets one."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest
from helpers.train import prompt_batch, tiny_model

from qoq_jax.base.errors import ConfigError
from qoq_jax.models import lora, spec, vlm
from qoq_jax.models.lora import LoraConfig
from qoq_jax.parallel import mesh as mesh_lib

CFG = tiny_model()
ALL = LoraConfig(rank=2, alpha=4.0, targets=("decoder", "vision", "ecg/blocks", "ecg_proj"))


@pytest.fixture(scope="module")
def model():
    """(base, zero-initialised adapters, jitted logits)."""
    specs = vlm.param_specs(CFG)
    mesh = mesh_lib.make_mesh(1, 1, 1, jax.devices()[:1])
    base = spec.init_params(specs, jax.random.key(0))
    batch = prompt_batch(CFG, 2)
    return (
        base,
        lora.init(specs, ALL, jax.random.key(1), mesh),
        jax.jit(lambda params: vlm.logits(params, CFG, batch)),
    )


def test_zero_initialised_adapters_leave_logits_bit_equal(model):
    base, adapters, logits = model
    np.testing.assert_array_equal(logits(base), logits(lora.merge(base, adapters, ALL)))


def test_merged_weights_are_base_plus_scaled_product(model):
    """Against einsums over the weights' own axes, for every target: also where inputs or outputs
    are several axes.
    """
    base, adapters, logits = model
    rng = np.random.default_rng(0)
    adapters = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), adapters)
    merged, flat, small = (
        spec.flatten(tree) for tree in (lora.merge(base, adapters, ALL), base, adapters)
    )
    changed = {path.rsplit("/", 1)[0] for path in small}
    for path, weight in flat.items():
        if path not in changed:
            assert merged[path] is weight
            continue
        a, b = small[f"{path}/a"], small[f"{path}/b"]
        stack = a.ndim + b.ndim - weight.ndim - 2
        wanted = np.array(weight)
        for layer in np.ndindex(weight.shape[:stack]):
            wanted[layer] += 2.0 * np.tensordot(a[layer], b[layer], axes=([-1], [0]))
        np.testing.assert_allclose(merged[path], wanted, atol=1e-5)
    # A layer that applies base and adapter one after the other gives what the merged one gives.
    x = rng.normal(size=(3, CFG.decoder.width)).astype(np.float32)
    a, b = (small[f"decoder/layers/q/kernel/{name}"][0] for name in "ab")
    unmerged = np.einsum("td,dnh->tnh", x, flat["decoder/layers/q/kernel"][0]) + 2.0 * np.einsum(
        "tr,rnh->tnh", x @ a, b
    )
    np.testing.assert_allclose(
        np.einsum("td,dnh->tnh", x, merged["decoder/layers/q/kernel"][0]), unmerged, atol=1e-5
    )
    assert np.abs(logits(spec.unflatten(merged)) - logits(base)).max() > 1e-3


def test_targets_are_matrices_by_the_start_or_end_of_their_path():
    specs = vlm.param_specs(CFG)

    def paths(*targets):
        found = spec.flatten(lora.adapter_specs(specs, LoraConfig(2, targets=targets)))
        return {path.rsplit("/", 1)[0] for path in found}

    assert paths("decoder/layers/q") == {"decoder/layers/q/kernel"}
    assert paths("mlp/up/kernel") == {"decoder/layers/mlp/up/kernel", "vision/blocks/mlp/up/kernel"}
    assert not any("norm" in path or "bias" in path for path in paths("decoder", "vision", "ecg"))
    with pytest.raises(ConfigError, match="did you mean 'decoder/layers'"):
        paths("decoder/layer")


def test_an_adapter_is_small(model):
    full, small = (spec.flatten(tree) for tree in model[:2])
    path = "decoder/layers/mlp/gate/kernel"
    assert small[f"{path}/a"].shape == (*full[path].shape[:2], 2) and small[f"{path}/b"].shape[
        1:
    ] == (2, full[path].shape[2])
    assert math.prod(small[f"{path}/a"].shape) < math.prod(full[path].shape) / 10
