"""What a model says of the samples of a split: logits, or the vectors that its head acts on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qoq_jax.models.encoders.encoder import Encoder, Params
from qoq_jax.parallel import hosts
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.transfer import batches, model
from qoq_jax.transfer.sets import Split
from qoq_jax.transfer.training import Bench


def logits(bench: Bench, params: Params, split: Split) -> np.ndarray:
    """float32 [n, V] of all samples of a split; all processes must ask."""
    return _all(bench, _compiled(bench.encoder, bench.dtype, False), params, split, None)


def features(
    bench: Bench, params: Params, split: Split, numbers: Sequence[int] | None = None
) -> np.ndarray:
    """float32 [n, W] of samples of a split, by number; None = all. All processes must ask."""
    compiled = _compiled(bench.encoder, bench.dtype, True)
    return _all(bench, compiled, params, split, numbers)


def _all(
    bench: Bench,
    compiled: Callable[[Params, Any], jax.Array],
    params: Params,
    split: Split,
    numbers: Sequence[int] | None,
) -> np.ndarray:
    sharding = mesh_lib.batch_sharding(bench.mesh)
    found = []
    for inputs, count in batches.in_order(
        split, bench.config.training.batch, bench.reading, numbers
    ):
        made = compiled(params, hosts.to_global(inputs, sharding))
        found.append(np.asarray(hosts.gather(made))[:count])
    return np.concatenate(found)


@functools.cache
def _compiled(
    encoder: Encoder, dtype: jnp.dtype, pooled: bool
) -> Callable[[Params, Any], jax.Array]:
    function = model.features if pooled else model.logits
    return jax.jit(lambda params, inputs: function(params, encoder, inputs, dtype))
