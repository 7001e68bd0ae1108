"""The kernel of decode steps that reads filled blocks, interpreted, beside the einsums."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.generation import config, weights
from helpers.train import prompt_batch

from qoq_jax.models import int8, ragged
from qoq_jax.models.cache import store
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.sampling.sampler import make_sampler
from qoq_jax.sampling.schedule import Settings


def plain(q, k, v, seen):
    """(softmax, logarithm of its sum), by numpy in float64, over the places that are seen."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    score = np.einsum("bkgah,bkghs->bkgas", q, k) * q.shape[-1] ** -0.5
    exponential = np.exp(score) * seen[:, None, :, None]
    total = exponential.sum(axis=-1)
    out = np.einsum("bkgas,bkgsh->bkgah", exponential, v)
    some = total > 0
    logsum = np.where(some, np.log(np.where(some, total, 1)), ragged.MASKED)
    return out / np.where(some, total, 1)[..., None], logsum


@pytest.mark.parametrize("dtype", ["auto", "int8"])
@pytest.mark.parametrize("places", [384, 200])  # whole blocks, and a last one that is cut
def test_ranges_of_any_length_around_the_ring(places, dtype, monkeypatch):
    monkeypatch.setattr(ragged, "MAX_BLOCK", 128)
    rng = np.random.default_rng(0)
    B, K, G, A, h = 3, 2, 4, 3, 8
    q, k, v = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((B, K, G, A, h), (B, K, G, h, places), (B, K, G, places, h))
    )
    first, count = rng.integers(0, places, (B, G)), rng.integers(0, places + 1, (B, G))
    count[0], count[2] = [0, places, 1, places - 1], 0  # empty, full, one; a prompt without rows
    k, v = store(k, 3, dtype), store(v, 4, dtype)
    found = jax.jit(lambda *x: ragged.attend(*x, interpret=True))(
        q, k, v, jnp.asarray(first, jnp.int32), jnp.asarray(count, jnp.int32)
    )
    seen = (np.arange(places) - first[..., None]) % places < count[..., None]
    out, logsum = plain(q, int8.read(k, q.dtype), int8.read(v, q.dtype), seen)
    np.testing.assert_allclose(found.out, out, atol=2e-6)
    np.testing.assert_allclose(found.logsum, logsum, atol=2e-6)


@pytest.mark.parametrize("kv_heads", [2, 1])  # cut over tensor, or whole where they do not divide
def test_a_mesh_equals_one_device(kv_heads):
    rng = np.random.default_rng(1)
    q, k, v = (
        jnp.asarray(rng.normal(size=(4, kv_heads, 2, *last)), jnp.float32)
        for last in ((3, 8), (8, 128), (128, 8))
    )
    first, count = (jnp.asarray(rng.integers(0, 128, (4, 2)), jnp.int32) for _ in range(2))
    run = jax.jit(lambda *x: ragged.attend(*x, interpret=True))
    one = run(q, k, v, first, count)
    with jax.set_mesh(mesh_lib.make_mesh(data=2, fsdp=2, tensor=2)):
        several = run(q, k, v, first, count)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one, several)


def test_the_grid_has_the_filled_blocks_and_no_others():
    first = jnp.asarray([0, 300, 5, 260, 130], jnp.int32)
    count = jnp.asarray([0, 200, 128, 380, 1], jnp.int32)
    row, block, total = ragged.entries(first, count, 384, 128)
    visited = list(zip(np.asarray(row)[:total].tolist(), np.asarray(block)[:total].tolist()))
    assert visited == [(1, 2), (1, 0), (2, 0), (2, 1), (3, 2), (3, 0), (3, 1), (4, 1)]


@pytest.mark.parametrize("rows", [0, 6])
def test_greedy_rollouts_are_the_same(rows):
    """All at once, and through slots that are filled again: the ring has then been round."""
    batch = prompt_batch(config(), 4)
    banned = jnp.zeros(config().decoder.vocab_size, bool)

    def run(kernel):
        cfg = config(decode_attention=kernel)
        settings = Settings(max_new_tokens=12, num_samples=3, rows=rows)
        return make_sampler(cfg, settings, None)(weights(), batch, jax.random.key(3), banned)

    einsum, kernel = run("einsum"), run("ragged-interpret")
    np.testing.assert_array_equal(kernel.tokens, einsum.tokens)
    np.testing.assert_allclose(kernel.logprobs, einsum.logprobs, atol=1e-4)
