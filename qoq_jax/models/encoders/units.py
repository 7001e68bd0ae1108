"""UniTS (Gao et al., arXiv 2403.00131), an encoder of time series, at the size of an ECG.

Axis letters: base/axes.py; B ECGs, C leads, T patches of a lead and L tokens of a lead: P prompts,
T patches, a class token.

Each lead is standardised and cut into patches, which are tokens; learned prompts stand before them
and a class token behind. A block attends over the tokens of a lead, then over the leads, then mixes
the tokens of a lead with weights of their places (the dynamic MLP). What each part adds goes
through a gate. The class tokens attend to their lead once more, and the mean over leads is what the
classifier sees.

Two things differ from mims-harvard/UniTS. The dynamic MLP interpolates a square of weights to the
number of tokens there; this number is fixed here, and the square has its size. Prompts and class
tokens are one set, not one per data set. So its weights cannot be read.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from qoq_jax.models import spec as spec_lib
from qoq_jax.models.attention import KeySet, attention
from qoq_jax.models.encoders import masked
from qoq_jax.models.encoders.encoder import Batch, Encoder, Params
from qoq_jax.models.encoders.masked import Array
from qoq_jax.models.spec import ParamSpec

_EPS = 1e-5
_CONVOLVED = 3  # tokens that the dynamic MLP's convolution sees


@dataclasses.dataclass(frozen=True)
class UnitsConfig:
    """Sizes. patch: samples of a token. mlp_ratio: hidden units of the dynamic MLP over width."""

    leads: int = 8
    samples: int = 2500
    patch: int = 50
    prompts: int = 10
    width: int = 64
    depth: int = 3
    num_heads: int = 8
    mlp_ratio: int = 8

    @property
    def patches(self) -> int:
        """T, of a lead; what is left at its end is not used."""
        return self.samples // self.patch


def param_specs(cfg: UnitsConfig) -> Params:
    """The encoder, without published names."""
    width, hidden, mixed = cfg.width, cfg.mlp_ratio * cfg.width, cfg.prompts + cfg.patches

    def part() -> Params:
        return {
            "norm": masked.norm_specs(width),
            **masked.attention_specs(width, cfg.num_heads, 1.0),
            "gate": masked.dense_specs(width, 1),
        }

    convolution = (_CONVOLVED, width, hidden)
    std = spec_lib.fan_in(_CONVOLVED * width)
    mlp = {
        "norm": masked.norm_specs(width),
        "up": {
            "kernel": ParamSpec(convolution, (None, "embed", "mlp"), std),
            "bias": ParamSpec((hidden,), (None,), "zeros"),
        },
        "places": {
            "kernel": ParamSpec((mixed, mixed), (None, None), spec_lib.fan_in(mixed)),
            "bias": ParamSpec((mixed,), (None,), "zeros"),
        },
        "down": masked.dense_specs(hidden, width),
        "gate": masked.dense_specs(width, 1),
    }
    block = {"time": part(), "leads": part(), "mlp": mlp}
    token = (cfg.leads, 1, width)
    return {
        "patch": ParamSpec((cfg.patch, width), (None, "embed"), spec_lib.fan_in(cfg.patch)),
        "positions": ParamSpec((cfg.patches, width), (None, "embed"), masked.sincos_init),
        "prompts": ParamSpec((cfg.leads, cfg.prompts, width), (None, None, "embed"), 0.02),
        "cls": ParamSpec(token, (None, None, "embed"), 0.02),
        "blocks": masked.stacked(block, cfg.depth),
        "head": _head_specs(cfg),
    }


def _head_specs(cfg: UnitsConfig) -> Params:
    width = cfg.width
    attention_part = masked.attention_specs(width, cfg.num_heads, 1.0)
    return {
        "in": masked.dense_specs(width, width),
        **attention_part,
        "norm": masked.norm_specs(width),
        "up": masked.dense_specs(width, cfg.mlp_ratio * width),
        "down": masked.dense_specs(cfg.mlp_ratio * width, width),
        "gate": masked.dense_specs(width, 1),
    }


def tokens(params: Params, cfg: UnitsConfig, batch: Batch) -> tuple[Array, Array]:
    """(tokens of patches [B, C * T, W] behind the last block, mask); c * T + i is patch i of c."""
    x = _encode(params, cfg, batch["signal"])[:, :, cfg.prompts : -1]
    x = x.reshape(x.shape[0], -1, cfg.width)
    return x, jnp.ones(x.shape[:2], bool)


def pooled(params: Params, cfg: UnitsConfig, batch: Batch) -> Array:
    """[B,W]: the mean over leads of what the class tokens find in theirs."""
    p = params["head"]
    x = masked.linear(_encode(params, cfg, batch["signal"]), p["in"])
    # The class token alone asks: [B,C,1,W] x [W,K,h], and all of its lead are asked.
    q = jnp.einsum("bctw,wkh->bctkh", x[:, :, -1:], p["qkv"][:, 0])
    k, v = jnp.moveaxis(jnp.einsum("bcsw,wxkh->bcsxkh", x, p["qkv"][:, 1:]), 3, 0)
    keys = KeySet(k, v, k_axes="bcskh", v_axes="bcskh")
    y = _out(p, attention(q, [keys], axes="bctkh"))[:, :, 0]
    y = y + _gated(p["gate"], masked.mlp(p, masked.layer_norm(y, p["norm"], _EPS)))
    return y.mean(axis=1)


def _encode(params: Params, cfg: UnitsConfig, signal: Array) -> Array:
    """[B,C,samples] -> all tokens [B,C,L,W]."""
    if signal.shape[1:] != (cfg.leads, cfg.samples):
        what = f"[B, {cfg.leads}, {cfg.samples}], got {signal.shape}"
        raise ValueError(f"signal must have shape {what}")
    B, dtype = signal.shape[0], params["patch"].dtype
    signal = signal - signal.mean(axis=2, keepdims=True)
    signal = signal * jax.lax.rsqrt(jnp.square(signal).mean(axis=2, keepdims=True) + 1e-5)
    patches = signal[:, :, : cfg.patches * cfg.patch].astype(dtype)
    x = patches.reshape(B, cfg.leads, cfg.patches, cfg.patch) @ params["patch"]
    x = x + masked.rows(params["positions"], x)

    def own(learned: Array) -> Array:  # [C,n,W] -> [B,C,n,W]
        return jnp.broadcast_to(learned[None], (B, *learned.shape))

    x = jnp.concatenate([own(params["prompts"]), x, own(params["cls"])], axis=2)

    def block(x: Array, p: Params) -> tuple[Array, None]:
        x = x + _over_time(p["time"], x)
        x = x + _over_leads(p["leads"], x)
        return x + _over_places(p["mlp"], x), None

    return jax.lax.scan(jax.checkpoint(block), x, params["blocks"])[0]


def _over_time(p: Params, x: Array) -> Array:
    """Each token attends to the tokens of its lead."""
    q, k, v = _qkv(p, x)
    keys = KeySet(k, v, k_axes="bcskh", v_axes="bcskh")
    return _gated(p["gate"], _out(p, attention(q, [keys], axes="bctkh")))


def _over_leads(p: Params, x: Array) -> Array:
    """Each lead attends to all leads, by the means of its queries and keys over its tokens."""
    q, k, v = _qkv(p, x)
    B, C, L, K, h = v.shape
    # A lead's values are all of its tokens: [B,C,L,K,h] -> [B,C,K,L*h]
    whole = v.transpose(0, 1, 3, 2, 4).reshape(B, C, K, L * h)
    mixed = attention(q.mean(axis=2), [KeySet(k.mean(axis=2), whole)], axes="btkh")
    mixed = mixed.reshape(B, C, K, L, h).transpose(0, 1, 3, 2, 4)
    return _gated(p["gate"], _out(p, mixed))


def _over_places(p: Params, x: Array) -> Array:
    """The dynamic MLP: a convolution over the tokens of a lead; half of its channels are mixed over
    the places of prompts and patches, by weights of the places.
    """
    (B, C, L, W), mixed = x.shape, p["places"]["kernel"].shape[0]
    y = masked.layer_norm(x, p["norm"], _EPS).reshape(B * C, L, W)
    # [b,L,W] * [3,W,F] -> [b,L,F], b of leads and ECGs
    y = jax.lax.conv_general_dilated(
        y, p["up"]["kernel"], (1,), ((1, 1),), dimension_numbers=("NHC", "HIO", "NHC")
    )
    y = y + masked.rows(p["up"]["bias"], y)
    first, second = jnp.split(y, 2, axis=2)
    # [b,s,f] x [s,t] -> [b,t,f]
    swapped = jnp.einsum("bsf,st->btf", first[:, :mixed], p["places"]["kernel"])
    swapped = swapped + p["places"]["bias"].reshape(1, mixed, 1)
    first = jnp.concatenate([swapped, first[:, mixed:]], axis=1)
    y = jax.nn.gelu(jnp.concatenate([first, second], axis=2), approximate=False)
    return _gated(p["gate"], masked.linear(y, p["down"]).reshape(B, C, L, W))


def _qkv(p: Params, x: Array) -> Array:
    """Queries, keys and values [3,B,C,L,K,h] of the normed tokens."""
    y = masked.layer_norm(x, p["norm"], _EPS)
    # [B,C,L,W] x [W,X,K,h] -> X of [B,C,L,K,h]
    return jnp.moveaxis(jnp.einsum("bctw,wxkh->bctxkh", y, p["qkv"]), 3, 0)


def _out(p: Params, mixed: Array) -> Array:
    """[B,C,L,K,h] -> [B,C,L,W]."""
    y = jnp.einsum("bctkh,khw->bctw", mixed, p["out"]["kernel"])
    return y + masked.rows(p["out"]["bias"], y)


def _gated(p: Params, x: Array) -> Array:
    """sigmoid(w · x + b) x."""
    return jax.nn.sigmoid(masked.linear(x, p)) * x


ENCODERS = (
    Encoder(
        name="units",
        kind="ecg",
        cfg=UnitsConfig(),
        width=UnitsConfig().width,
        param_specs=param_specs,
        tokens=tokens,
        pooled=pooled,
        source="UniTS, arXiv 2403.00131; mims-harvard/UniTS (its weights cannot be read)",
    ),
)
