"""An encoder and one linear head over the vocabulary of all data sets (CLIMB, arXiv 2503.07667).

Axis letters: base/axes.py; B samples, V classes of all sets together, W width of the encoder.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qoq_jax.models.encoders.encoder import Batch, Encoder, Params
from qoq_jax.models.spec import ParamSpec

HEAD_STD = 0.02  # as in the released code (DDVD233/CLIMB)
Array = jax.Array


def param_specs(encoder: Encoder, classes: int) -> dict[str, Any]:
    """{"encoder", "head"}."""
    head = {
        "kernel": ParamSpec((encoder.width, classes), ("embed", None), HEAD_STD),
        "bias": ParamSpec((classes,), (None,), "zeros"),
    }
    return {"encoder": encoder.param_specs(encoder.cfg), "head": head}


def features(
    params: Params, encoder: Encoder, inputs: Batch, dtype: jnp.dtype | type = jnp.float32
) -> Array:
    """float32 [B, W]: the vector that the head acts on.

    Args:
      params: {"encoder": ...}.
      inputs: arrays of the encoder's kind; pixels as uint8.
      dtype: of the computation.
    """
    cast = functools.partial(jax.tree.map, lambda x: x.astype(dtype))
    prepared = normalised(encoder, inputs)
    pooled = encoder.pooled(cast(params["encoder"]), encoder.cfg, prepared)
    return pooled.astype(jnp.float32)


def logits(
    params: Params, encoder: Encoder, inputs: Batch, dtype: jnp.dtype | type = jnp.float32
) -> Array:
    """float32 [B, V]; as `features`."""
    head = params["head"]
    # [B,W] x [W,V] -> [B,V]
    found = jnp.einsum("bw,wv->bv", features(params, encoder, inputs, dtype), head["kernel"])
    return found + head["bias"].reshape(1, -1)


def normalised(encoder: Encoder, inputs: Batch) -> Batch:
    """Pixels travel as uint8, a quarter of float32, and become (x / 255 - mean) / std here."""
    if encoder.kind != "image":
        return inputs
    mean, std = (
        jnp.asarray(np.array(one, np.float32).reshape(1, 1, 1, 1, 3))
        for one in (encoder.cfg.mean, encoder.cfg.std)
    )
    return {**inputs, "pixels": (inputs["pixels"].astype(jnp.float32) / 255 - mean) / std}


def masked_losses(found: Array, gold: Array, own: Array, exclusive: Array) -> Array:
    """The loss of each sample, float32 [B], over the labels of its own set C_k alone:

      exclusive   -log softmax_{c in C_k}(z)_y
      else        1/|C_k| Σ_{c in C_k} log(1 + exp(z_c)) - y_c z_c

    Other columns cost nothing and get no gradient. The mean over a set's labels lets a sample of
    many labels weigh as much as one of few.

    Args:
      found: logits float32 [B, V].
      gold: float32 [B, V], 1 where the sample has the label.
      own: bool [B, V]. exclusive: bool [B].
    """
    assert found.shape == gold.shape == own.shape and exclusive.shape == found.shape[:1]
    z = jnp.where(own, found, 0.0)
    of_softmax = jax.nn.logsumexp(found, axis=-1, where=own) - (gold * z).sum(axis=-1)
    each = jnp.where(own, jax.nn.softplus(z) - gold * z, 0.0)
    of_binary = each.sum(axis=-1) / own.sum(axis=-1)
    return jnp.where(exclusive, of_softmax, of_binary)


def loss(found: Array, batch: dict[str, Any]) -> Array:
    """float32 []: mean of `masked_losses` over the samples that were read."""
    each = masked_losses(found, batch["gold"], batch["own"], batch["exclusive"])
    return (each * batch["weight"]).sum() / jnp.maximum(batch["weight"].sum(), 1.0)
