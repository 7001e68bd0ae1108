"""Log-probability and entropy of given tokens, without the logits of all positions at once.

Axis letters: base/axes.py.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from qoq_jax.models import decoder
from qoq_jax.parallel.mesh import batch_shards, constrain


@jax.named_scope("head")
def token_logprobs(
    params: dict,
    hidden: jax.Array,
    targets: jax.Array,
    *,
    temperature: float = 1.0,
    chunk: int = 256,
) -> tuple[jax.Array, jax.Array]:
    """log softmax(logits / temperature)[target] and its entropy, without [B,T,V] logits.

    Args:
      params: those of the decoder; its head alone is read.
      hidden: [B,T,D] after the final norm; position t scores targets[:, t].
      targets: int32 [B,T].
      chunk: tokens that a device scores at once; a few arrays of [chunk, V] exist at a time, in
        both directions.

    Returns (logprob, entropy), float32 [B,T], entropy in nats.
    """
    B, T, _ = hidden.shape
    # Chunks are cut along T and keep all rows, so that every device works on its own rows in every
    # chunk.
    width = min(T, max(1, chunk * batch_shards() // B))
    pad = -T % width
    # Gathered over fsdp once, before the loop. Kept in float32: its gradient is summed over the
    # chunks.
    kernel = constrain(decoder.head(params), ("vocab", None))

    def chunks(x: jax.Array) -> jax.Array:  # [B, T, ...] -> [T / width, B, width, ...]
        x = jnp.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(B, -1, width, *x.shape[2:]), 1, 0)

    def score(
        _: None, hidden_and_target: tuple[jax.Array, jax.Array]
    ) -> tuple[None, tuple[jax.Array, jax.Array]]:
        hidden, target = hidden_and_target
        # [B,width,D] x [V,D] -> [B,width,V]
        scores = jnp.einsum(
            "btd,vd->btv", hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32
        )
        scores = constrain(scores, ("batch", None, "vocab")) / temperature
        shifted = scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
        weight = jnp.exp(shifted)
        total = weight.sum(axis=-1)
        # A comparison instead of a gather: it fuses, and stays local when the vocabulary is cut
        # over devices.
        is_target = target[:, :, None] == jnp.arange(kernel.shape[0])[None, None, :]
        logprob = jnp.where(is_target, shifted, 0.0).sum(axis=-1) - jnp.log(total)
        entropy = jnp.log(total) - (weight * shifted).sum(axis=-1) / total
        return None, (logprob, entropy)

    _, results = jax.lax.scan(
        jax.checkpoint(score, prevent_cse=False), None, (chunks(hidden), chunks(targets))
    )
    logprob, entropy = (jnp.moveaxis(x, 0, 1).reshape(B, T + pad)[:, :T] for x in results)
    return logprob, entropy
