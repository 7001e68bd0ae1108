"""Graph attention network (Veličković et al., arXiv 1710.10903), with weights of edges.

Axis letters: base/axes.py and graph.py; W width, K heads.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from qoq_jax.models import spec as spec_lib
from qoq_jax.models.attention import MASKED
from qoq_jax.models.encoders import graph, masked
from qoq_jax.models.encoders.encoder import Batch, Encoder, Params
from qoq_jax.models.encoders.masked import Array
from qoq_jax.models.spec import ParamSpec

_SLOPE = 0.2  # of LeakyReLU, section 2.1


@dataclasses.dataclass(frozen=True)
class GatConfig:
    """Sizes. features: F, of a node; 360 are the regions of the largest connectomes."""

    features: int = 360
    width: int = 64
    depth: int = 2
    num_heads: int = 4


def param_specs(cfg: GatConfig) -> Params:
    """A kernel, the vectors of asked and asking nodes, the weight of the edge, and a bias."""
    heads, head = cfg.num_heads, cfg.width // cfg.num_heads
    vector = ParamSpec((heads, head), ("heads", None), spec_lib.fan_in(head))

    def layer(inputs: int) -> Params:
        kernel = (inputs, heads, head)
        return {
            "kernel": ParamSpec(kernel, ("embed", "heads", None), spec_lib.fan_in(inputs)),
            "asks": vector,
            "asked": vector,
            "edge": ParamSpec((heads,), (None,), "ones"),
            "bias": ParamSpec((cfg.width,), (None,), "zeros"),
        }

    return {f"layer{i}": layer(cfg.width if i else cfg.features) for i in range(cfg.depth)}


def tokens(params: Params, cfg: GatConfig, batch: Batch) -> tuple[Array, Array]:
    """(nodes [B,N,W], mask), after layers whose heads are concatenated (equation 5)."""
    adjacency = graph.edges(batch)
    x = graph.features(batch, params["layer0"]["kernel"].dtype)
    for i in range(cfg.depth):
        x = attend(params[f"layer{i}"], x, adjacency)
    return x, batch["node_valid"]


def pooled(params: Params, cfg: GatConfig, batch: Batch) -> Array:
    """[B,W]: the mean of the nodes."""
    return masked.masked_mean(*tokens(params, cfg, batch))


def attend(p: Params, x: Array, adjacency: Array) -> Array:
    """h'ₙ = elu(Σₘ αₙₘ W hₘ + b), of [B,N,F] over a node's neighbours and itself.

    αₙ = softmaxₘ leaky_relu(a · W hₙ + a' · W hₘ + c Aₙₘ), for each head (equations 3 to 5). The
    term of the weight of the edge is that of PyTorch Geometric's GATConv with one edge feature.
    These scores are no products of queries and keys, and so do not go through models/attention.py.
    """
    # [B,N,F] x [F,K,h] -> [B,N,K,h]
    z = jnp.einsum("bnf,fkh->bnkh", x, p["kernel"])
    asks = jnp.einsum("bnkh,kh->bkn", z, p["asks"])[..., None]
    asked = jnp.einsum("bnkh,kh->bkn", z, p["asked"])[:, :, None]
    edge = p["edge"].reshape(1, -1, 1, 1) * adjacency[:, None].astype(z.dtype)
    itself = jnp.eye(adjacency.shape[1], dtype=bool)[None]
    scores = jax.nn.leaky_relu(asks + asked + edge, _SLOPE).astype(jnp.float32)
    near = ((adjacency != 0) | itself)[:, None]
    weights = jax.nn.softmax(jnp.where(near, scores, MASKED)).astype(z.dtype)
    # [B,K,N,M] x [B,M,K,h] -> [B,N,K,h]
    mixed = jnp.einsum("bknm,bmkh->bnkh", weights, z)
    mixed = mixed.reshape(*mixed.shape[:2], -1)
    return jax.nn.elu(mixed + masked.rows(p["bias"], mixed))


ENCODERS = (
    Encoder(
        name="gat",
        kind="graph",
        cfg=GatConfig(),
        width=GatConfig().width,
        param_specs=param_specs,
        tokens=tokens,
        pooled=pooled,
        source="GAT, arXiv 1710.10903",
    ),
)
