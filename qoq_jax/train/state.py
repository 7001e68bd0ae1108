"""TrainState: everything on the device that the next update depends on, and one update of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from qoq_jax.models import spec, vlm
from qoq_jax.models.sizes import VlmConfig
from qoq_jax.parallel import hosts
from qoq_jax.rl import drpo


@struct.dataclass
class TrainState:
    """State of one training stage.

    Attributes:
      step: int32 [], finished steps of this stage (skipped ones included).
      params: pytree of float32 master weights that are trained: those of the model, or {"lora":
        adapters}; "critic" beside them when there is one.
      opt_state: optax state of the same layout.
      skipped: int32 [], updates in a row that were dropped because loss or gradients were not
        finite.
      history: drpo.DomainHistory, or None when the algorithm keeps none.
      kl_coefficient: float32 [], or None when it is fixed.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    skipped: jax.Array
    history: Any = None
    kl_coefficient: Any = None


def create(
    key: jax.Array,
    model: VlmConfig,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    params: Any = None,
    history: Any = None,
    kl_coefficient: float | None = None,
) -> TrainState:
    """A fresh state on the mesh, with random weights unless `params` are given.

    Every leaf, the counters too, gets a NamedSharding: a restore puts a leaf without one on a
    single device.
    """
    specs = vlm.param_specs(model)
    if params is None:
        params = jax.jit(
            lambda k: spec.init_params(specs, k), out_shardings=spec.shardings(specs, mesh)
        )(key)
    return start(params, optimizer, mesh, history, kl_coefficient)


def start(
    params: Any,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    history: Any = None,
    kl_coefficient: float | None = None,
) -> TrainState:
    """A fresh state around parameters that lie on the mesh."""
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    opt_state = jax.jit(
        optimizer.init, out_shardings=_opt_shardings(optimizer, params, replicated)
    )(params)
    # Two separate zeros: a donated buffer must not appear twice in the state.
    step, skipped = (hosts.place(np.zeros((), np.int32), replicated) for _ in range(2))
    history = None if history is None else hosts.place(history, replicated)
    if kl_coefficient is not None:
        kl_coefficient = hosts.place(np.float32(kl_coefficient), replicated)
    return TrainState(
        step=step,
        params=params,
        opt_state=opt_state,
        skipped=skipped,
        history=history,
        kl_coefficient=kl_coefficient,
    )


def layout(
    params: Any,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    history: Any = None,
    kl_coefficient: float | None = None,
) -> TrainState:
    """What `start` would give as shapes and places alone, to restore a checkpoint into; params:
    ShapeDtypeStructs with shardings.
    """
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def on_mesh(x: jax.Array, sharding: jax.sharding.Sharding = replicated) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    opt_state = jax.tree.map(
        on_mesh,
        jax.eval_shape(optimizer.init, params),
        _opt_shardings(optimizer, params, replicated),
    )
    zero = on_mesh(jax.ShapeDtypeStruct((), jnp.int32))
    return TrainState(
        step=zero,
        params=params,
        opt_state=opt_state,
        skipped=zero,
        history=jax.tree.map(on_mesh, history),
        kl_coefficient=None
        if kl_coefficient is None
        else on_mesh(jax.ShapeDtypeStruct((), jnp.float32)),
    )


def _opt_shardings(
    optimizer: optax.GradientTransformation, params: Any, replicated: jax.sharding.Sharding
) -> Any:
    """Moments are sharded as the parameter whose path their own path ends with; counters are
    replicated.
    """

    def names(path: tuple) -> tuple[str, ...]:
        return tuple(key.key for key in path if isinstance(key, jax.tree_util.DictKey))

    of = {names(path): leaf.sharding for path, leaf in jax.tree_util.tree_leaves_with_path(params)}

    def sharding(path: tuple, _: Any) -> jax.sharding.Sharding:
        keys = names(path)
        return next((of[keys[i:]] for i in range(len(keys)) if keys[i:] in of), replicated)

    return jax.tree_util.tree_map_with_path(sharding, jax.eval_shape(optimizer.init, params))


def keep_finite(finite: jax.Array, new: Any, old: Any) -> Any:
    """`new` where `finite` (bool []), else `old`; pytrees of one layout."""
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)


def apply_gradients(
    state: TrainState, grads: Any, loss: jax.Array, optimizer: optax.GradientTransformation
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimiser step; a non-finite loss or gradient leaves parameters and moments
    bit-unchanged.

    optax.apply_if_finite is not used: it accepts the update after enough failures.

    Returns:
      (new state, {"grad_norm", "update_finite"}).
    """
    with jax.named_scope("optimizer"):
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = state.replace(
            step=state.step + 1,
            params=keep_finite(finite, params, state.params),
            opt_state=keep_finite(finite, opt_state, state.opt_state),
            skipped=jnp.where(finite, 0, state.skipped + 1),
        )
    return new, {"grad_norm": norm, "update_finite": finite.astype(jnp.float32)}


def empty_history(cfg: drpo.DRPOConfig, rollouts: int) -> drpo.DomainHistory | None:
    """The DRPO history of a new run, or None when the config keeps none."""
    return drpo.init_history(cfg, rollouts) if cfg.history_size else None


def stored_layout(wanted: Any, read: Callable[[], Mapping[str, Any]]) -> Any:
    """The layout to read a checkpoint of `wanted` in. A DRPO history may be of fewer domains there:
    of all that were in data/rows.py then.

    Args:
      wanted: as `layout`; what has no history stays as it is.
      read: gives the tree of the checkpoint, of anything with a shape.
    """
    held = (read()["history"] or {}).get("count") if _has_history(wanted) else None
    if held is None or held.shape[0] >= wanted.history.count.shape[0]:
        return wanted

    def fewer(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((held.shape[0], *x.shape[1:]), x.dtype, sharding=x.sharding)

    return wanted.replace(history=jax.tree.map(fewer, wanted.history))


def with_new_domains(state: Any, wanted: Any) -> Any:
    """A state that was read in `stored_layout` with the domains of `wanted`: those that it lacks
    begin as in a new run, and the others keep their bits.
    """
    if not _has_history(wanted) or state.history.count.shape == wanted.history.count.shape:
        return state
    extend = jax.jit(
        functools.partial(drpo.extend_history, num_domains=wanted.history.count.shape[0]),
        out_shardings=jax.tree.map(lambda x: x.sharding, wanted.history),
    )
    return state.replace(history=extend(state.history))


def _has_history(state: Any) -> bool:
    return getattr(state, "history", None) is not None
