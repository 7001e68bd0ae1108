"""What the encoders of graphs share: dense adjacencies in which padded nodes have no edge.

Axis letters: base/axes.py; B graphs, N nodes that ask and M nodes that are asked, F features of a
node, K heads. A graph is an adjacency [B,N,M], whose row is what a node hears; 0 is no edge.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from qoq_jax.models.encoders.encoder import Batch
from qoq_jax.models.encoders.masked import Array


def edges(batch: Batch) -> Array:
    """The adjacency [B,N,M] without the edges of padded nodes."""
    valid = batch["node_valid"]
    return jnp.where(valid[:, :, None] & valid[:, None, :], batch["adjacency"], 0)


def features(batch: Batch, dtype: jax.typing.DTypeLike) -> Array:
    """Features [B,N,F], 0 for padded nodes."""
    return jnp.where(batch["node_valid"][..., None], batch["nodes"], 0).astype(dtype)
