"""LoRA: low-rank adapters on any weight matrices, W' = W + (alpha / rank) A B, A [in, rank], B
[rank, out].

LoRA (arXiv 2106.09685), equation 3. A starts random and B at zero, so that training starts at the
base bit for bit. The merged weight is made inside the jitted step, whatever the model code does
with it; the base stays as it is and is never differentiated, so it can be the reference policy too.
A stacked weight has one adapter per layer.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax

from qoq_jax.base.errors import ConfigError, did_you_mean
from qoq_jax.models import spec as spec_lib
from qoq_jax.models.spec import ParamSpec, fan_in


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Adapters of a run.

    rank: 0 = off. alpha: the adapters' scale is alpha / rank.
    targets: weight matrices that get one, by the start or the end of their path: "decoder",
      "decoder/layers/q", "vision/blocks", "mlp/up/kernel". Norms and biases never do.
    stages: the stages that train adapters in place of weights.
    """

    rank: int = 0
    alpha: float = 16.0
    targets: tuple[str, ...] = ("decoder/layers",)
    stages: tuple[str, ...] = ("align", "rl")

    def __post_init__(self):
        if self.rank < 0 or not self.targets:
            raise ConfigError(
                f"lora rank={self.rank} targets={self.targets}",
                hint="use a rank of at least 0 and at least one target",
            )

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def adapter_specs(specs: Mapping[str, Any], cfg: LoraConfig) -> dict[str, Any]:
    """Declarations of the adapters of a model: PATH/a and PATH/b for each targeted weight PATH.

    Raises:
      ConfigError: a target that names no weight matrix.
    """
    flat = spec_lib.flatten(specs)
    # A bias of q has heads and head width for axes, and is a vector all the same.
    matrices = {
        path: leaf
        for path, leaf in flat.items()
        if len(leaf.shape) - leaf.stacked >= 2
        and leaf.hf_layout != "vector"
        and not path.endswith("bias")
    }
    chosen: dict[str, ParamSpec] = {}
    for target in cfg.targets:
        hit = [
            path
            for path in matrices
            if f"/{path}/".startswith(f"/{target}/") or f"/{path}".endswith(f"/{target}")
        ]
        if not hit:
            parts = [path.split("/") for path in matrices]
            starts = sorted(
                {"/".join(names[:n]) for names in parts for n in range(1, len(names) + 1)}
            )
            raise ConfigError(
                f"lora.targets: no weight matrix is under {target!r}",
                hint=did_you_mean(target, starts, "use a path as decoder/layers/q"),
            )
        chosen |= {path: matrices[path] for path in hit}
    adapters = {}
    for path, leaf in chosen.items():
        stack, inputs = int(leaf.stacked), _inputs(leaf)
        shape_in, shape_out = leaf.shape[stack:inputs], leaf.shape[inputs:]
        axes_in, axes_out = leaf.axes[stack:inputs], leaf.axes[inputs:]
        adapters[f"{path}/a"] = ParamSpec(
            (*leaf.shape[:stack], *shape_in, cfg.rank),
            (*leaf.axes[:stack], *axes_in, None),
            fan_in(math.prod(shape_in)),
        )
        adapters[f"{path}/b"] = ParamSpec(
            (*leaf.shape[:stack], cfg.rank, *shape_out),
            (*leaf.axes[:stack], None, *axes_out),
            "zeros",
        )
    return spec_lib.unflatten(adapters)


def init(
    specs: Mapping[str, Any], cfg: LoraConfig, key: jax.Array, mesh: jax.sharding.Mesh
) -> dict[str, Any]:
    """Fresh adapters on the mesh, cut as the weights that they belong to."""
    adapters = adapter_specs(specs, cfg)
    return jax.jit(
        lambda k: spec_lib.init_params(adapters, k),
        out_shardings=spec_lib.shardings(adapters, mesh),
    )(key)


@functools.partial(jax.jit, static_argnames="scale")
def _merged(
    weights: dict[str, jax.Array], adapters: dict[str, jax.Array], scale: float
) -> dict[str, jax.Array]:
    merged = {}
    for path, weight in weights.items():
        a, b = adapters[f"{path}/a"], adapters[f"{path}/b"]
        rank, stacked = a.shape[-1], a.ndim + b.ndim - weight.ndim - 2
        stack = weight.shape[:stacked]
        delta = a.reshape(*stack, -1, rank) @ b.reshape(*stack, rank, -1)
        merged[path] = (weight + scale * delta.reshape(weight.shape)).astype(weight.dtype)
    return merged


def merge(base: Mapping[str, Any], adapters: Mapping[str, Any], cfg: LoraConfig) -> dict[str, Any]:
    """The base with its adapters added; weights without one are passed on, not copied.

    Differentiable in the adapters.
    """
    flat, small = spec_lib.flatten(base), spec_lib.flatten(adapters)
    paths = sorted({path.rsplit("/", 1)[0] for path in small})
    return spec_lib.unflatten(
        flat | _merged({path: flat[path] for path in paths}, small, cfg.scale)
    )


def _inputs(leaf: ParamSpec) -> int:
    """Index of the first output dimension of a weight.

    Output projections have all but their last dimension as inputs.
    """
    if leaf.hf_layout == "linear_out":
        return len(leaf.shape) - 1
    return int(leaf.stacked) + 1
