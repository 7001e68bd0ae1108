"""One declaration per weight: shape, logical axes, init, Hugging Face name and layout.

Initial values, shardings, parameter counts, memory plans and weight import/export all derive from a
nested dict of `ParamSpec`. Weights of repeated layers are stacked on a leading axis "layers"; their
Hugging Face name has a `{}` in the place of the layer number.

Hugging Face layouts (a closed set, carried out in hf/names.py; torch linear weights are [out,
in]):
  ""            no counterpart in a published checkpoint
  "tensor"      same shape: embeddings
  "vector"      theirs [n] <-> ours of any shape with n elements, in the same order: norms, biases
  "linear"      theirs [out, in] <-> ours [in, out...]: q, k, v and plain linear kernels
  "linear_out"  theirs [out, in] <-> ours [in..., out]: attention output kernels
  "patches"     theirs [out, 3, f, p, p] (Conv3d whose stride is its kernel)
                <-> ours [3 * f * p * p, out]
  "conv"        theirs [out, in, kh, kw] <-> ours [kh, kw, in, out]: two-dimensional convolutions
  "depthwise"   theirs [n, 1, kh, kw] <-> ours [kh, kw, n]: one kernel per channel
  "pointwise"   theirs [out, in, 1, 1] <-> ours [in, out]: linear kernels written as convolutions
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qoq_jax.parallel import mesh as mesh_lib

HF_LAYOUTS = (
    "",
    "tensor",
    "vector",
    "linear",
    "linear_out",
    "patches",
    "conv",
    "depthwise",
    "pointwise",
)
# Standard deviation of a unit normal cut at two standard deviations: initial values are divided by
# it.
TRUNCATED_STD = 0.87962566103423978
_DRAWN_TOGETHER = (1 << 12, 1 << 16, 1 << 18)  # lengths of draws that small weights are cut from


@dataclasses.dataclass(frozen=True)
class ParamSpec:
    """One weight.

    Attributes:
      shape: including the leading layer axis of stacked layers.
      axes: a logical axis of parallel.mesh.AXIS_RULES, or None, for each dimension; "layers" when
        stacked.
      init: "zeros", "ones", a function of the shape, or the standard deviation of a normal cut at
        two standard deviations.
      hf_key: name in the published checkpoint, with `{}` for the layer number when stacked; "" for
        none.
      hf_layout: one of HF_LAYOUTS.
      compute_in_float32: read in float32 whatever the compute dtype, as the scale of a norm is; a
        copy of the weights in the compute dtype leaves it as it is stored.
      decay: whether weight decay pulls at it. None = if it has two axes or more beside the stack
        of layers: matrices and tables do, norms and biases of one axis do not.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: str | float | Callable[[tuple[int, ...]], np.ndarray]
    hf_key: str = ""
    hf_layout: str = ""
    compute_in_float32: bool = False
    decay: bool | None = None

    def __post_init__(self):
        assert len(self.shape) == len(self.axes), f"{self.shape} and {self.axes} differ in rank"
        assert self.hf_layout in HF_LAYOUTS, self.hf_layout
        assert bool(self.hf_key) == bool(self.hf_layout), (
            f"hf_key {self.hf_key!r} and layout {self.hf_layout!r}"
        )

    @property
    def stacked(self) -> bool:
        """Whether the leading axis is a stack of layers."""
        return bool(self.axes) and self.axes[0] == "layers"

    @property
    def decays(self) -> bool:
        """Whether weight decay pulls at the weight."""
        return len(self.shape) - self.stacked >= 2 if self.decay is None else self.decay


def fan_in(size: int, scale: float = 1.0) -> float:
    """Standard deviation that keeps the variance of a sum over `size` inputs, times `scale`."""
    return scale / math.sqrt(size)


def residual_scale(num_layers: int) -> float:
    """1 / sqrt(2 L), for kernels that write into the residual stream, twice per layer (GPT-2)."""
    return 1 / math.sqrt(2 * num_layers)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dict -> {"decoder/layers/q/kernel": leaf}, in sorted order."""
    flat = {}
    for name in sorted(tree):
        path = f"{prefix}{name}"
        flat.update(
            flatten(tree[name], f"{path}/")
            if isinstance(tree[name], Mapping)
            else {path: tree[name]}
        )
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def init_params(
    specs: Mapping[str, Any], key: jax.Array, dtype: jax.typing.DTypeLike = jnp.float32
) -> dict[str, Any]:
    """Initial values.

    Each depends on `key` and its own path only, not on its neighbours or the sharding.
    """
    flat = flatten(specs)
    drawn = _draw(
        {path: spec.shape for path, spec in flat.items() if isinstance(spec.init, float)}, key
    )

    def one(path: str, spec: ParamSpec) -> jax.Array:
        if callable(spec.init):
            return jnp.asarray(spec.init(spec.shape), dtype)
        if path in drawn:
            return (drawn[path] * (spec.init / TRUNCATED_STD)).astype(dtype)
        return {"zeros": jnp.zeros, "ones": jnp.ones}[spec.init](spec.shape, dtype)

    return unflatten({path: one(path, spec) for path, spec in flat.items()})


def _draw(shapes: Mapping[str, tuple[int, ...]], key: jax.Array) -> dict[str, jax.Array]:
    """A unit normal cut at two standard deviations for each path, float32.

    Entry i of a draw depends on its key and on i alone (jax_threefry_partitionable), so small
    weights are cut from a longer draw: those of one length are one program, where a program each is
    most of the time that a small model takes to start.
    """

    def normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32)

    keys = {path: jax.random.fold_in(key, zlib.crc32(path.encode())) for path in shapes}
    groups: dict[int, list[str]] = {}
    for path, shape in shapes.items():
        fits = [length for length in _DRAWN_TOGETHER if math.prod(shape) <= length]
        groups.setdefault(fits[0] if fits else 0, []).append(path)
    drawn = {path: normal(keys[path], shapes[path]) for path in groups.pop(0, [])}
    for length, paths in groups.items():
        rows = jax.vmap(lambda key, length=length: normal(key, (length,)))(
            jnp.stack([keys[path] for path in paths])
        )
        drawn |= {
            path: rows[i, : math.prod(shapes[path])].reshape(shapes[path])
            for i, path in enumerate(paths)
        }
    return drawn


def abstract(specs: Mapping[str, Any], dtype: jax.typing.DTypeLike = jnp.float32) -> dict[str, Any]:
    """The parameter tree as jax.ShapeDtypeStruct: for eval_shape, memory plans and restoring
    checkpoints.
    """
    return jax.tree.map(lambda spec: jax.ShapeDtypeStruct(spec.shape, dtype), dict(specs))


def shardings(specs: Mapping[str, Any], mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """The parameter tree as NamedSharding on `mesh`."""
    return jax.tree.map(
        lambda spec: mesh_lib.named_sharding(mesh, spec.axes, spec.shape), dict(specs)
    )


def count(specs: Mapping[str, Any]) -> int:
    """Number of parameters."""
    return sum(math.prod(spec.shape) for spec in jax.tree.leaves(dict(specs)))
