"""One rollout batch cut into the mini-batches of its updates.

All cut whole media rows, with the text rows that belong to each. Letters: R media rows.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def deal_rows(tokens: np.ndarray, parts: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """An order of media rows in which `parts` runs of equal length, one per mini-batch, hold about
    equally many tokens.

    The rows are sorted by tokens and dealt in rounds of one per part: the longest row of a round to
    the part with the fewest tokens so far, or with `rng` to any part, so that the parts of a later
    epoch have other members. What a row costs does not depend on its tokens (rows are padded to one
    width): this evens out how much each update learns from, not its time.

    Args:
      tokens: [R] response tokens of each media row.
      parts: divides R.
      rng: deals at random.

    Returns:
      int64 [R], the rows of part 0, then those of part 1, ...; within a part in the order in which
      they came.
    """
    longest_first = np.argsort(-np.asarray(tokens), kind="stable").reshape(-1, parts)
    members, sums = [[] for _ in range(parts)], np.zeros(parts)
    for dealt in longest_first:
        takers = np.argsort(sums, kind="stable") if rng is None else rng.permutation(parts)
        for row, part in zip(dealt, takers, strict=True):
            members[part].append(row)
            sums[part] += tokens[row]
    return np.concatenate([np.sort(rows) for rows in members])


@jax.jit
def reorder(batch: Any, order: jax.Array) -> Any:
    """A batch with the media rows, and the text rows that belong to each, in the order `order` [R].

    Args:
      batch: pytree whose leaves have media rows, or a multiple of them, on axis 0.
      order: int [R].
    """

    def move(x: jax.Array) -> jax.Array:
        rows = x.reshape(order.shape[0], x.shape[0] // order.shape[0], *x.shape[1:])
        return jnp.take(rows, order, axis=0).reshape(x.shape)

    return jax.tree.map(move, batch)


def split(batch: Any, parts: int) -> list[Any]:
    """Cuts a batch into `parts` runs of whole media rows, one per mini-batch."""
    return [batch] if parts == 1 else _split(batch, parts)


@functools.partial(jax.jit, static_argnames="parts")
def _split(batch: Any, parts: int) -> list[Any]:
    # Jitted, since the bounds of a slice outside of jit are sent to the device each time.
    def cut(part: int) -> Any:
        def slice_of(x: jax.Array) -> jax.Array:
            size = x.shape[0] // parts
            return x[part * size : (part + 1) * size]

        return jax.tree.map(slice_of, batch)

    return [cut(part) for part in range(parts)]
