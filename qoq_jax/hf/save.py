"""Parameters -> a directory as on the hub, which transformers loads (tests/parity).

Names and config.json are those of the family on the hub (both key schemes are read, one is
written). Tensors are made on the devices and written one at a time.
"""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from qoq_jax.base import storage
from qoq_jax.base.errors import CheckpointError
from qoq_jax.base.files import read_json, write_text
from qoq_jax.hf import adapter, architectures
from qoq_jax.hf import config as config_lib
from qoq_jax.hf import names as keys
from qoq_jax.hf import safetensors as files
from qoq_jax.models import spec as spec_lib
from qoq_jax.models import vlm
from qoq_jax.models.encoders import ecg as ecg_lib
from qoq_jax.models.sizes import VlmConfig
from qoq_jax.models.spec import ParamSpec
from qoq_jax.parallel import hosts

# {canonical name: (header dtype, shape)}
Plan = dict[str, tuple[str, tuple[int, ...]]]
SHARD_SIZE = 5_000_000_000
# Files that belong to a model beside its weights and config. Nothing executable, no other weights.
COMPANIONS = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
    "chat_template.jinja",
)


def save(
    directory: str,
    cfg: VlmConfig,
    params: Mapping[str, Any],
    source: str | None = None,
    *,
    dtype: Any = None,
    shard_size: int = SHARD_SIZE,
) -> None:
    """Writes config.json, safetensors and the files beside them; all of it or nothing.

    Args:
      directory: is made; must not exist, or be empty.
      cfg, params: the model; params may lie on any mesh.
      source: directory whose tokenizer, generation config, processor and chat template are copied,
        and whose config.json gives the fields that change no number here (max_position_embeddings,
        say). None: the generation and processor configs are written from cfg; there is no tokenizer
        then.
      dtype: of the tensors; None = as they are.
      shard_size: upper limit of a file in bytes; a larger tensor has a file of its own.

    Raises:
      CheckpointError: the directory is taken, or parameters that do not fit cfg (all are named).
    """
    specs, leaves = spec_lib.flatten(vlm.param_specs(cfg)), spec_lib.flatten(params)
    wrong = sorted(
        path
        for path in specs.keys() | leaves.keys()
        if path not in specs or path not in leaves or tuple(leaves[path].shape) != specs[path].shape
    )
    if wrong:
        raise CheckpointError(
            f"parameters that do not fit the config: {', '.join(wrong)}",
            hint="use the config of the parameters",
        )
    plan = _plan(cfg, specs, leaves, dtype)
    with storage.new_folder(directory, config_lib.CONFIG, hosts.is_main()) as partial:
        _write_weights(partial, cfg, plan, _tensors(cfg, specs, leaves, dtype, plan), shard_size)
        if hosts.is_main():
            _write_companions(partial, cfg, source, _main_dtype(plan))


def to_tensors(
    specs: Mapping[str, Any], params: Mapping[str, Any], dtype: Any = None
) -> Iterator[tuple[str, np.ndarray]]:
    """(canonical name, published tensor) of every weight that has a name, one at a time; inverse of
    `from_tensors`.
    """
    leaves = spec_lib.flatten(params)
    for path, spec in spec_lib.flatten(specs).items():
        for i, key in enumerate(keys.layer_keys(spec)):
            yield key, _take(spec, leaves[path], i, dtype)


def _plan(
    cfg: VlmConfig,
    specs: Mapping[str, ParamSpec],
    leaves: Mapping[str, Any],
    dtype: Any,
) -> Plan:
    """{canonical name: (header dtype, shape)} in the order in which `_tensors` makes them."""
    plan = {}
    for path, spec in specs.items():
        name = files.dtype_name(leaves[path].dtype if dtype is None else dtype)
        plan |= {key: (name, keys.published_shape(spec)) for key in keys.layer_keys(spec)}
    # the released checkpoints hold it, and their code refuses to load without
    if cfg.ecg is not None:
        name = plan[keys.ECG_PREFIX + "encoder.W_P.weight"][0]
        plan[keys.ECG_POSITIONS] = (name, (cfg.ecg.leads * cfg.ecg.patches, cfg.ecg.width))
    return plan


def _tensors(
    cfg: VlmConfig,
    specs: Mapping[str, ParamSpec],
    leaves: Mapping[str, Any],
    dtype: Any,
    plan: Plan,
) -> Iterator[np.ndarray]:
    for _, tensor in to_tensors(spec_lib.unflatten(specs), spec_lib.unflatten(leaves), dtype):
        yield tensor
    if cfg.ecg is not None:
        kind, shape = plan[keys.ECG_POSITIONS]
        table = ecg_lib.sincos_positions(cfg.ecg.leads, cfg.ecg.patches, cfg.ecg.width)
        yield table.reshape(shape).astype(files.DTYPES[kind])


def _write_weights(
    directory: str, cfg: VlmConfig, plan: Plan, tensors: Iterator[np.ndarray], shard_size: int
) -> None:
    """model.safetensors, or numbered files and their index."""
    published_name = architectures.of(cfg).published_name
    sizes = {
        key: math.prod(shape) * files.DTYPES[kind].itemsize for key, (kind, shape) in plan.items()
    }
    groups = list(files.shard(sizes, shard_size))
    place = {}
    for number, group in enumerate(groups):
        name = (
            files.SINGLE
            if len(groups) == 1
            else f"model-{number + 1:05d}-of-{len(groups):05d}.safetensors"
        )
        part = {published_name(key): plan[key] for key in group}
        place |= dict.fromkeys(part, name)
        if hosts.is_main():
            files.write(os.path.join(directory, name), part, (next(tensors) for _ in group))
        else:  # the other processes only take part in gathering
            for _ in group:
                next(tensors)
    if len(groups) > 1 and hosts.is_main():
        _write_json(
            os.path.join(directory, files.INDEX),
            {
                "metadata": {"total_size": sum(sizes.values())},
                "weight_map": dict(sorted(place.items())),
            },
        )


def _take(spec: ParamSpec, leaf: Any, layer: int, dtype: Any) -> np.ndarray:
    """One published tensor on the host."""
    _, order = keys.split(spec)
    back = tuple(order.index(i) for i in range(len(order)))
    sharding = getattr(leaf, "sharding", None)
    # Gathered on every device, since a reshape of a cut dimension may not be one the compiler can
    # keep cut.
    whole = (
        NamedSharding(sharding.mesh, PartitionSpec())
        if isinstance(sharding, NamedSharding)
        else None
    )
    taken = _extract(
        spec.stacked,
        back,
        keys.published_shape(spec),
        None if dtype is None else np.dtype(dtype),
        whole,
    )(leaf, np.int32(layer))
    return np.asarray(taken.addressable_data(0))


@functools.lru_cache(maxsize=256)
def _extract(
    stacked: bool,
    back: tuple[int, ...],
    shape: tuple[int, ...],
    dtype: np.dtype | None,
    sharding: NamedSharding | None,
) -> Callable[..., jax.Array]:
    def extract(leaf: jax.Array, layer: jax.Array) -> jax.Array:
        one = jax.lax.dynamic_index_in_dim(leaf, layer, 0, keepdims=False) if stacked else leaf
        return jnp.asarray(one.transpose(back).reshape(shape), dtype)

    return jax.jit(extract, out_shardings=sharding)


def _main_dtype(plan: Plan) -> str:
    """The dtype that most values have, as config.json names it."""
    sizes: dict[str, int] = {}
    for kind, shape in plan.values():
        sizes[kind] = sizes.get(kind, 0) + math.prod(shape)
    return str(files.DTYPES[max(sizes, key=sizes.__getitem__)])


def _write_companions(directory: str, cfg: VlmConfig, source: str | None, dtype: str) -> None:
    """Everything beside the weights: copies, and what the source lacks."""
    written = set()
    for name in COMPANIONS:
        if source and (path := adapter.find(source, name)):
            _copy(path, os.path.join(directory, name))
            written.add(name)
    _write_json(os.path.join(directory, config_lib.CONFIG), config_lib.write(cfg, dtype, source))
    if config_lib.GENERATION not in written:
        _write_json(
            os.path.join(directory, config_lib.GENERATION), config_lib.write_generation(cfg)
        )
    if not written & {config_lib.PREPROCESSOR, config_lib.PROCESSOR}:
        _write_json(
            os.path.join(directory, config_lib.PREPROCESSOR), config_lib.write_preprocessor(cfg)
        )


def _copy(path: str, target: str) -> None:
    """Copies a file. References to Python files, which are not copied, are taken out of JSON."""
    if path.endswith(".json"):
        content = read_json(path, finite=False, error=CheckpointError)
        if isinstance(content, dict) and content.pop("auto_map", None):
            if "tokenizer_class" in content:
                content["tokenizer_class"] = "Qwen2Tokenizer"
            _write_json(target, content)
            return
    shutil.copyfile(path, target)


def _write_json(path: str, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
