"""Encoders of images: slices, gradients, devices, kernels and mistakes. Numbers of the published
models: tests/parity/test_encoders.py.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.encoders import FAMILIES, batch, encode, random_params, tiny

from qoq_jax.base.errors import ConfigError
from qoq_jax.models import spec
from qoq_jax.models.encoders import convnextv2, image, registry
from qoq_jax.parallel import mesh as mesh_lib


@functools.cache
def loss_and_gradient(encoder):
    """Jitted (weights, batch) -> ((loss, pooled), gradient)."""

    def loss(params, batch):
        pooled = encoder.pooled(params, encoder.cfg, batch)
        return jnp.square(pooled).mean() + pooled.mean(), pooled

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.fixture(scope="module", params=FAMILIES)
def on_one_device(request):
    encoder = tiny(request.param)
    params = random_params(encoder)
    (_, pooled), gradient = loss_and_gradient(encoder)(params, batch(8))
    return encoder, params, pooled, gradient


def test_every_weight_has_a_gradient(on_one_device):
    *_, gradient = on_one_device
    flat = spec.flatten(gradient)
    assert [path for path, leaf in flat.items() if not np.any(leaf)] == []
    assert all(np.isfinite(leaf).all() for leaf in flat.values())


def test_eight_devices_equal_one(on_one_device):
    encoder, params, pooled, gradient = on_one_device
    mesh = mesh_lib.make_mesh(data=2, fsdp=2, tensor=2)
    with jax.set_mesh(mesh):
        shardings = spec.shardings(encoder.param_specs(encoder.cfg), mesh)
        inputs = jax.device_put(batch(8), mesh_lib.batch_sharding(mesh))
        run = loss_and_gradient(encoder)
        (_, pooled_8), gradient_8 = run(jax.device_put(params, shardings), inputs)
    assert len(pooled_8.sharding.device_set) == 8
    np.testing.assert_allclose(pooled_8, pooled, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-4), gradient_8, gradient
    )


def brightness(params, cfg, pictures):
    """Features that are the pictures' pixels."""
    return pictures.reshape(len(pictures), -1, 3) * params["one"]


def test_slices_that_are_not_valid_change_nothing():
    pixels = np.arange(2 * 3 * 2 * 2 * 3, dtype=np.float32).reshape(2, 3, 2, 2, 3)
    pixels[0, 2] = pixels[1] = np.nan
    valid = jnp.asarray([[True, True, False], [False, False, False]])
    inputs = {"pixels": jnp.asarray(pixels), "slice_valid": valid}
    tokens, mask = image.tokens(brightness, {"one": jnp.ones(())}, None, inputs)
    assert image.pictures({"one": jnp.ones(())}, inputs)[2].sum() == 0
    np.testing.assert_array_equal(tokens[0], pixels[0, :2].mean(axis=0).reshape(4, 3))
    np.testing.assert_array_equal(tokens[1], 0)
    np.testing.assert_array_equal(mask, [[True] * 4, [False] * 4])


def test_a_length_of_zero_has_a_finite_gradient():
    """Hidden units of a black picture are all zero, and the norm of GRN is taken of them."""
    assert jax.grad(image.root)(0.0) == 0


def test_shifted_products_equal_the_convolution():
    x, weights = jax.random.normal(jax.random.key(0), (2, 2, 5, 9, 4))
    kernel = jax.random.normal(jax.random.key(1), (7, 7, 4))
    results = [
        jax.jit(jax.value_and_grad(lambda x, k, f=f: (f(x, k) * weights).sum(), argnums=(0, 1)))(
            x, kernel
        )
        for f in (convnextv2.shifted_sum, convnextv2.grouped_convolution)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), *results)


def test_a_kernel_that_is_not_finite_shows():
    x = jnp.ones((1, 3, 3, 2))
    assert np.isnan(convnextv2.shifted_sum(x, jnp.full((7, 7, 2), jnp.nan))).all()


@pytest.mark.parametrize("apart", [False, True])
def test_blocks_take_their_forms_in_turns(apart):
    weights = jnp.asarray([1.0, 2, 3, 4])
    blocks = tuple(weights) if apart else weights
    declared = spec.ParamSpec((4,), ("layers",), "ones")
    forms = [lambda w, x: x + w, lambda w, x: x * w]
    assert image.through(forms, jnp.ones(()), blocks, declared) == ((1 + 1) * 2 + 3) * 4


def test_weights_are_taken_apart_layer_by_layer():
    encoder = tiny("convnextv2_atto")
    params = random_params(encoder)
    blocks = image.inference_params(encoder, params)["stage1"]["blocks"]
    whole = params["stage1"]["blocks"]["up"]["kernel"]
    np.testing.assert_array_equal(blocks[1]["up"]["kernel"], whole[1])
    assert isinstance(blocks, tuple) and len(blocks) == 2


def test_positions_of_the_trained_size_are_not_touched():
    table = jnp.arange(18.0).reshape(1, 9, 2)
    assert image.resized_positions(table, (3, 3), antialias=True) is table


@pytest.mark.parametrize("antialias", [False, True])
def test_interpolation_keeps_a_constant(antialias):
    for outputs in (3, 5, 12):
        np.testing.assert_allclose(image.bicubic(7, outputs, antialias).sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("vit_small", 40, "40 x 40 does not divide"),
        ("swinv2_tiny", 40, "do not divide into windows"),
    ],
)
def test_sizes_that_do_not_divide_are_named(name, size, message):
    encoder = tiny(name)
    specs = encoder.param_specs(encoder.cfg)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(
            functools.partial(encoder.pooled, cfg=encoder.cfg),
            spec.abstract(specs),
            batch=batch(size=size),
        )


def test_an_unknown_encoder_is_named():
    with pytest.raises(ConfigError, match="did you mean 'convnextv2_atto'"):
        registry.get("convnext2_atto")


def test_the_last_norm_has_the_width_of_the_row():
    for encoder in registry.ENCODERS.values():
        if encoder.kind == "image":
            scale = encoder.param_specs(encoder.cfg)["norm"]["scale"]
            assert scale.shape == (encoder.width,), encoder.name


@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_norm_has_the_epsilon_of_the_config(name):
    """A huge one leaves the bias alone: outputs of small models say little of a small one."""
    encoder = tiny(name, norm_eps=1e16)
    params = random_params(encoder)
    pooled = encode(encoder, params, batch(1))[-1]
    np.testing.assert_allclose(pooled, params["norm"]["bias"][None], atol=1e-5)


def test_scores_of_swin_are_multiplied_by_at_most_a_hundred():
    encoder = tiny("swinv2_tiny")
    flat = spec.flatten(random_params(encoder))

    def pooled(log_scale):
        changed = {
            path: jnp.full_like(x, log_scale) if path.endswith("log_scale") else x
            for path, x in flat.items()
        }
        return encode(encoder, spec.unflatten(changed), batch(1))[-1]

    np.testing.assert_array_equal(pooled(9.0), pooled(np.log(100)))
    assert np.abs(pooled(np.log(100)) - pooled(np.log(10))).max() > 1e-3
