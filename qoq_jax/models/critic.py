"""The critic: a value head on the decoder's final hidden states, for PPO (arXiv 1707.06347).

Axis letters: base/axes.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from qoq_jax.models import layers
from qoq_jax.models.spec import ParamSpec, fan_in


def param_specs(width: int) -> dict[str, Any]:
    """The value head: a hidden layer of the decoder's width; its output starts at zero."""
    return {
        "hidden": {
            "kernel": ParamSpec((width, width), ("embed", None), fan_in(width)),
            "bias": ParamSpec((width,), (None,), "zeros"),
        },
        "out": {
            "kernel": ParamSpec((width,), (None,), "zeros"),
            "bias": ParamSpec((), (), "zeros"),
        },
    }


def values(critic: Mapping[str, Any], hidden: jax.Array) -> jax.Array:
    """V = w·gelu(W h + b) + c in float32: [..., D] -> [...].

    The gradient stops at h, so values never move the policy.
    """
    h = jax.lax.stop_gradient(hidden).astype(jnp.float32)
    # [...,D] x [D,D] -> [...,D], and [...,D] x [D] -> [...]
    h = jax.nn.gelu(
        jnp.einsum("...d,df->...f", h, critic["hidden"]["kernel"])
        + layers.expand(critic["hidden"]["bias"], h.ndim)
    )
    return jnp.einsum("...f,f->...", h, critic["out"]["kernel"]) + critic["out"]["bias"]
