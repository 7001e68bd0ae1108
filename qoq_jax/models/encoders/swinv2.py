"""Swin Transformer V2 (Liu et al., arXiv 2111.09883): attention by cosine within windows, which
every second block shifts, with a bias that a small network computes of log-spaced offsets.

Axis letters: as in image.py; r windows of a picture, S places of a window, K heads, h channels of
a head, F hidden units of an MLP.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np

from qoq_jax.models import layers
from qoq_jax.models.attention import KeySet, TokenIds, attention
from qoq_jax.models.encoders import image
from qoq_jax.models.encoders.encoder import Encoder, Params
from qoq_jax.models.encoders.eva02 import qkv_specs, queries_keys_values
from qoq_jax.models.encoders.vit import patch_specs
from qoq_jax.models.spec import ParamSpec, fan_in
from qoq_jax.models.tables import layer_norm_specs, linear_specs

PATCH = 4
OFFSET_UNITS = 512  # hidden units of the network of offsets
LARGEST_SCALE = math.log(100)  # of a cosine
LARGEST_BIAS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class SwinConfig(image.ImageConfig):
    """Sizes.

    Attributes:
      width: W of the first stage; doubles at each. depths: blocks per stage, even.
      num_heads: K per stage.
      window: rows and columns of a window; where a stage has no more places, one window is all.
      trained_windows: per stage, what offsets are counted in; () = the windows used.
    """

    width: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window: int
    trained_windows: tuple[int, ...] = ()
    norm_eps: float = 1e-5


def param_specs(cfg: SwinConfig) -> dict[str, Any]:
    """Weights, with the names of timm."""
    W = cfg.width
    specs: dict[str, Any] = {
        "patch": patch_specs(PATCH, W),
        "patch_norm": layer_norm_specs("patch_embed.norm", W),
    }
    for i, (depth, heads) in enumerate(zip(cfg.depths, cfg.num_heads, strict=True)):
        key = f"layers.{i}"
        specs[f"stage{i}"] = {"blocks": _block_specs(W << i, depth, heads, key)}
        if i:
            specs[f"stage{i}"]["merge"] = _merge_specs(W << i, key)
    return specs | {"norm": layer_norm_specs("norm", W << (len(cfg.depths) - 1))}


def _merge_specs(W: int, key: str) -> dict[str, Any]:
    """Four neighbours of W / 2 channels to one place of W."""
    name = f"{key}.downsample.reduction.weight"
    return {
        "kernel": ParamSpec((2 * W, W), (None, "embed"), fan_in(2 * W), name, "linear"),
        "norm": layer_norm_specs(f"{key}.downsample.norm", W),
    }


def _block_specs(W: int, L: int, K: int, stage: str) -> dict[str, Any]:
    key, F = f"{stage}.blocks.{{}}.", 4 * W
    out = (K, W // K, W), ("heads", None, "embed")
    offsets = f"{key}attn.cpb_mlp."
    return {
        **qkv_specs(L, W, K, key),
        "log_scale": ParamSpec(
            (L, K, 1, 1),
            ("layers", "heads", None, None),
            lambda shape: np.full(shape, math.log(10), np.float32),
            f"{key}attn.logit_scale",
            "tensor",
            compute_in_float32=True,
            decay=False,
        ),
        "offsets": linear_specs(f"{offsets}0", (2, OFFSET_UNITS), (None, None), fan_in(2), L),
        "offset_bias": ParamSpec(
            (L, OFFSET_UNITS, K),
            ("layers", None, "heads"),
            fan_in(OFFSET_UNITS),
            f"{offsets}2.weight",
            "linear",
        ),
        "out": linear_specs(f"{key}attn.proj", *out, fan_in(W), L, "linear_out"),
        "norm1": layer_norm_specs(f"{key}norm1", W, L),
        "up": linear_specs(f"{key}mlp.fc1", (W, F), ("embed", "mlp"), fan_in(W), L),
        "down": linear_specs(f"{key}mlp.fc2", (F, W), ("mlp", "embed"), fan_in(F), L),
        "norm2": layer_norm_specs(f"{key}norm2", W, L),
    }


# ----------------------------------------------------------------------------------------- windows


@dataclasses.dataclass(frozen=True)
class Windows:
    """The windows of one stage.

    Attributes:
      rows, columns: places of the stage.
      size: rows and columns of a window.
      trained: the size that offsets are counted in.
    """

    rows: int
    columns: int
    size: tuple[int, int]
    trained: tuple[int, int]

    @property
    def shift(self) -> tuple[int, int]:
        """Rows and columns that every second block moves its windows by."""
        whole = (self.rows, self.columns)
        return tuple(0 if n <= w else w // 2 for n, w in zip(whole, self.size, strict=True))


def windows_of(cfg: SwinConfig, stage: int, rows: int, columns: int) -> Windows:
    """The windows of a stage of rows x columns places.

    Raises:
      ValueError: they do not divide into windows.
    """
    size = (min(rows, cfg.window), min(columns, cfg.window))
    if rows % size[0] or columns % size[1]:
        raise ValueError(
            f"{rows} x {columns} places of stage {stage} do not divide into windows of "
            f"{size[0]} x {size[1]}; pictures of {cfg.image_size} x {cfg.image_size} do"
        )
    trained = (cfg.trained_windows[stage],) * 2 if cfg.trained_windows else size
    return Windows(rows, columns, size, trained)


def offsets(windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    """Offsets between two places of a window, log-spaced (section 3.3, equation 4), and which of
    them lies between each two.

    Returns:
      ([n, 2] with n = (2 y - 1)(2 x - 1), int32 [S,S] of rows of it).
    """
    y, x = windows.size
    steps = [
        np.arange(1 - size, size) / max(trained - 1, 1) * 8
        for size, trained in zip(windows.size, windows.trained, strict=True)
    ]
    table = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 2)
    table = np.sign(table) * np.log2(np.abs(table) + 1) / 3
    row, column = np.divmod(np.arange(y * x), x)
    down = row[:, None] - row + y - 1
    across = column[:, None] - column + x - 1
    return table.astype(np.float32), (down * (2 * x - 1) + across).astype(np.int32)


def regions(windows: Windows) -> np.ndarray:
    """What of the picture each place of the shifted windows [1,r,S] comes from, 1 to 9: places that
    only the shift has made neighbours differ, and do not see each other.
    """
    parts = []
    for n, size, shift in zip(
        (windows.rows, windows.columns), windows.size, windows.shift, strict=True
    ):
        place = np.arange(n)
        parts.append((place >= n - size).astype(np.int32) + (place >= n - shift if shift else 0))
    grid = parts[0][:, None] * 3 + parts[1] + 1
    y, x = windows.size
    return einops.rearrange(grid, "(r y) (c x) -> 1 (r c) (y x)", y=y, x=x)


# ------------------------------------------------------------------------------------------- model


def attend(p: Params, windows: Windows, shifted: bool, x: jax.Array) -> jax.Array:
    """Attention within windows, x [N,y,x,W].

    Scores are exp(min(log_scale, log 100)) cos(q, k) + B with B = 16 sigmoid(network(offset))
    (sections 3.2 and 3.3).
    """
    y, w = windows.size
    shift = windows.shift if shifted else (0, 0)
    moved = any(shift)
    if moved:
        x = jnp.roll(x, (-shift[0], -shift[1]), axis=(1, 2))
    cut = einops.rearrange(x, "n (r y) (c x) w -> n (r c y x) w", y=y, x=w)
    split = functools.partial(einops.rearrange, pattern="n (r s) k h -> n r s k h", s=y * w)
    q, k, v = (split(one) for one in queries_keys_values(p, cut))
    scale = jnp.exp(jnp.minimum(p["log_scale"].astype(jnp.float32), LARGEST_SCALE))
    # `attention` divides scores by the root of h
    scale = (scale * q.shape[-1] ** 0.5).reshape(1, 1, 1, -1, 1)
    ids = TokenIds(segment=jnp.asarray(regions(windows))) if moved else TokenIds()
    keys = KeySet(
        unit(k),
        v,
        ids,
        bias=offset_bias(p, windows),
        k_axes="brskh",
        v_axes="brskh",
    )
    mixed = attention(unit(q) * scale.astype(q.dtype), [keys], ids, axes="brtkh")
    # [N,r,S,K,h] x [K,h,W] -> [N,r,S,W]
    out = layers.linear("brskh,khw->brsw", mixed, **p["out"])
    rows = windows.rows // y
    x = einops.rearrange(out, "n (r c) (y x) w -> n (r y) (c x) w", r=rows, y=y)
    return jnp.roll(x, shift, axis=(1, 2)) if moved else x


def unit(x: jax.Array) -> jax.Array:
    """x / |x| over the last axis."""
    x32 = x.astype(jnp.float32)
    length = image.root(jnp.square(x32).sum(axis=-1, keepdims=True))
    return (x32 / jnp.maximum(length, 1e-12)).astype(x.dtype)


def offset_bias(p: Params, windows: Windows) -> jax.Array:
    """B [K,S,S] of `attend`, float32."""
    table, between = offsets(windows)
    # [n,2] x [2,f] -> [n,f], and x [f,K] -> [n,K]
    x = jax.nn.relu(layers.linear("ni,if->nf", jnp.asarray(table, p["qkv"].dtype), **p["offsets"]))
    x = layers.linear("nf,fk->nk", x, p["offset_bias"]).astype(jnp.float32)
    return jnp.moveaxis(LARGEST_BIAS * jax.nn.sigmoid(x)[between], -1, 0)


def block(cfg: SwinConfig, windows: Windows, shifted: bool, p: Params, x: jax.Array) -> jax.Array:
    """One block, x [N,y,x,W]; norms come behind attention and MLP (section 3.2)."""
    y = attend(p, windows, shifted, x)
    x = x + layers.layer_norm(y, p["norm1"], cfg.norm_eps)
    with jax.named_scope("mlp"):
        # [N,y,x,W] x [W,F] -> [N,y,x,F] and back
        y = jax.nn.gelu(layers.linear("byxw,wf->byxf", x, **p["up"]), approximate=False)
        y = layers.linear("byxf,fw->byxw", y, **p["down"])
    return x + layers.layer_norm(y, p["norm2"], cfg.norm_eps)


def merge(p: Params, cfg: SwinConfig, x: jax.Array) -> jax.Array:
    """Four neighbours to one place, [N,y,x,W/2] -> [N,y/2,x/2,W]."""
    x = einops.rearrange(x, "n (y q) (x p) w -> n y x (p q w)", p=2, q=2)
    # [N,y,x,i] x [i,W] -> [N,y,x,W]
    return layers.layer_norm(
        layers.linear("byxi,iw->byxw", x, p["kernel"]), p["norm"], cfg.norm_eps
    )


def features(params: Params, cfg: SwinConfig, pictures: jax.Array) -> jax.Array:
    """The last stage's places as tokens, after the last norm.

    Args:
      params: as `param_specs` describes.
      cfg: sizes.
      pictures: [N,y,x,3]; each stage divides into windows.

    Returns:
      [N, y / 32 * x / 32, W] with four stages.
    """
    specs = param_specs(cfg)
    x = image.convolve_patches(pictures, **params["patch"])
    x = layers.layer_norm(x, params["patch_norm"], cfg.norm_eps)
    for i in range(len(cfg.depths)):
        stage, of_stage = params[f"stage{i}"], specs[f"stage{i}"]
        if i:
            x = merge(stage["merge"], cfg, x)
        windows = windows_of(cfg, i, *x.shape[1:3])
        blocks = [functools.partial(block, cfg, windows, shifted) for shifted in (False, True)]
        x = image.through(blocks, x, stage["blocks"], of_stage["blocks"])
    x = layers.layer_norm(x, params["norm"], cfg.norm_eps)
    return x.reshape(x.shape[0], -1, x.shape[-1])


def pool(params: Params, cfg: SwinConfig, x: jax.Array) -> jax.Array:
    """The mean of the tokens, [N,S,W] -> [N,W]."""
    return x.mean(axis=1)


def _row(size: str, window: int, trained: tuple[int, ...] = ()) -> Encoder:
    width, depth, heads = SIZES[size]
    cfg = SwinConfig(
        image_size=256,
        width=width,
        depths=(2, 2, depth, 2),
        num_heads=tuple(heads << stage for stage in range(4)),
        window=window,
        trained_windows=trained,
    )
    name = f"swinv2_{size}" + ("" if window == 8 else f"_window{window}")
    name = name.replace("window", "window12to") if trained else name
    source = "arXiv 2111.09883; timm swin_transformer_v2.py, transformers modeling_swinv2.py"
    architecture, layouts = (param_specs, features, pool), ("timm", "Swinv2Model")
    return image.row(name, cfg, width << 3, architecture, layouts, source)


# width of the first stage, blocks of the third, heads of the first
SIZES = {"tiny": (96, 6, 3), "small": (96, 18, 3), "base": (128, 18, 4), "large": (192, 18, 6)}
ENCODERS = (
    *(_row(size, window) for window in (8, 16) for size in ("tiny", "small", "base")),
    # trained on ImageNet-22k at 192 x 192, then at 256 x 256
    *(_row(size, 16, (12, 12, 12, 6)) for size in ("base", "large")),
)
