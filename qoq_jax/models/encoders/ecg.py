"""ECG-JEPA (Kim, arXiv 2410.08559): the encoder of 8-lead ECGs and its self-supervised pretraining
loss.

    B ECGs   N leads   T time steps (patches of a lead)   S time steps as keys   M leads as keys
    W width   H heads   h head dim   F mlp hidden   L layers

An ECG of 8 leads x 2500 samples (10 s at 250 Hz, in millivolts) becomes 8 x 50 tokens, one a lead
and 0.2 s. Two habits of this model are unusual: the fixed 2D sin-cos positions are added at the
input of EVERY block, and a token attends only to tokens of its own lead or of its own time step.

Computation runs in the dtype of the parameters; LayerNorm, logits and softmax in float32.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from qoq_jax.base import files
from qoq_jax.base.errors import CheckpointError
from qoq_jax.models import spec as spec_lib
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


# ------------------------------------------------------------------------------------------------------------
# Parameters


def param_specs(cfg: EcgConfig) -> dict[str, Any]:
    """The encoder: all that the vision-language model needs."""
    key, width = VLM_PREFIX + "encoder.", cfg.width
    return {
        "patch": _linear_specs(cfg.patch_size, width, key + "W_P", PATCH_STD),
        "blocks": _block_specs(
            cfg.depth, width, cfg.num_heads, cfg.mlp_ratio, key + "encoder_blocks"
        ),
        "norm": _norm_specs(width, key + "norm"),
    }


def predictor_param_specs(cfg: EcgConfig) -> dict[str, Any]:
    """The predictor, used by `jepa_loss` only; it reads and writes encoder tokens."""
    width = cfg.predictor_width
    return {
        "embed": _linear_specs(cfg.width, width, "predictor.predictor_embed", _std(cfg.width)),
        "mask_token": ParamSpec((width,), (None,), INIT_STD, "predictor.mask_token", "tensor"),
        "blocks": _block_specs(
            cfg.predictor_depth,
            width,
            cfg.predictor_heads,
            cfg.mlp_ratio,
            "predictor.predictor_blocks",
        ),
        "norm": _norm_specs(width, "predictor.predictor_norm"),
        "out": _linear_specs(width, cfg.width, "predictor.predictor_proj", _std(width)),
    }


def _std(width: int) -> float:
    return INIT_STD * (INIT_WIDTH / width) ** 0.5


def _linear_specs(inputs: int, outputs: int, key: str, std: float) -> dict[str, ParamSpec]:
    return {
        "kernel": ParamSpec((inputs, outputs), (None, "embed"), std, f"{key}.weight", "linear"),
        "bias": ParamSpec((outputs,), (None,), "zeros", f"{key}.bias", "tensor"),
    }


def _norm_specs(width: int, key: str) -> dict[str, ParamSpec]:
    return {
        "scale": ParamSpec((width,), (None,), "ones", f"{key}.weight", "tensor"),
        "bias": ParamSpec((width,), (None,), "zeros", f"{key}.bias", "tensor"),
    }


def _block_specs(depth: int, width: int, heads: int, mlp_ratio: int, key: str) -> dict[str, Any]:
    """Pre-norm transformer blocks, stacked on a leading layer axis; q, k and v have no bias."""
    key += ".blocks.{}."
    head_dim, hidden = width // heads, mlp_ratio * width
    std, residual = _std(width), _std(width) * spec_lib.residual_scale(depth)

    def stacked(shape, axes, init, name, layout):
        return ParamSpec((depth, *shape), ("layers", *axes), init, key + name, layout)

    def vector(size, axis, init, name):
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


# ------------------------------------------------------------------------------------------------------------
# Encoder


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
      ecg: [B, N, T * patch_size], the leads in the order of `leads`.
      leads: which of (I, II, V1..V6) the N rows are, as indices; None = all of them.
      remat: recompute the blocks in the backward pass; 400 tokens x 12 blocks are much to keep.

    Returns:
      [B, N * T, W]; token n * T + t is lead n at time step t.
    """
    x = _encode(params, cfg, ecg, leads, remat=remat)
    return x.reshape(x.shape[0], -1, cfg.width)


def represent(
    params: Params, cfg: EcgConfig, ecg: Array, leads: Sequence[int] | None = None
) -> Array:
    """One vector an ECG, [B, W]: the mean of `tokens`."""
    return _encode(params, cfg, ecg, leads).mean(axis=(1, 2))


def _encode(
    params: Params,
    cfg: EcgConfig,
    ecg: Array,
    leads: Sequence[int] | None = None,
    visible: Array | None = None,
    remat: bool = True,
    order: Array | None = None,
) -> Array:
    """[B, N, samples] -> [B, N, T, W]; with `visible` [T], tokens of other time steps are seen by
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
    x = _linear(patches.astype(params["patch"]["kernel"].dtype), params["patch"])
    positions = sincos_positions(cfg.leads, cfg.patches, cfg.width)[np.asarray(leads)]
    if order is not None:
        x, positions = x[:, :, order], jnp.asarray(positions)[:, order]
    x = _transformer(params["blocks"], x, positions, visible, cfg.norm_eps, remat)
    return _layer_norm(x, params["norm"], cfg.norm_eps)


@functools.lru_cache(maxsize=8)
def sincos_positions(leads: int, steps: int, width: int) -> np.ndarray:
    """Fixed positions [N, T, W]: the first half of the width encodes time, the second half the
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


def _transformer(
    blocks: Params,
    x: Array,
    positions: np.ndarray | Array,
    visible: Array | None,
    eps: float,
    remat: bool = True,
) -> Array:
    """Stacked blocks over [B, N, T, W]."""
    positions = jnp.asarray(positions, x.dtype)[None]

    def block(x, p):
        x = x + positions
        x = x + _attention(p, _layer_norm(x, p["norm1"], eps), visible)
        y = _layer_norm(x, p["norm2"], eps) @ p["up"] + _rows(p["up_bias"], x)
        x = x + jax.nn.gelu(y, approximate=False) @ p["down"] + _rows(p["down_bias"], x)
        return x, None

    return jax.lax.scan(jax.checkpoint(block) if remat else block, x, blocks)[0]


def _attention(p: Params, x: Array, visible: Array | None) -> Array:
    """Attention of each token to its own lead and its own time step, [B, N, T, W] -> [B, N, T, W].

    One softmax over two sets of logits, T of the same lead and N of the same time step, gives what
    a softmax over all N * T tokens under the cross-shaped mask gives, at (T + N) / (N * T), about a
    seventh, of the cost. The token itself is in both sets and counts in the first only.
    """
    leads, steps = x.shape[1:3]
    q, k, v = jnp.moveaxis(jnp.einsum("bntw,wchd->bntchd", x, p["qkv"]), 3, 0)
    same_lead = jnp.einsum("bnthd,bnshd->bnhts", q, k, preferred_element_type=jnp.float32)
    same_time = jnp.einsum("bnthd,bmthd->bnhtm", q, k, preferred_element_type=jnp.float32)
    allowed = ~jnp.eye(leads, dtype=bool)[None, :, None, None]  # [1, N, 1, 1, M]
    if visible is not None:
        same_lead = jnp.where(visible[None, None, None, None], same_lead, -jnp.inf)
        allowed = allowed & visible[None, None, None, :, None]
    same_time = jnp.where(allowed, same_time, -jnp.inf)
    logits = jnp.concatenate([same_lead, same_time], axis=-1) * (q.shape[-1] ** -0.5)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    mixed = jnp.einsum("bnhts,bnshd->bnthd", weights[..., :steps], v)
    mixed += jnp.einsum("bnhtm,bmthd->bnthd", weights[..., steps:], v)
    return jnp.einsum("bnthd,hdw->bntw", mixed, p["out"]) + _rows(p["out_bias"], x)


def _layer_norm(x: Array, p: Params | None, eps: float) -> Array:
    """LayerNorm over the last axis in float32; `p` None: without scale and bias."""
    y = x.astype(jnp.float32)
    y = y - y.mean(axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.square(y).mean(axis=-1, keepdims=True) + eps)
    if p is not None:
        y = y * _rows(p["scale"], x) + _rows(p["bias"], x)
    return y.astype(x.dtype)


def _linear(x: Array, p: Params) -> Array:
    return x @ p["kernel"] + _rows(p["bias"], x)


def _rows(vector: Array, x: Array) -> Array:
    """A vector with leading axes of size one, so that it meets x at equal rank."""
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


# ------------------------------------------------------------------------------------------------------------
# Self-supervised pretraining


def jepa_loss(
    params: Params, target_params: Params, cfg: EcgConfig, ecg: Array, mask: Array,
    most_visible: int | None = None, remat: bool = True,
) -> tuple[Array, Array]:  # fmt: skip
    """Predicts the target encoder's view of hidden time steps from the visible ones (section 3 of
    the paper).

    target = LayerNorm without affine of the target encoder on the whole ECG (a constant: no
    gradient); prediction = predictor(encoder on the visible steps), each lead by itself; smooth-L1
    between them on hidden steps. Shapes do not depend on the mask: hidden tokens are seen by none,
    and left out as far as `most_visible` tells.

    Args:
      params: {"encoder": param_specs, "predictor": predictor_param_specs}.
      target_params: as param_specs; a moving average of params["encoder"] (momentum 0.996 rising to
        1).
      cfg: sizes.
      ecg: [B, N, T * patch_size], all leads.
      mask: bool [T], True = hidden; one mask for all leads and ECGs.
      most_visible: upper limit of visible steps in any mask; the context encoder then runs on so
        many instead of all. A mask with more visible steps would lose some of them.
      remat: as in `tokens`.

    Returns:
      (sum over hidden tokens and channels, their number), float32; the loss is the quotient.
    """
    target = _layer_norm(_encode(target_params, cfg, ecg).astype(jnp.float32), None, 1e-5)
    target = jax.lax.stop_gradient(target)
    # The visible steps, in order, and as many hidden ones as the fixed shape has room for.
    order = jnp.argsort(mask, stable=True)[: most_visible or cfg.patches]
    seen = _encode(params["encoder"], cfg, ecg, visible=~mask[order], remat=remat, order=order)
    context = (
        jnp.zeros(ecg.shape[:2] + (cfg.patches, cfg.width), seen.dtype).at[:, :, order].set(seen)
    )
    prediction = _predict(params["predictor"], cfg, context, mask, remat)
    error = jnp.abs(prediction.astype(jnp.float32) - target)
    loss = jnp.where(error < 1, 0.5 * jnp.square(error), error - 0.5)
    hidden = mask.astype(jnp.float32)
    return (loss * hidden[None, None, :, None]).sum(), hidden.sum() * (loss.size // cfg.patches)


def _predict(params: Params, cfg: EcgConfig, context: Array, mask: Array, remat: bool) -> Array:
    """[B, N, T, W] -> [B, N, T, W]: hidden steps hold the mask token; each lead is a sequence of
    its own.
    """
    x = _linear(context, params["embed"])
    batch, leads, steps, width = x.shape
    x = jnp.where(mask[None, None, :, None], _rows(params["mask_token"], x), x)
    x = x.reshape(batch * leads, 1, steps, width)
    x = _transformer(
        params["blocks"], x, sincos_positions(1, steps, width), None, cfg.norm_eps, remat
    )
    x = _linear(_layer_norm(x, params["norm"], cfg.norm_eps), params["out"])
    return x.reshape(batch, leads, steps, cfg.width)


def random_mask(key: Array, cfg: EcgConfig, low: float = 0.6, high: float = 0.7) -> Array:
    """Hides a share of the time steps drawn from [low, high), chosen at random: bool [T]."""
    share_key, order_key = jax.random.split(key)
    count = jnp.floor(cfg.patches * jax.random.uniform(share_key, minval=low, maxval=high))
    return jax.random.permutation(order_key, cfg.patches) < count


def block_mask(
    key: Array, cfg: EcgConfig, low: float = 0.175, high: float = 0.225, blocks: int = 4
) -> Array:
    """Hides `blocks` runs of time steps, each a share in [low, high), which may overlap: bool [T]."""
    share_key, start_key = jax.random.split(key)
    length = jnp.floor(
        cfg.patches * jax.random.uniform(share_key, (blocks, 1), minval=low, maxval=high)
    )
    start = jnp.floor(jax.random.uniform(start_key, (blocks, 1)) * (cfg.patches - length))
    steps = jnp.arange(cfg.patches)[None]
    return ((steps >= start) & (steps < start + length)).any(axis=0)


# ------------------------------------------------------------------------------------------------------------
# Published weights


def load(path: str, num_heads: int, predictor_heads: int | None = None) -> tuple[Params, EcgConfig]:
    """Reads ECG-JEPA weights from a safetensors file with the original parameter names.

    Args:
      path: the file; names may carry the prefix they have inside a QoQ-Med checkpoint.
      num_heads: encoder heads, which the weights cannot tell.
      predictor_heads: likewise; None = what `save` wrote into the file, else `num_heads`.

    Returns:
      ({"encoder": ..., "predictor": ...} as float32 numpy arrays, cfg); without a predictor in the
      file, only "encoder", and cfg has the predictor sizes of the paper's ratio (half the width,
      half the depth).

    Raises:
      CheckpointError: a file that cannot be read, a missing tensor, one of an unexpected shape, or
        numbers of heads that `save` wrote differently.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            written = json.loads((file.metadata() or {}).get("heads", "{}"))
            tensors = {name.removeprefix(VLM_PREFIX): file.get_tensor(name) for name in file.keys()}
    except (OSError, ValueError, SafetensorError) as error:
        hint = "give a safetensors file"
        raise CheckpointError(f"not readable: {error}", where=str(path), hint=hint) from error
    predictor_heads = predictor_heads or written.get("predictor", num_heads)
    if written.get("encoder", num_heads) != num_heads:
        raise CheckpointError(
            f"was trained with {written['encoder']} heads, not {num_heads}",
            where=str(path),
            hint=f"give num_heads={written['encoder']}",
        )
    cfg = _config_of(tensors, path, num_heads, predictor_heads)
    params = {"encoder": _import(param_specs(cfg), tensors, path)}
    if "predictor.mask_token" in tensors:
        params["predictor"] = _import(predictor_param_specs(cfg), tensors, path)
    return params, cfg


def save(path: str, params: Params, cfg: EcgConfig) -> None:
    """Writes a safetensors file with the original parameter names, as `load` and the original code
    know them.

    The file also holds what the original one does: the fixed positions, and in its header the
    numbers of heads.

    Args:
      path: the file; written whole or not at all.
      params: {"encoder": ...} and optionally "predictor", arrays of any kind.
      cfg: sizes.
    """
    from qoq_jax.hf.save import to_tensors  # that package imports this module

    tensors = dict(to_tensors(param_specs(cfg), params["encoder"]))
    tensors = {name.removeprefix(VLM_PREFIX): x for name, x in tensors.items()}
    positions = sincos_positions(cfg.leads, cfg.patches, cfg.width)
    tensors["encoder.pos_embed"] = positions.reshape(-1, cfg.width)
    if "predictor" in params:
        tensors |= dict(to_tensors(predictor_param_specs(cfg), params["predictor"]))
        tensors["predictor.mask_token"] = tensors["predictor.mask_token"].reshape(1, 1, -1)
        tensors["predictor.pos_embed"] = sincos_positions(1, cfg.patches, cfg.predictor_width)[0]
    tensors = {name: np.ascontiguousarray(x, np.float32) for name, x in tensors.items()}
    # One entry: the package writes several in an order of its own, and equal weights should give
    # equal files.
    heads = {"heads": json.dumps({"encoder": cfg.num_heads, "predictor": cfg.predictor_heads})}
    with files.replacing(path) as partial:
        save_file(tensors, partial, metadata=heads)


def _config_of(
    tensors: dict[str, np.ndarray], path: str, heads: int, predictor_heads: int
) -> EcgConfig:
    """Sizes from the shapes of the weights."""

    def depth(prefix: str) -> int:
        numbers = [re.match(re.escape(prefix) + r"\.blocks\.(\d+)\.", name) for name in tensors]
        return 1 + max((int(found[1]) for found in numbers if found), default=-1)

    if "encoder.W_P.weight" not in tensors:
        where = f"{path}: encoder.W_P.weight"
        raise CheckpointError("no ECG-JEPA encoder", where=where, hint="give an ECG-JEPA file")
    width, patch_size = tensors["encoder.W_P.weight"].shape
    encoder_depth = depth("encoder.encoder_blocks")
    if not encoder_depth:
        raise CheckpointError(
            "the blocks of the encoder are missing",
            where=path,
            hint="give a complete ECG-JEPA file",
        )
    predictor = tensors.get("predictor.mask_token")
    return EcgConfig(
        width=width, depth=encoder_depth, num_heads=heads, patch_size=patch_size,
        predictor_width=width // 2 if predictor is None else predictor.shape[-1],
        predictor_depth=encoder_depth // 2 if predictor is None else depth("predictor.predictor_blocks"),
        predictor_heads=predictor_heads,
    )  # fmt: skip


def _import(specs: dict[str, Any], tensors: dict[str, np.ndarray], path: str) -> Params:
    """Arranges tensors as `specs` lays them out."""

    def one(spec: ParamSpec) -> np.ndarray:
        key = spec.hf_key.removeprefix(VLM_PREFIX)
        shape = spec.shape[1:] if spec.stacked else spec.shape
        if not spec.stacked:
            return layer(key, shape, spec.hf_layout)
        return np.stack([layer(key.format(i), shape, spec.hf_layout) for i in range(spec.shape[0])])

    def layer(key: str, shape: tuple[int, ...], layout: str) -> np.ndarray:
        if key not in tensors:
            raise CheckpointError(
                "tensor is missing", where=f"{path}: {key}", hint="give a complete file"
            )
        tensor = np.asarray(tensors[key], np.float32)
        if tensor.size != np.prod(shape):
            raise CheckpointError(
                f"shape {tensor.shape} does not fit {shape}", where=f"{path}: {key}"
            )
        if layout == "tensor":
            return tensor.reshape(shape)
        return np.ascontiguousarray(tensor.T).reshape(shape)  # torch linear kernels are [out, in]

    return jax.tree.map(one, specs)
