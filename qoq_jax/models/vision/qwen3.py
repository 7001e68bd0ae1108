"""Qwen3-VL vision tower on packed patches, its patch mergers, and the features for DeepStack.

Source: Qwen3-VL technical report, arXiv 2511.21631, section 2; DeepStack, arXiv 2406.04334.

All images of a media row lie in one sequence of patches, frame after frame (one temporal step of
one image), and within a frame the 4 patches of a merge unit next to each other. Every block attends
within frames.

Axis letters: R media rows, P patches, M vision tokens (P / 4), W width, H heads, h head dim, F mlp
hidden, L
blocks, D decoder width, S side of the grid of learned positions, J DeepStack layers.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from qoq_jax.models import layers
from qoq_jax.models.attention import segment_rows
from qoq_jax.models.sizes import Qwen3VisionConfig, VlmConfig
from qoq_jax.models.spec import ParamSpec, fan_in, residual_scale
from qoq_jax.models.vision.qwen25 import (
    normalise,
    patch_embed_init,
    rotary_angles,
)
from qoq_jax.parallel.mesh import constrain


def param_specs(cfg: Qwen3VisionConfig, out_width: int) -> dict:
    """Weights of the tower and of the 1 + J mergers, whose outputs have `out_width` channels."""
    L, W, H, F, J = cfg.depth, cfg.width, cfg.num_heads, cfg.mlp_dim, len(cfg.deepstack_blocks)
    merged = cfg.merge_unit * W
    out_scale = residual_scale(L)
    block, stacked_merger = "visual.blocks.{}.", "visual.deepstack_merger_list.{}."

    def norm(key, size, count=None):
        stack, axes = ((), ()) if count is None else ((count,), ("layers",))
        return {
            "scale": ParamSpec((*stack, size), (*axes, None), "ones", f"{key}.weight", "vector"),
            "bias": ParamSpec((*stack, size), (*axes, None), "zeros", f"{key}.bias", "vector"),
        }

    def linear(key, shape, axes, std, count=None, layout="linear"):
        stack, layer = ((), ()) if count is None else ((count,), ("layers",))
        outputs = slice(-1, None) if layout == "linear_out" else slice(1, None)
        bias_axes = [axis if axis in ("heads", "mlp") else None for axis in axes[outputs]]
        return {
            "kernel": ParamSpec((*stack, *shape), (*layer, *axes), std, f"{key}.weight", layout),
            "bias": ParamSpec(
                (*stack, *shape[outputs]), (*layer, *bias_axes), "zeros", f"{key}.bias", "vector"
            ),
        }

    def merger(key, norm_size, count=None):
        return {
            "norm": norm(f"{key}norm", norm_size, count),
            "hidden": linear(
                f"{key}linear_fc1", (merged, merged), ("embed", "mlp"), fan_in(merged), count
            ),
            "out": linear(
                f"{key}linear_fc2", (merged, out_width), ("mlp", "embed"), fan_in(merged), count
            ),
        }

    specs = {
        "patch_embed": {
            "kernel": ParamSpec(
                (cfg.patch_dim, W),
                (None, "embed"),
                patch_embed_init(cfg),
                "visual.patch_embed.proj.weight",
                "patches",
            ),
            "bias": ParamSpec((W,), (None,), "zeros", "visual.patch_embed.proj.bias", "vector"),
        },
        "positions": ParamSpec(
            (cfg.position_grid**2, W), (None, "embed"), 0.02, "visual.pos_embed.weight", "tensor"
        ),
        "blocks": {
            "attention_norm": norm(f"{block}norm1", W, L),
            "qkv": linear(
                f"{block}attn.qkv", (W, 3, H, W // H), ("embed", None, "heads", None), fan_in(W), L
            ),
            "o": linear(
                f"{block}attn.proj",
                (H, W // H, W),
                ("heads", None, "embed"),
                fan_in(W, out_scale),
                L,
                "linear_out",
            ),
            "mlp_norm": norm(f"{block}norm2", W, L),
            "mlp": {
                "up": linear(f"{block}mlp.linear_fc1", (W, F), ("embed", "mlp"), fan_in(W), L),
                "down": linear(
                    f"{block}mlp.linear_fc2", (F, W), ("mlp", "embed"), fan_in(F, out_scale), L
                ),
            },
        },
        "merger": merger("visual.merger.", W),
    }
    return specs | {"deepstack": merger(stacked_merger, merged, J)} if J else specs


def frame_sizes(patch_hw: jax.Array, patch_frame: jax.Array) -> jax.Array:
    """Rows and columns of the frame of each patch, int32 [R,P,2]: the frame's largest row and
    column, plus 1.
    """

    def one(hw, frame):  # [P,2], [P]
        # A frame has at least one patch, so frame numbers stay within P; padding (0) has a place of
        # its own.
        return jnp.zeros((hw.shape[0] + 1, 2), hw.dtype).at[frame].max(hw + 1)[frame]

    return jax.vmap(one)(patch_hw, patch_frame)


def position_embeddings(
    table: jax.Array, side: int, patch_hw: jax.Array, patch_frame: jax.Array
) -> jax.Array:
    """Learned positions [S*S,W], stretched over each frame corner to corner, bilinear -> float32
    [R,P,W].
    """
    last = jnp.maximum(frame_sizes(patch_hw, patch_frame) - 1, 1).astype(jnp.float32)
    place = patch_hw.astype(jnp.float32) * (side - 1) / last  # [R,P,2], in 0 .. S-1
    low = jnp.floor(place)
    share = place - low
    low = low.astype(jnp.int32)
    high = jnp.minimum(low + 1, side - 1)
    total = 0.0
    for row, row_weight in ((low[..., 0], 1 - share[..., 0]), (high[..., 0], share[..., 0])):
        for column, column_weight in (
            (low[..., 1], 1 - share[..., 1]),
            (high[..., 1], share[..., 1]),
        ):
            values = jnp.take(table, row * side + column, axis=0).astype(jnp.float32)
            total += values * (row_weight * column_weight)[..., None]
    return total


def block(params: dict, cfg: Qwen3VisionConfig, x, angles, segments) -> jax.Array:
    """One transformer block, x [R,P,W]; its attention stays within `segments` (frames)."""
    y = layers.layer_norm(x, params["attention_norm"], cfg.norm_eps)
    qkv = layers.linear("btd,dsnh->btsnh", y, **params["qkv"])
    q, k, v = (constrain(qkv[:, :, i], ("media", None, "heads", None)) for i in range(3))
    q, k = layers.rotate(q, angles), layers.rotate(k, angles)
    attended = segment_rows(q, k, v, segments, cfg.max_frame_patches)
    x = x + layers.linear("btnh,nhd->btd", attended, **params["o"])
    y = layers.layer_norm(x, params["mlp_norm"], cfg.norm_eps)
    y = jax.nn.gelu(layers.linear("btd,df->btf", y, **params["mlp"]["up"]), approximate=True)
    return constrain(
        x + layers.linear("btf,fd->btd", y, **params["mlp"]["down"]), ("media", None, None)
    )


def tower(
    params: dict, cfg: VlmConfig, patches, patch_hw, patch_frame
) -> tuple[jax.Array, list[jax.Array]]:
    """Packed patches uint8 [R,P,1536] -> (features [R,P,W], the J outputs of cfg.deepstack_blocks,
    each [R,P,W]).
    """
    vision, dtype = cfg.vision, layers.compute_dtype(cfg)
    x = layers.linear("btp,pd->btd", normalise(patches, vision, dtype), **params["patch_embed"])
    positions = position_embeddings(
        params["positions"], vision.position_grid, patch_hw, patch_frame
    )
    x = constrain(x + positions.astype(dtype), ("media", None, None))
    angles = rotary_angles(vision, patch_hw)

    def one(x, weights):
        return block(weights, vision, x, angles, patch_frame), None

    one = layers.rematerialised(one, cfg.remat)
    # One scan up to each DeepStack block: an output of every block, to take J of them, would hold L
    # features.
    taps, start = [], 0
    for end in (*(number + 1 for number in vision.deepstack_blocks), vision.depth):
        if isinstance(params["blocks"], tuple):  # `layers.views`
            for weights in params["blocks"][start:end]:
                x, _ = one(x, weights)
        else:
            weights = jax.tree.map(lambda w: w[start:end], params["blocks"])  # noqa: B023 (used at once)
            x, _ = jax.lax.scan(one, x, weights)
        taps.append(x)
        start = end
    return x, taps[:-1]


def merge(params: dict, cfg: Qwen3VisionConfig, x: jax.Array, norm_after: bool) -> jax.Array:
    """Features [R,P,W] -> decoder tokens [R,P/4,D]; 4 neighbours are one 2x2 square of the image.

    norm_after: the norm sees the 4 patches as one vector (DeepStack), not one by one (the main
    merger).
    """
    merged = (x.shape[0], x.shape[1] // cfg.merge_unit, cfg.merge_unit * cfg.width)
    x = layers.layer_norm(
        x.reshape(merged) if norm_after else x, params["norm"], cfg.norm_eps
    ).reshape(merged)
    x = jax.nn.gelu(layers.linear("btd,df->btf", x, **params["hidden"]), approximate=False)
    return layers.linear("btf,fd->btd", x, **params["out"])


def tokens(params: dict, cfg: VlmConfig, batch: dict) -> tuple[jax.Array, jax.Array | None]:
    """The batch's patches -> (vision tokens [R,M,D], DeepStack features [J,R,M,D]; None when there
    are no such blocks).
    """
    x, taps = tower(params, cfg, batch["patches"], batch["patch_hw"], batch["patch_frame"])
    main = merge(params["merger"], cfg.vision, x, norm_after=False)
    if not taps:
        return main, None
    deep = functools.partial(merge, cfg=cfg.vision, norm_after=True)
    features = jax.vmap(lambda weights, tap: deep(weights, x=tap))(
        params["deepstack"], jnp.stack(taps)
    )
    return main, constrain(features, (None, "media", None, None))
