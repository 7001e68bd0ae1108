"""Declarations of layers that many architectures have: LayerNorm and linear layers."""

from __future__ import annotations

from collections.abc import Sequence

from qoq_jax.models.spec import ParamSpec


def layer_norm_specs(key: str, size: int, count: int | None = None) -> dict[str, ParamSpec]:
    """Scale and bias of a LayerNorm, stacked `count` times; None = alone.

    `key` names them in the published checkpoint, without ".weight" and ".bias".
    """
    stack, axes = ((), ()) if count is None else ((count,), ("layers",))
    return {
        name: ParamSpec(
            (*stack, size),
            (*axes, None),
            init,
            f"{key}.{theirs}",
            "vector",
            compute_in_float32=True,
        )
        for name, theirs, init in (("scale", "weight", "ones"), ("bias", "bias", "zeros"))
    }


def linear_specs(
    key: str,
    shape: Sequence[int],
    axes: Sequence[str | None],
    std: float,
    count: int | None = None,
    layout: str = "linear",
) -> dict[str, ParamSpec]:
    """Kernel and bias of a linear or convolutional layer, stacked `count` times; None = alone.

    Args:
      key: as for `layer_norm_specs`.
      shape, axes: of one kernel.
      std: of its initial values.
      layout: of the kernel, one of spec.HF_LAYOUTS.
    """
    stack, layer = ((), ()) if count is None else ((count,), ("layers",))
    one_output = layout in ("linear_out", "conv", "depthwise", "pointwise")
    outputs = slice(-1, None) if one_output else slice(1, None)
    # a bias is cut over devices as the outputs are, but never along the width
    bias_axes = [axis if axis in ("heads", "mlp") else None for axis in axes[outputs]]
    return {
        "kernel": ParamSpec((*stack, *shape), (*layer, *axes), std, f"{key}.weight", layout),
        "bias": ParamSpec(
            (*stack, *shape[outputs]), (*layer, *bias_axes), "zeros", f"{key}.bias", "vector"
        ),
    }
