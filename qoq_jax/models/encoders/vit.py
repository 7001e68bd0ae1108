"""Vision transformers: ViT (Dosovitskiy et al., arXiv 2010.11929), and DINOv2 (Oquab et al., arXiv
2304.07193), which adds layer scale, at its largest size SwiGLU, and in a later version registers
(Darcet et al., arXiv 2309.16588). RAD-DINO (Perez-Garcia et al., arXiv 2401.10815) is DINOv2 on
chest X-rays.

Axis letters: as in image.py; h channels of a head, p places of a patch. Tokens are [class,
registers, patches].
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from qoq_jax.models import layers
from qoq_jax.models.attention import KeySet, attention
from qoq_jax.models.encoders import image
from qoq_jax.models.encoders.encoder import Encoder, Params
from qoq_jax.models.spec import ParamSpec, fan_in, residual_scale
from qoq_jax.models.tables import layer_norm_specs, linear_specs


@dataclasses.dataclass(frozen=True, kw_only=True)
class VitConfig(image.ImageConfig):
    """Sizes.

    Attributes:
      width: W. depth: blocks. num_heads: K. mlp_dim: F. patch: rows and columns of a patch.
      layer_scale: each branch is multiplied by a learned vector before it is added.
      swiglu: MLPs are silu(gate) * up, gate and up in one kernel.
      registers: learned tokens between the class token and the patches.
      class_position: the class token has a learned position; without, it is part of the token.
      antialias: of positions that are resized to fewer patches.
    """

    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    patch: int = 16
    layer_scale: bool = False
    swiglu: bool = False
    registers: int = 0
    class_position: bool = True
    antialias: bool = False


def param_specs(cfg: VitConfig) -> dict[str, Any]:
    """Weights, with the names of timm."""
    W, p = cfg.width, cfg.patch
    places = (cfg.image_size // p) ** 2
    specs: dict[str, Any] = {
        "patch": patch_specs(p, W),
        "class": image.token_spec("cls_token", 1, W),
        "positions": image.token_spec("pos_embed", places + cfg.class_position, W),
        "blocks": _block_specs(cfg),
        "norm": layer_norm_specs("norm", W),
    }
    if cfg.registers:
        specs["registers"] = image.token_spec("reg_token", cfg.registers, W)
    return specs


def patch_specs(p: int, W: int) -> dict[str, ParamSpec]:
    """The convolution that makes tokens of patches."""
    shape, axes = (p, p, 3, W), (None, None, None, "embed")
    return linear_specs("patch_embed.proj", shape, axes, fan_in(3 * p * p), layout="conv")


def _block_specs(cfg: VitConfig) -> dict[str, Any]:
    L, W, K, F = cfg.depth, cfg.width, cfg.num_heads, cfg.mlp_dim
    key, scale = "blocks.{}.", residual_scale(L)
    qkv = (W, 3, K, W // K), ("embed", None, "heads", None)
    out = (K, W // K, W), ("heads", None, "embed")
    up = ((W, 2, F), ("embed", None, "mlp")) if cfg.swiglu else ((W, F), ("embed", "mlp"))
    specs: dict[str, Any] = {
        "norm1": layer_norm_specs(f"{key}norm1", W, L),
        "qkv": linear_specs(f"{key}attn.qkv", *qkv, fan_in(W), L),
        "out": linear_specs(f"{key}attn.proj", *out, fan_in(W, scale), L, "linear_out"),
        "norm2": layer_norm_specs(f"{key}norm2", W, L),
        "up": linear_specs(f"{key}mlp.fc1", *up, fan_in(W), L),
        "down": linear_specs(f"{key}mlp.fc2", (F, W), ("mlp", "embed"), fan_in(F, scale), L),
    }
    if cfg.layer_scale:
        for i in (1, 2):
            name = f"{key}ls{i}.gamma"
            specs[f"scale{i}"] = ParamSpec((L, W), ("layers", None), "ones", name, "vector")
    return specs


def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Attention of all tokens of a picture to each other, [N,S,K,h]."""
    return attention(q, [KeySet(k, v)], axes="btkh")


def block(cfg: VitConfig, p: Params, x: jax.Array) -> jax.Array:
    """One block, x [N,S,W]."""

    def scaled(y: jax.Array, name: str) -> jax.Array:
        return y * layers.expand(p[name].astype(y.dtype), 3) if cfg.layer_scale else y

    y = layers.layer_norm(x, p["norm1"], cfg.norm_eps)
    # [N,S,W] x [W,X,K,h] -> X of [N,S,K,h]
    q, k, v = jnp.moveaxis(layers.linear("bsw,wxkh->bsxkh", y, **p["qkv"]), 2, 0)
    # [N,S,K,h] x [K,h,W] -> [N,S,W]
    x = x + scaled(layers.linear("bskh,khw->bsw", attend(q, k, v), **p["out"]), "scale1")
    y = layers.layer_norm(x, p["norm2"], cfg.norm_eps)
    with jax.named_scope("mlp"):
        if cfg.swiglu:
            # [N,S,W] x [W,2,F] -> [N,S,2,F]
            gate, up = jnp.moveaxis(layers.linear("bsw,wxf->bsxf", y, **p["up"]), 2, 0)
            y = jax.nn.silu(gate) * up
        else:
            y = jax.nn.gelu(layers.linear("bsw,wf->bsf", y, **p["up"]), approximate=False)
        return x + scaled(layers.linear("bsf,fw->bsw", y, **p["down"]), "scale2")


def embed(params: Params, pictures: jax.Array, antialias: bool, class_position: bool) -> jax.Array:
    """Pictures [N,y,x,3] -> tokens [N,S,W] with their positions.

    Positions of pictures that are not of the trained size are interpolated.
    """
    x = image.convolve_patches(pictures, **params["patch"])
    N, rows, columns, W = x.shape
    first, table = params["class"], params["positions"]
    if class_position:
        first, table = first + table[:, :1], table[:, 1:]
    positions = image.resized_positions(table, (rows, columns), antialias)
    x = x.reshape(N, rows * columns, W) + positions.astype(x.dtype)
    before = [first] + ([params["registers"]] if "registers" in params else [])
    tokens = [jnp.broadcast_to(one.astype(x.dtype), (N, *one.shape[1:])) for one in before]
    return jnp.concatenate([*tokens, x], axis=1)


def features(params: Params, cfg: VitConfig, pictures: jax.Array) -> jax.Array:
    """All tokens after the last norm.

    Args:
      params: as `param_specs` describes.
      cfg: sizes.
      pictures: [N,y,x,3]; y and x are multiples of the patch.

    Returns:
      [N, 1 + registers + patches, W].
    """
    specs = param_specs(cfg)["blocks"]
    x = embed(params, pictures, cfg.antialias, cfg.class_position)
    x = image.through([functools.partial(block, cfg)], x, params["blocks"], specs)
    return layers.layer_norm(x, params["norm"], cfg.norm_eps)


def pool(params: Params, cfg: VitConfig, x: jax.Array) -> jax.Array:
    """The class token of [N,S,W]."""
    return x[:, 0]


SIZES = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "giant": (1536, 40, 24),
}
ARCHITECTURE = (param_specs, features, pool)
VIT_SOURCE = "arXiv 2010.11929; timm vision_transformer.py, transformers modeling_vit.py"
DINO_SOURCE = "arXiv 2304.07193; timm vision_transformer.py, transformers modeling_dinov2.py"
REGISTERS_SOURCE = (
    "arXiv 2309.16588; timm vision_transformer.py, transformers modeling_dinov2_with_registers.py"
)
RAD_DINO_SOURCE = "arXiv 2401.10815; microsoft/rad-dino, transformers modeling_dinov2.py"
RAD_DINO_PIXELS = (0.5307,) * 3, (0.2583,) * 3


def _sizes(size: str) -> dict[str, Any]:
    width, depth, heads = SIZES[size]
    return {"width": width, "depth": depth, "num_heads": heads, "mlp_dim": 4 * width}


def _vit(size: str) -> Encoder:
    mean, std = image.HALF
    cfg = VitConfig(**_sizes(size), mean=mean, std=std)
    layouts = ("timm", "ViTModel")
    return image.row(f"vit_{size}", cfg, cfg.width, ARCHITECTURE, layouts, VIT_SOURCE)


def _dinov2(size: str, registers: bool = False) -> Encoder:
    sizes = _sizes(size) | ({"mlp_dim": 4096} if size == "giant" else {})
    cfg = VitConfig(
        **sizes,
        patch=14,
        image_size=518,
        layer_scale=True,
        swiglu=size == "giant",
        registers=4 if registers else 0,
        class_position=not registers,
        antialias=registers,
    )
    name = f"dinov2_{size}{'_registers' if registers else ''}"
    theirs = "Dinov2WithRegistersModel" if registers else "Dinov2Model"
    layouts = ("timm", theirs + (", SwiGLU" if size == "giant" else ""))
    source = REGISTERS_SOURCE if registers else DINO_SOURCE
    return image.row(name, cfg, cfg.width, ARCHITECTURE, layouts, source)


def _rad_dino() -> Encoder:
    mean, std = RAD_DINO_PIXELS
    cfg = dataclasses.replace(_dinov2("base").cfg, mean=mean, std=std)
    layouts = ("timm", "Dinov2Model")
    return image.row("rad_dino", cfg, cfg.width, ARCHITECTURE, layouts, RAD_DINO_SOURCE)


ENCODERS = (
    *(_vit(size) for size in ("tiny", "small", "base", "large")),
    *(
        _dinov2(size, registers)
        for registers in (False, True)
        for size in ("small", "base", "large", "giant")
    ),
    _rad_dino(),
)
