"""Attention kernels over a mesh.

The compiler cannot cut a kernel over devices, so each device is given its own rows and heads.

Axis letters: base/axes.py; H = K * N heads of queries.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec

from qoq_jax.parallel.mesh import partition_spec

Kernel = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def over_devices(
    kernel: Kernel, q: jax.Array, k: jax.Array, v: jax.Array, segment: jax.Array, rows: str
) -> jax.Array:
    """`kernel` on each device's rows and heads.

    Args:
      kernel: (q [B,T,H,h], k [B,T,K,h], v [B,T,K,h], segment [B,T]) -> [B,T,H,h].
      rows: the logical axis that B is cut along.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return kernel(q, k, v, segment)
    whole_heads = k.shape[2] % mesh.shape["tensor"] != 0
    heads = (None, None) if whole_heads else ("heads", "kv_heads")
    of_q, of_k = (
        partition_spec(mesh, (rows, None, axis, None), x.shape)
        for axis, x in zip(heads, (q, k), strict=True)
    )
    return jax.shard_map(
        kernel,
        in_specs=(of_q, of_k, of_k, PartitionSpec(*of_q[:1])),
        out_specs=of_q,
        check_vma=False,
    )(q, k, v, segment)
