"""An encoder of inertial sensors: two convolutions over time and a transformer.

Axis letters: base/axes.py; B samples, C channels, T steps, W width. A convolution with stride keeps
every fourth, then every second step, as DeepConvLSTM (Ordóñez & Roggen, Sensors 2016) and wav2vec
2.0 (arXiv 2006.11477, section 2) shorten a signal; the transformer is that of arXiv 1706.03762 with
the norm first.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from qoq_jax.models import spec as spec_lib
from qoq_jax.models.encoders import masked
from qoq_jax.models.encoders.encoder import Batch, Encoder, Params
from qoq_jax.models.encoders.masked import Array
from qoq_jax.models.spec import ParamSpec

_EPS = 1e-5
_STRIDES = {"1": 4, "2": 2}


@dataclasses.dataclass(frozen=True)
class MotionConfig:
    """Sizes. channels: C; HuGaDB's six sensors have 36. kernel: steps of a convolution, odd."""

    channels: int = 36
    width: int = 128
    depth: int = 2
    num_heads: int = 4
    kernel: int = 7


def param_specs(cfg: MotionConfig) -> Params:
    """Two convolutions, each with a norm, transformer blocks and a last norm."""

    def convolution(inputs: int) -> Params:
        shape = (cfg.kernel, inputs, cfg.width)
        std = spec_lib.fan_in(cfg.kernel * inputs)
        return {
            "kernel": ParamSpec(shape, (None, None, "embed"), std),
            "bias": ParamSpec((cfg.width,), (None,), "zeros"),
            "norm": masked.norm_specs(cfg.width),
        }

    return {
        "convolutions": {"1": convolution(cfg.channels), "2": convolution(cfg.width)},
        "blocks": masked.block_specs(cfg.width, cfg.num_heads, 4 * cfg.width, cfg.depth),
        "norm": masked.norm_specs(cfg.width),
    }


def tokens(params: Params, cfg: MotionConfig, batch: Batch) -> tuple[Array, Array]:
    """(tokens [B,S,W], mask); token i is about the steps near 8 i, and S is T / 8, rounded up."""
    valid = batch["step_valid"]
    x = batch["signal"].astype(params["norm"]["scale"].dtype)
    for name, stride in _STRIDES.items():
        x = jnp.where(valid[..., None], x, 0)  # padding is as what lies beyond the end
        x = _convolve(params["convolutions"][name], x, stride)
        valid = valid[:, ::stride]
    x = x + jnp.asarray(masked.sincos(x.shape[1], cfg.width), x.dtype)[None]
    x = masked.transformer(params["blocks"], x, valid, _EPS)
    return masked.layer_norm(x, params["norm"], _EPS), valid


def pooled(params: Params, cfg: MotionConfig, batch: Batch) -> Array:
    """[B,W]: the mean of the tokens."""
    return masked.masked_mean(*tokens(params, cfg, batch))


def _convolve(p: Params, x: Array, stride: int) -> Array:
    """gelu(norm(x * kernel)), [B,T,i] -> [B,T/stride,o]; output i is centred on step i * stride."""
    half = p["kernel"].shape[0] // 2
    y = jax.lax.conv_general_dilated(
        x, p["kernel"], (stride,), ((half, half),), dimension_numbers=("NHC", "HIO", "NHC")
    )
    y = masked.layer_norm(y + masked.rows(p["bias"], y), p["norm"], _EPS)
    return jax.nn.gelu(y, approximate=False)


ENCODERS = (
    Encoder(
        name="motion",
        kind="motion",
        cfg=MotionConfig(),
        width=MotionConfig().width,
        param_specs=param_specs,
        tokens=tokens,
        pooled=pooled,
        source="convolutions over time (DeepConvLSTM, Sensors 16(1):115) and a transformer",
    ),
)
