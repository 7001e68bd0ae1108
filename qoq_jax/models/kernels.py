"""Attention kernels over a mesh.

The compiler cannot cut a kernel over devices, so each device is given its own rows and heads.

Axis letters: base/axes.py; H = K * N heads of queries.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from qoq_jax.parallel.mesh import partition_spec

Kernel = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def padded_rows(
    kernel: Kernel,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment: jax.Array,
    rows: str,
    *,
    length: int,
    channels: int,
) -> jax.Array:
    """`kernel` on each device's rows and heads, padded to the sizes that it takes.

    Args:
      kernel: (q [B,length,H,channels], k and v [B,length,K,channels], segment [B,length]) -> as q.
      q: [B,T,H,h] or [B,T,K,N,h]. k, v: [B,T,K,h]. segment: int32 [B,T]; padding gets 0.
      rows: the logical axis that B is cut along.

    Returns:
      As q.
    """
    B, T, h = q.shape[0], q.shape[1], q.shape[-1]
    wider = [(0, 0), (0, length - T), (0, 0), (0, channels - h)]
    padded = [jnp.pad(x, wider) for x in (q.reshape(B, T, -1, h), k, v)]
    segment = jnp.pad(segment, [(0, 0), (0, length - T)])
    return _over_devices(kernel, *padded, segment, rows)[:, :T, :, :h].reshape(q.shape)


def _over_devices(
    kernel: Kernel, q: jax.Array, k: jax.Array, v: jax.Array, segment: jax.Array, rows: str
) -> jax.Array:
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return kernel(q, k, v, segment)
    of_k = partition_spec(mesh, (rows, None, "row_heads", None), k.shape)
    # Where key-value heads do not divide, query heads stay whole with them.
    of_q = PartitionSpec(of_k[0], None, of_k[2], None)
    return jax.shard_map(
        kernel,
        in_specs=(of_q, of_k, of_k, PartitionSpec(*of_q[:1])),
        out_specs=of_q,
        check_vma=False,
    )(q, k, v, segment)
