"""Directories of PEFT adapters: a base model and low-rank matrices that are added to its weights.

LoRA (arXiv 2106.09685), equation 3: W' = W + s B A with A [r, in], B [out, r], s = alpha / r, or
alpha / sqrt(r) with use_rslora (arXiv 2312.03732). The sum is made in float32 when the model is
loaded. Whatever else an adapter may do is refused by name.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from qoq_jax.base.errors import CheckpointError, ConfigError
from qoq_jax.base.files import read_json
from qoq_jax.hf import names as keys
from qoq_jax.hf import safetensors as files
from qoq_jax.hf.hub import resolve

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
# Values that are supported of fields that change the sum; null and missing fields count as the
# first.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),  # others change the base
    "revision": ("main",),
}
# Fields that name where the matrices are, which their own names say, or that only training reads.
_IDLE = (
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "megatron_core",
    "lora_dropout",
    "peft_version",
    "qalora_group_size",
    "target_modules",
    "task_type",
)
_READ = ("r", "lora_alpha", "use_rslora")
_Tensor = files.TensorFile | files.MadeTensor


def is_adapter(directory: str) -> bool:
    """Whether a directory holds an adapter and no model."""
    return os.path.exists(os.path.join(directory, CONFIG)) and not any(
        os.path.exists(os.path.join(directory, name)) for name in (files.SINGLE, files.INDEX)
    )


def find(directory: str, name: str) -> str | None:
    """The path of a file that goes with a model; what an adapter lacks is that of its base."""
    path = os.path.join(directory, name)
    if os.path.exists(path):
        return path
    return find(base(directory), name) if is_adapter(directory) else None


def base(directory: str) -> str:
    """The local directory of the model that an adapter belongs to, downloaded if it is not here.

    Raises:
      CheckpointError: adapter_config.json cannot be read, or names no model that can be found.
    """
    name = _config(directory).get("base_model_name_or_path")
    where = os.path.join(directory, CONFIG)
    if not isinstance(name, str) or not name:
        raise CheckpointError(
            "the adapter does not say which model it belongs to",
            where=where,
            hint="write base_model_name_or_path, a directory or a hub id",
        )
    try:
        found = resolve(name)
    except CheckpointError as error:
        raise CheckpointError(
            f"the base model {name!r} of the adapter: {error.what}", where=where, hint=error.hint
        ) from error
    if is_adapter(found):
        raise CheckpointError(
            f"the base model {name!r} of the adapter is an adapter too",
            where=where,
            hint="merge that one first: qoq convert",
        )
    return found


def added(base_tensors: Mapping[str, _Tensor], directory: str) -> dict[str, _Tensor]:
    """The tensors of the base by canonical name, with the adapter's products in their sums.

    Raises:
      ConfigError: an adapter of another kind; all fields are named. CheckpointError: matrices that
        do not fit each other or the base; all are named.
    """
    config, where = _config(directory), os.path.join(directory, WEIGHTS)
    _check(config, os.path.join(directory, CONFIG))
    if not os.path.exists(where):
        raise CheckpointError(
            f"an adapter without {WEIGHTS}",
            where=directory,
            hint="save it as safetensors; pickles are not read",
        )
    found, wrong = dict(base_tensors), []
    matrices = files.header(where)
    for name in [name for name in matrices if name.endswith(".lora_A.weight")]:
        module = name.removesuffix(".lora_A.weight")
        a, b = matrices.pop(name), matrices.pop(f"{module}.lora_B.weight", None)
        weight = found.get(key := keys.canonical(module.removeprefix(_PREFIX) + ".weight"))
        if b is None:
            wrong.append(f"{module} has no lora_B")
        elif weight is None:
            wrong.append(f"the base has no {key}")
        elif (
            len(a.shape) != 2
            or a.shape[0] != b.shape[-1]
            or weight.shape
            != (
                b.shape[0],
                a.shape[1],
            )
        ):
            wrong.append(
                f"{key} is {list(weight.shape)}, lora_B {list(b.shape)}, lora_A {list(a.shape)}"
            )
        else:
            make = functools.partial(_sum, weight, a, b, _scale(config, a.shape[0]))
            found[key] = files.MadeTensor(weight.name, weight.dtype_name, weight.shape, make)
    wrong += [f"{name} is not supported" for name in matrices]
    if wrong:
        raise CheckpointError(
            "; ".join(wrong), where=where, hint="use the base model that the adapter was made on"
        )
    return found


def _sum(weight: _Tensor, a: files.TensorFile, b: files.TensorFile, scale: float) -> np.ndarray:
    """float32 [out, in]."""
    left, right = (np.asarray(one.map(), np.float32) for one in (b, a))
    return np.asarray(weight.map(), np.float32) + np.float32(scale) * (left @ right)


def _scale(config: Mapping[str, Any], rank: int) -> float:
    return config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _config(directory: str) -> dict[str, Any]:
    path = os.path.join(directory, CONFIG)
    content = read_json(path, finite=False, error=CheckpointError, hint="fetch the file again")
    if not isinstance(content, dict):
        raise CheckpointError("is not a JSON object", where=path, hint="fetch the file again")
    return content


def _check(config: Mapping[str, Any], where: str) -> None:
    wrong = [
        f"{field} = {value!r} is not supported, only {' or '.join(map(repr, allowed))}"
        for field, allowed in _SUPPORTED.items()
        if (value := config.get(field)) is not None and value not in allowed
    ]
    # use_dora, modules_to_save, rank_pattern and the like: no matter while they are off
    known = {*_SUPPORTED, *_IDLE, *_READ}
    wrong += [
        f"{field} = {value!r} is not supported"
        for field, value in sorted(config.items())
        if field not in known and value
    ]
    for field in ("r", "lora_alpha"):
        value = config.get(field)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            wrong.append(f"{field} is {value!r}, not a number")
    if wrong:
        raise ConfigError(
            "; ".join(wrong), where=where, hint="merge the adapter with peft and give the result"
        )
