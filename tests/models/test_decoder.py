"""The decoder: parity with Hugging Face, sharing of prompts, the cache, and log-probs without
logits.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.models import TINY, golden, hf_params, random_params, text_batch

from qoq_jax.models import cache as cache_lib
from qoq_jax.models import decoder, layers, vlm
from qoq_jax.models import sizes as variants
from qoq_jax.models.attention import TokenIds
from qoq_jax.parallel import mesh as mesh_lib

HIDDEN = jax.jit(vlm.hidden, static_argnums=1)


def test_hidden_states_equal_hugging_face_with_three_axis_positions():
    data = golden()
    B, T, _ = data["embeddings"].shape
    ones, zeros = np.ones((B, T), np.int32), np.zeros((B, T), np.int32)
    forward = jax.jit(decoder.forward, static_argnums=1)
    hidden = forward(
        hf_params()["decoder"],
        TINY,
        data["embeddings"],
        data["positions"],
        TokenIds(ones, zeros),
    )
    np.testing.assert_allclose(hidden, data["hidden"], atol=1e-4, rtol=0)


def test_each_rotary_frequency_turns_with_its_own_axis():
    cfg = TINY.decoder
    angles = [
        decoder.mrope_angles(cfg, jnp.zeros((1, 3, 1), jnp.int32).at[0, axis].set(1))
        for axis in range(3)
    ]
    turned = np.stack([np.asarray(a[0, 0]) > 0 for a in angles])
    expected = np.repeat(np.arange(3), cfg.mrope_section)[None] == np.arange(3)[:, None]
    np.testing.assert_array_equal(turned, expected)


def test_packed_samples_equal_separate_rows():
    separate = np.random.default_rng(1).integers(0, 100, (2, 8))
    packed = text_batch(
        np.concatenate([separate.reshape(1, 16), np.full((1, 4), TINY.pad_id)], axis=1),
        positions=np.broadcast_to(
            np.concatenate([np.arange(8), np.arange(8), np.zeros(4)]), (1, 3, 20)
        ),
        segment_ids=np.repeat([[1, 2, 0]], [8, 8, 4], axis=1),
    )
    params = random_params()
    together = HIDDEN(params, TINY, packed)
    alone = HIDDEN(params, TINY, text_batch(separate))
    np.testing.assert_allclose(together[:, :16].reshape(alone.shape), alone, atol=1e-5)
    assert np.isfinite(together).all()


def branched_rows(prompt, answers):
    """(one row [prompt | answers...], one row [prompt | answer] each)."""
    T, (G, S) = prompt.shape[1], answers.shape
    branch = np.concatenate([np.zeros(T), np.repeat(np.arange(1, G + 1), S)])[None]
    position = np.concatenate([np.arange(T), np.tile(np.arange(T, T + S), G)])
    shared = text_batch(
        np.concatenate([prompt, answers.reshape(1, -1)], axis=1),
        positions=np.broadcast_to(position, (1, 3, T + G * S)),
        branch_ids=branch,
    )
    separate = text_batch(
        np.concatenate([prompt.repeat(G, 0), answers], axis=1),
        branch_ids=np.repeat([[0, 1]], [T, S], axis=1).repeat(G, 0),
    )
    return shared, separate


def test_shared_prompt_equals_separate_rows_in_value_and_gradient():
    rng = np.random.default_rng(2)
    shared, separate = branched_rows(rng.integers(0, 100, (1, 6)), rng.integers(0, 100, (2, 5)))
    weight = jnp.asarray(rng.normal(size=(2, 5, TINY.decoder.width)), jnp.float32)

    def answers(params, batch):
        hidden = vlm.hidden(params, TINY, batch)[:, 6:].reshape(2, 5, -1)
        return (hidden * weight).sum(), hidden

    run = jax.jit(jax.grad(answers, has_aux=True))
    params = random_params()
    shared_gradient, shared_hidden = run(params, shared)
    gradient, hidden = run(params, separate)
    np.testing.assert_allclose(shared_hidden, hidden, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), shared_gradient, gradient
    )


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 0.15)])
def test_cached_decode_equals_full_forward(dtype, tolerance):
    cfg = dataclasses.replace(TINY, compute_dtype=dtype)
    rng = np.random.default_rng(4)
    B, G, T, S = 2, 3, 8, 4
    params = random_params()
    prompts, lengths = rng.integers(0, 100, (B, T)), np.array([8, 5])
    valid = np.arange(T)[None] < lengths[:, None]
    answers = rng.integers(0, 100, (B, G, S))
    batch = text_batch(np.where(valid, prompts, cfg.pad_id), segment_ids=valid)
    last, cache = jax.jit(vlm.prefill, static_argnames=("cfg", "rollouts", "max_new_tokens"))(
        params, cfg=cfg, batch=batch, rollouts=G, max_new_tokens=S
    )
    step = jax.jit(vlm.decode_step, static_argnums=1)
    decoded = []
    for s in range(S):
        positions = np.broadcast_to((lengths + s)[:, None, None], (B, 3, G)).astype(np.int32)
        hidden, cache = step(params, cfg, answers[:, :, s].astype(np.int32), positions, cache)
        decoded.append(hidden)
    decoded = np.stack(decoded, axis=2).astype(np.float32)
    assert int(cache.step) == S
    # The same rows without a cache: [prompt | answer | padding], one a response.
    rows = np.full((B, G, T + S), cfg.pad_id)
    for b, n in enumerate(lengths):
        rows[b, :, :n], rows[b, :, n : n + S] = prompts[b, :n], answers[b]
    segment = np.arange(T + S)[None] < (lengths + S).repeat(G)[:, None]
    full = HIDDEN(params, cfg, text_batch(rows.reshape(B * G, -1), segment_ids=segment))
    full = np.asarray(full.astype(jnp.float32)).reshape(B, G, T + S, -1)
    for b, n in enumerate(lengths):
        np.testing.assert_allclose(decoded[b], full[b, :, n : n + S], atol=tolerance)
        np.testing.assert_allclose(last[b].astype(jnp.float32), full[b, 0, n - 1], atol=tolerance)


def test_decode_with_layers_apart_equals_stacked():
    rng = np.random.default_rng(5)
    k, v = jnp.asarray(rng.normal(size=(2, 2, 2, 5, 2, 16)), jnp.float32)
    cache = cache_lib.init(k, v, jnp.ones((2, 5), bool), rollouts=2, max_new_tokens=3)
    tokens, positions = np.arange(4, dtype=np.int32).reshape(2, 2), np.full((2, 3, 2), 5, np.int32)
    step = jax.jit(lambda params, cache: vlm.decode_step(params, TINY, tokens, positions, cache))
    stacked, apart = (
        step(p, cache) for p in (random_params(), vlm.decode_params(random_params(), TINY))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), stacked, apart)


def test_the_order_of_tpus_decodes_the_same():
    """Reading the ring before the token is written to it, five steps through a ring of three."""
    rng = np.random.default_rng(6)
    k, v = jnp.asarray(rng.normal(size=(2, 2, 2, 5, 2, 16)), jnp.float32)
    tokens, positions = np.arange(4, dtype=np.int32).reshape(2, 2), np.full((2, 3, 2), 5, np.int32)

    def five(cfg):
        cache = cache_lib.init(k, v, jnp.ones((2, 5), bool), rollouts=2, max_new_tokens=3)
        step = jax.jit(
            lambda cache: vlm.decode_step(random_params(), cfg, tokens, positions, cache)
        )
        seen = []
        for i in range(5):
            if i == 3:  # one response ends and another begins
                cache = cache_lib.restart(cache, jnp.asarray([[True, False], [False, False]]))
            hidden, cache = step(cache)
            seen.append((hidden, cache))
        return seen

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        five(dataclasses.replace(TINY, attention="splash")),
        five(TINY),
    )


def test_decode_writes_the_cache_in_place():
    """Sampling donates the cache: no second copy of it may appear among the temporaries."""
    cfg = variants.get("nano")
    params = jax.eval_shape(lambda: {"decoder": decoder_params(cfg)})
    B, G, T, S = 2, 4, 16, 512
    cache = jax.eval_shape(
        lambda: cache_lib.init(
            *[jnp.zeros((3, B, T, 2, cfg.decoder.head_dim))] * 2,
            jnp.ones((B, T), bool),
            rollouts=G,
            max_new_tokens=S,
        )
    )
    response = sum(layer.size for layer in cache.response_k) * 4
    args = [jax.ShapeDtypeStruct(s, jnp.int32) for s in ((B, G), (B, 3, G))]
    compiled = (
        jax.jit(vlm.decode_step, static_argnums=1, donate_argnums=4)
        .lower(params, cfg, *args, cache)
        .compile()
    )
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes >= 2 * response
    assert memory.temp_size_in_bytes < 2 * response


def decoder_params(cfg):
    return jax.tree.map(lambda s: jnp.zeros(s.shape), decoder.param_specs(cfg.decoder))


def test_rematerialisation_does_not_change_gradients():
    batch = text_batch(np.arange(12).reshape(2, 6))

    def gradient(remat):
        cfg = dataclasses.replace(TINY, remat=remat)
        return jax.jit(jax.grad(lambda p: (vlm.hidden(p, cfg, batch) ** 3).sum()))(random_params())

    plain = gradient("none")
    for remat in ("full", "dots", "offload"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3, rtol=1e-5),
            plain,
            gradient(remat),
        )


def test_products_in_bfloat16_have_float32_results_on_a_cpu_alone():
    """Which the processor's own instructions compute; over a mesh sums would cross in float32."""
    x, kernel = (jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((2, 3, 4), (4, 5)))

    def program():
        return jax.jit(lambda *of: layers.linear("btd,df->btf", *of)).lower(x, kernel)

    assert program().out_info.dtype == jnp.bfloat16
    assert "f32" in program().as_text()
    with jax.set_mesh(mesh_lib.make_mesh(fsdp=8)):
        assert "f32" not in program().as_text()
