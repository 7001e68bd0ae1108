"""Attention on GPUs: rows of tokens by JAX's flash attention in Triton
(jax.experimental.pallas.ops.gpu.attention), which keeps scores in the chip's shared memory.

The kernel knows causal masks and segments. Of a row with one prompt and G responses it is given G
rows of one response each, [prompt | response]: the prompt attends G times, a quarter more scores at
5 responses as long as the prompt, and only queries, keys and values are copied.

Axis letters: base/axes.py; H = K * N heads of queries.
"""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType

import einops
import jax
import jax.numpy as jnp

from qoq_jax.models.kernels import padded_rows

BLOCK = 128  # rows are padded to a multiple of it


def packed_rows(
    q: jax.Array, k: jax.Array, v: jax.Array, segment: jax.Array, *, interpret: bool = False
) -> jax.Array:
    """`attention.packed_rows` of samples with one response each: causal within a segment.

    q [B,T,K,N,h], k and v [B,T,K,h], segment int32 [B,T]. Returns [B,T,K,N,h].
    """
    return _rows(q, k, v, segment, "batch", causal=True, interpret=interpret)


def grouped_rows(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment: jax.Array,
    *,
    prompt: int,
    branches: int,
    interpret: bool = False,
) -> jax.Array:
    """`attention.grouped_rows`; shapes as `packed_rows`."""

    def apart(x: jax.Array) -> jax.Array:
        own = einops.rearrange(x[:, prompt:], "b (g s) ... -> b g s ...", g=branches)
        shared = jnp.broadcast_to(x[:, None, :prompt], (x.shape[0], branches, prompt, *x.shape[2:]))
        return einops.rearrange(jnp.concatenate([shared, own], axis=2), "b g t ... -> (b g) t ...")

    out = packed_rows(*(apart(x) for x in (q, k, v, segment)), interpret=interpret)
    out = einops.rearrange(out, "(b g) t ... -> b g t ...", g=branches)
    own = einops.rearrange(out[:, :, prompt:], "b g s ... -> b (g s) ...")
    return jnp.concatenate([out[:, 0, :prompt], own], axis=1)


def segment_rows(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array,
    longest: int,
    *,
    interpret: bool = False,
) -> jax.Array:
    """`attention.segment_rows`: both ways within a segment; `longest` is of no use to this kernel.

    q, k, v [R,T,K,h]; segments int32 [R,T]. Returns [R,T,K,h].
    """
    return _rows(q, k, v, segments, "media", causal=False, interpret=interpret)


def _rows(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment: jax.Array,
    rows: str,
    *,
    causal: bool,
    interpret: bool,
) -> jax.Array:
    """Rows cut along the logical axis `rows`; shapes as kernels.padded_rows."""
    scale, length = q.shape[-1] ** -0.5, q.shape[1] + -q.shape[1] % BLOCK
    # The kernel's blocks of channels are powers of two: of others it would read beyond the end.
    channels = 1 << (q.shape[-1] - 1).bit_length()

    def on_device(q: jax.Array, k: jax.Array, v: jax.Array, segment: jax.Array) -> jax.Array:
        # each head of queries has keys of its own in the kernel
        k, v = (jnp.repeat(x, q.shape[2] // k.shape[2], axis=2) for x in (k, v))
        triton = _triton()
        return triton.mha(
            q,
            k,
            v,
            segment,
            sm_scale=scale,
            causal=causal,
            block_sizes=triton.BlockSizes(
                block_q=128,
                block_k=64,
                block_q_dkv=64,
                block_kv_dkv=64,
                block_q_dq=64,
                block_kv_dq=64,
            ),
            interpret=interpret,
        )

    return padded_rows(on_device, q, k, v, segment, rows, length=length, channels=channels)


def _triton() -> ModuleType:
    """JAX's kernel, loaded where it is used: JAX 0.12 warns that tokamax is to replace it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return importlib.import_module("jax.experimental.pallas.ops.gpu.attention")
