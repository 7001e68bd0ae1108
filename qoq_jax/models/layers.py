"""Layers that the towers share: norms, rotary positions, biases, rematerialisation.

Axis letters: base/axes.py; rows B, tokens T and width D are those of any tower.
Norms, rotary angles and softmax are computed in float32 whatever the compute dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from qoq_jax.models import int8
from qoq_jax.models.int8 import Int8, Stored
from qoq_jax.models.sizes import VlmConfig
from qoq_jax.models.spec import ParamSpec
from qoq_jax.parallel import offload

_LAYER_INPUT = "layer_input"


def compute_dtype(cfg: VlmConfig) -> jnp.dtype:
    """The dtype of activations and of matrix products."""
    return jnp.dtype(cfg.compute_dtype)


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """x / rms(x) * scale over the last axis; x [..., D], scale [D]; dtype of x."""
    x32 = x.astype(jnp.float32)
    normed = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
    return (normed * expand(scale.astype(jnp.float32), x.ndim)).astype(x.dtype)


def layer_norm(x: jax.Array, params: dict, eps: float) -> jax.Array:
    """(x - mean(x)) / std(x) * scale + bias over the last axis; x [..., D], scale and bias [D];
    dtype of x.
    """
    x32 = x.astype(jnp.float32)
    centred = x32 - x32.mean(axis=-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + eps)
    scale, bias = (expand(params[name].astype(jnp.float32), x.ndim) for name in ("scale", "bias"))
    return (normed * scale + bias).astype(x.dtype)


def expand(x: jax.Array, ndim: int) -> jax.Array:
    """Adds leading axes of size one, since implicit rank promotion is an error in the tests."""
    return x.reshape((1,) * (ndim - x.ndim) + x.shape)


def linear(equation: str, x: jax.Array, kernel: Stored, bias: jax.Array | None = None) -> jax.Array:
    """einsum(equation, x, kernel) + bias in the dtype of x; bias has the trailing axes of the
    result.
    """
    if isinstance(kernel, Int8):
        y = int8.einsum(equation, x, kernel)
    else:
        y = jnp.einsum(
            equation, x, kernel.astype(x.dtype), preferred_element_type=_sum_dtype(x.dtype)
        ).astype(x.dtype)
    return y if bias is None else y + expand(bias.astype(x.dtype), y.ndim)


def _sum_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """What products of `dtype` are asked for in before they are rounded to it.

    XLA on the CPU uses the processor's bfloat16 products only for results in float32; for others it
    takes the operands to float32 first. Programs over a mesh stay as they are: it may be of devices
    that are only described, and sums over devices would be in float32.
    """
    # benchmarks/cpu_dtypes.py times it
    alone = jax.sharding.get_abstract_mesh().empty and jax.default_backend() == "cpu"
    return jnp.dtype(jnp.float32) if alone else dtype


@jax.named_scope("mlp")
def swiglu(x: jax.Array, params: dict) -> jax.Array:
    """down(silu(gate(x)) * up(x)); x [B, T, D]; gate, up [D, F], down [F, D], each with an optional
    bias.
    """
    # [B,T,D] x [D,F] -> [B,T,F], twice, and back
    gate = linear("btd,df->btf", x, params["gate"]["kernel"], params["gate"].get("bias"))
    up = linear("btd,df->btf", x, params["up"]["kernel"], params["up"].get("bias"))
    return linear(
        "btf,fd->btd", jax.nn.silu(gate) * up, params["down"]["kernel"], params["down"].get("bias")
    )


def take_media(table: jax.Array, media_index: jax.Array) -> jax.Array:
    """table[b // (B // R), media_index[b, t]]: media rows [R,N,D], int32 [B,T] -> [B,T,D]; row 0
    where the index is -1.
    """
    (B, T), R = media_index.shape, table.shape[0]
    # The text rows of one media row are one gather: it stays on the device that holds both.
    index = jnp.maximum(media_index, 0).reshape(R, -1, T)
    return jax.vmap(lambda rows, at: jnp.take(rows, at, axis=0))(table, index).reshape(B, T, -1)


def rotate(x: jax.Array, angles: jax.Array, scale: float = 1.0) -> jax.Array:
    """Rotary embedding of pairs (x[i], x[i + h/2]), as in GPT-NeoX, times `scale`.

    x [B,T,H,h], angles [B,T,h/2].
    """
    cos, sin = jnp.cos(angles)[:, :, None, :], jnp.sin(angles)[:, :, None, :]
    if scale != 1:
        cos, sin = cos * scale, sin * scale
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate(
        [first * cos - second * sin, second * cos + first * sin], axis=-1
    ).astype(x.dtype)


def views(
    stack: dict[str, Any], specs: Mapping[str, Any], dtype: jnp.dtype
) -> tuple[dict[str, Any], ...] | None:
    """Stacked weights [L, ...] -> a dict for each layer that shares their memory; None where that
    cannot be.

    XLA on the CPU copies a slice of a stack before it multiplies it; arrays of their own are read
    where they lie. It can be for arrays on one CPU device, matrices in the compute dtype. The views
    keep the stack alive. specs: the declarations of the stack.
    """

    def on_one_cpu(w: jax.Array) -> bool:
        return (
            not isinstance(w, jax.core.Tracer)
            and isinstance(w.sharding, jax.sharding.SingleDeviceSharding)
            and next(iter(w.devices())).platform == "cpu"
        )

    def readable(w: jax.Array, spec: ParamSpec) -> bool:
        return on_one_cpu(w) and (w.dtype == dtype or spec.compute_in_float32)

    if not all(jax.tree.leaves(jax.tree.map(readable, stack, dict(specs)))):
        return None
    (count,) = {spec.shape[0] for spec in jax.tree.leaves(dict(specs))}
    return tuple(
        jax.tree.map(lambda w, i=i: jax.device_put(np.asarray(w)[i], w.sharding), stack)
        for i in range(count)
    )


def rematerialised(body: Callable, remat: str, *, offloads: bool = False) -> Callable:
    """A scan body under the rematerialisation policy of the config.

    "none" keeps all activations (weights that were gathered over a mesh are gathered again), "full"
    the input of each layer, "dots" also the products with weights; "offload" the input of each
    layer in the host's memory if `offloads`, else as "full".
    """
    policies = jax.checkpoint_policies
    if remat == "none":
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or mesh.size == 1:
            return body
        return jax.checkpoint(body, policy=_but_what_was_moved, prevent_cse=False)
    if remat == "offload" and offloads:

        def named(x: jax.Array, layer: Any) -> Any:
            return body(checkpoint_name(x, _LAYER_INPUT), layer)

        policy = policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=[_LAYER_INPUT],
            offload_src=offload.DEVICE,
            offload_dst=offload.HOST,
        )
        return jax.checkpoint(named, policy=policy, prevent_cse=False)
    policy = policies.dots_with_no_batch_dims_saveable if remat == "dots" else None
    return jax.checkpoint(body, policy=policy, prevent_cse=False)


def _but_what_was_moved(primitive: Any, *inputs: Any, **parameters: Any) -> bool:
    """Policy of rematerialisation: everything is kept but what a sharding constraint returns.

    Gathered weights are gathered again: kept, they would be the whole model on each device. Of an
    activation that only stays where it is, what is constrained is kept.
    """
    del inputs, parameters
    return primitive.name != "sharding_constraint"
