"""An encoder of gene expression: a perceptron over standardised values.

Axis letters: base/axes.py; B samples, N genes, W width. A missing value is 0, the mean of
standardised ones.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from qoq_jax.models.encoders import masked
from qoq_jax.models.encoders.encoder import Batch, Encoder, Params
from qoq_jax.models.encoders.masked import Array

_EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class ExpressionConfig:
    """Sizes. genes: N, of a batch."""

    genes: int = 2048
    width: int = 128
    hidden: int = 256


def param_specs(cfg: ExpressionConfig) -> Params:
    """Two linear layers and a norm."""
    return {
        "up": masked.dense_specs(cfg.genes, cfg.hidden),
        "down": masked.dense_specs(cfg.hidden, cfg.width),
        "norm": masked.norm_specs(cfg.width),
    }


def tokens(params: Params, cfg: ExpressionConfig, batch: Batch) -> tuple[Array, Array]:
    """(`pooled` as one token [B,1,W], mask)."""
    x = pooled(params, cfg, batch)[:, None]
    return x, jnp.ones(x.shape[:2], bool)


def pooled(params: Params, cfg: ExpressionConfig, batch: Batch) -> Array:
    """[B,W]: norm(down(gelu(up(values))))."""
    del cfg
    x = jnp.where(batch["value_valid"], batch["values"], 0)
    x = masked.mlp(params, x.astype(params["norm"]["scale"].dtype))
    return masked.layer_norm(x, params["norm"], _EPS)


ENCODERS = (
    Encoder(
        name="expression_mlp",
        kind="expression",
        cfg=ExpressionConfig(),
        width=ExpressionConfig().width,
        param_specs=param_specs,
        tokens=tokens,
        pooled=pooled,
        source="a perceptron",
    ),
)
