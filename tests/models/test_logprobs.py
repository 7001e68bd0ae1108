"""Log-probabilities by slices of the vocabulary against the logits of all of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qoq_jax.models.logprobs import token_logprobs
from qoq_jax.parallel import mesh as mesh_lib

B, T, D = 8, 7, 64


def case(vocabulary: int, dtype: str = "float32"):
    """(head, hidden, targets)."""
    rng = np.random.default_rng(3)
    head = jnp.asarray(rng.normal(size=(vocabulary, D)) / 8, dtype)
    hidden = jnp.asarray(rng.normal(size=(B, T, D)) * 4, dtype)
    return head, hidden, jnp.asarray(rng.integers(0, vocabulary, (B, T)), jnp.int32)


def dense(head, hidden, targets):
    logits = jnp.einsum("btd,vd->btv", hidden, head, preferred_element_type=jnp.float32)
    scores = jax.nn.log_softmax(logits / 0.7)
    entropy = -(jnp.exp(scores) * scores).sum(-1)
    return jnp.take_along_axis(scores, targets[..., None], axis=-1)[..., 0], entropy


def sliced(scores):
    def run(head, hidden, targets):
        params = {"embedding": head}
        return token_logprobs(params, hidden, targets, temperature=0.7, scores=scores)

    return run


def values_and_gradients(function, head, hidden, targets):
    def total(head, hidden):
        results = function(head, hidden, targets)
        weight = jnp.cos(jnp.arange(7.0))[None]
        return (results[0] * weight + 0.3 * results[1] * weight**2).sum(), results

    run = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    (_, results), gradients = run(head, hidden)
    return results, gradients


# 131 is a prime: its last slices are padded
@pytest.mark.parametrize("vocabulary, scores", [(128, 1 << 20), (128, 900), (131, 1000), (131, 60)])
def test_values_and_gradients_equal_log_softmax(vocabulary, scores):
    inputs = case(vocabulary)
    results, gradients = values_and_gradients(sliced(scores), *inputs)
    wanted, wanted_gradients = values_and_gradients(dense, *inputs)
    for got, want in zip(results, wanted, strict=True):
        assert got.dtype == jnp.float32 and got.shape == (B, T)
        np.testing.assert_allclose(got, want, atol=2e-5)
    for got, want in zip(gradients, wanted_gradients, strict=True):
        np.testing.assert_allclose(got, want, atol=5e-5)


@pytest.mark.parametrize("vocabulary", [128, 131])
@pytest.mark.parametrize("ways", [dict(fsdp=8), dict(data=2, fsdp=2, tensor=2), dict(tensor=4)])
def test_a_mesh_computes_what_one_device_does(vocabulary, ways):
    head, hidden, targets = case(vocabulary)
    results, gradients = values_and_gradients(dense, head, hidden, targets)
    mesh = mesh_lib.make_mesh(**ways, devices=jax.devices()[: np.prod(list(ways.values()))])
    cut = mesh_lib.named_sharding(mesh, ("vocab", "embed"), head.shape)
    with jax.set_mesh(mesh):
        got, got_gradients = values_and_gradients(
            sliced(300), jax.device_put(head, cut), hidden, targets
        )
    for one, want in zip((*got, *got_gradients), (*results, *gradients), strict=True):
        np.testing.assert_allclose(one, want, atol=5e-5)


def test_what_is_sure_has_no_entropy_and_bfloat16_stays_near_its_logits():
    head, hidden, targets = case(128, "bfloat16")
    (logprob, entropy), gradients = values_and_gradients(sliced(900), head, hidden, targets)
    (wanted, wanted_entropy), wanted_gradients = values_and_gradients(dense, head, hidden, targets)
    np.testing.assert_allclose(logprob, wanted, atol=1e-4)
    np.testing.assert_allclose(entropy, wanted_entropy, atol=1e-4)
    for got, want in zip(gradients, wanted_gradients, strict=True):
        scale = np.abs(np.asarray(want, np.float32)).max()
        np.testing.assert_allclose(
            np.asarray(got, np.float32), np.asarray(want, np.float32), atol=0.01 * scale
        )
    sure = jnp.zeros((128, D)).at[5, 0].set(100.0)
    logprob, entropy = token_logprobs(
        {"embedding": sure}, jnp.ones((1, 2, D)), jnp.full((1, 2), 5), scores=100
    )
    np.testing.assert_allclose(np.stack([logprob, entropy]), 0, atol=1e-6)


def test_a_long_row_and_full_vocabulary_need_less_than_a_gibibyte():
    """Logits of the row would be 2.3 GiB in float32, and as much again for their gradient."""
    head = jax.ShapeDtypeStruct((152064, 64), jnp.float32)
    hidden = jax.ShapeDtypeStruct((1, 4096, 64), jnp.float32)
    targets = jax.ShapeDtypeStruct((1, 4096), jnp.int32)

    def loss(head, hidden, targets):
        logprob, entropy = token_logprobs({"embedding": head}, hidden, targets)
        return (logprob - entropy).sum()

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(head, hidden, targets).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2**30
