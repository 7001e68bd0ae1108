"""LaBraM (Jiang et al., arXiv 2405.18765), an encoder of EEG, with its published weights.

Axis letters: base/axes.py; B EEGs, C channels, T patches (seconds) of a channel, t samples or steps
of a patch, W width.

A patch is one channel in one second, 200 samples. Three convolutions over its samples make it a
token, to which a vector of the electrode and one of the second are added; a class token stands
before them all. The blocks are those of a vision transformer, with LayerNorm on queries and keys.
Microvolts are divided by 100, as the published training does.

GroupNorm behind a convolution takes its statistics over all patches of an EEG, so they leave
padded channels out.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from qoq_jax.models.encoders import masked
from qoq_jax.models.encoders.encoder import Batch, Encoder, Params
from qoq_jax.models.encoders.masked import Array
from qoq_jax.models.spec import ParamSpec, fan_in

PATCH = 200  # samples: 1 s at 200 Hz
_GROUPS, _STRIDE, _STEPS = 4, 8, 25  # a patch of 200 samples has 25 steps
_MICROVOLTS = 100.0
_EPS, _GROUP_EPS = 1e-6, 1e-5
# Rows of the published table of positions (utils.py, standard_1020, behind the class token's) for
# the electrodes of the TUH corpora, in the order of climb/arrays/montage.py's ELECTRODES.
# fmt: off
ROWS = {
    "FP1": 1, "FP2": 3, "F3": 18, "F4": 22, "C3": 40, "C4": 44, "P3": 62, "P4": 66, "O1": 81,
    "O2": 83, "F7": 16, "F8": 24, "T3": 89, "T4": 91, "T5": 90, "T6": 92, "A1": 95, "A2": 96,
    "FZ": 20, "CZ": 42, "PZ": 64, "T1": 113, "T2": 114,
}
# fmt: on
_TABLE, _SECONDS = 129, 16  # rows of the published tables of positions and of seconds


@dataclasses.dataclass(frozen=True)
class LabramConfig:
    """Sizes; the defaults are those of the published base.

    Attributes:
      filters: channels of a convolution; steps of a patch times filters are the width.
      electrodes: what the channels of a batch are, of `ROWS`.
    """

    filters: int = 8
    depth: int = 12
    num_heads: int = 10
    electrodes: tuple[str, ...] = tuple(ROWS)

    @property
    def width(self) -> int:
        """W: what the convolutions make of a patch."""
        return _STEPS * self.filters


def param_specs(cfg: LabramConfig) -> Params:
    """The encoder, under the names of the published fine-tuned state dicts."""
    width, head = cfg.width, cfg.width // cfg.num_heads
    blocks = masked.block_specs(width, cfg.num_heads, 4 * width, cfg.depth, "blocks.{}")
    for name in ("q", "k"):
        norm = masked.norm_specs(head, f"blocks.{{}}.attn.{name}_norm")
        blocks |= masked.stacked({f"{name}_norm": norm}, cfg.depth)
    for name in ("1", "2"):
        scale = ParamSpec((width,), (None,), _tenth, f"blocks.{{}}.gamma_{name}", "tensor")
        blocks |= masked.stacked({f"gamma{name}": scale}, cfg.depth)
    sizes = {"1": (15, 1), "2": (3, cfg.filters), "3": (3, cfg.filters)}
    return {
        "convolutions": {
            name: {
                "kernel": ParamSpec(
                    (1, t, i, cfg.filters),
                    (None,) * 4,
                    fan_in(t * i),
                    f"patch_embed.conv{name}.weight",
                    "conv",
                ),
                "bias": _vector(cfg.filters, "zeros", f"patch_embed.conv{name}.bias"),
                "norm": masked.norm_specs(cfg.filters, f"patch_embed.norm{name}"),
            }
            for name, (t, i) in sizes.items()
        },
        "cls": _table((1, 1, width), "cls_token"),
        "positions": _table((1, _TABLE, width), "pos_embed"),
        "seconds": _table((1, _SECONDS, width), "time_embed"),
        "blocks": blocks,
        "norm": masked.norm_specs(width, "fc_norm"),
    }


def _tenth(shape: tuple[int, ...]) -> np.ndarray:
    """The first values of LayerScale in the published fine-tuning."""
    return np.full(shape, 0.1)


def _vector(size: int, init: str, key: str) -> ParamSpec:
    return ParamSpec((size,), (None,), init, key, "tensor")


def _table(shape: tuple[int, ...], key: str) -> ParamSpec:
    return ParamSpec(shape, (None, None, "embed"), 0.02, key, "tensor", decay=False)


def tokens(params: Params, cfg: LabramConfig, batch: Batch) -> tuple[Array, Array]:
    """(tokens [B, C * T, W] behind the last norm; mask); token c * T + i is channel c in second i.
    What is left at the end of a sample is not used.
    """
    x, seen = _encode(params, cfg, batch)
    return masked.layer_norm(x, params["norm"], _EPS), seen


def pooled(params: Params, cfg: LabramConfig, batch: Batch) -> Array:
    """[B,W]: the norm of the mean of the patches' tokens, without the class token."""
    mean = masked.masked_mean(*_encode(params, cfg, batch))
    return masked.layer_norm(mean, params["norm"], _EPS)


def _encode(params: Params, cfg: LabramConfig, batch: Batch) -> tuple[Array, Array]:
    """`tokens` before the last norm.

    Raises:
      ValueError: the batch has other channels than the config, or too few or many seconds.
    """
    signal, valid = batch["signal"], batch["channel_valid"]
    (B, C, _), T, W = signal.shape, signal.shape[2] // PATCH, cfg.width
    if len(cfg.electrodes) != C or not 1 <= T <= _SECONDS:
        what = f"{C} channels and {T} s, not {len(cfg.electrodes)} and 1 to {_SECONDS}"
        raise ValueError(f"the batch has {what}")
    patches = signal[:, :, : T * PATCH].reshape(B, C * T, PATCH) / _MICROVOLTS
    seen = jnp.repeat(valid, T, axis=1)
    x = _convolve(params["convolutions"], patches.astype(params["cls"].dtype), seen)
    at = np.array([ROWS[name] for name in cfg.electrodes])
    where = params["positions"][0, at].reshape(1, C, 1, W)
    when = params["seconds"][:, :T].reshape(1, 1, T, W)
    x = x + (where + when).reshape(1, C * T, W)
    first = params["cls"] + params["positions"][:, :1]
    x = jnp.concatenate([jnp.broadcast_to(first, (B, 1, W)), x], axis=1)
    keys = jnp.concatenate([jnp.ones((B, 1), bool), seen], axis=1)
    return masked.transformer(params["blocks"], x, keys, _EPS)[:, 1:], seen


def _convolve(p: Params, patches: Array, seen: Array) -> Array:
    """[B,P,t], bool [B,P] -> [B,P,W]: convolution, GroupNorm and GELU, three times."""
    x = patches[..., None]  # [B,P,t,i]
    for name, stride, padding in (("1", _STRIDE, 7), ("2", 1, 1), ("3", 1, 1)):
        # [B,P,t,i] * [1,t,i,o] -> [B,P,t/stride,o]
        x = jax.lax.conv_general_dilated(
            x,
            p[name]["kernel"],
            window_strides=(1, stride),
            padding=((0, 0), (padding, padding)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = group_norm(x + masked.rows(p[name]["bias"], x), p[name]["norm"], seen)
        x = jax.nn.gelu(x, approximate=False)
    return x.reshape(*x.shape[:2], -1)


def group_norm(x: Array, p: Params, seen: Array) -> Array:
    """GroupNorm in float32 of x [B,P,t,o], by the statistics of the patches that are seen [B,P]."""
    B, P, t, o = x.shape
    y = x.astype(jnp.float32).reshape(B, P, t, _GROUPS, o // _GROUPS)
    weight = seen.astype(jnp.float32).reshape(B, P, 1, 1, 1)
    count = jnp.maximum(weight.sum(axis=1, keepdims=True), 1) * t * (o // _GROUPS)

    def mean(values: Array) -> Array:
        return (values * weight).sum(axis=(1, 2, 4), keepdims=True) / count

    y = y - mean(y)
    y = (y * jax.lax.rsqrt(mean(jnp.square(y)) + _GROUP_EPS)).reshape(B, P, t, o)
    return (y * masked.rows(p["scale"], y) + masked.rows(p["bias"], y)).astype(x.dtype)


def _row(name: str, cfg: LabramConfig) -> Encoder:
    return Encoder(
        name=name,
        kind="eeg",
        cfg=cfg,
        width=cfg.width,
        param_specs=param_specs,
        tokens=tokens,
        pooled=pooled,
        layouts=("LaBraM",),
        source="LaBraM, arXiv 2405.18765; 935963004/LaBraM",
    )


ENCODERS = (
    _row("labram_base", LabramConfig()),
    _row("labram_small", LabramConfig(filters=4, depth=2, num_heads=5)),
)
