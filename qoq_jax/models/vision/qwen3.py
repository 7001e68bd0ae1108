"""Qwen3-VL vision tower on packed patches, its patch mergers, and the features for DeepStack.

Source: Qwen3-VL technical report, arXiv 2511.21631, section 2; DeepStack, arXiv 2406.04334.

All images of a media row lie in one sequence of patches, frame after frame (one temporal step of
one image), and within a frame the 4 patches of a merge unit next to each other. Every block attends
within frames.

Axis letters: base/axes.py; a tower has H = K heads, and i, o are channels that go in and come out.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import einops
import jax
import jax.numpy as jnp

from qoq_jax.models import layers, sequence
from qoq_jax.models.attention import segment_rows
from qoq_jax.models.gathered import gathered
from qoq_jax.models.sizes import Qwen3VisionConfig, VlmConfig
from qoq_jax.models.spec import ParamSpec, fan_in, residual_scale
from qoq_jax.models.tables import layer_norm_specs, linear_specs
from qoq_jax.models.vision.patches import normalise, patch_embed_init, rotary_angles
from qoq_jax.parallel.mesh import constrain


def param_specs(cfg: Qwen3VisionConfig, out_width: int) -> dict[str, Any]:
    """Weights of the tower and of the 1 + J mergers, whose outputs have `out_width` channels."""
    L, W, H, F, J = cfg.depth, cfg.width, cfg.num_heads, cfg.mlp_dim, len(cfg.deepstack_blocks)
    merged, h = cfg.merge_unit * W, W // H
    out_scale = residual_scale(L)
    at = "visual.blocks.{}."

    def merger(key: str, norm_size: int, count: int | None = None) -> dict[str, Any]:
        to_hidden, to_out = (
            ((merged, merged), ("embed", "mlp")),
            ((merged, out_width), ("mlp", "embed")),
        )
        std = fan_in(merged)
        return {
            "norm": layer_norm_specs(f"{key}norm", norm_size, count),
            "hidden": linear_specs(f"{key}linear_fc1", *to_hidden, std, count),
            "out": linear_specs(f"{key}linear_fc2", *to_out, std, count),
        }

    qkv = (W, 3, H, h), ("embed", None, "heads", None)
    output = (H, h, W), ("heads", None, "embed")
    proj = "visual.patch_embed.proj"
    specs = {
        "patch_embed": {
            "kernel": ParamSpec(
                (cfg.patch_dim, W),
                (None, "embed"),
                patch_embed_init(cfg),
                f"{proj}.weight",
                "patches",
            ),
            "bias": ParamSpec((W,), (None,), "zeros", f"{proj}.bias", "vector"),
        },
        "positions": ParamSpec(
            (cfg.position_grid**2, W), (None, "embed"), 0.02, "visual.pos_embed.weight", "tensor"
        ),
        "blocks": {
            "attention_norm": layer_norm_specs(f"{at}norm1", W, L),
            "qkv": linear_specs(f"{at}attn.qkv", *qkv, fan_in(W), L),
            "o": linear_specs(f"{at}attn.proj", *output, fan_in(W, out_scale), L, "linear_out"),
            "mlp_norm": layer_norm_specs(f"{at}norm2", W, L),
            "mlp": {
                "up": linear_specs(f"{at}mlp.linear_fc1", (W, F), ("embed", "mlp"), fan_in(W), L),
                "down": linear_specs(
                    f"{at}mlp.linear_fc2", (F, W), ("mlp", "embed"), fan_in(F, out_scale), L
                ),
            },
        },
        "merger": merger("visual.merger.", W),
    }
    if not J:
        return specs
    deepstack = merger("visual.deepstack_merger_list.{}.", merged, J)
    return specs | {"deepstack": jax.tree.map(_always_decays, deepstack)}


def _always_decays(spec: ParamSpec) -> ParamSpec:
    """Weight decay has pulled at the DeepStack mergers' norms and biases since they exist: that
    their stack of J is no axis of a matrix went unseen. Runs keep their numbers.
    """
    return dataclasses.replace(spec, decay=True)


def frame_sizes(patch_hw: jax.Array, patch_frame: jax.Array) -> jax.Array:
    """Rows and columns of the frame of each patch, int32 [R,P,2]: the frame's largest row and
    column, plus 1.
    """

    def one(hw: jax.Array, frame: jax.Array) -> jax.Array:  # [P,2], [P]
        # A frame has at least one patch, so frame numbers stay within P; padding (0) has a place of
        # its own.
        return jnp.zeros((hw.shape[0] + 1, 2), hw.dtype).at[frame].max(hw + 1)[frame]

    return jax.vmap(one)(patch_hw, patch_frame)


def position_embeddings(
    table: jax.Array, side: int, patch_hw: jax.Array, patch_frame: jax.Array
) -> jax.Array:
    """Learned positions [side*side,W], stretched over each frame corner to corner, bilinear.

    Returns float32 [R,P,W].
    """
    last = jnp.maximum(frame_sizes(patch_hw, patch_frame) - 1, 1).astype(jnp.float32)
    place = patch_hw.astype(jnp.float32) * (side - 1) / last  # [R,P,2], in 0 .. side - 1
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


def block(
    params: dict[str, Any],
    cfg: Qwen3VisionConfig,
    x: jax.Array,
    angles: jax.Array,
    segments: jax.Array,
    kernel: str,
) -> jax.Array:
    """One transformer block, x [R,P,W]; its attention stays within `segments` [R,P] (frames)."""
    patches = sequence.patch_axis(x.shape[1], cfg.merge_unit)
    y = layers.layer_norm(x, params["attention_norm"], cfg.norm_eps)
    # [R,P,W] x [W,X,K,h] -> X of [R,P,K,h]
    qkv = layers.linear("rpw,wxkh->rpxkh", y, **params["qkv"])
    q, k, v = (constrain(qkv[:, :, i], ("media", patches, "heads", None)) for i in range(3))
    q, k, v = (
        sequence.to_heads(one, "media", patches)
        for one in (layers.rotate(q, angles), layers.rotate(k, angles), v)
    )
    attended = segment_rows(q, k, v, segments, cfg.max_frame_patches, kernel)
    attended = sequence.to_tokens(attended, "media", patches)
    # [R,P,K,h] x [K,h,W] -> [R,P,W]
    x = x + layers.linear("rpkh,khw->rpw", attended, **params["o"])
    y = layers.layer_norm(x, params["mlp_norm"], cfg.norm_eps)
    with jax.named_scope("mlp"):
        # [R,P,W] x [W,F] -> [R,P,F] and back
        y = jax.nn.gelu(layers.linear("rpw,wf->rpf", y, **params["mlp"]["up"]), approximate=True)
        y = layers.linear("rpf,fw->rpw", y, **params["mlp"]["down"])
    return constrain(x + y, ("media", patches, None))


def tower(
    params: dict[str, Any],
    cfg: VlmConfig,
    patches: jax.Array,
    patch_hw: jax.Array,
    patch_frame: jax.Array,
) -> tuple[jax.Array, list[jax.Array]]:
    """Packed patches uint8 [R,P,1536] -> (features [R,P,W], the J outputs of cfg.deepstack_blocks,
    each [R,P,W]).
    """
    vision, dtype = cfg.vision, layers.compute_dtype(cfg)
    specs = param_specs(vision, out_width=cfg.decoder.width)["blocks"]
    # [R,P,i] x [i,W] -> [R,P,W]
    x = layers.linear("rpi,iw->rpw", normalise(patches, vision, dtype), **params["patch_embed"])
    positions = position_embeddings(
        params["positions"], vision.position_grid, patch_hw, patch_frame
    )
    cut = ("media", sequence.patch_axis(x.shape[1], vision.merge_unit), None)
    x = constrain(x + positions.astype(dtype), cut)
    angles = rotary_angles(vision, patch_hw)

    def one(x: jax.Array, weights: dict[str, Any]) -> tuple[jax.Array, None]:
        weights = gathered(weights, specs, dtype)
        return block(weights, vision, x, angles, patch_frame, cfg.attention), None

    one = layers.rematerialised(one, cfg.remat)
    # One scan up to each DeepStack block: an output of every block, to take J of them, would hold L
    # features.
    taps, start = [], 0
    for end in (*(number + 1 for number in vision.deepstack_blocks), vision.depth):
        if isinstance(params["blocks"], tuple):  # `layers.views`
            for weights in params["blocks"][start:end]:
                x, _ = one(x, weights)
        else:
            part = slice(start, end)
            weights = jax.tree.map(lambda w, part=part: w[part], params["blocks"])
            x, _ = jax.lax.scan(one, x, weights)
        taps.append(x)
        start = end
    return x, taps[:-1]


def merge(
    params: dict[str, Any], cfg: Qwen3VisionConfig, x: jax.Array, norm_after: bool
) -> jax.Array:
    """Features [R,P,W] -> decoder tokens [R,M,D]: 4 neighbours are one 2x2 square of the image.

    norm_after: the norm sees the 4 patches as one vector (DeepStack), not one by one (the main
    merger).
    """
    squares = functools.partial(
        einops.rearrange, pattern="r (m unit) w -> r m (unit w)", unit=cfg.merge_unit
    )
    if norm_after:
        x = layers.layer_norm(squares(x), params["norm"], cfg.norm_eps)
    else:
        x = squares(layers.layer_norm(x, params["norm"], cfg.norm_eps))
    # [R,M,4W] x [4W,4W] -> [R,M,4W], and [R,M,4W] x [4W,D] -> [R,M,D]
    x = jax.nn.gelu(layers.linear("rmi,io->rmo", x, **params["hidden"]), approximate=False)
    return layers.linear("rmi,id->rmd", x, **params["out"])


def tokens(
    params: dict[str, Any], cfg: VlmConfig, batch: dict[str, jax.Array]
) -> tuple[jax.Array, jax.Array | None]:
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
