"""Vision encoders at the smallest sizes that have all their parts, with weights far from zero."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from qoq_jax.models import spec
from qoq_jax.models.encoders import registry

_VIT = {"width": 16, "depth": 2, "num_heads": 2, "image_size": 32}
SIZES = {
    "convnextv2_atto": {"depths": (1, 2), "widths": (4, 8)},
    "vit_small": {**_VIT, "mlp_dim": 32},
    "dinov2_small": {**_VIT, "mlp_dim": 64, "patch": 8},
    "dinov2_small_registers": {**_VIT, "mlp_dim": 64, "patch": 8},
    "dinov2_giant": {**_VIT, "mlp_dim": 24, "patch": 8},
    # the first stage has windows that shift, the second is one window
    "swinv2_tiny": {"width": 8, "depths": (2, 2), "num_heads": (1, 2), "window": 4},
    "eva02_tiny": {**_VIT, "mlp_dim": 24, "patch": 8, "rope_grid": 3},
    "eva02_base": {**_VIT, "mlp_dim": 24, "patch": 8, "rope_grid": 3},
}
FAMILIES = ("convnextv2_atto", "dinov2_small_registers", "swinv2_tiny", "eva02_base")


def tiny(name, **sizes):
    """The encoder of that name with the sizes above, and others in their place."""
    encoder = registry.get(name)
    cfg = dataclasses.replace(encoder.cfg, **SIZES[name] | sizes)
    width = cfg.widths[-1] if "convnext" in name else cfg.width
    return dataclasses.replace(encoder, cfg=cfg, width=width << ("swin" in name))


def random_params(encoder):
    """Every weight drawn: norms about 1, biases and scales of branches not zero."""
    flat = spec.flatten(encoder.param_specs(encoder.cfg))

    def one(i, one):
        shape = one.shape[one.stacked :]
        drawn = np.random.default_rng(i).normal(size=one.shape)
        if len(shape) < 2:
            return drawn * 0.3 + 0.5
        return drawn / math.sqrt(math.prod(shape[:-1]))

    return spec.unflatten(
        {path: jnp.asarray(one(i, x), jnp.float32) for i, (path, x) in enumerate(flat.items())}
    )


def batch(samples=2, slices=1, size=32):
    """Noise, all slices valid."""
    pixels = np.random.default_rng(0).normal(size=(samples, slices, size, size, 3))
    valid = np.ones((samples, slices), bool)
    return {"pixels": jnp.asarray(pixels, jnp.float32), "slice_valid": jnp.asarray(valid)}


@functools.partial(jax.jit, static_argnums=0)
def _encode(functions, params, batch):
    tokens, pooled, cfg = functions
    return *tokens(params, cfg, batch), pooled(params, cfg, batch)


def encode(encoder, params, batch):
    """(tokens, mask, pooled), compiled once per encoder and shape."""
    return _encode((encoder.tokens, encoder.pooled, encoder.cfg), params, batch)
