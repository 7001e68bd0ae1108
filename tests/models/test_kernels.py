"""Kernels of TPUs and GPUs, interpreted: values and gradients of the einsums on ragged rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qoq_jax.models import attention, flash, sequence, splash
from qoq_jax.models.attention import TokenIds
from qoq_jax.parallel import mesh as mesh_lib

KERNELS = pytest.mark.parametrize("interpreted", ["splash-interpret", "flash-interpret"])


def both(form, q, k, v, real, interpreted):
    """((value, gradients) by einsums, the same by the kernel) of a sum over real tokens."""

    def of(kernel):
        def total(q, k, v):
            return (jnp.where(real, form(q, k, v, kernel), 0) ** 2).mean()

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))(q, k, v)

    return of("einsum"), of(interpreted)


def assert_close(pair):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), *pair)


def drawn(rng, *shapes):
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


@KERNELS
def test_packed_rows(interpreted):
    rng = np.random.default_rng(0)
    T = 150
    q, k, v = drawn(rng, (2, T, 2, 3, 8), (2, T, 2, 8), (2, T, 2, 8))
    segment = np.repeat([[1, 2, 3, 0], [1, 0, 2, 0]], [40, 60, 30, 20], axis=1)
    segment = jnp.asarray(segment, jnp.int32)

    def form(q, k, v, kernel):
        return attention.packed_rows(q, k, v, TokenIds(segment), kernel)

    assert_close(both(form, q, k, v, (segment > 0)[..., None, None, None], interpreted))


@KERNELS
@pytest.mark.parametrize("prompt, G, S", [(70, 3, 40), (128, 2, 64)])
def test_prompts_with_their_responses(prompt, G, S, interpreted):
    rng = np.random.default_rng(1)
    T = prompt + G * S
    q, k, v = drawn(rng, (2, T, 1, 2, 16), (2, T, 1, 16), (2, T, 1, 16))
    ends = [prompt, *[S] * G]
    used = rng.integers(1, ends + np.array([[1], [1]]))  # the rest of each part is padding
    segment = [np.concatenate([np.arange(n) < u for n, u in zip(ends, row)]) for row in used]
    segment = jnp.asarray(np.stack(segment), jnp.int32)

    def form(q, k, v, kernel):
        return attention.grouped_rows(q, k, v, segment, prompt=prompt, branches=G, kernel=kernel)

    assert_close(both(form, q, k, v, (segment > 0)[..., None, None, None], interpreted))


@KERNELS
def test_frames_longer_than_a_block(monkeypatch, interpreted):
    """Both ways within segments; those shorter than a block stay with the einsums."""
    monkeypatch.setattr(attention, "DENSE_BLOCK", 100)
    rng = np.random.default_rng(2)
    T, longest = 300, 130
    q, k, v = drawn(rng, *[(2, T, 2, 8)] * 3)
    segments = np.repeat([[1, 2, 3, 0], [1, 2, 0, 4]], [130, 17, 103, 50], axis=1)
    segments = jnp.asarray(segments, jnp.int32)
    module = {"splash": splash, "flash": flash}[interpreted.partition("-")[0]]
    called, real = [], module.segment_rows

    def counted(*args, **kwargs):
        called.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "segment_rows", counted)

    def form(q, k, v, kernel):
        return attention.segment_rows(q, k, v, segments, longest, kernel)

    assert_close(both(form, q, k, v, (segments > 0)[..., None, None], interpreted))
    attention.segment_rows(q, k, v, segments, 64, interpreted)
    assert len(called) == 1


def test_the_mask_of_grouped_rows_is_the_rule_of_packed_rows():
    prompt, G, S = 5, 3, 4
    mask = splash.Grouped(20, prompt, S)[:, :]
    branch = np.repeat(np.arange(G + 1), [prompt, *[S] * G])
    at = np.arange(prompt + G * S)
    seen = (branch == 0)[None] | (branch[:, None] == branch[None])
    np.testing.assert_array_equal(mask[:17, :17], seen & (at[None] <= at[:, None]))


@pytest.mark.slow
@KERNELS
@pytest.mark.parametrize("kv_heads", [2, 1])  # cut over tensor, or whole where they do not divide
def test_eight_devices_equal_one(kv_heads, interpreted):
    rng = np.random.default_rng(3)
    T = 140
    q, k, v = drawn(rng, (4, T, kv_heads, 2, 8), *[(4, T, kv_heads, 8)] * 2)
    segment = jnp.asarray(np.repeat([[1, 2, 0]] * 4, [60, 50, 30], axis=1), jnp.int32)

    def run(q, k, v, segment):
        out = attention.packed_rows(q, k, v, TokenIds(segment), interpreted)
        return jnp.where((segment > 0)[..., None, None, None], out, 0)

    one = jax.jit(run)(q, k, v, segment)
    mesh = mesh_lib.make_mesh(data=2, fsdp=2, tensor=2)
    with jax.set_mesh(mesh):
        inputs = jax.device_put((q, k, v, segment), mesh_lib.batch_sharding(mesh))
        eight = jax.jit(run)(*inputs)
    np.testing.assert_allclose(one, eight, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@KERNELS
def test_rows_cut_by_their_tokens_equal_whole_ones(interpreted):
    """A prompt with its responses, tokens and heads over four devices; values and gradients."""
    rng = np.random.default_rng(4)
    prompt, G, S, real = 40, 2, 24, 30
    q, k, v = drawn(rng, (2, 88, 2, 4, 8), (2, 88, 2, 8), (2, 88, 2, 8))
    segment = np.concatenate([np.arange(n) < min(n, real) for n in (prompt, S, S)])
    segment = jnp.asarray(np.stack([segment] * 2), jnp.int32)

    def total(kernel):
        def of(q, k, v):
            heads = sequence.row_heads(q, k, v)
            form = dict(prompt=prompt, branches=G, kernel=kernel)
            out = attention.grouped_rows(*heads, segment, **form)
            out = sequence.to_tokens(out, "batch", "tokens")
            return (jnp.where((segment > 0)[..., None, None, None], out, 0) ** 2).mean()

        return jax.jit(jax.value_and_grad(of, argnums=(0, 1, 2)))

    one = total("einsum")(q, k, v)
    with jax.set_mesh(mesh_lib.make_mesh(fsdp=2, sequence=2, tensor=2)):
        assert_close((one, total(interpreted)(q, k, v)))
