"""Weights as a device reads them: those that lie cut over fsdp are gathered once, in the compute
dtype, before the layer that multiplies them.

Left to itself the compiler may gather in float32, gather again for every product, pass pieces on
from device to device beside the product ("windowed einsum"), or cut the activations instead and sum
what comes out. Said here, all layers do the same: two gathers a step (forward, and backward where
the layer is computed again), one reduce-scatter of the gradient. So do FSDP of PyTorch (arXiv
2304.11277) and ZeRO-3 (arXiv 1910.02054).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
from jax.sharding import PartitionSpec

from qoq_jax.models.int8 import Int8, Stored
from qoq_jax.models.spec import ParamSpec
from qoq_jax.parallel.mesh import partition_spec


def gathered(weights: Any, specs: Any, dtype: jax.typing.DTypeLike) -> Any:
    """The weights, whole but for what tensor cuts; without a mesh they are returned as they are.

    Args:
      weights: a pytree of arrays; one layer of a stack, or all of them.
      specs: their declarations, in a pytree of the same form.
      dtype: of the matrices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return weights

    def one(w: jax.Array, spec: ParamSpec) -> jax.Array:
        axes = spec.axes[len(spec.axes) - w.ndim :]
        cut = partition_spec(mesh, axes, w.shape)
        whole = partition_spec(mesh, [None if x == "embed" else x for x in axes], w.shape)
        if cut == whole or spec.compute_in_float32:
            return w
        return _gather(cut, whole, w.astype(dtype))

    return jax.tree.map(one, weights, specs)


def in_compute_dtype(weights: Any, specs: Any, dtype: jax.typing.DTypeLike) -> Any:
    """The weights with matrices in the compute dtype; what is read in float32, and what has 8 bits,
    stays as it is.
    """

    def cast(w: Stored, spec: ParamSpec) -> Stored:
        return w if spec.compute_in_float32 or isinstance(w, Int8) else w.astype(dtype)

    return jax.tree.map(cast, weights, specs, is_leaf=lambda w: isinstance(w, Int8))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gather(cut: PartitionSpec, whole: PartitionSpec, w: jax.Array) -> jax.Array:
    """w as `whole`; its gradient, a sum over rows, as `cut`: a reduce-scatter."""
    return _moved(cut, whole, w)


def _moved(cut: PartitionSpec, whole: PartitionSpec, w: jax.Array) -> jax.Array:
    # Cast before moving: half the bytes.
    w = jax.lax.with_sharding_constraint(w, cut)
    return jax.lax.with_sharding_constraint(w, whole)


def _forward(cut: PartitionSpec, whole: PartitionSpec, w: jax.Array) -> tuple[jax.Array, None]:
    return _moved(cut, whole, w), None


def _backward(
    cut: PartitionSpec, whole: PartitionSpec, saved: None, gradient: jax.Array
) -> tuple[jax.Array]:
    # Whole first: asked for the part alone, the compiler would rather cut the activations so than
    # sum over the rows. A sum of which a part is kept is a reduce-scatter.
    gradient = jax.lax.with_sharding_constraint(gradient, whole)
    return (jax.lax.with_sharding_constraint(gradient, cut),)


_gather.defvjp(_forward, _backward)
