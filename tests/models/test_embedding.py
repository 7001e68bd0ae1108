"""Token embeddings over a mesh: values and gradients of one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qoq_jax.models.embedding import embed_tokens
from qoq_jax.parallel import mesh as mesh_lib

V, B, T = 24, 8, 5


def loss(table, tokens, dtype="float32"):
    x = embed_tokens(table, tokens, dtype)
    weight = jnp.cos(jnp.arange(x.size * 1.0)).reshape(x.shape)
    return (x.astype(jnp.float32) * weight).sum(), x


RUN = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnames="dtype")


# a width that 8 devices cannot cut stays whole
@pytest.mark.parametrize(
    "ways, width", [(dict(fsdp=8), 16), (dict(data=2, fsdp=2, tensor=2), 16), (dict(fsdp=8), 12)]
)
def test_a_mesh_computes_what_one_device_does(ways, width):
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(V, width)), jnp.float32)
    tokens = jnp.asarray(rng.integers(0, V, (B, T)), jnp.int32)
    (_, wanted), gradient = RUN(table, tokens)
    mesh = mesh_lib.make_mesh(**ways)
    with jax.set_mesh(mesh):
        cut = mesh_lib.named_sharding(mesh, ("vocab", "embed"), table.shape)
        (_, x), found = RUN(jax.device_put(table, cut), tokens)
    np.testing.assert_array_equal(x, wanted)
    np.testing.assert_allclose(found, gradient, atol=1e-6)


def test_gradients_of_a_frequent_token_are_summed_in_the_dtype_of_the_table():
    """In bfloat16, 40 times 1.01 would be 40 or 40.25."""
    tokens = jnp.zeros((B, T), jnp.int32)
    table = jnp.ones((V, 16))

    def total(table):
        return (embed_tokens(table, tokens, "bfloat16").astype(jnp.float32) * 1.0078125).sum()

    np.testing.assert_allclose(jax.grad(total)(table)[0], B * T * 1.0078125, rtol=1e-6)
