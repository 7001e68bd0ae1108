"""Attention on TPU: rows of tokens by the splash kernel of JAX
(jax.experimental.pallas.ops.tpu.splash_attention), which keeps scores in the chip's own memory.

A mask of the kernel has two parts. What follows from places alone is known when the program is
built (`Mask`), and blocks of it that nobody sees cost nothing; segments are data. Rows that hold
one prompt and its responses in fixed places have both: who sees whom follows from the places, what
is padding from the segments.

Axis letters: base/axes.py; H = K * N heads of queries.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from jax.experimental.pallas.ops.tpu import splash_attention as splash

from qoq_jax.models.kernels import padded_rows

LANES = 128  # the kernel's blocks, and the channels it reads, are multiples of it
BLOCK = 512  # of queries and of keys, where rows are long enough


@dataclasses.dataclass(frozen=True)
class Grouped(splash.Mask):
    """Rows [prompt | branch 1 | ... | branch G]: causal; a branch sees the prompt and itself.

    Attributes:
      length: T, of queries and of keys; places behind the last branch are padding.
      prompt: tokens of the prompt.
      branch: tokens of each branch.
    """

    length: int
    prompt: int
    branch: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.length, self.length

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        query, key = (np.arange(self.length)[part] for part in index)
        query, key = query[:, None], key[None, :]
        of_query, of_key = (
            np.where(at < self.prompt, -1, (at - self.prompt) // self.branch) for at in (query, key)
        )
        return (key <= query) & ((of_key == -1) | (of_key == of_query))


Mask = Grouped | splash.CausalMask | splash.LocalMask


def packed_rows(
    q: jax.Array, k: jax.Array, v: jax.Array, segment: jax.Array, *, interpret: bool = False
) -> jax.Array:
    """`attention.packed_rows` of samples with one response each: causal within a segment.

    q [B,T,K,N,h], k and v [B,T,K,h], segment int32 [B,T]. Returns [B,T,K,N,h].
    """
    length = _padded(q.shape[1])
    return _rows(q, k, v, segment, splash.CausalMask((length, length)), "batch", interpret)


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
    mask = Grouped(_padded(q.shape[1]), prompt, (q.shape[1] - prompt) // branches)
    return _rows(q, k, v, segment, mask, "batch", interpret)


def segment_rows(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array,
    longest: int,
    *,
    interpret: bool = False,
) -> jax.Array:
    """`attention.segment_rows`: both ways within a segment of at most `longest` tokens.

    q, k, v [R,T,K,h]; segments int32 [R,T]. Returns [R,T,K,h].
    """
    length = _padded(q.shape[1])
    reach = min(longest, length) - 1
    mask = splash.LocalMask((length, length), (reach, reach), 0)
    return _rows(q, k, v, segments, mask, "media", interpret)


def _rows(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment: jax.Array,
    mask: Mask,
    rows: str,
    interpret: bool,
) -> jax.Array:
    """Rows cut along the logical axis `rows`; shapes as kernels.padded_rows."""
    scale, channels = q.shape[-1] ** -0.5, q.shape[-1] + -q.shape[-1] % LANES

    def on_device(q: jax.Array, k: jax.Array, v: jax.Array, segment: jax.Array) -> jax.Array:
        kernel = _kernel(mask, q.shape[2], interpret)
        q, k, v = (x.swapaxes(1, 2) for x in (q * scale, k, v))  # the kernel does not scale
        out = jax.vmap(kernel)(q, k, v, splash.SegmentIds(q=segment, kv=segment))
        return out.swapaxes(1, 2)

    return padded_rows(on_device, q, k, v, segment, rows, length=mask.shape[0], channels=channels)


def _kernel(mask: Mask, heads: int, interpret: bool) -> splash.SplashAttentionKernel:
    """The kernel of a mask, the same for all heads; `interpret`ed on any platform, for tests."""
    block = min(BLOCK, mask.shape[0])
    sizes = splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_kv_compute=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_kv_dkv_compute=block,
        # The fused backward kernel keeps a gradient of all queries for each block of keys: at
        # 24,576 tokens 48 times the queries.
        block_q_dq=block,
        block_kv_dq=block,
    )
    return splash.make_splash_mha(
        splash.MultiHeadMask([mask] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )


def _padded(length: int) -> int:
    """Tokens of a row as the kernel takes them: blocks of one size."""
    block = BLOCK if length > BLOCK else LANES
    return -(-length // block) * block
