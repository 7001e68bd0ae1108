"""Pieces of encoders whose batches have padded places: layers, means, transformer blocks.

Axis letters: base/axes.py; B samples, T and S tokens of a sample, W width. Computation runs in the
dtype of the parameters; LayerNorm, logits and softmax in float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qoq_jax.models import layers
from qoq_jax.models import spec as spec_lib
from qoq_jax.models.attention import KeySet, attention
from qoq_jax.models.spec import ParamSpec

Array = jax.Array
Params = dict[str, Any]


def dense_specs(
    inputs: int, outputs: int, key: str = "", std: float | None = None
) -> dict[str, ParamSpec]:
    """Kernel [i,o] and bias [o] of a linear layer; `key` is its published name, "" for none."""
    std = spec_lib.fan_in(inputs) if std is None else std
    return {
        "kernel": ParamSpec((inputs, outputs), ("embed", "mlp"), std, *_named(key, "linear")),
        "bias": ParamSpec((outputs,), (None,), "zeros", *_named(key, "tensor", "bias")),
    }


def norm_specs(width: int, key: str = "") -> dict[str, ParamSpec]:
    """Scale and bias of a LayerNorm."""
    return {
        "scale": ParamSpec((width,), (None,), "ones", *_named(key, "tensor")),
        "bias": ParamSpec((width,), (None,), "zeros", *_named(key, "tensor", "bias")),
    }


def _named(key: str, layout: str, part: str = "weight") -> tuple[str, str]:
    return (f"{key}.{part}", layout) if key else ("", "")


def stacked(specs: Mapping[str, Any], depth: int) -> Params:
    """The specs of one layer as those of `depth` layers on a leading axis; their published names
    have a {} for the number of the layer.
    """

    def one(spec: ParamSpec) -> ParamSpec:
        return dataclasses.replace(
            spec, shape=(depth, *spec.shape), axes=("layers", *spec.axes), decay=spec.decays
        )

    return jax.tree.map(one, dict(specs))


def attention_specs(
    width: int, heads: int, residual: float, qkv: str = "", out: str = ""
) -> dict[str, Any]:
    """q, k and v in one kernel without bias, and the output layer; published names `qkv`, `out`."""
    head = width // heads
    return {
        "qkv": ParamSpec(
            (width, 3, heads, head),
            ("embed", None, "heads", None),
            spec_lib.fan_in(width),
            *_named(qkv, "linear"),
        ),
        "out": {
            "kernel": ParamSpec(
                (heads, head, width),
                ("heads", None, "embed"),
                spec_lib.fan_in(width, residual),
                *_named(out, "linear_out"),
            ),
            "bias": ParamSpec((width,), (None,), "zeros", *_named(out, "tensor", "bias")),
        },
    }


def block_specs(width: int, heads: int, hidden: int, depth: int, key: str = "") -> Params:
    """Pre-norm transformer blocks, stacked; `key` is the name of a timm block: "blocks.{}"."""
    residual = spec_lib.residual_scale(depth)
    names = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    norm1, qkv, proj, norm2, up, down = (f"{key}.{name}" if key else "" for name in names)
    one = {
        "norm1": norm_specs(width, norm1),
        **attention_specs(width, heads, residual, qkv, proj),
        "norm2": norm_specs(width, norm2),
        "up": dense_specs(width, hidden, up),
        "down": dense_specs(hidden, width, down, spec_lib.fan_in(hidden, residual)),
    }
    return stacked(one, depth)


def transformer(blocks: Params, x: Array, valid: Array, eps: float) -> Array:
    """Blocks of `block_specs` over x [B,T,W], whose tokens are keys where valid [B,T].

    Blocks may have "q_norm" and "k_norm", LayerNorms of each head's queries and keys, and "gamma1",
    "gamma2" [W], which scale what the two halves add (LayerScale, arXiv 2103.17239).
    """

    def block(x: Array, p: Params) -> tuple[Array, None]:
        y = attend(p, layer_norm(x, p["norm1"], eps), valid, eps)
        x = x + (y * rows(p["gamma1"], y) if "gamma1" in p else y)
        y = mlp(p, layer_norm(x, p["norm2"], eps))
        return x + (y * rows(p["gamma2"], y) if "gamma2" in p else y), None

    return jax.lax.scan(jax.checkpoint(block), x, blocks)[0]


def attend(p: Params, x: Array, valid: Array | None, eps: float) -> Array:
    """Self-attention of x [B,T,W] to the tokens that are valid [B,T]; None: all are."""
    # [B,T,W] x [W,X,K,h] -> X of [B,T,K,h]
    q, k, v = jnp.moveaxis(jnp.einsum("btw,wxkh->btxkh", x, p["qkv"]), 2, 0)
    if "q_norm" in p:
        q, k = layer_norm(q, p["q_norm"], eps), layer_norm(k, p["k_norm"], eps)
    mixed = attention(q, [KeySet(k, v, valid=valid)], axes="btkh")
    # [B,T,K,h] x [K,h,W] -> [B,T,W]
    return jnp.einsum("btkh,khw->btw", mixed, p["out"]["kernel"]) + rows(p["out"]["bias"], x)


@jax.named_scope("mlp")
def mlp(p: Params, x: Array) -> Array:
    """down(gelu(up(x))) over the last axis, with the exact GELU."""
    return linear(jax.nn.gelu(linear(x, p["up"]), approximate=False), p["down"])


def linear(x: Array, p: Params) -> Array:
    """x [...,i] @ kernel [i,o] + bias [o]."""
    return x @ p["kernel"] + rows(p["bias"], x)


def layer_norm(x: Array, p: Params, eps: float) -> Array:
    """LayerNorm over the last axis."""
    return layers.layer_norm(x, p, eps)


def rows(vector: Array, x: Array) -> Array:
    """A vector with leading axes of size one, so that it meets x at equal rank."""
    return layers.expand(vector, x.ndim)


def masked_mean(x: Array, valid: Array) -> Array:
    """[B,T,W], bool [B,T] -> the mean of the valid tokens [B,W]; 0 where none is."""
    weight = valid.astype(x.dtype)[..., None]
    return (x * weight).sum(axis=1) / jnp.maximum(weight.sum(axis=1), 1)


def sincos(steps: int, width: int) -> np.ndarray:
    """Fixed positions [T,W]: sin(p ω) on even, cos(p ω) on odd channels, ωᵢ = 10000^(-2i / W)
    (arXiv 1706.03762, section 3.5).
    """
    angles = np.arange(steps)[:, None] * 10000.0 ** (-np.arange(0, width, 2) / width)
    return np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(steps, width)


def sincos_init(shape: tuple[int, ...]) -> np.ndarray:
    """First values of positions [T,W] that are learned: `sincos`."""
    return sincos(*shape)
