"""Graph convolutional network (Kipf & Welling, arXiv 1609.02907).

Axis letters: base/axes.py and graph.py; W width.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from qoq_jax.models.encoders import graph, masked
from qoq_jax.models.encoders.encoder import Batch, Encoder, Params
from qoq_jax.models.encoders.masked import Array
from qoq_jax.models.spec import fan_in


@dataclasses.dataclass(frozen=True)
class GcnConfig:
    """Sizes. features: F, of a node; 360 are the regions of the largest connectomes."""

    features: int = 360
    width: int = 64
    depth: int = 2


def param_specs(cfg: GcnConfig) -> Params:
    """A kernel and a bias per layer."""
    inputs = (cfg.features, *(cfg.width,) * (cfg.depth - 1))
    he = 2**0.5  # behind a ReLU (He et al., arXiv 1502.01852)
    return {
        f"layer{i}": masked.dense_specs(n, cfg.width, std=fan_in(n, he))
        for i, n in enumerate(inputs)
    }


def tokens(params: Params, cfg: GcnConfig, batch: Batch) -> tuple[Array, Array]:
    """(nodes [B,N,W], mask): H' = relu(Â H W + b), for each layer (equation 2)."""
    kernel = params["layer0"]["kernel"]
    x = graph.features(batch, kernel.dtype)
    propagate = normalised(graph.edges(batch)).astype(kernel.dtype)
    for i in range(cfg.depth):
        p = params[f"layer{i}"]
        # [B,N,M] x [B,M,W] -> [B,N,W]
        x = jnp.einsum("bnm,bmw->bnw", propagate, x @ p["kernel"])
        x = jax.nn.relu(x + masked.rows(p["bias"], x))
    return x, batch["node_valid"]


def pooled(params: Params, cfg: GcnConfig, batch: Batch) -> Array:
    """[B,W]: the mean of the nodes."""
    return masked.masked_mean(*tokens(params, cfg, batch))


def normalised(adjacency: Array) -> Array:
    """Â = D^-1/2 (A + I) D^-1/2 of [B,N,N], with Dᵢᵢ = Σⱼ |A + I|ᵢⱼ.

    With magnitudes, which change nothing where all weights are positive, the degree of a node with
    negative correlations is positive too (the signed Laplacian of Kunegis et al., SDM 2010).
    """
    with_self = adjacency + jnp.eye(adjacency.shape[1], dtype=adjacency.dtype)[None]
    scale = jax.lax.rsqrt(jnp.maximum(jnp.abs(with_self).sum(axis=2), 1e-12))
    return scale[:, :, None] * with_self * scale[:, None, :]


ENCODERS = (
    Encoder(
        name="gcn",
        kind="graph",
        cfg=GcnConfig(),
        width=GcnConfig().width,
        param_specs=param_specs,
        tokens=tokens,
        pooled=pooled,
        source="GCN, arXiv 1609.02907",
    ),
)
