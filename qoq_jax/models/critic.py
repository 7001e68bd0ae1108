"""The value head of PPO: an MLP on the decoder's last hidden state.

Letters: D decoder width, F its hidden layer (as wide).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from qoq_jax.models import layers
from qoq_jax.models.spec import ParamSpec, fan_in


def param_specs(width: int) -> dict[str, Any]:
    """The head's weights: a hidden layer of the decoder's width; the output starts at zero."""
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
    h = jax.nn.gelu(
        jnp.einsum("...d,df->...f", h, critic["hidden"]["kernel"])
        + layers.expand(critic["hidden"]["bias"], h.ndim)
    )
    return jnp.einsum("...f,f->...", h, critic["out"]["kernel"]) + critic["out"]["bias"]
