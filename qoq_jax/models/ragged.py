"""Attention of a decode step on TPU that reads the filled places of each row and no others.

Keys and values stay where the cache has them: no pages, no table of them. A row's places are a
range of its own, which may wrap around the end of the ring. The kernel's grid is a list of
(row, block of places) with as many entries as there are filled blocks, made from the ranges once a
step; its length is data. Each entry fetches one block of keys and one of values.

A softmax over several sets of keys is joined from the parts by the logarithms of their sums
(arXiv 2205.14135, section 3.1).

Axis letters: base/axes.py; S places of a row, A queries of a row that share its keys.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec

from qoq_jax.models.int8 import Int8, Stored
from qoq_jax.parallel.mesh import partition_spec

MASKED = -1e30  # finite, as in attention.py
LANES = 128
# of keys and values in one entry of the grid; a v5e needs at least 0.6 us to fetch it
BLOCK_BYTES = 1 << 19
MAX_BLOCK = 1024  # places; what is read beyond a row's range is less than two blocks


@flax.struct.dataclass
class Part:
    """The softmax of queries over one set of keys, to be joined with others.

    Attributes:
      out: float32 [B,K,G,A,h].
      logsum: float32 [B,K,G,A], the logarithm of the sum of exponentials; MASKED where no key is
        seen, and `out` 0.
    """

    out: jax.Array
    logsum: jax.Array


def join(parts: list[Part]) -> jax.Array:
    """One softmax over the keys of all parts, float32; shapes as `Part.out`."""
    weights = jax.nn.softmax(jnp.stack([part.logsum for part in parts]), axis=0)
    return sum(weight[..., None] * part.out for weight, part in zip(weights, parts, strict=True))


def one_token(q: jax.Array, k: jax.Array, v: jax.Array) -> Part:
    """The part of one key for each row, which all its queries see: q [B,K,G,A,h], k and v
    [B,K,G,h].
    """
    # [B,K,G,A,h] x [B,K,G,h] -> [B,K,G,A]
    score = jnp.einsum("bkgah,bkgh->bkga", q, k, preferred_element_type=jnp.float32)
    out = jnp.broadcast_to(v[:, :, :, None].astype(jnp.float32), q.shape)
    return Part(out, score * q.shape[-1] ** -0.5)


def attend(
    q: jax.Array,
    k: Stored,
    v: Stored,
    first: jax.Array,
    count: jax.Array,
    *,
    interpret: bool = False,
) -> Part:
    """The part of the places first, first + 1, ..., first + count - 1 (modulo S) of each row.

    Args:
      q: [B,K,G,A,h]. k: [B,K,G,h,S]. v: [B,K,G,S,h].
      first, count: int32 [B,G]; first in 0 .. S - 1, count in 0 .. S.
      interpret: on any platform, for tests.
    """
    mesh = jax.sharding.get_abstract_mesh()
    run = functools.partial(_on_device, interpret=interpret)
    if mesh.empty or mesh.size == 1:
        return run(q, k, v, first, count)
    # Heads are cut where the key heads divide, queries and keys alike.
    heads = "kv_heads" if k.shape[1] % mesh.shape["tensor"] == 0 else None
    cut = partition_spec(mesh, ("batch", heads, None), q.shape[:3])
    rows = PartitionSpec(cut[0])
    return jax.shard_map(run, in_specs=(cut, cut, cut, rows, rows), out_specs=cut, check_vma=False)(
        q, k, v, first, count
    )


def entries(
    first: jax.Array, count: jax.Array, places: int, block: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The grid: which blocks of places hold something, row after row.

    Args:
      first, count: int32 [n], as in `attend`, of all rows of a device.

    Returns:
      (row, block, total): int32 [n * blocks + 1] each, of which the first `total` are read; at
      least one, so that an empty grid never runs.
    """
    blocks = pl.cdiv(places, block)
    begin, end = first // block, first + count - 1
    last = jnp.where(end >= places, end - places, end) // block
    touched = last - begin + 1 + jnp.where(end >= places, blocks, 0)
    # A range that comes round to the block where it began visits that once.
    touched = jnp.where(count > 0, jnp.minimum(touched, blocks), 0)
    ends = jnp.cumsum(touched)
    at = jnp.arange(first.shape[0] * blocks + 1, dtype=jnp.int32)
    row = jnp.minimum((at[:, None] >= ends[None]).sum(axis=1), first.shape[0] - 1)
    place = (begin + touched - ends)[row] + at
    return row.astype(jnp.int32), (place % blocks).astype(jnp.int32), jnp.maximum(ends[-1], 1)


def block_of(k: Stored) -> int:
    """Places of a block for keys [B,K,G,h,S] of one device: a multiple of LANES, or all S."""
    _, K, _, h, places = k.shape
    each = 2 * K * h * (1 if isinstance(k, Int8) else k.dtype.itemsize)
    block = MAX_BLOCK
    while block > LANES and (block * each > BLOCK_BYTES or block >= 2 * places):
        block //= 2
    return min(block, places)


# --------------------------------------------------------------------------------------- one device


def _on_device(
    q: jax.Array,
    k: Stored,
    v: Stored,
    first: jax.Array,
    count: jax.Array,
    *,
    interpret: bool,
) -> Part:
    """`attend` for the rows and heads of one device."""
    B, K, G, A, h = q.shape
    places, block = k.shape[-1], block_of(k)
    first, count = first.reshape(-1), count.reshape(-1)
    row, chosen, total = entries(first, count, places, block)

    def of(row: jax.Array) -> tuple:
        """Where [B,K,G] has a row, with all its heads."""
        return jax.lax.div(row, G), 0, jax.lax.rem(row, G)

    def rows(*last: int) -> pl.BlockSpec:
        """Of arrays [B,K,G,.,.], a row."""

        def at(i: jax.Array, row: jax.Array, *_: jax.Array) -> tuple:
            return *of(row[i]), 0, 0

        return pl.BlockSpec((None, K, None, *last), at)

    def filled(axis: int, *last: int) -> pl.BlockSpec:
        """Of arrays [B,K,G,.,.], the block of places along one of the last two axes."""

        def at(i: jax.Array, row: jax.Array, chosen: jax.Array, *_: jax.Array) -> tuple:
            where = (chosen[i], 0) if axis == 0 else (0, chosen[i])
            return *of(row[i]), *where

        return pl.BlockSpec((None, K, None, *last), at)

    specs, arrays = [rows(A, h)], [q]
    for x, axis, last in ((k, 1, (h, block)), (v, 0, (block, h))):
        specs.append(filled(axis, *last))
        arrays.append(x.quantised if isinstance(x, Int8) else x)
    if isinstance(k, Int8):  # scales of both with the places last
        specs += [filled(1, 1, block)] * 2
        arrays += [k.scale, v.scale.reshape(k.scale.shape)]
    if not interpret:
        # Else the compiler brings all places into the chip's own memory before the kernel begins.
        arrays[1:] = [pltpu.with_memory_space_constraint(x, pltpu.HBM) for x in arrays[1:]]
    out, logsum = pl.pallas_call(
        functools.partial(_kernel, places=places),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=4,
            grid=(total,),
            in_specs=specs,
            out_specs=[rows(A, h), rows(A, 1)],
            scratch_shapes=[
                pltpu.VMEM((K, A, h), jnp.float32),
                pltpu.VMEM((K, A, 1), jnp.float32),
                pltpu.VMEM((K, A, 1), jnp.float32),
            ],
        ),
        out_shape=[
            jax.ShapeDtypeStruct((B, K, G, A, h), jnp.float32),
            jax.ShapeDtypeStruct((B, K, G, A, 1), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
        interpret=interpret,
        name="ragged_attention",
    )(row, chosen, first, count, *arrays)
    # What the kernel did not visit was not written.
    some = (count > 0).reshape(B, 1, G, 1)
    return Part(jnp.where(some[..., None], out, 0), jnp.where(some, logsum[..., 0], MASKED))


def _kernel(*references: Any, places: int) -> None:
    """One block of places of one row.

    References: row and chosen int32 [entries], first and count int32 [rows], in scalar memory;
    q [K,A,h], k [K,h,block], v [K,block,h] and, in 8 bits, the scales of both [K,1,block]; then
    out [K,A,h] and logsum [K,A,1]; then what is carried from block to block: sum [K,A,h], largest
    score and sum of exponentials [K,A,1].
    """
    row, chosen, first, count, q, k, v, *rest = references
    *scales, out, logsum, acc, largest, total = rest
    i, block = pl.program_id(0), k.shape[-1]
    here = row[i]

    @pl.when((i == 0) | (row[jnp.maximum(i - 1, 0)] != here))
    def _():
        acc[...] = jnp.zeros_like(acc)
        largest[...] = jnp.full_like(largest, MASKED)
        total[...] = jnp.zeros_like(total)

    place = chosen[i] * block + jax.lax.broadcasted_iota(jnp.int32, (1, block), 1)
    behind = place - first[here]
    behind = jnp.where(behind < 0, behind + places, behind)
    seen = (behind < count[here]) & (place < places)
    for j in range(k.shape[0]):
        values, dtype = v[j], q.dtype
        if places % block:  # what lies beyond the last place may be anything
            down = chosen[i] * block + jax.lax.broadcasted_iota(jnp.int32, values.shape, 0)
            values = jnp.where(down < places, values, jnp.zeros_like(values))
        # [A,h] x [h,block] -> [A,block]
        score = jnp.dot(q[j], k[j].astype(dtype), preferred_element_type=jnp.float32)
        score = score * q.shape[-1] ** -0.5
        if scales:
            score = score * scales[0][j]
        score = jnp.where(seen, score, MASKED)
        before = largest[j]
        most = jnp.maximum(before, score.max(axis=1, keepdims=True))
        weight = jnp.where(seen, jnp.exp(score - most), 0.0)
        shrink = jnp.exp(before - most)
        largest[j] = most
        total[j] = total[j] * shrink + weight.sum(axis=1, keepdims=True)
        if scales:
            weight = weight * jnp.where(place < places, scales[1][j], 0.0)
        # [A,block] x [block,h] -> [A,h]
        acc[j] = acc[j] * shrink + jnp.dot(
            weight.astype(dtype), values.astype(dtype), preferred_element_type=jnp.float32
        )

    @pl.when((i == pl.num_programs(0) - 1) | (row[i + 1] != here))
    def _():
        whole = jnp.maximum(total[...], jnp.finfo(jnp.float32).tiny)
        out[...] = acc[...] / whole
        logsum[...] = largest[...] + jnp.log(whole)
