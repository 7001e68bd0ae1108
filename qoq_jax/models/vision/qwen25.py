"""Qwen2.5-VL vision tower on packed patches, and the 2x2 patch merger.

Source: Qwen2.5-VL technical report, arXiv 2502.13923, section 2.1.

All images of a media row lie in one sequence of patches, in window order: first all patches of
window 1, then of window 2, ..., and within a window the 4 patches of a merge unit next to each
other. Windows, and frames (one temporal step of one image), are contiguous runs of equal segment
ids; 0 is padding.

Axis letters: R media rows, P patches, C merge units (P / 4), W width, H heads, h head dim, F mlp
hidden, L
blocks, D decoder width; N block size of the attention, b blocks.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from qoq_jax.models import layers
from qoq_jax.models.sizes import PatchTower, VisionConfig, VlmConfig
from qoq_jax.models.spec import ParamSpec, fan_in, residual_scale
from qoq_jax.parallel.mesh import constrain

# beyond it a patch has too few frequencies; towers that wide are loaded, not trained from scratch
MAX_COSINE_WIDTH = 336
# attention blocks larger than this are computed one after the other, to bound memory
DENSE_BLOCK = 512


def param_specs(cfg: VisionConfig, out_width: int) -> dict:
    """Weights of the tower and of the merger, whose output has `out_width` channels."""
    L, W, H, F = cfg.depth, cfg.width, cfg.num_heads, cfg.mlp_dim
    merged = cfg.merge_unit * W
    out_scale = residual_scale(L)
    at = "visual.blocks.{}."

    def norm(name):
        return {
            "scale": ParamSpec((L, W), ("layers", None), "ones", f"{at}{name}.weight", "vector")
        }

    def dense(name, shape, axes, std, layout="linear", bias_axes=(None,)):
        bias_shape = shape[-1:] if layout == "linear_out" else shape[1:]
        return {
            "kernel": ParamSpec((L, *shape), ("layers", *axes), std, f"{at}{name}.weight", layout),
            "bias": ParamSpec(
                (L, *bias_shape), ("layers", *bias_axes), "zeros", f"{at}{name}.bias", "vector"
            ),
        }

    def merger(index, shape, axes, bias_axes):
        key = f"visual.merger.mlp.{index}"
        return {
            "kernel": ParamSpec(shape, axes, fan_in(shape[0]), f"{key}.weight", "linear"),
            "bias": ParamSpec(shape[1:], bias_axes, "zeros", f"{key}.bias", "vector"),
        }

    return {
        "patch_embed": {
            "kernel": ParamSpec(
                (cfg.patch_dim, W), (None, "embed"), patch_embed_init(cfg), "visual.patch_embed.proj.weight", "patches"
            )
        },
        "blocks": {
            "attention_norm": norm("norm1"),
            "qkv": dense(
                "attn.qkv", (W, 3, H, W // H), ("embed", None, "heads", None), fan_in(W),
                bias_axes=(None, "heads", None),
            ),
            "o": dense(
                "attn.proj", (H, W // H, W), ("heads", None, "embed"), fan_in(W, out_scale),
                layout="linear_out"
            ),
            "mlp_norm": norm("norm2"),
            "mlp": {
                "gate": dense("mlp.gate_proj", (W, F), ("embed", "mlp"), fan_in(W), bias_axes=("mlp",)),
                "up": dense("mlp.up_proj", (W, F), ("embed", "mlp"), fan_in(W), bias_axes=("mlp",)),
                "down": dense("mlp.down_proj", (F, W), ("mlp", "embed"), fan_in(F, out_scale)),
            },
        },
        "merger": {
            "norm": {"scale": ParamSpec((W,), (None,), "ones", "visual.merger.ln_q.weight", "vector")},
            "hidden": merger(0, (merged, merged), ("embed", "mlp"), ("mlp",)),
            "out": merger(2, (merged, out_width), ("mlp", "embed"), (None,)),
        },
    }  # fmt: skip


def patch_embed_init(cfg: PatchTower):
    """Initial value of the patch embedding, for ParamSpec."""
    return cosine_basis if cfg.width <= MAX_COSINE_WIDTH else fan_in(cfg.patch_dim)


def cosine_basis(shape: tuple[int, int]) -> np.ndarray:
    """Initial patch embedding [C*f*p*p, W]: the lowest frequencies of a patch, as in JPEG, with
    higher ones amplified.

    Energy of natural images falls with frequency, so random projections see hardly more than a
    patch's mean brightness. A cosine basis whose gain grows with frequency starts from nearly white
    features instead, and a small tower trained from scratch learns to see in about half of the
    steps. Columns: brightness (7/12 of W), two colour contrasts (1/8 each), and the change between
    the two frames.
    """
    size, width = shape
    side, frames = math.isqrt(size // 6), 2
    x = np.arange(side)
    cosine = (
        np.cos(np.pi * (2 * x[None] + 1) * x[:, None] / (2 * side))
        * np.where(x, 2, 1)[:, None] ** 0.5
        / side**0.5
    )
    order = sorted(((u, v) for u in x for v in x), key=lambda f: (f[0] ** 2 + f[1] ** 2, f))
    grey, red_green, blue_yellow = (
        np.array(c) / np.linalg.norm(c) for c in ((1, 1, 1), (1, -1, 0), (1, 1, -2))
    )
    same, change = np.array([1, 1]) / 2**0.5, np.array([1, -1]) / 2**0.5
    plan = [
        (grey, same, width * 7 // 12, 0.35),
        (red_green, same, width // 8, 0.7),
        (blue_yellow, same, width // 8, 0.7),
    ]
    plan.append((grey, change, width - sum(count for _, _, count, _ in plan), 0.7))
    assert size == 3 * frames * side * side and max(count for _, _, count, _ in plan) <= side * side
    columns = [
        gain
        * (1 + math.hypot(u, v))
        / side
        * np.einsum("c,f,y,x->cfyx", channel, time, cosine[u], cosine[v]).ravel()
        for channel, time, count, gain in plan
        for u, v in order[:count]
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def normalise(patches: jax.Array, cfg: PatchTower, dtype) -> jax.Array:
    """uint8 [R,P,C*f*p*p] -> (x / 255 - mean) / std per colour channel, in `dtype`; floats are
    normalised already.
    """
    if jnp.issubdtype(patches.dtype, jnp.floating):
        return patches.astype(dtype)
    per_channel = cfg.temporal_patch_size * cfg.patch_size**2
    mean = np.repeat(np.array(cfg.pixel_mean, np.float32), per_channel)
    std = np.repeat(np.array(cfg.pixel_std, np.float32), per_channel)
    x = patches.astype(jnp.float32) / 255.0
    return ((x - mean[None, None]) / std[None, None]).astype(dtype)


def rotary_angles(cfg: PatchTower, patch_hw: jax.Array) -> jax.Array:
    """Row and column of patches int32 [R,P,2] -> angles float32 [R,P,h/2], rows first, then
    columns.
    """
    quarter = cfg.width // cfg.num_heads // 4
    frequency = cfg.rope_theta ** -(np.arange(quarter, dtype=np.float32) / quarter)
    angles = patch_hw.astype(jnp.float32)[..., None] * frequency[None, None, None]
    return angles.reshape(*patch_hw.shape[:2], 2 * quarter)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def segment_attention(q, k, v, segments, max_segment: int) -> jax.Array:
    """Attention between patches of the same segment: exact, and linear in P.

    q, k, v [R,P,H,h]; segments int32 [R,P], equal ids contiguous and at most `max_segment` long, 0
    = padding. Such a segment touches at most two neighbouring blocks of `max_segment` patches,
    wherever it starts, so queries of block b need the keys of blocks b-1, b and b+1 only; those of
    block b alone when no segment crosses from one block to the next, as the windows of images whose
    sides are multiples of a window. Returns [R,P,H,h], arbitrary at padding.
    """
    P = q.shape[1]
    if max_segment >= P or max_segment > DENSE_BLOCK:
        return _segment_attention(q, k, v, segments, max_segment)
    ends, starts = (
        segments[:, max_segment - 1 : P - 1 : max_segment],
        segments[:, max_segment::max_segment],
    )
    crossing = ((ends == starts) & (starts > 0)).any()
    forms = (
        functools.partial(_segment_attention, max_segment=max_segment, neighbours=n)
        for n in (True, False)
    )
    return jax.lax.cond(crossing, *forms, q, k, v, segments)


@segment_attention.defjvp
def _segment_attention_jvp(max_segment, primals, tangents):
    """Gradients know the general form alone: those of a condition would keep the activations of
    both.
    """
    return jax.jvp(
        functools.partial(_segment_attention, max_segment=max_segment), primals, tangents
    )


def _segment_attention(q, k, v, segments, max_segment: int, neighbours: bool = True) -> jax.Array:
    """`segment_attention`; without `neighbours` for segments that each lie in one block."""
    R, P, H, h = q.shape

    def attend(q, k, v, segments_q, segments_k):  # q [R,S,H,h], k and v [R,T,H,h]
        same = (segments_q[:, :, None] == segments_k[:, None, :]) & (segments_k[:, None, :] > 0)
        scores = jnp.einsum("rqnh,rknh->rnqk", q, k, preferred_element_type=jnp.float32) * h**-0.5
        weights = jax.nn.softmax(jnp.where(same[:, None], scores, layers.MASKED))
        return jnp.einsum("rnqk,rknh->rqnh", weights.astype(v.dtype), v)

    if max_segment >= P:
        return attend(q, k, v, segments, segments)

    pad = -P % max_segment
    count = (P + pad) // max_segment

    def blocks(x):  # [R,P,...] -> [R,b,N,...]
        x = jnp.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2))
        return x.reshape(R, count, max_segment, *x.shape[2:])

    def keys(x):  # [R,P,...] -> [R,b,3N,...]; beyond the ends lie segments 0
        if not neighbours:
            return blocks(x)
        x = jnp.pad(blocks(x), [(0, 0), (1, 1)] + [(0, 0)] * (x.ndim - 1))
        return jnp.concatenate([x[:, :-2], x[:, 1:-1], x[:, 2:]], axis=2)

    args = (blocks(q), keys(k), keys(v), blocks(segments), keys(segments))
    if max_segment <= DENSE_BLOCK:
        flat = [x.reshape(R * count, *x.shape[2:]) for x in args]
        out = attend(*flat).reshape(R, count * max_segment, H, h)
    else:
        out = jax.lax.map(
            lambda block: jax.checkpoint(attend)(*block), [jnp.moveaxis(x, 1, 0) for x in args]
        )
        out = jnp.moveaxis(out, 0, 1).reshape(R, count * max_segment, H, h)
    return out[:, :P]


def block(params: dict, cfg: VisionConfig, x, angles, segments, max_segment: int) -> jax.Array:
    """One transformer block, x [R,P,W]; its attention stays within `segments`."""
    y = layers.rms_norm(x, params["attention_norm"]["scale"], cfg.norm_eps)
    qkv = layers.linear("btd,dsnh->btsnh", y, params["qkv"]["kernel"], params["qkv"]["bias"])
    q, k, v = (constrain(qkv[:, :, i], ("media", None, "heads", None)) for i in range(3))
    attended = segment_attention(
        layers.rotate(q, angles), layers.rotate(k, angles), v, segments, max_segment
    )
    # One axis of heads and channels: XLA would contract two in an order of its own, and transpose
    # the kernel for it.
    attended, kernel = attended.reshape(x.shape), params["o"]["kernel"].reshape(-1, cfg.width)
    x = x + layers.linear("btf,fd->btd", attended, kernel, params["o"]["bias"])
    y = layers.rms_norm(x, params["mlp_norm"]["scale"], cfg.norm_eps)
    return constrain(x + layers.swiglu(y, params["mlp"]), ("media", None, None))


def tower(params: dict, cfg: VlmConfig, patches, patch_hw, patch_frame, patch_window) -> jax.Array:
    """Packed patches uint8 [R,P,1176] (window order) -> features [R,P,W] in the same order.

    Scans over groups of blocks with one pattern: window attention, ..., window attention, full
    attention. Blocks apart
    (`layers.views`) are unrolled instead.
    """
    vision = cfg.vision
    x = normalise(patches, vision, layers.compute_dtype(cfg))
    x = constrain(
        layers.linear("btp,pd->btd", x, params["patch_embed"]["kernel"]), ("media", None, None)
    )
    angles = rotary_angles(vision, patch_hw)

    def window_block(x, weights):
        return block(weights, vision, x, angles, patch_window, vision.window_patches), None

    def full_block(x, weights):
        return block(weights, vision, x, angles, patch_frame, vision.max_frame_patches), None

    window_block, full_block = (
        layers.rematerialised(body, cfg.remat) for body in (window_block, full_block)
    )
    if isinstance(params["blocks"], tuple):
        for i, weights in enumerate(params["blocks"]):
            x, _ = (full_block if i in vision.full_attention_blocks else window_block)(x, weights)
        return x

    groups = len(vision.full_attention_blocks)
    stacked = jax.tree.map(lambda w: w.reshape(groups, -1, *w.shape[1:]), params["blocks"])

    def group(x, weights):
        windowed, full = (
            jax.tree.map(lambda w: w[:-1], weights),
            jax.tree.map(lambda w: w[-1], weights),
        )
        x, _ = jax.lax.scan(window_block, x, windowed)
        return full_block(x, full)

    x, _ = jax.lax.scan(group, x, stacked)
    return x


def merge(params: dict, cfg: VisionConfig, x: jax.Array) -> jax.Array:
    """Features [R,P,W] -> decoder tokens [R,P/4,D]; 4 neighbours are one 2x2 square of the image."""
    x = layers.rms_norm(x, params["norm"]["scale"], cfg.norm_eps)
    x = x.reshape(x.shape[0], x.shape[1] // cfg.merge_unit, cfg.merge_unit * cfg.width)
    x = layers.linear("btd,df->btf", x, params["hidden"]["kernel"], params["hidden"]["bias"])
    x = jax.nn.gelu(x, approximate=False)
    return layers.linear("btf,fd->btd", x, params["out"]["kernel"], params["out"]["bias"])


def tokens(params: dict, cfg: VlmConfig, batch: dict) -> tuple[jax.Array, None]:
    """The batch's patches -> (vision tokens [R,P/4,D], in window order; None: no features for
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
