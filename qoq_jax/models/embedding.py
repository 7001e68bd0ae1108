"""Token embeddings from a table that is cut over the mesh.

Of a table cut along its width over fsdp, each device has some channels of all tokens; it needs all
channels of its own rows. So it looks its channels up for the rows of its whole fsdp group, whose
token ids are few bytes, and the group trades channels for rows in one all-to-all: the bytes of the
activations, once, where a gather would move the table (1 GiB at 7B), and a sum of its gradient as
much again. A vocabulary cut over tensor adds a sum over tensor. Where rows are cut by their tokens
(sequence), the devices of a row trade channels for tokens before, likewise.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from qoq_jax.parallel.mesh import partition_spec, sequence_shards


@jax.named_scope("embed")
def embed_tokens(table: jax.Array, tokens: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """table [V,D], tokens int32 [B,T] -> [B,T,D] in `dtype`.

    The table is read in the dtype that it is stored in, so that the gradients of a token that
    stands in many places are summed in it.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return jnp.take(table, tokens, axis=0).astype(dtype)
    cut = partition_spec(mesh, ("vocab", "embed"), table.shape)
    of_vocabulary, of_width = cut
    length = tokens.shape[1]
    tokens = jnp.pad(tokens, [(0, 0), (0, -length % sequence_shards())])  # few, while decoding
    rows = partition_spec(mesh, ("batch", None), tokens.shape)
    found = partition_spec(mesh, ("batch", "tokens", None), (*tokens.shape, 1))
    if found[1] and not of_width:  # a device looks up what it needs
        rows = PartitionSpec(*found[:2])

    def on_device(table: jax.Array, tokens: jax.Array) -> jax.Array:
        if of_width:
            tokens = jax.lax.all_gather(tokens, "fsdp", axis=0, tiled=True)
        if of_vocabulary:
            tokens -= jax.lax.axis_index(of_vocabulary) * table.shape[0]
            mine = (tokens >= 0) & (tokens < table.shape[0])
            x = jnp.where(mine[:, :, None], jnp.take(table, jnp.where(mine, tokens, 0), axis=0), 0)
            x = jax.lax.psum(x.astype(dtype), of_vocabulary)
        else:
            x = jnp.take(table, tokens, axis=0).astype(dtype)
        if of_width and found[1]:  # before fsdp, which cuts the channels into larger parts
            x = jax.lax.all_to_all(x, found[1], split_axis=1, concat_axis=2, tiled=True)
        if of_width:
            x = jax.lax.all_to_all(x, "fsdp", split_axis=0, concat_axis=2, tiled=True)
        return x

    x = jax.shard_map(on_device, in_specs=(cut, rows), out_specs=found)(table, tokens)
    return x[:, :length]
