"""The whole model: parity with Hugging Face, media in the right places, static shapes."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from helpers.models import (
    TINY,
    batch,
    golden,
    hf_params,
    one_device_result,
    random_params,
    text_batch,
)

from qoq_jax.models import vlm


def test_logits_of_text_images_and_video_equal_hugging_face():
    data = golden()
    prompt = text_batch(data["tokens"], positions=data["prompt_positions"])
    prompt |= {
        name: data[name][None] for name in ("patches", "patch_hw", "patch_frame", "patch_window")
    }
    prompt |= {"media_index": data["media_index"], "ecg": np.zeros((1, 0, 8, 2500), np.float32)}
    logits = jax.jit(vlm.logits, static_argnums=1)(hf_params(), TINY, prompt)
    np.testing.assert_allclose(logits, data["logits"], atol=1e-4, rtol=0)


def test_layer_views_share_the_memory_of_the_stack_and_give_equal_logits():
    data, params = golden(), jax.device_put(hf_params(), jax.devices()[0])
    views = vlm.layer_views(params, TINY)
    for part, name in (("decoder", "layers"), ("vision", "blocks")):
        for path, stack in jax.tree_util.tree_leaves_with_path(params[part][name]):
            for i, layer in enumerate(views[part][name]):
                for entry in path:
                    layer = layer[entry.key]
                assert layer.shape == stack.shape[1:]
                # JAX takes memory as it is when it is aligned; the tiny biases are not
                if stack[0].nbytes % 64 == 0:
                    assert (
                        layer.unsafe_buffer_pointer()
                        == stack.unsafe_buffer_pointer() + i * layer.nbytes
                    )
    prompt = text_batch(data["tokens"], positions=data["prompt_positions"])
    prompt |= {
        name: data[name][None] for name in ("patches", "patch_hw", "patch_frame", "patch_window")
    }
    prompt |= {"media_index": data["media_index"], "ecg": np.zeros((1, 0, 8, 2500), np.float32)}
    logits = jax.jit(vlm.logits, static_argnums=1)(views, TINY, prompt)
    np.testing.assert_allclose(logits, data["logits"], atol=1e-4, rtol=0)
    assert vlm.layer_views(params, TINY, deepest=1) == params  # deeper stacks stay, to be scanned
    assert not isinstance(
        vlm.layer_views(params, dataclasses.replace(TINY, compute_dtype="bfloat16"))["decoder"][
            "layers"
        ],
        tuple,
    )


TRACES = []


@jax.jit
def embed_and_table(params, inputs):
    TRACES.append(None)
    return vlm.embed(params, TINY, inputs), vlm.media_table(params, TINY, inputs)


def test_media_replace_the_tokens_that_point_at_them():
    """Four text rows share a media row; its table is their vision tokens, then their ECG tokens."""
    inputs, params = batch(8, media_rows=2), random_params()
    embedded, table = embed_and_table(params, inputs)
    assert table.shape == (2, 4 * (6 + 50), TINY.decoder.width)
    text = np.asarray(params["decoder"]["embedding"])[inputs["tokens"]]
    media = np.asarray(table).repeat(4, 0)[np.arange(8)[:, None], inputs["media_index"]]
    expected = np.where(inputs["media_index"][..., None] >= 0, media, text)
    np.testing.assert_allclose(embedded, expected, atol=1e-6)


def test_batches_of_one_budget_compile_once():
    sums = {
        float(embed_and_table(random_params(), batch(8, media_rows=2, seed=seed))[0].sum())
        for seed in range(3)
    }
    assert len(TRACES) == 1 and len(sums) == 3


def test_ecg_tokens_pool_the_same_encoder_output():
    params = random_params()
    signal = jnp.asarray(np.random.default_rng(0).normal(size=(2, 1, 8, 2500)), jnp.float32)

    configs = [dataclasses.replace(TINY, ecg_tokens=count) for count in (400, 50, 1)]
    every, steps, one = jax.jit(lambda p, x: [vlm.ecg_tokens(p, cfg, x) for cfg in configs])(
        params, signal
    )
    every = np.asarray(every).reshape(2, 8, 50, -1)  # lead by lead
    np.testing.assert_allclose(steps, every.mean(axis=1), atol=1e-5)
    np.testing.assert_allclose(one, every.mean(axis=(1, 2))[:, None], atol=1e-5)


def test_every_weight_receives_a_gradient():
    """A declared but unread weight would train to nothing and still be saved."""
    _, gradients = one_device_result()
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(gradient).all() and float(jnp.abs(gradient).max()) > 0, (
            jax.tree_util.keystr(path)
        )
