"""TrainState: everything on the device that the next update depends on, and the optimiser that
updates it.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from qoq_jax.base.errors import ConfigError, did_you_mean
from qoq_jax.models import spec, vlm
from qoq_jax.models.sizes import VlmConfig
from qoq_jax.rl import drpo
from qoq_jax.train.config import OptimizerConfig


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


def schedule(kind: str, lr: float, warmup: int, steps: int) -> optax.Schedule:
    """Learning rate: linear warm-up, then constant, or a cosine or a straight line to a tenth of
    `lr`.
    """
    ramp, rest = optax.linear_schedule(lr / max(warmup, 1), lr, warmup), max(steps - warmup, 1)
    after = {
        "constant": lambda: optax.constant_schedule(lr),
        "cosine": lambda: optax.cosine_decay_schedule(lr, rest, alpha=0.1),
        "linear": lambda: optax.linear_schedule(lr, 0.1 * lr, rest),
    }[kind]()
    return optax.join_schedules([ramp, after], [warmup])


def make_optimizer(
    cfg: OptimizerConfig, learning_rate: optax.Schedule, critic_lr: float | None = None
) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW. Weight decay leaves vectors (norms, biases) alone.

    Frozen weights take no part: their gradients count in no norm and they have no moments. A critic
    (critic_lr given) has its own
    learning rate and its own clip, so that the size of value errors does not scale the policy's
    update.
    """

    def update(rate):
        return optax.chain(
            optax.clip_by_global_norm(cfg.clip_norm),
            optax.adamw(rate, b1=cfg.b1, b2=cfg.b2, weight_decay=cfg.weight_decay, mask=_decays),
        )

    if not cfg.frozen and critic_lr is None:
        return update(learning_rate)
    parts = {"train": update(learning_rate)}
    if cfg.frozen:
        parts["frozen"] = optax.set_to_zero()
    if critic_lr is not None:
        parts["critic"] = update(critic_lr)
    return optax.partition(parts, functools.partial(_labels, cfg.frozen))


def _labels(frozen: tuple[str, ...], params):
    """ "critic", "frozen" or "train" for each leaf.

    An adapter is named by the weight that it belongs to.
    """

    def label(path):
        name = path.removeprefix("lora/")
        held = any(name == prefix or name.startswith(prefix + "/") for prefix in frozen)
        return "critic" if name.startswith("critic/") else "frozen" if held else "train"

    return spec.unflatten({path: label(path) for path in spec.flatten(params)})


def hold(params, frozen: tuple[str, ...]):
    """`params` whose frozen weights are constants: neither their gradients nor what leads to them
    alone is computed.
    """
    if not frozen:
        return params
    stop = lambda label, weights: jax.lax.stop_gradient(weights) if label == "frozen" else weights  # noqa: E731
    return jax.tree.map(stop, _labels(frozen, params), params)


def check_frozen(frozen: tuple[str, ...], specs) -> None:
    """Checks that each prefix names some weight of the model.

    Raises:
      ConfigError: a prefix that no weight has.
    """
    paths = list(spec.flatten(specs))
    for prefix in frozen:
        if not any(path == prefix or path.startswith(prefix + "/") for path in paths):
            starts = sorted({path.rsplit("/", 1)[0] for path in paths})
            raise ConfigError(
                f"optimizer.frozen: no weight is under {prefix!r}",
                hint=did_you_mean(prefix, paths + starts, "use a path as vision/patch_embed"),
            )


def _decays(params):
    """True for leaves with weight decay: matrices and tables.

    Stacked layers add one leading axis to every leaf.
    """

    def leaf(path, value):
        stacked = any(getattr(k, "key", None) in ("layers", "blocks") for k in path)
        return value.ndim - stacked >= 2

    return jax.tree_util.tree_map_with_path(leaf, params)


def create(
    key: jax.Array,
    model: VlmConfig,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    params=None,
    history=None,
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
    params,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    history=None,
    kl_coefficient: float | None = None,
) -> TrainState:
    """A fresh state around parameters that lie on the mesh."""
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    opt_state = jax.jit(
        optimizer.init, out_shardings=_opt_shardings(optimizer, params, replicated)
    )(params)
    # Two separate zeros: a donated buffer must not appear twice in the state.
    step, skipped = (jax.device_put(jnp.zeros((), jnp.int32), replicated) for _ in range(2))
    history = None if history is None else jax.device_put(history, replicated)
    if kl_coefficient is not None:
        kl_coefficient = jax.device_put(jnp.asarray(kl_coefficient, jnp.float32), replicated)
    return TrainState(
        step=step,
        params=params,
        opt_state=opt_state,
        skipped=skipped,
        history=history,
        kl_coefficient=kl_coefficient,
    )


def layout(
    params,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    history=None,
    kl_coefficient: float | None = None,
) -> TrainState:
    """What `start` would give as shapes and places alone, to restore a checkpoint into; params:
    ShapeDtypeStructs with shardings.
    """
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    placed = lambda x, sharding=replicated: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=sharding
    )
    opt_state = jax.tree.map(
        placed,
        jax.eval_shape(optimizer.init, params),
        _opt_shardings(optimizer, params, replicated),
    )
    zero = placed(jax.ShapeDtypeStruct((), jnp.int32))
    return TrainState(
        step=zero,
        params=params,
        opt_state=opt_state,
        skipped=zero,
        history=jax.tree.map(placed, history),
        kl_coefficient=None
        if kl_coefficient is None
        else placed(jax.ShapeDtypeStruct((), jnp.float32)),
    )


def _opt_shardings(optimizer, params, replicated):
    """Moments are sharded as the parameter whose path their own path ends with; counters are
    replicated.
    """
    names = lambda path: tuple(key.key for key in path if isinstance(key, jax.tree_util.DictKey))
    of = {names(path): leaf.sharding for path, leaf in jax.tree_util.tree_leaves_with_path(params)}

    def sharding(path, _):
        keys = names(path)
        return next((of[keys[i:]] for i in range(len(keys)) if keys[i:] in of), replicated)

    return jax.tree_util.tree_map_with_path(sharding, jax.eval_shape(optimizer.init, params))


def apply_gradients(
    state: TrainState, grads, loss: jax.Array, optimizer: optax.GradientTransformation
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimiser step; a non-finite loss or gradient leaves parameters and moments
    bit-unchanged.

    optax.apply_if_finite is not used: it accepts the update after enough failures.

    Returns:
      (new state, {"grad_norm", "update_finite"}).
    """
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
    new = state.replace(
        step=state.step + 1,
        params=keep(params, state.params),
        opt_state=keep(opt_state, state.opt_state),
        skipped=jnp.where(finite, 0, state.skipped + 1),
    )
    return new, {"grad_norm": norm, "update_finite": finite.astype(jnp.float32)}


def empty_history(cfg: drpo.DRPOConfig, rollouts: int):
    """The DRPO history of a new run, or None when the config keeps none."""
    return drpo.init_history(cfg, rollouts) if cfg.history_size else None
