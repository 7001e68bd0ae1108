"""Files of ECG-JEPA: safetensors with the original parameter names, and .pth files -> safetensors.

`convert` is the only place that reads pickles.
A published file is {"encoder": state dict, "epoch": ...}; "predictor" is read too. torch (the extra
`parity`) reads it with weights_only=True, which builds tensors and nothing else.
"""

from __future__ import annotations

import json
import pickle
import re
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from qoq_jax.base import storage
from qoq_jax.base.errors import CheckpointError, ConfigError
from qoq_jax.base.files import replacing
from qoq_jax.hf import safetensors as files
from qoq_jax.hf.save import to_tensors
from qoq_jax.models.encoders import ecg, ecg_jepa
from qoq_jax.models.sizes import EcgConfig
from qoq_jax.models.spec import ParamSpec

PARTS = ("encoder", "predictor")


def convert(source: str, path: str) -> None:
    """Writes the safetensors file that `load` reads, float32.

    Raises:
      ConfigError: torch is not installed. CheckpointError: not a file of ECG-JEPA, or it is
        incomplete.
    """
    if storage.exists(path):
        raise CheckpointError("already exists", where=path, hint="name a new file")
    tensors = _read(source)
    plan = {
        name: (files.dtype_name(tensor.dtype), tensor.shape)
        for name, tensor in sorted(tensors.items())
    }
    try:
        with replacing(path) as partial:
            files.write(partial, plan, (tensors[name] for name in plan))
            # complete, and of one width; the number of heads changes no shape
            load(partial, num_heads=1)
    except CheckpointError as error:
        raise CheckpointError(
            error.what, where=source, hint="give a checkpoint of ECG-JEPA with sin-cos positions"
        ) from error


def _read(source: str) -> dict[str, np.ndarray]:
    """{"encoder.W_P.weight": float32 array, ...} of a .pth file."""
    try:
        import torch
    except ImportError as error:
        raise ConfigError(
            "torch is not installed", where=source, hint="pip install -e '.[parity]'"
        ) from error
    try:
        content = torch.load(storage.local(source), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own words recommend to load it all the same
        raise CheckpointError(
            "it is damaged, or holds more than tensors", where=source, hint="give a file of tensors"
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"not read ({reason})", where=source, hint="give a file of tensors"
        ) from error
    found = {}
    for part in PARTS:
        state = content.get(part) if isinstance(content, dict) else None
        for name, tensor in (state or {}).items():
            if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
                raise CheckpointError(
                    f"{part}.{name} is no weight",
                    where=source,
                    hint="give a checkpoint of ECG-JEPA",
                )
            found[f"{part}.{name}"] = tensor.detach().to(torch.float32).contiguous().numpy()
    return found


# ------------------------------------------------------------------------ safetensors of ECG-JEPA


def load(
    path: str, num_heads: int, predictor_heads: int | None = None
) -> tuple[dict[str, Any], EcgConfig]:
    """Reads ECG-JEPA weights from a safetensors file with the original parameter names.

    Args:
      path: the file; names may carry the prefix they have inside a QoQ-Med checkpoint.
      num_heads: encoder heads, which the weights cannot tell.
      predictor_heads: likewise; None = what `save` wrote into the file, else `num_heads`.

    Returns:
      ({"encoder": ..., "predictor": ..., "pooled": {"mean" [W], "covariance" [W, W]}} as float32
      numpy arrays, cfg). Predictor and the moments of the pooled representation are there when the
      file has them; without a predictor, cfg has the predictor sizes of the paper's ratio (half the
      width, half the depth).

    Raises:
      CheckpointError: a file that cannot be read, a missing tensor, one of an unexpected shape, or
        numbers of heads that `save` wrote differently.
    """
    try:
        with safe_open(storage.local(path), framework="numpy") as file:
            written = json.loads((file.metadata() or {}).get("heads", "{}"))
            names = file.keys()
            tensors = {name.removeprefix(ecg.VLM_PREFIX): file.get_tensor(name) for name in names}
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
    params = {"encoder": _import(ecg.param_specs(cfg), tensors, path)}
    if "predictor.mask_token" in tensors:
        params["predictor"] = _import(ecg_jepa.predictor_param_specs(cfg), tensors, path)
    moments = {name: tensors.get(f"pooled.{name}") for name in ("mean", "covariance")}
    if any(x is not None for x in moments.values()):
        shapes = [getattr(x, "shape", None) for x in moments.values()]
        if shapes != [(cfg.width,), (cfg.width, cfg.width)]:
            raise CheckpointError(
                f"shapes {shapes} do not fit a width of {cfg.width}",
                where=f"{path}: pooled.mean, pooled.covariance",
                hint="give a complete file",
            )
        params["pooled"] = moments
    return params, cfg


def save(path: str, params: dict[str, Any], cfg: EcgConfig) -> None:
    """Writes a safetensors file with the original parameter names, as `load` and the original code
    know them.

    The file also holds what the original one does: the fixed positions, and in its header the
    numbers of heads.

    Args:
      path: the file; written whole or not at all.
      params: {"encoder": ...} and optionally "predictor" and "pooled" (as from `load`), arrays of
        any kind.
      cfg: sizes.
    """
    tensors = dict(to_tensors(ecg.param_specs(cfg), params["encoder"]))
    tensors = {name.removeprefix(ecg.VLM_PREFIX): x for name, x in tensors.items()}
    positions = ecg.sincos_positions(cfg.leads, cfg.patches, cfg.width)
    tensors["encoder.pos_embed"] = positions.reshape(-1, cfg.width)
    if "predictor" in params:
        tensors |= dict(to_tensors(ecg_jepa.predictor_param_specs(cfg), params["predictor"]))
        tensors["predictor.mask_token"] = tensors["predictor.mask_token"].reshape(1, 1, -1)
        tensors["predictor.pos_embed"] = ecg.sincos_positions(1, cfg.patches, cfg.predictor_width)[
            0
        ]
    tensors |= {f"pooled.{name}": x for name, x in params.get("pooled", {}).items()}
    tensors = {name: np.ascontiguousarray(x, np.float32) for name, x in tensors.items()}
    # One entry: the package writes several in an order of its own, and equal weights should give
    # equal files.
    heads = {"heads": json.dumps({"encoder": cfg.num_heads, "predictor": cfg.predictor_heads})}
    with replacing(path) as partial:
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
    sizes = (
        (width // 2, encoder_depth // 2)
        if predictor is None
        else (predictor.shape[-1], depth("predictor.predictor_blocks"))
    )
    return EcgConfig(
        width=width,
        depth=encoder_depth,
        num_heads=heads,
        patch_size=patch_size,
        predictor_width=sizes[0],
        predictor_depth=sizes[1],
        predictor_heads=predictor_heads,
    )


def _import(specs: dict[str, Any], tensors: dict[str, np.ndarray], path: str) -> dict[str, Any]:
    """Arranges tensors as `specs` lays them out."""

    def one(spec: ParamSpec) -> np.ndarray:
        key = spec.hf_key.removeprefix(ecg.VLM_PREFIX)
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
