"""Graph transformer (Dwivedi & Bresson, arXiv 2012.09699) over the nodes of a dense graph.

Axis letters: base/axes.py and graph.py; W width, K heads.

Blocks are those of section 3 of the paper, with the norm behind the sum. Every node attends to
every other, as the Brain Network Transformer (Kan et al., arXiv 2210.06681) has it for connectomes,
and the weight of the edge between two nodes is added to their score times a number per head
(Graphormer, arXiv 2106.05234, equation 6).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from qoq_jax.models import spec as spec_lib
from qoq_jax.models.attention import KeySet, attention
from qoq_jax.models.encoders import graph, masked
from qoq_jax.models.encoders.encoder import Batch, Encoder, Params
from qoq_jax.models.encoders.masked import Array
from qoq_jax.models.spec import ParamSpec

_EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class GraphTransformerConfig:
    """Sizes. features: F, of a node; 360 are the regions of the largest connectomes."""

    features: int = 360
    width: int = 64
    depth: int = 2
    num_heads: int = 4


def param_specs(cfg: GraphTransformerConfig) -> Params:
    """The embedding of features, and blocks on a leading layer axis."""
    width, residual = cfg.width, spec_lib.residual_scale(cfg.depth)
    block = {
        **masked.attention_specs(width, cfg.num_heads, residual),
        "edge": ParamSpec((cfg.num_heads,), (None,), "ones"),
        "norm1": masked.norm_specs(width),
        "up": masked.dense_specs(width, 2 * width),
        "down": masked.dense_specs(2 * width, width, std=spec_lib.fan_in(2 * width, residual)),
        "norm2": masked.norm_specs(width),
    }
    return {
        "embed": masked.dense_specs(cfg.features, width),
        "blocks": masked.stacked(block, cfg.depth),
    }


def tokens(params: Params, cfg: GraphTransformerConfig, batch: Batch) -> tuple[Array, Array]:
    """(nodes [B,N,W], mask)."""
    adjacency, valid = graph.edges(batch), batch["node_valid"]
    x = masked.linear(graph.features(batch, params["embed"]["kernel"].dtype), params["embed"])

    def block(x: Array, p: Params) -> tuple[Array, None]:
        x = masked.layer_norm(x + attend(p, x, adjacency, valid), p["norm1"], _EPS)
        return masked.layer_norm(x + masked.mlp(p, x), p["norm2"], _EPS), None

    return jax.lax.scan(jax.checkpoint(block), x, params["blocks"])[0], valid


def pooled(params: Params, cfg: GraphTransformerConfig, batch: Batch) -> Array:
    """[B,W]: the mean of the nodes."""
    return masked.masked_mean(*tokens(params, cfg, batch))


def attend(p: Params, x: Array, adjacency: Array, valid: Array) -> Array:
    """out(softmaxₘ(qₙ · kₘ / √h + c Aₙₘ) vₘ), of [B,N,W] over the nodes that are there."""
    # [B,N,W] x [W,X,K,h] -> X of [B,N,K,h]
    q, k, v = jnp.moveaxis(jnp.einsum("bnw,wxkh->bnxkh", x, p["qkv"]), 2, 0)
    edge = p["edge"].reshape(1, -1, 1, 1) * adjacency[:, None].astype(x.dtype)  # [B,K,N,M]
    keys = KeySet(k, v, valid=valid, bias=edge, bias_axes="bkts")
    mixed = attention(q, [keys], axes="btkh")
    # [B,N,K,h] x [K,h,W] -> [B,N,W]
    y = jnp.einsum("bnkh,khw->bnw", mixed, p["out"]["kernel"])
    return y + masked.rows(p["out"]["bias"], y)


ENCODERS = (
    Encoder(
        name="graph_transformer",
        kind="graph",
        cfg=GraphTransformerConfig(),
        width=GraphTransformerConfig().width,
        param_specs=param_specs,
        tokens=tokens,
        pooled=pooled,
        source="graph transformer, arXiv 2012.09699, with edges as in Graphormer, arXiv 2106.05234",
    ),
)
