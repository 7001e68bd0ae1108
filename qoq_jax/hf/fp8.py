"""Weights in 8-bit floating point, as the hub's FP8 checkpoints hold them: read as plain weights.

A matrix [out, in] is float8_e4m3fn beside NAME_scale_inv [out / b0, in / b1]: one factor for each
block of b0 x b1 weights (DeepSeek-V3, arXiv 2412.19437, section 3.3.2). The weight is their
product. Activations are not quantised here, so results are those of the dequantised model.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from qoq_jax.base.errors import CheckpointError
from qoq_jax.hf import names as keys
from qoq_jax.hf.safetensors import MadeTensor, TensorFile

FP8 = "F8_E4M3"
_SCALE = "_scale_inv"
_BLOCK = (128, 128)  # the default of transformers' FineGrainedFP8Config
# which modules stay as they are: the dtypes of the tensors tell
_LISTS = ("modules_to_not_convert", "ignored_layers", "dequantize")


def problems(quantization: Mapping[str, Any] | None) -> list[str]:
    """What in config.json's quantization_config is not supported; nothing without one."""
    if quantization is None:
        return []
    supported = {"quant_method": ("fp8",), "fmt": ("e4m3",), "activation_scheme": ("dynamic",)}
    found = []
    for field, value in sorted({"quant_method": None, **quantization}.items()):
        name = f"quantization_config.{field}"
        if field in supported:
            if value not in supported[field]:
                found.append(f"{name} = {value!r} is not supported, only {supported[field][0]!r}")
        elif field == "weight_block_size":
            if value is not None and not _is_block(value):
                found.append(f"{name} is {value!r}, not two numbers")
        elif field not in _LISTS and value:
            found.append(f"{name} is not supported")
    return found


def _is_block(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(side, int) and side > 0 for side in value)
    )


def dequantised(
    tensors: Mapping[str, TensorFile], quantization: Mapping[str, Any], where: str
) -> dict[str, TensorFile | MadeTensor]:
    """The tensors by canonical name, with 8-bit ones in the place of weight and scales.

    They count as the dtype of the embedding, which is not quantised, and are made in float32.

    Raises:
      CheckpointError: scales that are missing, or that do not fit their weights; all are named.
    """
    block = tuple(quantization.get("weight_block_size", _BLOCK) or ())
    embedding = tensors.get(keys.EMBEDDING)
    dtype_name = "BF16" if embedding is None else embedding.dtype_name
    found: dict[str, TensorFile | MadeTensor] = dict(tensors)
    wrong = []
    for name, weight in tensors.items():
        if weight.dtype_name != FP8:
            continue
        scale = found.pop(name + _SCALE, None)
        sides = block or weight.shape
        if scale is None:
            wrong.append(f"{name} has no {name}{_SCALE}")
        elif scale.shape != (blocks := _blocks(weight.shape, sides)) and (
            math.prod(scale.shape) != 1 or math.prod(blocks) != 1  # one factor for all
        ):
            wrong.append(
                f"{name} {list(weight.shape)} in blocks of {list(sides)} has scales "
                f"{list(scale.shape)}"
            )
        else:
            make = functools.partial(_product, weight, scale, sides)
            found[name] = MadeTensor(weight.name, dtype_name, weight.shape, make)
    if wrong:
        raise CheckpointError(
            "; ".join(wrong), where=where, hint="use the config.json that belongs to the weights"
        )
    return found


def _blocks(shape: tuple[int, ...], sides: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-size // side) for size, side in zip(shape, sides, strict=True))


def _product(weight: TensorFile, scale: TensorFile, sides: tuple[int, ...]) -> np.ndarray:
    """float32 [out, in]."""
    factors = scale.map().astype(np.float32).reshape(_blocks(weight.shape, sides))
    for axis, side in enumerate(sides):
        factors = np.repeat(factors, side, axis=axis)
    cut = tuple(slice(0, size) for size in weight.shape)  # the last block may be narrower
    return weight.map().astype(np.float32) * factors[cut]
