"""The one masked softmax: each form of rows against a dense rule, in blocks and without."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qoq_jax.models import attention
from qoq_jax.models.attention import KeySet, TokenIds


def test_blocked_queries_equal_dense(monkeypatch):
    rng = np.random.default_rng(0)
    q, k, v = (
        jnp.asarray(rng.normal(size=s), jnp.float32)
        for s in [(2, 21, 2, 2, 8), (2, 21, 2, 8), (2, 21, 2, 8)]
    )
    segment = jnp.asarray(np.repeat([[1, 2, 0]], 2, 0).repeat([9, 9, 3], axis=1), jnp.int32)
    branch = jnp.asarray(rng.integers(0, 3, (2, 21)), jnp.int32)

    def value_and_gradient():
        def run(q, k, v):  # a new function each time: jit must not reuse the other trace
            return (attention.packed_rows(q, k, v, TokenIds(segment, branch))[:, :18] ** 2).sum()

        return jax.jit(jax.value_and_grad(run, argnums=(0, 1, 2)))(q, k, v)

    dense = value_and_gradient()
    monkeypatch.setattr(attention, "QUERY_BLOCK", 8)
    blocked = value_and_gradient()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), dense, blocked)


def test_shared_prompt_attention_equals_the_general_rule(monkeypatch):
    """Also where prompt and responses end in padding, and where queries go in blocks."""
    rng = np.random.default_rng(6)
    prompt, G, S = 7, 3, 5
    T = prompt + G * S
    q, k, v = (jnp.asarray(rng.normal(size=(2, T, 2, *n, 8)), jnp.float32) for n in [(2,), (), ()])
    # prompt and three responses of each row
    used = np.array([5, 5, 2, 4, 7, 3, 5, 1]).reshape(2, 4)
    ends = [prompt, S, S, S]
    segment = np.stack(
        [np.concatenate([np.arange(n) < u for n, u in zip(ends, row)]) for row in used]
    )
    segment = jnp.asarray(segment, jnp.int32)
    branch = jnp.asarray(np.repeat(np.arange(4), ends)[None].repeat(2, 0), jnp.int32)
    general = attention.packed_rows(q, k, v, TokenIds(segment, branch))
    real = np.asarray(segment, bool)
    for block in (512, 2):
        monkeypatch.setattr(attention, "QUERY_BLOCK", block)
        shared = jax.jit(lambda *args: attention.grouped_rows(*args, prompt=prompt, branches=G))(
            q, k, v, segment
        )
        np.testing.assert_allclose(np.asarray(shared)[real], np.asarray(general)[real], atol=1e-5)


@pytest.mark.parametrize("dense_block, lined_up", [(512, False), (0, False), (512, True)])
def test_segment_attention_is_exact_wherever_segments_start(monkeypatch, dense_block, lined_up):
    """Lengths 1..8 that do not line up with blocks of 8, or do, padding inside and at the end;
    dense as judge.
    """
    monkeypatch.setattr(attention, "DENSE_BLOCK", dense_block)
    rng = np.random.default_rng(0)
    P, longest = 45, 8
    lengths = [[3, 8, 1, 8, 7, 2, 8], [8, 8, 5, 8, 3, 6, 4]]
    lengths = [[3, 5, 8, 8, 8, 2, 6], [8, 1, 7, 8, 8, 8, 4]] if lined_up else lengths
    segments = np.stack(
        [np.repeat(np.arange(1, 8), row).tolist() + [0] * (P - sum(row)) for row in lengths]
    )
    segments[0, 3:11] = 0  # a hole
    q, k, v = (jnp.asarray(rng.normal(size=(2, P, 2, 4)), jnp.float32) for _ in range(3))
    real = jnp.asarray(segments > 0)[:, :, None, None]

    def dense(q, k, v):
        same = (segments[:, :, None] == segments[:, None]) & (segments > 0)[:, None]
        scores = jnp.where(same[:, None], jnp.einsum("rqnh,rknh->rnqk", q, k) / 2, -1e30)
        return jnp.where(real, jnp.einsum("rnqk,rknh->rqnh", jax.nn.softmax(scores), v), 0)

    def blocked(q, k, v):
        return jnp.where(
            real, attention.segment_rows(q, k, v, jnp.asarray(segments, jnp.int32), longest), 0
        )

    def with_gradient(function):
        return jax.jit(
            jax.value_and_grad(lambda *args: (function(*args) ** 3).sum(), argnums=(0, 1, 2))
        )(q, k, v)

    np.testing.assert_allclose(jax.jit(blocked)(q, k, v), dense(q, k, v), atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
        with_gradient(blocked),
        with_gradient(dense),
    )


def test_a_tower_attends_head_by_head_on_a_cpu_as_it_does_at_once(monkeypatch):
    """Values and gradients, with blocks of queries that the row does not fill, and padding."""
    rng = np.random.default_rng(1)
    q, k, v = (jnp.asarray(rng.normal(size=(2, 21, 2, 4)), jnp.float32) for _ in range(3))
    segments = jnp.asarray([[1] * 9 + [2] * 12, [1] * 16 + [0] * 5], jnp.int32)
    real = (segments > 0)[:, :, None, None]

    def value_and_gradient():
        def run(q, k, v):  # a new function each time: jit must not reuse the other trace
            out = attention.segment_rows(q, k, v, segments, 32)
            return (jnp.where(real, out, 0) ** 3).sum()

        return jax.jit(jax.value_and_grad(run, argnums=(0, 1, 2)))(q, k, v)

    at_once = value_and_gradient()
    monkeypatch.setattr(attention, "CPU_ROW", 1)
    monkeypatch.setattr(attention, "CPU_BLOCK", 8)
    head_by_head = value_and_gradient()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), at_once, head_by_head)


def test_scores_of_a_long_row_never_exist_at_once():
    """All scores of the row would be 256 MiB in float32; no half of them is ever there."""
    T = 8192
    shaped = jax.ShapeDtypeStruct
    q, k = shaped((1, T, 1, 1, 8), jnp.float32), shaped((1, T, 1, 8), jnp.float32)
    ids = shaped((1, T), jnp.int32)

    def loss(q, k, v, segment, branch):
        return attention.packed_rows(q, k, v, TokenIds(segment, branch)).sum()

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(q, k, k, ids, ids).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < T * T * 4 / 2


def test_sets_of_keys_share_one_softmax():
    """Two sets, one with an invalid key, equal a softmax over both sets joined."""
    rng = np.random.default_rng(1)
    q, k, v = (jnp.asarray(rng.normal(size=(2, 4, 3, 8)), jnp.float32) for _ in range(3))
    valid = jnp.asarray([[True, True, False, True]] * 2)
    axes = dict(k_axes="bskh", v_axes="bskh")
    parts = [KeySet(k, v, valid=valid, **axes), KeySet(v, k, **axes)]
    scores = jnp.einsum("btkh,bskh->bkts", q, jnp.concatenate([k, v], axis=1)) / np.sqrt(8)
    seen = jnp.concatenate([valid, jnp.ones_like(valid)], axis=1)[:, None, None]
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
    expected = jnp.einsum("bkts,bskh->btkh", weights, jnp.concatenate([v, k], axis=1))
    np.testing.assert_allclose(attention.attention(q, parts, axes="btkh"), expected, atol=1e-6)
