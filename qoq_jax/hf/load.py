"""Published tensors -> parameters, straight into their shards.

A tensor is mapped, the part of each device is copied and sent, and the device transposes and casts
it into its place. Layers go one after the other into a stacked array that is donated to each step,
so that beside the parameters themselves there is never more than one tensor on the host and one
layer on the devices.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, Sharding, SingleDeviceSharding

from qoq_jax.base.errors import CheckpointError, ConfigError
from qoq_jax.hf import adapter, fp8
from qoq_jax.hf import config as config_lib
from qoq_jax.hf import names as keys
from qoq_jax.hf import safetensors as files
from qoq_jax.models import spec as spec_lib
from qoq_jax.models import vlm
from qoq_jax.models.encoders import ecg as ecg_lib
from qoq_jax.models.sizes import VlmConfig
from qoq_jax.models.spec import ParamSpec
from qoq_jax.parallel import mesh as mesh_lib

Tensor = files.TensorFile | files.MadeTensor
_COMPARED_AT_ONCE = 1 << 24  # values


def load(
    directory: str, mesh: Mesh | None = None, dtype: Any = None
) -> tuple[VlmConfig, dict[str, Any]]:
    """Reads a Hugging Face directory of a known architecture (`config.ARCHITECTURES`).

    Args:
      directory: with config.json and safetensors, or of a PEFT adapter (then its base model is
        loaded and the adapter added); see `resolve` for hub ids.
      mesh: where the parameters go, cut as `spec.shardings` says; None = the first device.
      dtype: of the parameters: float32, bfloat16 or float16; None = as in the file.

    Returns:
      (cfg, params). cfg.ecg is None, and params lack "ecg" and "ecg_proj", when the checkpoint has
      no ECG encoder. cfg.compute_dtype is float32 for float32 parameters, else bfloat16.

    Raises:
      ConfigError: config.json describes something else than this package computes; every field is
        named.
      CheckpointError: files that cannot be read, or tensors that are missing, left over, of another
        shape or type than the config asks for; all are named, and nothing is loaded.
    """
    by_name, cfg = _open(directory)
    params = from_tensors(
        vlm.param_specs(cfg),
        _checked_and_dropped(by_name, cfg, directory),
        mesh,
        dtype,
        where=directory,
    )
    compute = "float32" if params["decoder"]["embedding"].dtype == jnp.float32 else "bfloat16"
    return dataclasses.replace(cfg, compute_dtype=compute), params


def read_config(directory: str) -> VlmConfig:
    """The configuration that `load` returns, from config.json and the headers of the weights;
    raises the same errors.
    """
    return _open(directory)[1]


def _open(directory: str) -> tuple[dict[str, Tensor], VlmConfig]:
    """Tensors by canonical name, and the configuration."""
    of_adapter = adapter.is_adapter(directory)
    base = adapter.base(directory) if of_adapter else directory
    stored: dict[str, files.TensorFile] = {}
    for name, tensor in files.open_directory(base).items():
        if (key := keys.canonical(name)) in stored:
            raise CheckpointError(
                f"{name} and {stored[key].name} are the same weight",
                where=base,
                hint="keep one of the two key schemes",
            )
        stored[key] = tensor
    cfg = config_lib.read(base, has_ecg=any(key.startswith(keys.ECG_PREFIX) for key in stored))
    quantization = config_lib.quantization(base)
    tensors = stored if quantization is None else fp8.dequantised(stored, quantization, base)
    return adapter.added(tensors, directory) if of_adapter else tensors, cfg


def _checked_and_dropped(
    tensors: dict[str, Tensor], cfg: VlmConfig, where: str
) -> dict[str, Tensor]:
    """The tensors less those that carry nothing of their own, once that is seen to be so."""
    kept = dict(tensors)
    if cfg.ecg is not None and (stored := kept.pop(keys.ECG_POSITIONS, None)):
        ours = ecg_lib.sincos_positions(cfg.ecg.leads, cfg.ecg.patches, cfg.ecg.width).reshape(
            -1, cfg.ecg.width
        )
        # half a unit in the last place of bfloat16 below 1
        tolerance = 1e-5 if stored.dtype == np.float32 else 4e-3
        if (
            stored.dtype is None
            or stored.shape != ours.shape
            or np.abs(stored.map().astype(np.float32) - ours).max() > tolerance
        ):
            raise CheckpointError(
                f"{stored.name} is not the fixed sin-cos table that the ECG encoder adds",
                where=where,
                hint="weights with learned or rotary ECG positions are not supported",
            )
    if cfg.decoder.tied_embeddings and (head := kept.pop(keys.LM_HEAD, None)):
        embedding = kept.get(keys.EMBEDDING)
        if embedding and not _equal(head, embedding):
            raise CheckpointError(
                f"{head.name} differs from {embedding.name}, and config.json ties them",
                where=where,
                hint="set tie_word_embeddings to false",
            )
    return kept


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same bits."""
    if (a.dtype_name, a.shape) != (b.dtype_name, b.shape) or a.dtype is None:
        return False
    left, right = (x.map().reshape(-1).view(np.uint8) for x in (a, b))
    return all(
        np.array_equal(left[i : i + _COMPARED_AT_ONCE], right[i : i + _COMPARED_AT_ONCE])
        for i in range(0, len(left), _COMPARED_AT_ONCE)
    )


def from_tensors(
    specs: Mapping[str, Any],
    tensors: Mapping[str, Any],
    mesh: Mesh | None = None,
    dtype: Any = None,
    where: str | None = None,
) -> dict[str, Any]:
    """Parameters from tensors with canonical names.

    Args:
      specs: table of weights; those without a published name are left out.
      tensors: {canonical name: numpy array, files.TensorFile or files.MadeTensor}.
      mesh, dtype: as for `load`.
      where: what to name in an error.

    Raises:
      CheckpointError: names every tensor that is missing, left over, or of another shape or type.
    """
    flat = {path: spec for path, spec in spec_lib.flatten(specs).items() if spec.hf_key}
    if dtype is not None and np.dtype(dtype) not in files.DTYPES.values():
        raise ConfigError(
            f"parameters of type {np.dtype(dtype)}", hint="use float32, bfloat16 or float16"
        )
    if problems := _problems(flat, tensors, dtype):
        raise CheckpointError(
            "; ".join(problems), where=where, hint="use the config.json that belongs to the weights"
        )
    params = {path: _place(path, spec, tensors, mesh, dtype) for path, spec in flat.items()}
    return spec_lib.unflatten(params)


def _problems(specs: Mapping[str, ParamSpec], tensors: Mapping[str, Any], dtype: Any) -> list[str]:
    """What does not fit, one sentence per kind; empty when everything does."""
    missing, shapes, types, expected = [], {}, {}, set()
    for spec in specs.values():
        found = set()
        for key in keys.layer_keys(spec):
            expected.add(key)
            if (tensor := tensors.get(key)) is None:
                missing.append(key)
                continue
            if tuple(tensor.shape) != keys.published_shape(spec):
                shapes[key] = f"{list(tensor.shape)} for {list(keys.published_shape(spec))}"
            name = getattr(tensor, "dtype_name", str(tensor.dtype))
            found.add(name)
            if tensor.dtype not in files.DTYPES.values():
                types[key] = name
        if dtype is None and len(found) > 1:
            types[keys.fold(keys.layer_keys(spec))[0]] = (
                " and ".join(sorted(found)) + ", choose a dtype"
            )
    extra = [key for key in tensors if key not in expected]

    def listed(what: str, names: list[str]) -> str:
        return f"{len(names)} {what}: {', '.join(keys.fold(names))}"

    def reasons(what: str, wrong: dict[str, str]) -> str:
        together: dict[str, list[str]] = {}
        for key, reason in wrong.items():
            together.setdefault(reason, []).append(key)
        return f"{len(wrong)} {what}: " + ", ".join(
            f"{', '.join(keys.fold(names))} ({why})" for why, names in together.items()
        )

    return [
        text
        for text, wrong in (
            (listed("missing", missing), missing),
            (listed("left over", extra), extra),
            (reasons("of another shape", shapes), shapes),
            (reasons("of another type", types), types),
        )
        if wrong
    ]


def _place(
    path: str, spec: ParamSpec, tensors: Mapping[str, Any], mesh: Mesh | None, dtype: Any
) -> jax.Array:
    """One weight on the devices; a stacked one layer by layer."""
    shape, order = keys.split(spec)
    layer_axes = spec.axes[1:] if spec.stacked else spec.axes
    view_axes: list[str | None] = [None] * len(shape)
    for ours, theirs in enumerate(order):
        view_axes[theirs] = layer_axes[ours]
    view_sharding, sharding = (
        _sharding(mesh, view_axes, shape),
        _sharding(mesh, spec.axes, spec.shape),
    )
    names = keys.layer_keys(spec)
    dtype = np.dtype(tensors[names[0]].dtype if dtype is None else dtype)
    if not spec.stacked:
        piece = _send(tensors[names[0]], shape, view_sharding)
        return (
            piece
            if piece.dtype == dtype and order == tuple(range(len(order)))
            else _arrange(order, dtype, sharding)(piece)
        )
    stack = _empty(spec.shape, dtype, sharding)()
    for i, name in enumerate(names):
        stack = _insert(order, sharding)(
            stack, _send(tensors[name], shape, view_sharding), np.int32(i)
        )
        # Without this, slices that wait for their transfer pile up on the host.
        stack.block_until_ready()
    return stack


def _sharding(mesh: Mesh | None, axes: Sequence[str | None], shape: tuple[int, ...]) -> Sharding:
    return (
        SingleDeviceSharding(jax.local_devices()[0])
        if mesh is None
        else mesh_lib.named_sharding(mesh, axes, shape)
    )


def _send(tensor: Any, shape: tuple[int, ...], sharding: Sharding) -> jax.Array:
    """A published tensor, reshaped, in shards. Only the copies of the shards outlive the call."""
    view = (tensor.map() if isinstance(tensor, Tensor) else tensor).reshape(shape)
    copies: dict[str, np.ndarray] = {}  # replicas share one copy

    def part(index: tuple[slice, ...]) -> np.ndarray:
        # A copy even of the whole: the CPU backend may keep the buffer, and the file must not be
        # part of the model.
        if (key := str(index)) not in copies:
            copies[key] = np.array(view[index], order="C")
        return copies[key]

    return jax.make_array_from_callback(shape, sharding, part).block_until_ready()


@functools.lru_cache(maxsize=256)
def _empty(shape: tuple[int, ...], dtype: np.dtype, sharding: Sharding) -> Callable[[], jax.Array]:
    return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=sharding)


@functools.lru_cache(maxsize=256)
def _insert(order: tuple[int, ...], sharding: Sharding) -> Callable[..., jax.Array]:
    """(stack [L, ...], piece, layer) -> stack with the piece, transposed and cast, at that layer;
    in place.
    """

    def insert(stack: jax.Array, piece: jax.Array, layer: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(
            stack, piece.transpose(order).astype(stack.dtype), layer, 0
        )

    return jax.jit(insert, donate_argnums=0, out_shardings=sharding)


@functools.lru_cache(maxsize=256)
def _arrange(
    order: tuple[int, ...], dtype: np.dtype, sharding: Sharding
) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda piece: piece.transpose(order).astype(dtype), out_shardings=sharding)
