"""Encoders of signals, graphs and expression: masks, formulas, gradients, eight devices."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qoq_jax.base.errors import ConfigError
from qoq_jax.climb.arrays import montage
from qoq_jax.models import spec
from qoq_jax.models.encoders import (
    biot,
    expression,
    gat,
    gcn,
    graph_transformer,
    labram,
    motion,
    registry,
    units,
)
from qoq_jax.models.sizes import EcgConfig
from qoq_jax.parallel import mesh as mesh_lib

B = 4
_GRAPH = dict(features=5, width=8, depth=2)
TINY = {
    "ecg_jepa_nano": EcgConfig(
        width=16,
        depth=1,
        num_heads=2,
        predictor_width=8,
        predictor_depth=1,
        predictor_heads=2,
        leads=3,
        patches=4,
        patch_size=4,
    ),
    "units": units.UnitsConfig(
        leads=3, samples=16, patch=4, prompts=2, width=8, depth=1, num_heads=2, mlp_ratio=2
    ),
    "biot": biot.BiotConfig(channels=3, width=8, depth=1, num_heads=2, window=8, hop=4),
    "labram_base": labram.LabramConfig(
        filters=4, depth=1, num_heads=4, electrodes=("FP1", "CZ", "O2")
    ),
    "gcn": gcn.GcnConfig(**_GRAPH),
    "gat": gat.GatConfig(**_GRAPH, num_heads=2),
    "graph_transformer": graph_transformer.GraphTransformerConfig(**_GRAPH, num_heads=2),
    "motion": motion.MotionConfig(channels=3, width=8, depth=1, num_heads=2, kernel=3),
    "expression_mlp": expression.ExpressionConfig(genes=7, width=8, hidden=8),
}
GRAPHS = ("gcn", "gat", "graph_transformer")
# ECG-JEPA is part of the whole model's test of eight devices; the slow ones take long to compile.
ON_EIGHT = [
    pytest.param(name, marks=pytest.mark.slow) if name in ("units", "labram_base") else name
    for name in TINY
    if name != "ecg_jepa_nano"
]
MASKED = [name for name in TINY if name not in ("ecg_jepa_nano", "units")]


def encoder(name):
    """The row of the registry at a tiny size."""
    cfg = TINY[name]
    width = cfg.width
    return dataclasses.replace(registry.get(name), cfg=cfg, width=width)


def batch(name, padded=0.0, nodes=6, steps=16):
    """A batch whose last places are padded with a value, more of them in later rows."""
    rng = np.random.default_rng(3)
    kind = registry.get(name).kind
    if kind == "ecg":
        return {"signal": rng.normal(size=(B, 3, 16)).astype(np.float32)}
    if kind == "eeg":
        signal = 40 * rng.normal(size=(B, 3, 400 if name.startswith("labram") else 16))
        valid = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 0]], bool)
        return {"signal": fill(signal, valid, padded), "channel_valid": valid}
    if kind == "graph":
        weights = rng.normal(size=(B, 6, 6)) * (rng.random((B, 6, 6)) < 0.6)
        weights = weights + weights.transpose(0, 2, 1)
        weights[:, range(6), range(6)] = 0
        full = np.full((B, nodes, nodes), padded, np.float32)
        full[:, :6, :6] = weights
        valid = np.arange(nodes)[None] < np.array([[6], [5], [4], [2]])
        pairs = valid[:, :, None] & valid[:, None]
        x = np.zeros((B, nodes, 5))
        x[:, :6] = rng.normal(size=(B, 6, 5))
        return {
            "nodes": fill(x, valid, padded),
            "node_valid": valid,
            "adjacency": np.where(pairs, full, padded).astype(np.float32),
        }
    if kind == "motion":
        signal = np.zeros((B, steps, 3))
        signal[:, :16] = rng.normal(size=(B, 16, 3))
        valid = np.arange(steps)[None] < np.array([[16], [13], [9], [1]])
        return {"signal": fill(signal, valid, padded), "step_valid": valid}
    valid = rng.random((B, 7)) < 0.7
    return {"values": fill(rng.normal(size=(B, 7)), valid, padded), "value_valid": valid}


def fill(x, valid, padded):
    valid = valid.reshape(valid.shape + (1,) * (x.ndim - valid.ndim))
    return np.where(valid, x, padded).astype(np.float32)


@functools.cache
def params(name):
    """Weights that are all away from 0 and 1, so that each of them matters."""
    one = encoder(name)
    drawn = spec.init_params(one.param_specs(one.cfg), jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda w: np.asarray(w) + 0.1 * rng.normal(size=w.shape).astype("f"), drawn)


@functools.cache
def program(name):
    """Loss of the pooled vector, its gradient, and (pooled, tokens with 0 in padded places, their
    mask).
    """
    one = encoder(name)

    def loss(weights, inputs):
        vector = one.pooled(weights, one.cfg, inputs)
        tokens, valid = one.tokens(weights, one.cfg, inputs)
        tokens = jnp.where(valid[..., None], tokens, 0)
        ramp = jnp.linspace(-1, 1, one.width)
        return (jnp.sin(2 * vector) @ ramp).sum(), (vector, tokens, valid)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@functools.cache
def result(name):
    return jax.tree.map(np.asarray, program(name)(params(name), batch(name)))


def close(actual, expected, atol=1e-5):
    np.testing.assert_allclose(actual, expected, atol=atol, rtol=0)


@pytest.mark.parametrize("name", TINY)
def test_tokens_and_vectors_have_the_shapes_of_the_contract(name):
    (_, (vector, tokens, valid)), _ = result(name)
    assert vector.shape == (B, encoder(name).width)
    assert tokens.shape == (*valid.shape, encoder(name).width)
    assert valid.dtype == bool and valid.any(axis=1).all()
    # samples differ, and no vector is lost in padding
    assert (vector.std(axis=0) > 1e-4).any() and np.isfinite(tokens).all()


@pytest.mark.parametrize("name", TINY)
def test_computation_runs_in_the_dtype_of_the_weights(name):
    one = encoder(name)
    weights = spec.abstract(one.param_specs(one.cfg), jnp.bfloat16)
    vector, (tokens, _) = jax.eval_shape(
        lambda weights, inputs: (
            one.pooled(weights, one.cfg, inputs),
            one.tokens(weights, one.cfg, inputs),
        ),
        weights,
        batch(name),
    )
    assert vector.dtype == tokens.dtype == jnp.bfloat16


@pytest.mark.parametrize("name", TINY)
def test_every_weight_has_a_gradient(name):
    _, gradient = result(name)
    still = [path for path, g in spec.flatten(gradient).items() if not np.abs(g).max() > 1e-8]
    assert not still


@pytest.mark.parametrize("name", MASKED)
def test_what_lies_in_padded_places_changes_nothing(name):
    value, gradient = program(name)(params(name), batch(name, padded=7.0))
    expected, expected_gradient = result(name)
    jax.tree.map(close, value, expected)
    jax.tree.map(close, gradient, expected_gradient)


@pytest.mark.parametrize("name", ON_EIGHT)
def test_eight_devices_equal_one(name):
    mesh = mesh_lib.make_mesh(data=2, fsdp=2, tensor=2)
    one = encoder(name)
    with jax.set_mesh(mesh):
        weights = jax.device_put(params(name), spec.shardings(one.param_specs(one.cfg), mesh))
        inputs = jax.device_put(batch(name), mesh_lib.batch_sharding(mesh))
        value, gradient = program(name)(weights, inputs)
    expected, expected_gradient = result(name)
    jax.tree.map(close, value, expected)
    jax.tree.map(functools.partial(close, atol=2e-4), gradient, expected_gradient)


@pytest.mark.parametrize("name", ["gat", "motion"])
def test_a_larger_batch_shape_changes_nothing(name):
    one = encoder(name)
    larger = batch(name, nodes=9, steps=32)
    vector = jax.jit(one.pooled, static_argnums=1)(params(name), one.cfg, larger)
    close(vector, result(name)[0][1][0])


@pytest.mark.parametrize("name", GRAPHS)
def test_the_order_of_nodes_changes_nothing(name):
    order = np.array([4, 2, 5, 0, 3, 1])
    inputs = batch(name)
    inputs = {
        "nodes": inputs["nodes"][:, order],
        "node_valid": inputs["node_valid"][:, order],
        "adjacency": inputs["adjacency"][:, order][:, :, order],
    }
    (_, (vector, tokens, _)), _ = program(name)(params(name), inputs)
    _, (expected, expected_tokens, _) = result(name)[0]
    close(vector, expected)
    close(tokens, expected_tokens[:, order])


# ------------------------------------------------------------------------------- slow references


def one_graph():
    """(features, adjacency) of the first sample, which has no padding."""
    inputs = batch("gcn")
    return inputs["nodes"][0].astype(float), inputs["adjacency"][0].astype(float)


def test_gcn_is_the_formula_of_the_paper():
    x, adjacency = one_graph()
    adjacency = np.abs(adjacency)  # Kipf & Welling have no negative weights
    with_self = adjacency + np.eye(6)
    root = np.diag(with_self.sum(axis=1) ** -0.5)
    for layer in ("layer0", "layer1"):
        p = params("gcn")[layer]
        x = np.maximum(root @ with_self @ root @ x @ p["kernel"] + p["bias"], 0)
    inputs = batch("gcn")
    tokens, _ = gcn.tokens(
        params("gcn"), TINY["gcn"], inputs | {"adjacency": np.abs(inputs["adjacency"])}
    )
    close(tokens[0], x)


def test_gat_is_the_formula_of_the_paper():
    x, adjacency = one_graph()
    for layer in ("layer0", "layer1"):
        p = params("gat")[layer]
        heads = []
        for k in range(2):
            z = x @ p["kernel"][:, k]
            mixed = np.zeros_like(z)
            for i in range(6):
                near = [j for j in range(6) if adjacency[i, j] != 0 or i == j]
                raw = [
                    p["asks"][k] @ z[i] + p["asked"][k] @ z[j] + p["edge"][k] * adjacency[i, j]
                    for j in near
                ]
                e = np.array([score if score > 0 else 0.2 * score for score in raw])
                weight = np.exp(e - e.max())
                mixed[i] = weight / weight.sum() @ z[near]
            heads.append(mixed)
        y = np.concatenate(heads, axis=1) + p["bias"]
        x = np.where(y > 0, y, np.expm1(y))
    close(result("gat")[0][1][1][0], x)


def test_the_graph_transformer_adds_the_weight_of_an_edge_to_the_score():
    x, adjacency = one_graph()
    p = jax.tree.map(lambda w: w[0], params("graph_transformer")["blocks"])
    x = x @ params("graph_transformer")["embed"]["kernel"][:, :8]
    expected = np.zeros_like(x)
    for k in range(2):
        q, key, v = (x @ p["qkv"][:, i, k] for i in range(3))
        scores = q @ key.T / np.sqrt(4) + p["edge"][k] * adjacency
        weight = np.exp(scores - scores.max(axis=1, keepdims=True))
        expected += weight / weight.sum(axis=1, keepdims=True) @ v @ p["out"]["kernel"][k]
    found = graph_transformer.attend(
        p,
        jnp.asarray(x[None], jnp.float32),
        jnp.asarray(adjacency[None], jnp.float32),
        jnp.ones((1, 6), bool),
    )
    close(found[0], expected + p["out"]["bias"])


def test_biot_sees_the_magnitudes_of_overlapping_seconds():
    signal = np.random.default_rng(0).normal(size=(2, 3, 50)).astype(np.float32)
    found = biot.magnitudes(jnp.asarray(signal), window=20, hop=10)
    assert found.shape == (2, 3, 4, 11)
    for i in range(4):
        second = signal[:, :, 10 * i : 10 * i + 20]
        close(found[:, :, i], np.abs(np.fft.rfft(second, axis=2)))


def test_a_silent_channel_of_biot_has_a_gradient_that_is_a_number():
    gradient = jax.grad(lambda x: biot.magnitudes(x, 8, 4).sum())(jnp.zeros((1, 1, 16)))
    assert np.isfinite(gradient).all()


def test_the_channels_of_eeg_encoders_are_those_of_the_records():
    assert registry.get("labram_base").cfg.electrodes == montage.ELECTRODES
    assert registry.get("biot").cfg.electrodes == montage.BIPOLAR


def test_labram_refuses_another_montage():
    with pytest.raises(ValueError, match=r"3 channels and 2 s, not 23 and 1 to 16"):
        labram.pooled(params("labram_base"), labram.LabramConfig(), batch("labram_base"))


def test_the_sizes_are_the_published_ones():
    """3.2 and 5.8 million weights: the papers' tables of sizes."""

    def count(name):
        one = registry.get(name)
        return spec.count(one.param_specs(one.cfg))

    assert count("biot") == 3_186_176
    assert count("labram_base") == 5_819_936


def test_an_unknown_encoder_has_a_hint():
    with pytest.raises(ConfigError, match="there is no encoder 'bio'"):
        registry.get("bio")
