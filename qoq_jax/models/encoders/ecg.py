"""The encoder of ECG-JEPA (Kim, arXiv 2410.08559), for 8-lead ECGs.

Axis letters: base/axes.py; B ECGs, T time steps (patches of a lead), s also leads as keys.

An ECG of 8 leads x 2500 samples (10 s at 250 Hz, in millivolts) becomes 8 x 50 tokens, one per lead
and 0.2 s. Two habits of this model are unusual: the fixed 2D sin-cos positions are added at the
input of EVERY block, and a token attends only to tokens of its own lead or of its own time step.

Computation runs in the dtype of the parameters; LayerNorm, logits and softmax in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qoq_jax.models import sizes
from qoq_jax.models import spec as spec_lib
from qoq_jax.models.attention import KeySet, TokenIds, attention
from qoq_jax.models.encoders.encoder import Batch, Encoder
from qoq_jax.models.sizes import EcgConfig
from qoq_jax.models.spec import ParamSpec

# Random weights: the paper's 0.02 at its width of 768, wider spread for narrower encoders.
INIT_STD, INIT_WIDTH = 0.02, 768
# Raw signals are about 0.3 mV. With 0.02 a patch of 50 samples would come out at 0.04 and drown in
# the positions (about 0.7), which are added again in every block; this makes it about as large as
# they are.
PATCH_STD = 0.3
# Where the encoder sits in a published QoQ-Med checkpoint; a file of ECG-JEPA itself has no such
# prefix.
VLM_PREFIX = "time_series_embedding."

Array = jax.Array
Params = dict[str, Any]


def param_specs(cfg: EcgConfig) -> dict[str, Any]:
    """The encoder: all that the vision-language model needs."""
    key, width = VLM_PREFIX + "encoder.", cfg.width
    return {
        "patch": linear_specs(cfg.patch_size, width, key + "W_P", PATCH_STD),
        "blocks": block_specs(
            cfg.depth, width, cfg.num_heads, cfg.mlp_ratio, key + "encoder_blocks"
        ),
        "norm": norm_specs(width, key + "norm"),
    }


def init_std(width: int) -> float:
    """Standard deviation of random kernels of a transformer of this width."""
    return INIT_STD * (INIT_WIDTH / width) ** 0.5


def linear_specs(inputs: int, outputs: int, key: str, std: float) -> dict[str, ParamSpec]:
    """Kernel and bias; `key` names them in a file of ECG-JEPA."""
    return {
        "kernel": ParamSpec((inputs, outputs), (None, "embed"), std, f"{key}.weight", "linear"),
        "bias": ParamSpec((outputs,), (None,), "zeros", f"{key}.bias", "tensor"),
    }


def norm_specs(width: int, key: str) -> dict[str, ParamSpec]:
    """Scale and bias of a LayerNorm."""
    return {
        "scale": ParamSpec((width,), (None,), "ones", f"{key}.weight", "tensor"),
        "bias": ParamSpec((width,), (None,), "zeros", f"{key}.bias", "tensor"),
    }


def block_specs(depth: int, width: int, heads: int, mlp_ratio: int, key: str) -> dict[str, Any]:
    """Pre-norm transformer blocks, stacked on a leading layer axis; q, k and v have no bias."""
    key += ".blocks.{}."
    head_dim, hidden = width // heads, mlp_ratio * width
    std, residual = init_std(width), init_std(width) * spec_lib.residual_scale(depth)

    def stacked(
        shape: Sequence[int],
        axes: Sequence[str | None],
        init: str | float,
        name: str,
        layout: str,
    ) -> ParamSpec:
        return ParamSpec((depth, *shape), ("layers", *axes), init, key + name, layout)

    def vector(size: int, axis: str | None, init: str, name: str) -> ParamSpec:
        return stacked((size,), (axis,), init, name, "tensor")

    return {
        "norm1": {
            "scale": vector(width, None, "ones", "norm1.weight"),
            "bias": vector(width, None, "zeros", "norm1.bias"),
        },
        "qkv": stacked(
            (width, 3, heads, head_dim),
            ("embed", None, "heads", None),
            std,
            "attn.qkv.weight",
            "linear",
        ),
        "out": stacked(
            (heads, head_dim, width),
            ("heads", None, "embed"),
            residual,
            "attn.proj.weight",
            "linear_out",
        ),
        "out_bias": vector(width, None, "zeros", "attn.proj.bias"),
        "norm2": {
            "scale": vector(width, None, "ones", "norm2.weight"),
            "bias": vector(width, None, "zeros", "norm2.bias"),
        },
        "up": stacked((width, hidden), ("embed", "mlp"), std, "mlp.fc1.weight", "linear"),
        "up_bias": vector(hidden, "mlp", "zeros", "mlp.fc1.bias"),
        "down": stacked((hidden, width), ("mlp", "embed"), residual, "mlp.fc2.weight", "linear"),
        "down_bias": vector(width, None, "zeros", "mlp.fc2.bias"),
    }


# ---------------------------------------------------------------------------------------- encoder


def tokens(
    params: Params,
    cfg: EcgConfig,
    ecg: Array,
    leads: Sequence[int] | None = None,
    remat: bool = True,
) -> Array:
    """Encodes ECGs after the final LayerNorm.

    Args:
      params: as `param_specs` describes, or the whole of what `load` returns.
      cfg: sizes.
      ecg: [B, C, T * patch_size], the leads in the order of `leads`.
      leads: which of (I, II, V1..V6) the C rows are, as indices; None = all of them.
      remat: recompute the blocks in the backward pass; 400 tokens x 12 blocks are much to keep.

    Returns:
      [B, C * T, W]; token c * T + t is lead c at time step t.
    """
    x = encode(params, cfg, ecg, leads, remat=remat)
    return x.reshape(x.shape[0], -1, cfg.width)


def represent(
    params: Params, cfg: EcgConfig, ecg: Array, leads: Sequence[int] | None = None
) -> Array:
    """One vector an ECG, [B, W]: the mean of `tokens`."""
    return encode(params, cfg, ecg, leads).mean(axis=(1, 2))


def whitening_projection(
    mean: np.ndarray, covariance: np.ndarray, width: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """A first linear layer behind `represent` whose outputs have mean 0 and, together, variance 1.

    The pooled vectors of different ECGs are nearly equal: they share a mean that is much larger
    than what tells them apart, and with random weights the decoder hardly sees a difference. With
    mean μ and covariance Σ, the kernel is K = (Σ + λI)^-1/2 Q / √min(W, width) and the bias -μK,
    with Q of orthonormal rows [W, width] (columns, where width < W) and λ 1e-4 of the mean
    variance. Data-dependent initialisation: Krähenbühl et al., arXiv 1511.06856, section 3.

    Args:
      mean: [W]. covariance: [W, W].
      width: D, of the decoder.
      seed: of Q.

    Returns:
      {"kernel" [W, D], "bias" [D]}, float32.
    """
    size = len(mean)
    values, vectors = np.linalg.eigh(np.asarray(covariance, np.float64))
    values = np.maximum(values, 0) + 1e-4 * max(values.mean(), 1e-12)
    whiten = vectors / np.sqrt(values) @ vectors.T
    shape = max(size, width), min(size, width)
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=shape))[0]
    kernel = whiten @ (rotation.T if size < width else rotation) / np.sqrt(shape[1])
    return {
        "kernel": kernel.astype(np.float32),
        "bias": (-np.asarray(mean, np.float64) @ kernel).astype(np.float32),
    }


def encode(
    params: Params,
    cfg: EcgConfig,
    ecg: Array,
    leads: Sequence[int] | None = None,
    visible: Array | None = None,
    remat: bool = True,
    order: Array | None = None,
) -> Array:
    """[B, C, samples] -> [B, C, T, W]; with `visible` [T], tokens of other time steps are seen by
    none.

    With `order` [T'], only these time steps are encoded, in this order: T' takes the place of T, in
    `visible` too.
    """
    params = params.get("encoder", params)  # a whole tree as `load` returns it is fine too
    leads = range(cfg.leads) if leads is None else leads
    expected = (len(leads), cfg.patches * cfg.patch_size)
    if ecg.ndim != 3 or ecg.shape[1:] != expected:
        raise ValueError(f"ecg must have shape [B, {expected[0]}, {expected[1]}], got {ecg.shape}")
    patches = ecg.reshape(-1, len(leads), cfg.patches, cfg.patch_size)
    x = linear(patches.astype(params["patch"]["kernel"].dtype), params["patch"])
    positions = sincos_positions(cfg.leads, cfg.patches, cfg.width)[np.asarray(leads)]
    if order is not None:
        x, positions = x[:, :, order], jnp.asarray(positions)[:, order]
    x = transformer(params["blocks"], x, positions, visible, cfg.norm_eps, remat)
    return layer_norm(x, params["norm"], cfg.norm_eps)


@functools.lru_cache(maxsize=8)
def sincos_positions(leads: int, steps: int, width: int) -> np.ndarray:
    """Fixed positions [C, T, W]: the first half of the width encodes time, the second half the
    lead.

    Each half is [sin(p ω), cos(p ω)] with ωᵢ = 10000^(-i / (W/4)), i = 0 .. W/4 - 1 (MAE, arXiv
    2111.06377).
    """
    frequencies = 10000.0 ** (-np.arange(width // 4) / (width / 4))

    def encode(count: int) -> np.ndarray:
        angles = np.arange(count)[:, None] * frequencies
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    time = np.broadcast_to(encode(steps), (leads, steps, width // 2))
    lead = np.broadcast_to(encode(leads)[:, None], (leads, steps, width // 2))
    return np.concatenate([time, lead], axis=2).astype(np.float32)


def transformer(
    blocks: Params,
    x: Array,
    positions: np.ndarray | Array,
    visible: Array | None,
    eps: float,
    remat: bool = True,
) -> Array:
    """Stacked blocks over [B, C, T, W]."""
    positions = jnp.asarray(positions, x.dtype)[None]

    def block(x: Array, p: Params) -> tuple[Array, None]:
        x = x + positions
        x = x + attend(p, layer_norm(x, p["norm1"], eps), visible)
        with jax.named_scope("mlp"):
            y = layer_norm(x, p["norm2"], eps) @ p["up"] + rows(p["up_bias"], x)
            x = x + jax.nn.gelu(y, approximate=False) @ p["down"] + rows(p["down_bias"], x)
        return x, None

    return jax.lax.scan(jax.checkpoint(block) if remat else block, x, blocks)[0]


def attend(p: Params, x: Array, visible: Array | None) -> Array:
    """Attention of each token to its own lead and its own time step, [B, C, T, W] -> [B, C, T, W].

    One softmax over two sets of logits, T of the same lead and C of the same time step, gives what
    a softmax over all C * T tokens under the cross-shaped mask gives, at (T + C) / (C * T), about a
    seventh, of the cost. The token itself is in both sets and counts in the first only.
    """
    lead = jnp.arange(x.shape[1])[None, :, None]
    # [B,C,T,W] x [W,X,K,h] -> X of [B,C,T,K,h]
    q, k, v = jnp.moveaxis(jnp.einsum("bctw,wxkh->bctxkh", x, p["qkv"]), 3, 0)
    seen = None if visible is None else visible[None, None]
    same_lead = KeySet(k, v, valid=seen, k_axes="bcskh", v_axes="bcskh")
    same_time = KeySet(
        k,
        v,
        TokenIds(index=lead),
        valid=seen,
        k_axes="bstkh",
        v_axes="bstkh",
        exclude_self=True,
    )
    mixed = attention(q, [same_lead, same_time], TokenIds(index=lead), axes="bctkh")
    # [B,C,T,K,h] x [K,h,W] -> [B,C,T,W]
    return jnp.einsum("bctkh,khw->bctw", mixed, p["out"]) + rows(p["out_bias"], x)


def layer_norm(x: Array, p: Params | None, eps: float) -> Array:
    """LayerNorm over the last axis in float32; `p` None: without scale and bias."""
    y = x.astype(jnp.float32)
    y = y - y.mean(axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.square(y).mean(axis=-1, keepdims=True) + eps)
    if p is not None:
        y = y * rows(p["scale"], x) + rows(p["bias"], x)
    return y.astype(x.dtype)


def linear(x: Array, p: Params) -> Array:
    """x [...,i] @ kernel [i,o] + bias [o]."""
    return x @ p["kernel"] + rows(p["bias"], x)


def rows(vector: Array, x: Array) -> Array:
    """A vector with leading axes of size one, so that it meets x at equal rank."""
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


# ------------------------------------------------------------------------------- for the registry


def _tokens(params: Params, cfg: EcgConfig, batch: Batch) -> tuple[Array, Array]:
    x = tokens(params, cfg, batch["signal"])
    return x, jnp.ones(x.shape[:2], bool)


def _pooled(params: Params, cfg: EcgConfig, batch: Batch) -> Array:
    return represent(params, cfg, batch["signal"])


def _row(name: str, cfg: EcgConfig, published: bool) -> Encoder:
    return Encoder(
        name=name,
        kind="ecg",
        cfg=cfg,
        width=cfg.width,
        param_specs=param_specs,
        tokens=_tokens,
        pooled=_pooled,
        layouts=("ecg_jepa",) if published else (),
        source="ECG-JEPA, arXiv 2410.08559; sehunfromdaegu/ECG_JEPA",
    )


ENCODERS = (
    _row("ecg_jepa_base", sizes.BASE_ECG, published=True),
    # the size of the file that comes with the package: climb/mini/ecg_encoder.safetensors
    _row("ecg_jepa_nano", sizes.NANO_ECG, published=False),
)
