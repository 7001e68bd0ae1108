"""Self-supervised pretraining of the ECG encoder: ECG-JEPA (Kim, arXiv 2410.08559), section 3.

Axis letters: base/axes.py; B ECGs, C leads, T time steps (patches of a lead), W width.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from qoq_jax.models.encoders.ecg import (
    INIT_STD,
    Array,
    Params,
    block_specs,
    encode,
    init_std,
    layer_norm,
    linear,
    linear_specs,
    norm_specs,
    rows,
    sincos_positions,
    transformer,
)
from qoq_jax.models.sizes import EcgConfig
from qoq_jax.models.spec import ParamSpec


def predictor_param_specs(cfg: EcgConfig) -> dict[str, Any]:
    """The predictor, used by `jepa_loss` only; it reads and writes encoder tokens."""
    width = cfg.predictor_width
    return {
        "embed": linear_specs(cfg.width, width, "predictor.predictor_embed", init_std(cfg.width)),
        "mask_token": ParamSpec((width,), (None,), INIT_STD, "predictor.mask_token", "tensor"),
        "blocks": block_specs(
            cfg.predictor_depth,
            width,
            cfg.predictor_heads,
            cfg.mlp_ratio,
            "predictor.predictor_blocks",
        ),
        "norm": norm_specs(width, "predictor.predictor_norm"),
        "out": linear_specs(width, cfg.width, "predictor.predictor_proj", init_std(width)),
    }


def jepa_loss(
    params: Params,
    target_params: Params,
    cfg: EcgConfig,
    ecg: Array,
    mask: Array,
    most_visible: int | None = None,
    remat: bool = True,
) -> tuple[Array, Array]:
    """Predicts the target encoder's view of hidden time steps from the visible ones (section 3 of
    the paper).

    target = LayerNorm without affine of the target encoder on the whole ECG (a constant: no
    gradient); prediction = predictor(encoder on the visible steps), each lead by itself; smooth-L1
    between them on hidden steps. Shapes do not depend on the mask: hidden tokens are seen by none,
    and left out as far as `most_visible` tells.

    Args:
      params: {"encoder": ecg.param_specs, "predictor": predictor_param_specs}.
      target_params: as ecg.param_specs; a moving average of params["encoder"] (momentum 0.996
        rising to 1).
      cfg: sizes.
      ecg: [B, C, T * patch_size], all leads.
      mask: bool [T], True = hidden; one mask for all leads and ECGs.
      most_visible: upper limit of visible steps in any mask; the context encoder then runs on so
        many instead of all. A mask with more visible steps would lose some of them.
      remat: as in `ecg.tokens`.

    Returns:
      (sum over hidden tokens and channels, their number), float32; the loss is the quotient.
    """
    target = layer_norm(encode(target_params, cfg, ecg).astype(jnp.float32), None, 1e-5)
    target = jax.lax.stop_gradient(target)
    # The visible steps, in order, and as many hidden ones as the fixed shape has room for.
    order = jnp.argsort(mask, stable=True)[: most_visible or cfg.patches]
    seen = encode(params["encoder"], cfg, ecg, visible=~mask[order], remat=remat, order=order)
    context = (
        jnp.zeros((*ecg.shape[:2], cfg.patches, cfg.width), seen.dtype).at[:, :, order].set(seen)
    )
    prediction = _predict(params["predictor"], cfg, context, mask, remat)
    error = jnp.abs(prediction.astype(jnp.float32) - target)
    loss = jnp.where(error < 1, 0.5 * jnp.square(error), error - 0.5)
    hidden = mask.astype(jnp.float32)
    return (loss * hidden[None, None, :, None]).sum(), hidden.sum() * (loss.size // cfg.patches)


def _predict(params: Params, cfg: EcgConfig, context: Array, mask: Array, remat: bool) -> Array:
    """[B, C, T, W] -> [B, C, T, W]: hidden steps hold the mask token; each lead is a sequence of
    its own.
    """
    x = linear(context, params["embed"])
    batch, leads, steps, width = x.shape
    x = jnp.where(mask[None, None, :, None], rows(params["mask_token"], x), x)
    x = x.reshape(batch * leads, 1, steps, width)
    x = transformer(
        params["blocks"], x, sincos_positions(1, steps, width), None, cfg.norm_eps, remat
    )
    x = linear(layer_norm(x, params["norm"], cfg.norm_eps), params["out"])
    return x.reshape(batch, leads, steps, cfg.width)


def random_mask(key: Array, cfg: EcgConfig, low: float = 0.6, high: float = 0.7) -> Array:
    """Hides a share of the time steps sampled from [low, high), chosen at random: bool [T]."""
    share_key, order_key = jax.random.split(key)
    count = jnp.floor(cfg.patches * jax.random.uniform(share_key, minval=low, maxval=high))
    return jax.random.permutation(order_key, cfg.patches) < count


def block_mask(
    key: Array, cfg: EcgConfig, low: float = 0.175, high: float = 0.225, blocks: int = 4
) -> Array:
    """Hides `blocks` runs of time steps, each a share in [low, high), which may overlap.

    Returns bool [T].
    """
    share_key, start_key = jax.random.split(key)
    length = jnp.floor(
        cfg.patches * jax.random.uniform(share_key, (blocks, 1), minval=low, maxval=high)
    )
    start = jnp.floor(jax.random.uniform(start_key, (blocks, 1)) * (cfg.patches - length))
    steps = jnp.arange(cfg.patches)[None]
    return ((steps >= start) & (steps < start + length)).any(axis=0)
