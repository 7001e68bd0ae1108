"""The decoder's MLP over long rows, without its hidden values in memory.

Hidden values of 25,000 tokens of a 7B model are 0.9 GiB, and the backward pass has six such arrays.
The hidden units are cut into slices, one after the other, and every slice meets all tokens. Slices
of the hidden units rather than of the tokens, since the gradient of a slice's weights is then
complete: over a mesh a slice is gathered, and its gradient sent back, while the next is computed,
and a layer is never held whole.

Axis letters: base/axes.py; c slices, g parts of the hidden units that tensor cuts, f of F / (c g).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import einops
import jax
import jax.numpy as jnp

from qoq_jax.models import layers
from qoq_jax.models.gathered import gathered
from qoq_jax.parallel.mesh import batch_shards, constrain, sequence_shards, tensor_shards

HIDDEN = 1 << 27  # most hidden values that a device computes at a time, 256 MiB in bfloat16


def swiglu_by_slices(
    x: jax.Array, params: dict[str, Any], specs: Mapping[str, Any], hidden: int = HIDDEN
) -> jax.Array:
    """`layers.swiglu` without biases, in slices where rows are long.

    Args:
      x: [B,T,D].
      params: {"gate", "up", "down"} of {"kernel"}, as they lie on the mesh.
      specs: their declarations, of one layer or of a stack.
      hidden: most hidden values that a device computes at a time.
    """
    (B, T, D), F = x.shape, params["gate"]["kernel"].shape[1]
    parts = tensor_shards() if F % tensor_shards() == 0 else 1
    slices, tokens = 1, B * T // (batch_shards() * sequence_shards())
    while tokens * F // parts > hidden * slices and F % (2 * slices * parts) == 0:
        slices *= 2
    if slices == 1:
        return layers.swiglu(x, gathered(params, specs, x.dtype))

    f = F // (slices * parts)
    # name -> how it is cut; shape and axes of a slice
    inwards = "d (g c f) -> c g d f", (parts, D, f), ("mlp", "embed", None)
    outwards = "(g c f) d -> c g f d", (parts, f, D), ("mlp", None, "embed")
    forms = {"gate": inwards, "up": inwards, "down": outwards}
    weights, of_slice = {}, {}
    for name, (pattern, shape, axes) in forms.items():
        w = params[name]["kernel"].astype(x.dtype)
        w = einops.rearrange(w, pattern, g=parts, c=slices)
        weights[name] = constrain(w, (None, *axes))
        of_slice[name] = dataclasses.replace(specs[name]["kernel"], shape=shape, axes=axes)

    @jax.checkpoint
    def one(x32: jax.Array, weights: dict[str, jax.Array]) -> jax.Array:
        weights, y = gathered(weights, of_slice, x.dtype), x32.astype(x.dtype)
        gate = jnp.einsum("bgtd,gdf->bgtf", y, weights["gate"])
        up = jnp.einsum("bgtd,gdf->bgtf", y, weights["up"])
        return jnp.einsum("bgtf,gfd->bgtd", jax.nn.silu(gate) * up, weights["down"])

    def add(total: jax.Array, weights: dict[str, jax.Array]) -> tuple[jax.Array, None]:
        total += one(x32, weights).astype(jnp.float32)
        return constrain(total, by_part), None

    # A copy of x, and a sum, for each part that tensor cuts: what is summed over tensor is summed
    # once, behind the loop. In float32, since the gradient of x is a sum over slices too.
    by_part = ("batch", "mlp", "tokens", None)
    x32 = jnp.broadcast_to(x.astype(jnp.float32)[:, None], (B, parts, T, D))
    x32 = constrain(x32, by_part)
    with jax.named_scope("mlp"):
        total, _ = jax.lax.scan(add, jnp.zeros_like(x32), weights)
    return total.sum(axis=1).astype(x.dtype)
