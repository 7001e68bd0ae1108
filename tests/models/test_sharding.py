"""The mesh, its rules, and that eight devices compute what one computes."""

from __future__ import annotations

import dataclasses
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.models import (
    TINY,
    batch,
    loss_and_scores,
    one_device_result,
    random_params,
    shared_batch,
    text_batch,
)
from jax.sharding import PartitionSpec

from qoq_jax.base.errors import ConfigError
from qoq_jax.models import decoder, spec, vlm
from qoq_jax.models.attention import TokenIds
from qoq_jax.parallel import mesh as mesh_lib


@pytest.mark.slow
def test_eight_devices_equal_one():
    (_, one), gradient = one_device_result()
    mesh = mesh_lib.make_mesh(data=2, fsdp=2, tensor=2)
    assert mesh.size == 8
    with jax.set_mesh(mesh):
        params = jax.device_put(random_params(), spec.shardings(vlm.param_specs(TINY), mesh))
        inputs = jax.device_put(shared_batch(), mesh_lib.batch_sharding(mesh))
        run = jax.jit(jax.value_and_grad(loss_and_scores, has_aux=True))
        (_, eight), sharded_gradient = run(params, inputs)
    assert len(params["decoder"]["layers"]["q"]["kernel"].sharding.device_set) == 8
    assert params["decoder"]["layers"]["q"]["kernel"].sharding.spec == PartitionSpec(
        None, "fsdp", "tensor", None
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one, eight)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), gradient, sharded_gradient
    )


def test_media_gather_stays_on_its_device():
    """Rows find their media on their own shard: embedding a batch on a data mesh needs no
    communication.
    """
    mesh = mesh_lib.make_mesh(data=8)
    table = jax.ShapeDtypeStruct((8, 56, 64), jnp.float32, sharding=mesh_lib.batch_sharding(mesh))
    inputs = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=mesh_lib.batch_sharding(mesh)),
        {name: batch(16, media_rows=8)[name] for name in ("tokens", "media_index")},
    )
    embedding = jax.ShapeDtypeStruct(
        (128, 64), jnp.float32, sharding=jax.NamedSharding(mesh, PartitionSpec())
    )
    with jax.set_mesh(mesh):
        compiled = jax.jit(
            lambda embedding, table, inputs: vlm.place_media(
                embedding[inputs["tokens"]], table, inputs["media_index"]
            )
        ).lower(embedding, table, inputs)
        text = compiled.compile().as_text()
    assert not any(
        word in text for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute")
    )


def test_dimensions_that_do_not_divide_are_replicated_except_rows():
    mesh = mesh_lib.make_mesh(data=2, fsdp=1, tensor=4)
    assert mesh_lib.partition_spec(mesh, ("embed", "kv_heads", None), (64, 2, 16)) == PartitionSpec(
        "fsdp", None, None
    )
    assert mesh_lib.partition_spec(mesh, ("vocab",), (128,)) == PartitionSpec("tensor")
    with pytest.raises(ConfigError, match="3 rows does not divide over 2 devices"):
        mesh_lib.partition_spec(mesh, ("batch", None), (3, 5))


def test_slices_are_outermost_along_data():
    """Only replicas of the weights, which exchange gradients alone, are on different slices."""
    devices = [
        types.SimpleNamespace(
            id=i, slice_index=i // 8, process_index=i // 4, platform="cpu", device_kind="cpu"
        )
        for i in range(16)
    ]
    slices = np.vectorize(mesh_lib.slice_of)(mesh_lib.across_slices((4, 2, 1, 2), devices))
    assert slices.shape == (4, 2, 1, 2)
    assert (slices[:2] == 0).all() and (slices[2:] == 1).all()
    with pytest.raises(ConfigError, match="data=1 over 2 slices"):
        mesh_lib.make_mesh(1, 8, 2, devices)


def test_mesh_sizes_must_multiply_to_the_devices():
    found = mesh_lib.make_mesh(data=-1, tensor=2).shape
    assert dict(found) == {"data": 4, "fsdp": 1, "sequence": 1, "tensor": 2}
    assert mesh_lib.make_mesh(data=2, sequence=4).shape["sequence"] == 4
    assert mesh_lib.make_mesh(data=2, devices=jax.devices()[:2]).size == 2
    with pytest.raises(ConfigError, match="does not fit 8 devices"):
        mesh_lib.make_mesh(data=3)


def test_constrain_without_a_mesh_is_the_identity():
    x = jnp.ones((3, 5))
    assert mesh_lib.constrain(x, ("batch", None)) is x
    assert mesh_lib.batch_shards() == 1


@pytest.mark.parametrize("remat", ["none", "full", "offload"])
def test_the_backward_pass_keeps_no_gathered_weights(remat):
    """Temporaries of a step over eight devices stay below the weights of all layers."""
    cfg = dataclasses.replace(
        TINY,
        decoder=dataclasses.replace(TINY.decoder, width=256, mlp_dim=1024, num_layers=12),
        remat=remat,
    )
    specs = vlm.param_specs(cfg)["decoder"]
    layers = sum(math.prod(one.shape) for one in jax.tree.leaves(specs["layers"]))
    mesh = mesh_lib.make_mesh(fsdp=8)

    def loss(params, batch):
        x = jnp.zeros((*batch["tokens"].shape, 256)) + batch["tokens"][..., None]
        ids = TokenIds(batch["segment_ids"], batch["branch_ids"])
        return decoder.forward(params, cfg, x, batch["positions"], ids).sum()

    with jax.set_mesh(mesh):
        params = jax.tree.map(
            lambda one, at: jax.ShapeDtypeStruct(one.shape, jnp.float32, sharding=at),
            specs,
            spec.shardings(specs, mesh),
        )
        batch = jax.device_put(text_batch(np.ones((8, 4), np.int32)), mesh_lib.batch_sharding(mesh))
        compiled = jax.jit(jax.grad(loss)).lower(params, batch).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * layers
