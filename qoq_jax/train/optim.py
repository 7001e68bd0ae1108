"""The optimiser: learning rate schedule, AdamW with its clip, frozen weights."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import optax

from qoq_jax.base.errors import ConfigError, did_you_mean
from qoq_jax.models import spec
from qoq_jax.train.config import OptimizerConfig


def schedule(kind: str, lr: float, warmup: int, steps: int) -> optax.Schedule:
    """Learning rate: linear warm-up, then constant, or a cosine or a straight line to a tenth of
    `lr`.
    """
    ramp, rest = optax.linear_schedule(lr / max(warmup, 1), lr, warmup), max(steps - warmup, 1)
    if kind == "cosine":
        after = optax.cosine_decay_schedule(lr, rest, alpha=0.1)
    elif kind == "linear":
        after = optax.linear_schedule(lr, 0.1 * lr, rest)
    else:
        after = optax.constant_schedule(lr)
    return optax.join_schedules([ramp, after], [warmup])


def make_optimizer(
    cfg: OptimizerConfig,
    learning_rate: optax.Schedule,
    specs: Mapping[str, Any],
    critic_lr: float | None = None,
) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW. Weight decay pulls at what `specs`, the declarations of the
    trained weights, say (`ParamSpec.decays`).

    Frozen weights take no part: their gradients count in no norm and they have no moments. A critic
    (critic_lr given) has its own learning rate and its own clip, so that the size of value errors
    does not scale the policy's update.
    """

    decays = {path: leaf.decays for path, leaf in spec.flatten(specs).items()}

    def mask(params: Any) -> Any:
        """Which leaves decay, of all weights or of a part of the partition below."""
        return jax.tree_util.tree_map_with_path(
            lambda path, _: decays["/".join(key.key for key in path)], params
        )

    def update(rate: float | optax.Schedule) -> optax.GradientTransformation:
        return optax.chain(
            optax.clip_by_global_norm(cfg.clip_norm),
            optax.adamw(rate, b1=cfg.b1, b2=cfg.b2, weight_decay=cfg.weight_decay, mask=mask),
        )

    if not cfg.frozen and critic_lr is None:
        return update(learning_rate)
    parts = {"train": update(learning_rate)}
    if cfg.frozen:
        parts["frozen"] = optax.set_to_zero()
    if critic_lr is not None:
        parts["critic"] = update(critic_lr)
    return optax.partition(parts, functools.partial(_labels, cfg.frozen))


def _labels(frozen: tuple[str, ...], params: Any) -> Any:
    """ "critic", "frozen" or "train" for each leaf.

    An adapter is named by the weight that it belongs to.
    """

    def label(path: str) -> str:
        name = path.removeprefix("lora/")
        is_frozen = any(name == prefix or name.startswith(prefix + "/") for prefix in frozen)
        return "critic" if name.startswith("critic/") else "frozen" if is_frozen else "train"

    return spec.unflatten({path: label(path) for path in spec.flatten(params)})


def stop_frozen_gradients(params: Any, frozen: tuple[str, ...]) -> Any:
    """`params` whose frozen weights are constants: neither their gradients nor what leads to them
    alone is computed.

    Args:
      params: pytree of weights.
      frozen: starts of paths, as in `OptimizerConfig`.
    """
    if not frozen:
        return params

    def stop(label: str, weights: jax.Array) -> jax.Array:
        return jax.lax.stop_gradient(weights) if label == "frozen" else weights

    return jax.tree.map(stop, _labels(frozen, params), params)


def check_frozen(frozen: tuple[str, ...], specs: Any) -> None:
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
