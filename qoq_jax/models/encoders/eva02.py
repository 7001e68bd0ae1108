"""EVA-02 (Fang et al., arXiv 2303.11331): a ViT with rotary positions, SwiGLU, and at its larger
sizes a norm inside the MLP (sub-LN).

Axis letters: as in image.py; h channels of a head, F hidden units.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qoq_jax.models import layers
from qoq_jax.models.encoders import image, vit
from qoq_jax.models.encoders.encoder import Encoder, Params
from qoq_jax.models.spec import ParamSpec, fan_in, residual_scale
from qoq_jax.models.tables import layer_norm_specs, linear_specs

ROPE_BASE = 10000.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eva02Config(image.ImageConfig):
    """Sizes.

    Attributes:
      width: W. depth: blocks. num_heads: K. mlp_dim: F. patch: rows and columns of a patch.
      rope_grid: rows of patches that rotary positions count to, whatever the picture's.
      fused: q, k and v in one kernel, gate and up in one, and no norm inside the MLP, as the files
        of tiny and small; else kernels of their own, and a norm.
    """

    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    patch: int = 14
    rope_grid: int = 16
    fused: bool = False


def param_specs(cfg: Eva02Config) -> dict[str, Any]:
    """Weights, with the names of timm."""
    W, p = cfg.width, cfg.patch
    return {
        "patch": vit.patch_specs(p, W),
        "class": image.token_spec("cls_token", 1, W),
        "positions": image.token_spec("pos_embed", (cfg.image_size // p) ** 2 + 1, W),
        "blocks": _block_specs(cfg),
        "norm": layer_norm_specs("fc_norm", W),
    }


def _block_specs(cfg: Eva02Config) -> dict[str, Any]:
    L, W, K, F = cfg.depth, cfg.width, cfg.num_heads, cfg.mlp_dim
    key, scale = "blocks.{}.", residual_scale(L)
    out = (K, W // K, W), ("heads", None, "embed")
    return {
        "norm1": layer_norm_specs(f"{key}norm1", W, L),
        **(_fused_specs(cfg, key) if cfg.fused else _own_specs(cfg, key)),
        "out": linear_specs(f"{key}attn.proj", *out, fan_in(W, scale), L, "linear_out"),
        "norm2": layer_norm_specs(f"{key}norm2", W, L),
        "down": linear_specs(f"{key}mlp.fc2", (F, W), ("mlp", "embed"), fan_in(F, scale), L),
    }


def _fused_specs(cfg: Eva02Config, key: str) -> dict[str, Any]:
    L, W, K = cfg.depth, cfg.width, cfg.num_heads
    up = (W, 2, cfg.mlp_dim), ("embed", None, "mlp")
    return {"up": linear_specs(f"{key}mlp.fc1", *up, fan_in(W), L)} | qkv_specs(L, W, K, key)


def qkv_specs(L: int, W: int, K: int, key: str) -> dict[str, ParamSpec]:
    """q, k and v in one kernel, of which q and v have a bias: a constant that k adds to all scores
    of a query changes no softmax.
    """
    heads = (L, K, W // K), ("layers", "heads", None)
    return {
        "qkv": ParamSpec(
            (L, W, 3, K, W // K),
            ("layers", "embed", None, "heads", None),
            fan_in(W),
            f"{key}attn.qkv.weight",
            "linear",
        ),
        "q_bias": ParamSpec(*heads, "zeros", f"{key}attn.q_bias", "vector", decay=False),
        "v_bias": ParamSpec(*heads, "zeros", f"{key}attn.v_bias", "vector", decay=False),
    }


def _own_specs(cfg: Eva02Config, key: str) -> dict[str, Any]:
    L, W, K, F = cfg.depth, cfg.width, cfg.num_heads, cfg.mlp_dim
    heads, hidden = ((W, K, W // K), ("embed", "heads", None)), ((W, F), ("embed", "mlp"))
    k = linear_specs(f"{key}attn.k_proj", *heads, fan_in(W), L)
    return {
        "q": linear_specs(f"{key}attn.q_proj", *heads, fan_in(W), L),
        "k": {"kernel": k["kernel"]},
        "v": linear_specs(f"{key}attn.v_proj", *heads, fan_in(W), L),
        "gate": linear_specs(f"{key}mlp.fc1_g", *hidden, fan_in(W), L),
        "up": linear_specs(f"{key}mlp.fc1_x", *hidden, fan_in(W), L),
        "mlp_norm": layer_norm_specs(f"{key}mlp.norm", F, L),
    }


# ------------------------------------------------------------------------------------------- model


def queries_keys_values(p: Params, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x [N,S,W] -> q, k and v [N,S,K,h]."""
    if "qkv" not in p:
        # [N,S,W] x [W,K,h] -> [N,S,K,h]
        q, k, v = (layers.linear("bsw,wkh->bskh", x, **p[name]) for name in "qkv")
        return q, k, v
    bias = jnp.stack([p["q_bias"], jnp.zeros_like(p["q_bias"]), p["v_bias"]])
    # [N,S,W] x [W,X,K,h] -> X of [N,S,K,h]
    q, k, v = jnp.moveaxis(layers.linear("bsw,wxkh->bsxkh", x, p["qkv"], bias), 2, 0)
    return q, k, v


def hidden_units(p: Params, cfg: Eva02Config, x: jax.Array) -> jax.Array:
    """silu(gate) * up of x [N,S,W], normalised where the model does -> [N,S,F]."""
    if cfg.fused:
        # [N,S,W] x [W,2,F] -> [N,S,2,F]
        gate, up = jnp.moveaxis(layers.linear("bsw,wxf->bsxf", x, **p["up"]), 2, 0)
        return jax.nn.silu(gate) * up
    # [N,S,W] x [W,F] -> [N,S,F]
    gate, up = (layers.linear("bsw,wf->bsf", x, **p[name]) for name in ("gate", "up"))
    return layers.layer_norm(jax.nn.silu(gate) * up, p["mlp_norm"], cfg.norm_eps)


def angles(rows: int, columns: int, h: int, grid: int) -> np.ndarray:
    """Angles [S, h / 2] of the patches of a picture, S = rows * columns.

    The first half turns with the row, the second with the column, at 10000^(-i / (h/4)); rows and
    columns are counted in steps of grid / rows and grid / columns (section 2.1.2).
    """
    frequencies = ROPE_BASE ** (-np.arange(h // 4) / (h // 4))
    down = np.arange(rows)[:, None] / rows * grid * frequencies
    across = np.arange(columns)[:, None] / columns * grid * frequencies
    both = np.concatenate([np.repeat(down, columns, axis=0), np.tile(across, (rows, 1))], axis=-1)
    return both.astype(np.float32)


def rotate_pairs(x: jax.Array, turn: np.ndarray) -> jax.Array:
    """Rotary embedding of the neighbours (x[2i], x[2i+1]); x [N,S,K,h], turn [S', h / 2].

    Of S tokens the last S' have a position; those before them, the class token, do not turn.
    """
    before = x.shape[1] - len(turn)
    turn = np.pad(turn, ((before, 0), (0, 0)))
    cos, sin = (jnp.asarray(f(turn))[None, :, None] for f in (np.cos, np.sin))
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


def block(cfg: Eva02Config, turn: np.ndarray, p: Params, x: jax.Array) -> jax.Array:
    """One block, x [N,S,W]."""
    y = layers.layer_norm(x, p["norm1"], cfg.norm_eps)
    q, k, v = queries_keys_values(p, y)
    attended = vit.attend(rotate_pairs(q, turn), rotate_pairs(k, turn), v)
    # [N,S,K,h] x [K,h,W] -> [N,S,W]
    x = x + layers.linear("bskh,khw->bsw", attended, **p["out"])
    with jax.named_scope("mlp"):
        y = hidden_units(p, cfg, layers.layer_norm(x, p["norm2"], cfg.norm_eps))
        return x + layers.linear("bsf,fw->bsw", y, **p["down"])


def features(params: Params, cfg: Eva02Config, pictures: jax.Array) -> jax.Array:
    """All tokens, [class, patches], without the norm before the classifier.

    Args:
      params: as `param_specs` describes.
      cfg: sizes.
      pictures: [N,y,x,3]; y and x are multiples of the patch.

    Returns:
      [N, 1 + patches, W].
    """
    size = (pictures.shape[1] // cfg.patch, pictures.shape[2] // cfg.patch)
    turn = angles(*size, cfg.width // cfg.num_heads, cfg.rope_grid)
    x = vit.embed(params, pictures, antialias=True, class_position=True)
    specs = param_specs(cfg)["blocks"]
    return image.through([functools.partial(block, cfg, turn)], x, params["blocks"], specs)


def pool(params: Params, cfg: Eva02Config, x: jax.Array) -> jax.Array:
    """Norm of the mean of the patches' tokens, [N,S,W] -> [N,W]."""
    return layers.layer_norm(x[:, 1:].mean(axis=1), params["norm"], cfg.norm_eps)


def _row(size: str, mlp_dim: int, image_size: int, fused: bool = False) -> Encoder:
    width, depth, heads = vit.SIZES[size]
    mean, std = image.OPENAI_CLIP
    cfg = Eva02Config(
        width=width,
        depth=depth,
        num_heads=heads,
        mlp_dim=mlp_dim,
        image_size=image_size,
        mean=mean,
        std=std,
        fused=fused,
    )
    source = "arXiv 2303.11331; timm eva.py"
    return image.row(f"eva02_{size}", cfg, width, (param_specs, features, pool), ("timm",), source)


ENCODERS = (
    _row("tiny", 512, 336, fused=True),
    _row("small", 1024, 336, fused=True),
    _row("base", 2048, 448),
    _row("large", 2730, 448),
)
