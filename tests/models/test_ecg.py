"""ECG-JEPA against the reference numbers, its attention against a masked softmax, masks, and broken
files.
"""

from __future__ import annotations

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from qoq_jax.hf import ecg as ecg_files
from qoq_jax.models import sizes as variants
from qoq_jax.models import spec
from qoq_jax.models.encoders import ecg, ecg_jepa

FOLDER = pathlib.Path(__file__).parents[1] / "golden"
WEIGHTS, GOLDEN = FOLDER / "ecg_jepa_small.safetensors", np.load(FOLDER / "ecg_jepa_small_io.npz")
TINY = variants.EcgConfig(
    width=16,
    depth=2,
    num_heads=2,
    predictor_width=8,
    predictor_depth=1,
    predictor_heads=2,
    leads=3,
    patches=5,
    patch_size=4,
)


@pytest.fixture(scope="module")
def published():
    return ecg_files.load(str(WEIGHTS), num_heads=4)


@pytest.fixture(scope="module")
def tiny():
    specs = {"encoder": ecg.param_specs(TINY), "predictor": ecg_jepa.predictor_param_specs(TINY)}
    params = spec.init_params(specs, jax.random.key(0))
    # Kernels far from zero, so that a wrong attention pattern shows.
    params = jax.tree.map(lambda x: x * 10 if x.ndim > 1 else x, params)
    ecgs = jax.random.normal(jax.random.key(1), (2, TINY.leads, TINY.patches * TINY.patch_size))
    return params, ecgs


def close(actual, expected, atol=1e-5):
    np.testing.assert_allclose(np.asarray(actual), expected, atol=atol, rtol=0)


# --------------------------------------------------------------------------------------------------
# Reference numbers


def test_sizes_are_read_from_the_weights(published):
    params, cfg = published
    assert cfg == variants.EcgConfig(
        width=96, depth=3, num_heads=4, predictor_width=48, predictor_depth=2, predictor_heads=4
    )
    specs = {"encoder": ecg.param_specs(cfg), "predictor": ecg_jepa.predictor_param_specs(cfg)}
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda s: s.shape, specs)


def test_tokens_and_representation_match_the_reference(published):
    params, cfg = published
    tokens = jax.jit(ecg.tokens, static_argnums=1)(params["encoder"], cfg, GOLDEN["ecg"])
    close(tokens, GOLDEN["tokens"])
    close(tokens.mean(axis=1), GOLDEN["representation"])


def test_fewer_leads_match_the_reference(published):
    params, cfg = published
    leads = tuple(int(lead) for lead in GOLDEN["leads4"])
    represent = jax.jit(ecg.represent, static_argnums=(1, 3))
    for tree in (params["encoder"], params):  # the encoder, or all that `load` returns
        close(represent(tree, cfg, GOLDEN["ecg"][:, leads], leads), GOLDEN["representation_leads4"])


def test_pretraining_loss_matches_the_reference(published):
    params, cfg = published
    loss = jax.jit(ecg_jepa.jepa_loss, static_argnums=2)
    total, denominator = loss(params, params["encoder"], cfg, GOLDEN["ecg"], GOLDEN["mask"])
    close(total / denominator, GOLDEN["jepa_loss"])
    assert denominator == 2 * 8 * GOLDEN["mask"].sum() * 96
    # The context encoder on fewer steps than all: on the visible ones alone, and on those and one
    # hidden step.
    shorter = jax.jit(functools.partial(ecg_jepa.jepa_loss, remat=False), static_argnums=(2, 5))
    for most in ((~GOLDEN["mask"]).sum(), (~GOLDEN["mask"]).sum() + 1):
        close(
            shorter(params, params, cfg, GOLDEN["ecg"], GOLDEN["mask"], int(most))[0] / denominator,
            GOLDEN["jepa_loss"],
        )


def test_positions_are_those_of_the_published_files():
    tensors = load_file(WEIGHTS)
    close(ecg.sincos_positions(8, 50, 96).reshape(400, 96), tensors["encoder.pos_embed"], atol=1e-6)
    close(
        ecg.sincos_positions(1, 50, 48).reshape(50, 48), tensors["predictor.pos_embed"], atol=1e-6
    )


# --------------------------------------------------------------------------------------------------
# Attention and masks


def cross_attention(block, x, visible):
    """One softmax over all N * T tokens under the cross-shaped mask."""
    batch, leads, steps, width = x.shape
    q, k, v = jnp.moveaxis(jnp.einsum("bntw,wchd->bntchd", x, block["qkv"]), 3, 0).reshape(
        3, batch, leads * steps, *block["qkv"].shape[-2:]
    )
    lead, step = np.divmod(np.arange(leads * steps), steps)
    allowed = ((lead[:, None] == lead) | (step[:, None] == step)) & np.asarray(visible)[step][None]
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
    weights = jax.nn.softmax(jnp.where(allowed[None, None], logits, -jnp.inf), axis=-1)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
    out = jnp.einsum("bqhd,hdw->bqw", mixed, block["out"]) + block["out_bias"][None, None]
    return out.reshape(batch, leads, steps, width)


@pytest.mark.parametrize("visible", [[1, 1, 1, 1, 1], [1, 0, 1, 0, 0]])
def test_attention_equals_a_masked_softmax(tiny, visible):
    params, _ = tiny
    block = jax.tree.map(lambda x: x[0], params["encoder"]["blocks"])
    # Results of about 1: float32 cannot hold an absolute 1e-5 at the 35 that this kernel would
    # give.
    block["out"] *= 0.03
    x = jax.random.normal(jax.random.key(2), (2, TINY.leads, TINY.patches, TINY.width))
    visible = np.array(visible, bool)
    close(
        ecg.attend(block, x, jnp.asarray(visible))[:, :, visible],
        cross_attention(block, x, visible)[:, :, visible],
    )


def test_hidden_steps_reach_the_loss_only_as_targets(tiny):
    params, ecgs = tiny
    mask = jnp.array([False, True, False, True, True])
    samples = jnp.repeat(mask, TINY.patch_size)[None, None]
    context = ecg.encode(params["encoder"], TINY, ecgs, visible=~mask)
    changed = ecg.encode(params["encoder"], TINY, jnp.where(samples, 7.0, ecgs), visible=~mask)
    visible = ~np.asarray(mask)
    close(context[:, :, visible], changed[:, :, visible])


def test_only_encoder_and_predictor_get_gradients(tiny):
    params, ecgs = tiny
    mask = jnp.array([False, True, False, True, True])

    def loss(params, target):
        total, denominator = ecg_jepa.jepa_loss(params, target, TINY, ecgs, mask)
        return total / denominator

    gradients, target_gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, params["encoder"])
    assert all(np.isfinite(leaf).all() and np.any(leaf) for leaf in jax.tree.leaves(gradients))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(target_gradients))


def test_bfloat16_parameters_give_bfloat16_tokens(tiny):
    params, ecgs = tiny
    encoder = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params["encoder"])
    tokens = ecg.tokens(encoder, TINY, ecgs)
    assert tokens.dtype == jnp.bfloat16
    error = np.abs(
        np.asarray(tokens, np.float32) - np.asarray(ecg.tokens(params["encoder"], TINY, ecgs))
    )
    assert error.mean() < 0.05


def test_masks_hide_the_paper_s_shares():
    cfg = variants.get("nano").ecg
    keys = jax.random.split(jax.random.key(0), 200)
    random = np.asarray(jax.jit(jax.vmap(lambda key: ecg_jepa.random_mask(key, cfg)))(keys)).sum(
        axis=1
    )
    assert random.min() >= 30 and random.max() <= 35 and len(set(random)) > 3
    blocks = np.asarray(jax.jit(jax.vmap(lambda key: ecg_jepa.block_mask(key, cfg)))(keys))
    assert blocks.sum(axis=1).min() >= 8 and blocks.sum(axis=1).max() <= 44
    starts = (np.diff(blocks, axis=1, prepend=False) & blocks).sum(axis=1)
    assert starts.min() >= 1 and starts.max() <= 4


# --------------------------------------------------------------------------------------------------
# Mistakes


def test_wrong_shapes_are_named(tiny):
    params, ecgs = tiny
    with pytest.raises(ValueError, match=r"shape \[B, 3, 20\], got \(2, 3, 19\)"):
        ecg.tokens(params["encoder"], TINY, ecgs[:, :, :-1])
    with pytest.raises(ValueError, match=r"shape \[B, 2, 20\]"):
        ecg.tokens(params["encoder"], TINY, ecgs, leads=(0, 1))
