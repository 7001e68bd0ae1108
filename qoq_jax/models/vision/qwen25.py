"""Qwen2.5-VL vision tower on packed patches, and the 2x2 patch merger.

Source: Qwen2.5-VL technical report, arXiv 2502.13923, section 2.1.

All images of a media row lie in one sequence of patches, in window order: first all patches of
window 1, then of window 2, ..., and within a window the 4 patches of a merge unit next to each
other. Windows, and frames (one temporal step of one image), are contiguous runs of equal segment
ids; 0 is padding.

Axis letters: base/axes.py; a tower has H = K heads, and i, o are channels that go in and come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import einops
import jax

from qoq_jax.models import layers, sequence
from qoq_jax.models.attention import segment_rows
from qoq_jax.models.gathered import gathered
from qoq_jax.models.sizes import VisionConfig, VlmConfig
from qoq_jax.models.spec import ParamSpec, fan_in, residual_scale
from qoq_jax.models.vision.patches import normalise, patch_embed_init, rotary_angles
from qoq_jax.parallel.mesh import constrain


def param_specs(cfg: VisionConfig, out_width: int) -> dict[str, Any]:
    """Weights of the tower and of the merger, whose output has `out_width` channels."""
    W, merged = cfg.width, cfg.merge_unit * cfg.width

    def dense(
        index: int, shape: tuple[int, int], axes: tuple[str, str], bias_axis: str | None
    ) -> dict[str, ParamSpec]:
        key = f"visual.merger.mlp.{index}"
        return {
            "kernel": ParamSpec(shape, axes, fan_in(shape[0]), f"{key}.weight", "linear"),
            "bias": ParamSpec(shape[1:], (bias_axis,), "zeros", f"{key}.bias", "vector"),
        }

    embedding = ParamSpec(
        (cfg.patch_dim, W),
        (None, "embed"),
        patch_embed_init(cfg),
        "visual.patch_embed.proj.weight",
        "patches",
    )
    norm = ParamSpec(
        (W,), (None,), "ones", "visual.merger.ln_q.weight", "vector", compute_in_float32=True
    )
    return {
        "patch_embed": {"kernel": embedding},
        "blocks": _block_specs(cfg),
        "merger": {
            "norm": {"scale": norm},
            "hidden": dense(0, (merged, merged), ("embed", "mlp"), "mlp"),
            "out": dense(2, (merged, out_width), ("mlp", "embed"), None),
        },
    }


def _block_specs(cfg: VisionConfig) -> dict[str, Any]:
    """Weights of the L blocks, stacked."""
    L, W, H, F = cfg.depth, cfg.width, cfg.num_heads, cfg.mlp_dim
    h, out_scale = W // H, residual_scale(L)
    at = "visual.blocks.{}."

    def norm(name: str) -> dict[str, ParamSpec]:
        key = f"{at}{name}.weight"
        return {
            "scale": ParamSpec(
                (L, W), ("layers", None), "ones", key, "vector", compute_in_float32=True
            )
        }

    def dense(
        name: str,
        shape: Sequence[int],
        axes: Sequence[str | None],
        std: float,
        layout: str = "linear",
    ) -> dict[str, ParamSpec]:
        outputs = slice(-1, None) if layout == "linear_out" else slice(1, None)
        # a bias is cut over devices as the outputs are, but never along the width
        bias_axes = [axis if axis in ("heads", "mlp") else None for axis in axes[outputs]]
        key = f"{at}{name}"
        return {
            "kernel": ParamSpec((L, *shape), ("layers", *axes), std, f"{key}.weight", layout),
            "bias": ParamSpec(
                (L, *shape[outputs]), ("layers", *bias_axes), "zeros", f"{key}.bias", "vector"
            ),
        }

    return {
        "attention_norm": norm("norm1"),
        "qkv": dense("attn.qkv", (W, 3, H, h), ("embed", None, "heads", None), fan_in(W)),
        "o": dense(
            "attn.proj", (H, h, W), ("heads", None, "embed"), fan_in(W, out_scale), "linear_out"
        ),
        "mlp_norm": norm("norm2"),
        "mlp": {
            "gate": dense("mlp.gate_proj", (W, F), ("embed", "mlp"), fan_in(W)),
            "up": dense("mlp.up_proj", (W, F), ("embed", "mlp"), fan_in(W)),
            "down": dense("mlp.down_proj", (F, W), ("mlp", "embed"), fan_in(F, out_scale)),
        },
    }


def block(
    params: dict[str, Any],
    cfg: VisionConfig,
    x: jax.Array,
    angles: jax.Array,
    segments: jax.Array,
    max_segment: int,
    kernel: str,
) -> jax.Array:
    """One transformer block, x [R,P,W]; its attention stays within `segments` [R,P]."""
    patches = sequence.patch_axis(x.shape[1], cfg.merge_unit)
    y = layers.rms_norm(x, params["attention_norm"]["scale"], cfg.norm_eps)
    # [R,P,W] x [W,X,K,h] -> X of [R,P,K,h]
    qkv = layers.linear("rpw,wxkh->rpxkh", y, params["qkv"]["kernel"], params["qkv"]["bias"])
    q, k, v = (constrain(qkv[:, :, i], ("media", patches, "heads", None)) for i in range(3))
    q, k, v = (
        sequence.to_heads(one, "media", patches)
        for one in (layers.rotate(q, angles), layers.rotate(k, angles), v)
    )
    attended = segment_rows(q, k, v, segments, max_segment, kernel)
    attended = sequence.to_tokens(attended, "media", patches)
    # One axis f of heads and channels: XLA would contract two in an order of its own, and transpose
    # the kernel for it.
    attended = einops.rearrange(attended, "r p k h -> r p (k h)")
    kernel = einops.rearrange(params["o"]["kernel"], "k h w -> (k h) w")
    # [R,P,K*h] x [K*h,W] -> [R,P,W]
    x = x + layers.linear("rpf,fw->rpw", attended, kernel, params["o"]["bias"])
    y = layers.rms_norm(x, params["mlp_norm"]["scale"], cfg.norm_eps)
    return constrain(x + layers.swiglu(y, params["mlp"]), ("media", patches, None))


def tower(
    params: dict[str, Any],
    cfg: VlmConfig,
    patches: jax.Array,
    patch_hw: jax.Array,
    patch_frame: jax.Array,
    patch_window: jax.Array,
) -> jax.Array:
    """Packed patches uint8 [R,P,1176] (window order) -> features [R,P,W] in the same order.

    Scans over groups of blocks with one pattern: window attention, ..., window attention, full
    attention. Blocks apart (`layers.views`) are unrolled instead.

    Args:
      patch_hw: int32 [R,P,2], row and column of each patch in its frame.
      patch_frame, patch_window: int32 [R,P], numbers of frames and of windows, 0 = padding.
    """
    vision, dtype = cfg.vision, layers.compute_dtype(cfg)
    specs = _block_specs(vision)
    x = normalise(patches, vision, dtype)
    # [R,P,i] x [i,W] -> [R,P,W]
    cut = ("media", sequence.patch_axis(x.shape[1], vision.merge_unit), None)
    x = constrain(layers.linear("rpi,iw->rpw", x, params["patch_embed"]["kernel"]), cut)
    angles = rotary_angles(vision, patch_hw)

    def window_block(x: jax.Array, weights: dict[str, Any]) -> tuple[jax.Array, None]:
        windows = patch_window, vision.window_patches
        weights = gathered(weights, specs, dtype)
        return block(weights, vision, x, angles, *windows, cfg.attention), None

    def full_block(x: jax.Array, weights: dict[str, Any]) -> tuple[jax.Array, None]:
        frames = patch_frame, vision.max_frame_patches
        weights = gathered(weights, specs, dtype)
        return block(weights, vision, x, angles, *frames, cfg.attention), None

    window_block, full_block = (
        layers.rematerialised(body, cfg.remat) for body in (window_block, full_block)
    )
    if isinstance(params["blocks"], tuple):
        for i, weights in enumerate(params["blocks"]):
            x, _ = (full_block if i in vision.full_attention_blocks else window_block)(x, weights)
        return x

    groups = len(vision.full_attention_blocks)
    stacked = jax.tree.map(lambda w: w.reshape(groups, -1, *w.shape[1:]), params["blocks"])

    def group(x: jax.Array, weights: dict[str, Any]) -> tuple[jax.Array, None]:
        windowed, full = (
            jax.tree.map(lambda w: w[:-1], weights),
            jax.tree.map(lambda w: w[-1], weights),
        )
        x, _ = jax.lax.scan(window_block, x, windowed)
        return full_block(x, full)

    x, _ = jax.lax.scan(group, x, stacked)
    return x


def merge(params: dict[str, Any], cfg: VisionConfig, x: jax.Array) -> jax.Array:
    """Features [R,P,W] -> decoder tokens [R,M,D]: 4 neighbours are one 2x2 square of the image."""
    x = layers.rms_norm(x, params["norm"]["scale"], cfg.norm_eps)
    x = einops.rearrange(x, "r (m unit) w -> r m (unit w)", unit=cfg.merge_unit)
    # [R,M,4W] x [4W,4W] -> [R,M,4W], and [R,M,4W] x [4W,D] -> [R,M,D]
    x = layers.linear("rmi,io->rmo", x, params["hidden"]["kernel"], params["hidden"]["bias"])
    x = jax.nn.gelu(x, approximate=False)
    return layers.linear("rmi,id->rmd", x, params["out"]["kernel"], params["out"]["bias"])


def tokens(
    params: dict[str, Any], cfg: VlmConfig, batch: dict[str, jax.Array]
) -> tuple[jax.Array, None]:
    """The batch's patches -> (vision tokens [R,M,D], in window order; None: no features for
    DeepStack).
    """
    x = tower(
        params,
        cfg,
        batch["patches"],
        batch["patch_hw"],
        batch["patch_frame"],
        batch["patch_window"],
    )
    return merge(params["merger"], cfg.vision, x), None
