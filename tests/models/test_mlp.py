"""The MLP by slices of its hidden units against the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.models import TINY

from qoq_jax.models import decoder, layers, spec
from qoq_jax.models.mlp import swiglu_by_slices
from qoq_jax.parallel import mesh as mesh_lib

SPECS = decoder.param_specs(TINY.decoder)["layers"]["mlp"]
B, T, D = 8, 6, TINY.decoder.width


def inputs():
    stack = spec.init_params(SPECS, jax.random.key(1))
    layer = jax.tree.map(lambda w: w[0], stack)
    return jax.random.normal(jax.random.key(2), (B, T, D)), layer


def result(function):
    def total(x, layer):
        y = function(x, layer)
        return (y * jnp.cos(jnp.arange(D * 1.0))[None, None]).sum(), y

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))


# hidden values of all tokens: 8 * 6 * 96 = 4608
@pytest.mark.parametrize("hidden", [5000, 1000, 1])
@pytest.mark.parametrize("ways", [None, dict(fsdp=8), dict(data=2, fsdp=2, tensor=2)])
def test_values_and_gradients_are_those_of_the_whole(hidden, ways):
    x, layer = inputs()
    (_, wanted), wanted_gradients = result(layers.swiglu)(x, layer)
    run = result(lambda x, layer: swiglu_by_slices(x, layer, SPECS, hidden=hidden))
    if ways is None:
        (_, y), gradients = run(x, layer)
    else:
        with jax.set_mesh(mesh_lib.make_mesh(**ways)):
            (_, y), gradients = run(x, layer)
    np.testing.assert_allclose(y, wanted, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), gradients, wanted_gradients
    )
