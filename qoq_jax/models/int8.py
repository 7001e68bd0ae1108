"""Numbers in 8 bits with a scale: keys and values of the cache, and the weights of a sampler.

Only what lies in memory has 8 bits. Products are in the compute dtype, in which the whole numbers
from -127 to 127 are exact; a decode step is bound by the bytes that it reads, not by its products.

Axis letters: base/axes.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from qoq_jax.models.spec import ParamSpec


@flax.struct.dataclass
class Int8:
    """An array in 8 bits: `quantised` * `scale` is within scale / 2 of what was stored.

    One scale for all numbers along some axes, the largest of them / 127.

    Attributes:
      quantised: int8, axes as the array that it stands for.
      scale: float32, the same axes, of size 1 along those that share a scale.
    """

    quantised: jax.Array
    scale: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array that it stands for."""
        return self.quantised.shape


Stored = jax.Array | Int8


def quantise(x: jax.Array, axes: int | Sequence[int]) -> Int8:
    """x in 8 bits, with one scale for all numbers along `axes`."""
    wide = x.astype(jnp.float32)
    scale = jnp.abs(wide).max(axis=axes, keepdims=True) / 127
    scale = jnp.maximum(scale, jnp.finfo(jnp.float32).tiny)  # all of them are 0
    return Int8(jnp.round(wide / scale).astype(jnp.int8), scale)


def read(x: Stored, dtype: jax.typing.DTypeLike) -> jax.Array:
    """What was stored, in the dtype of the products that read it."""
    if not isinstance(x, Int8):
        return x
    return (x.quantised.astype(jnp.float32) * x.scale).astype(dtype)


def einsum(equation: str, x: jax.Array, kernel: Int8) -> jax.Array:
    """einsum of x and a kernel, in the dtype of x.

    The scales multiply the result: what is multiplied are the whole numbers, cast on their way
    from memory. The kernel has one scale for all weights of an output, and its outputs are the last
    axes of the result, in the same order.
    """
    result = equation.split("->")[1]
    outputs = tuple(
        size
        for axis, size in zip(equation.split("->")[0].split(",")[1], kernel.shape, strict=True)
        if axis in result
    )
    # In the dtype of x, and so is what tensor sums over the mesh.
    y = jnp.einsum(equation, x, kernel.quantised.astype(x.dtype))
    scale = kernel.scale.reshape((1,) * (y.ndim - len(outputs)) + outputs)
    return (y * scale).astype(x.dtype)


# ------------------------------------------------------------------------------ weights of a layer


def _inputs(spec: ParamSpec) -> tuple[int, ...] | None:
    """The axes of a layer's kernel that its product sums over; None for what is no kernel."""
    first = int(spec.stacked)
    if spec.hf_layout == "linear":
        return (first,)
    if spec.hf_layout == "linear_out":
        return tuple(range(first, len(spec.shape) - 1))
    return None


def quantise_layer(layer: Mapping[str, Any], specs: Mapping[str, Any]) -> dict[str, Any]:
    """A layer's weights with kernels in 8 bits, a scale for each output; norms and biases stay.

    Args:
      specs: declarations of one layer, or of a stack as `layer` is.
    """

    def one(w: jax.Array, spec: ParamSpec) -> Stored:
        axes = _inputs(spec)
        return w if axes is None else quantise(w, axes)

    return jax.tree.map(one, dict(layer), dict(specs))


def layer_specs(specs: Mapping[str, Any]) -> dict[str, Any]:
    """Declarations of what `quantise_layer` returns."""

    def one(spec: ParamSpec) -> ParamSpec | Int8:
        if (axes := _inputs(spec)) is None:
            return spec
        shape = tuple(1 if i in axes else size for i, size in enumerate(spec.shape))
        names = tuple(None if i in axes else axis for i, axis in enumerate(spec.axes))
        scale = ParamSpec(shape, names, "ones", compute_in_float32=True)
        return Int8(spec, scale)

    return jax.tree.map(one, dict(specs))


def layer_in(layer: dict[str, Any], dtype: jax.typing.DTypeLike) -> dict[str, Any]:
    """A layer with all kernels in the compute dtype, for products of many tokens."""
    return jax.tree.map(lambda w: read(w, dtype), layer, is_leaf=lambda w: isinstance(w, Int8))
