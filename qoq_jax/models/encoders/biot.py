"""BIOT (Yang et al., arXiv 2305.10351), an encoder of EEG, with its published weights.

Axis letters: base/axes.py; B EEGs, C channels, T tokens of a channel, t samples of a token, f
frequencies.

A token is one channel in one second; tokens overlap by half. It is the magnitude of the Fourier
transform of that second, through a linear layer, plus a learned vector of the channel and a fixed
one of the time. Tokens of all channels are one sequence for a transformer with linear attention
(Shen et al., arXiv 1812.01243). Each channel is divided by the 95th percentile of its magnitudes,
as the published loaders do.

The attention is no masked softmax over pairs and so does not go through models/attention.py.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from qoq_jax.models import spec as spec_lib
from qoq_jax.models.encoders import masked
from qoq_jax.models.encoders.encoder import Batch, Encoder, Params
from qoq_jax.models.encoders.masked import Array
from qoq_jax.models.spec import ParamSpec

_EPS = 1e-5  # of LayerNorm, torch's default
# of 16 channels, in the order of climb/arrays/montage.py's BIPOLAR
# fmt: off
CHANNELS = (
    "FP1-F7", "F7-T3", "T3-T5", "T5-O1",
    "FP2-F8", "F8-T4", "T4-T6", "T6-O2",
    "FP1-F3", "F3-C3", "C3-P3", "P3-O1",
    "FP2-F4", "F4-C4", "C4-P4", "P4-O2",
)
# fmt: on
_LAYER = "transformer.layers.layers.{}."


@dataclasses.dataclass(frozen=True)
class BiotConfig:
    """Sizes; the defaults are the published ones.

    Attributes:
      channels: rows of the table of channels. The published encoders have 16, those of
        climb/arrays/montage.py's BIPOLAR in their order, or 18, with C3-A2 and C4-A1 behind them.
        A batch has at most so many.
      window, hop: samples of a token, and from one to the next, at 200 Hz.
    """

    channels: int = 16
    width: int = 256
    depth: int = 4
    num_heads: int = 8
    window: int = 200
    hop: int = 100

    @property
    def electrodes(self) -> tuple[str, ...]:
        """What the channels of a batch are."""
        return CHANNELS


def param_specs(cfg: BiotConfig) -> Params:
    """The encoder, under the names of the published state dicts."""
    residual = spec_lib.residual_scale(cfg.depth)
    head, std = cfg.width // cfg.num_heads, spec_lib.fan_in(cfg.width)
    layer = {
        "norm1": masked.norm_specs(cfg.width, _LAYER + "0.norm"),
        **{
            name: ParamSpec(
                (cfg.width, cfg.num_heads, head),
                ("embed", "heads", None),
                std,
                f"{_LAYER}0.fn.to_{name}.weight",
                "linear",
            )
            for name in "qkv"
        },
        "out": {
            "kernel": ParamSpec(
                (cfg.num_heads, head, cfg.width),
                ("heads", None, "embed"),
                std * residual,
                _LAYER + "0.fn.to_out.weight",
                "linear_out",
            ),
            "bias": ParamSpec(
                (cfg.width,), (None,), "zeros", _LAYER + "0.fn.to_out.bias", "tensor"
            ),
        },
        "norm2": masked.norm_specs(cfg.width, _LAYER + "1.norm"),
        "up": masked.dense_specs(cfg.width, 4 * cfg.width, _LAYER + "1.fn.fn.w1"),
        "down": masked.dense_specs(
            4 * cfg.width, cfg.width, _LAYER + "1.fn.fn.w2", std / 2 * residual
        ),
    }
    # Magnitudes of a second are about 10, so this makes tokens about as large as the positions.
    patch = spec_lib.fan_in(cfg.window // 2 + 1, 0.1)
    return {
        "patch": masked.dense_specs(
            cfg.window // 2 + 1, cfg.width, "patch_embedding.projection", patch
        ),
        "channel": ParamSpec(
            (cfg.channels, cfg.width), (None, "embed"), 0.5, "channel_tokens.weight", "tensor"
        ),
        "layers": masked.stacked(layer, cfg.depth),
    }


def tokens(params: Params, cfg: BiotConfig, batch: Batch) -> tuple[Array, Array]:
    """(tokens [B, C * T, W] after the last layer, which has no norm behind it; mask); token c * T +
    i is channel c from sample i * hop on.

    A sample that is shorter than a window has none.
    """
    signal, valid = batch["signal"], batch["channel_valid"]
    dtype = params["patch"]["kernel"].dtype
    spectrum = magnitudes(normalised(signal), cfg.window, cfg.hop)
    B, C, T, _ = spectrum.shape
    x = masked.linear(spectrum.astype(dtype), params["patch"])
    positions = jnp.asarray(masked.sincos(T, cfg.width), dtype)
    x = x + params["channel"][:C].reshape(1, C, 1, cfg.width) + masked.rows(positions, x)
    seen = jnp.repeat(valid, T, axis=1)
    x = x.reshape(B, C * T, cfg.width)

    def layer(x: Array, p: Params) -> tuple[Array, None]:
        x = x + linear_attention(p, masked.layer_norm(x, p["norm1"], _EPS), seen)
        return x + masked.mlp(p, masked.layer_norm(x, p["norm2"], _EPS)), None

    return jax.lax.scan(jax.checkpoint(layer), x, params["layers"])[0], seen


def pooled(params: Params, cfg: BiotConfig, batch: Batch) -> Array:
    """[B,W]: the mean of the tokens."""
    return masked.masked_mean(*tokens(params, cfg, batch))


def normalised(signal: Array) -> Array:
    """Each channel over the 95th percentile of its magnitudes; [B,C,samples]."""
    return signal / (jnp.quantile(jnp.abs(signal), 0.95, axis=2, keepdims=True) + 1e-8)


def magnitudes(signal: Array, window: int, hop: int) -> Array:
    """|Fourier transform| of overlapping rectangular windows, [B,C,samples] -> [B,C,T,f]."""
    starts = np.arange(0, signal.shape[2] - window + 1, hop)
    frames = signal[:, :, starts[:, None] + np.arange(window)]
    angles = 2 * np.pi * np.outer(np.arange(window), np.arange(window // 2 + 1)) / window

    # Products with the cosines and sines: batched transforms are not cut over devices.
    def part(waves: np.ndarray) -> Array:
        waves = jnp.asarray(waves, signal.dtype)
        return jnp.einsum("bcit,tf->bcif", frames, waves, precision=jax.lax.Precision.HIGHEST)

    power = jnp.square(part(np.cos(angles))) + jnp.square(part(np.sin(angles)))
    return jnp.sqrt(jnp.maximum(power, 1e-12))  # the gradient of the root has no end at 0


def linear_attention(p: Params, x: Array, valid: Array) -> Array:
    """out = softmax_h(q) h^-1/2 (softmax_T(k)^T v), of [B,T,W]; tokens are keys where valid [B,T].

    arXiv 1812.01243, equation 6, with the scale of the package linear-attention-transformer.
    """
    # [B,T,W] x [W,K,h] -> [B,T,K,h], three times
    q, k, v = (jnp.einsum("btw,wkh->btkh", x, p[name]) for name in "qkv")
    seen = valid[:, :, None, None]
    q = jax.nn.softmax(q.astype(jnp.float32), axis=-1) * q.shape[-1] ** -0.5
    k = jax.nn.softmax(jnp.where(seen, k.astype(jnp.float32), -1e30), axis=1)
    v = jnp.where(seen, v, 0)
    # [B,S,K,h] x [B,S,K,g] -> [B,K,h,g], h and g both channels of a head
    context = jnp.einsum("bskh,bskg->bkhg", k.astype(x.dtype), v)
    mixed = jnp.einsum("btkh,bkhg->btkg", q.astype(x.dtype), context)
    # [B,T,K,g] x [K,g,W] -> [B,T,W]
    y = jnp.einsum("btkg,kgw->btw", mixed, p["out"]["kernel"])
    return y + masked.rows(p["out"]["bias"], x)


def _row(name: str, cfg: BiotConfig) -> Encoder:
    return Encoder(
        name=name,
        kind="eeg",
        cfg=cfg,
        width=cfg.width,
        param_specs=param_specs,
        tokens=tokens,
        pooled=pooled,
        layouts=("BIOT",),
        source="BIOT, arXiv 2305.10351; ycq091044/BIOT, pretrained-models/*.ckpt",
    )


ENCODERS = (
    _row("biot", BiotConfig()),
    _row("biot_18_channels", BiotConfig(channels=18)),
    _row("biot_small", BiotConfig(width=64, depth=2, num_heads=4)),
)
