"""K-means in many groups at once, with the number of clusters chosen by the elbow rule, as a jitted
function.

    P points   G coordinates   N groups (each point is in one)   K most clusters per group
    C candidates for a new centre   S starts   T points a tile

Nothing is random, and nothing depends on the order of the points: they are put on a fine grid (one
per group), sorted, and ties go to the first. The sorted points of a group fill whole tiles, so that
each tile meets the centres of one group only and the cost does not grow with the number of groups.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array

# steps from 0 to the largest coordinate of a group: rounding noise of rewards makes no points of
# its own
GRID = 2.0**20
ELBOW = 0.1
LLOYD_STEPS = 20  # at most: iteration stops when no point changes its cluster
# tiles that a group of mean size should fill; points a tile
TILES, SMALLEST_TILE, LARGEST_TILE = 4, 4, 64
CANDIDATES, STARTS = 32, 4
# Distances closer than this are a tie. If rounding decided ties, relabelled groups would cluster
# otherwise.
TIE_RELATIVE, TIE_ABSOLUTE = 1e-5, 1e-9


@functools.partial(jax.jit, static_argnames=("num_groups", "k_max"))
def kmeans_elbow(points: Array, groups: Array, num_groups: int, k_max: int) -> tuple[Array, Array]:
    """Clusters the points of each group; k is chosen a group.

    With I_k the inertia of k clusters and dI_k = I_{k-1} - I_k, k is the first k >= 2 with dI_{k+1}
    < 0.1 dI_k; at most k_max and the number of distinct points; 1 for one distinct point.

    k clusters grow out of k - 1 (fast global k-means, Likas et al. 2003). Candidates for the new
    centre are up to 32 points of the group, evenly spaced among its distinct points in
    lexicographic order, so all of them in a group of up to 32. Of each quarter of the candidates,
    the one that lowers the inertia most with all other centres held makes one step of Lloyd's
    iteration; the best of the four is iterated to its fixed point. The loop over k ends as soon as
    every group has its k.

    Args:
      points: [P, G].
      groups: int [P]; points with other ids than 0 .. num_groups - 1 are left out.
      num_groups: N.
      k_max: K.

    Returns:
      labels int32 [P], the cluster of each point within its group (0 for points left out), and k
      int32 [N] (0 for an empty group).
    """
    present = (groups >= 0) & (groups < num_groups)
    # A scale for each group: the points of one must not decide how finely those of another are told
    # apart.
    member = groups[None] == jnp.arange(num_groups)[:, None]
    scale = jnp.max(jnp.where(member, jnp.abs(points).max(axis=1)[None], 0.0), axis=1, initial=0.0)
    scale = jnp.where(scale > 0, scale, 1.0).at[groups].get(mode="fill", fill_value=1.0)
    points = jnp.round(points / scale[:, None] * GRID).astype(jnp.int32)
    points = jnp.where(present[:, None], points, 0)
    groups = jnp.where(present, groups, num_groups).astype(jnp.int32)

    # As integers, which compare several times faster than floats with their NaNs and signed zeros.
    columns = (groups, *points.T, jnp.arange(len(groups)))
    groups, *coordinates, order = jax.lax.sort(columns, num_keys=len(columns) - 1)
    x = jnp.stack(coordinates).astype(jnp.float32) / GRID
    candidates, distinct = _candidates(x, groups, num_groups)
    points, place = _in_tiles(x, groups, num_groups)
    labels, chosen = _grow(points, candidates, jnp.minimum(distinct, k_max), k_max)
    labels = jnp.where(groups < num_groups, labels[place], 0)
    return jnp.zeros_like(labels).at[order].set(labels), chosen


@struct.dataclass
class Points:
    """Sorted points in tiles, P of them with the empty places, which are 0 and belong to no group.

    x: [G, P]. member: [N, P], 1 where the point is of the group. tile_group: int32 [P / T].
    moments: [P / T, T, G + 1], the coordinates and a 1, all 0 in empty places.
    """

    x: Array
    member: Array
    tile_group: Array
    moments: Array


def _in_tiles(x: Array, groups: Array, num_groups: int) -> tuple[Points, Array]:
    """Tiles of the sorted points [G, P] with their groups [P], and the place of each point in them
    [P].
    """
    dim, count = x.shape
    # a power of two: small tiles leave little empty
    tile = 1 << max(count // (TILES * num_groups), 1).bit_length() - 1
    tile = min(max(tile, SMALLEST_TILE), LARGEST_TILE)
    size = (-(-count // tile) + num_groups) * tile
    # the first point of each
    of_group = jnp.searchsorted(groups, jnp.arange(num_groups + 1)).astype(jnp.int32)
    tiles = -(-jnp.diff(of_group) // tile)
    first = (jnp.cumsum(tiles) - tiles) * tile
    group = jnp.minimum(groups, num_groups - 1)
    place = jnp.where(groups < num_groups, first[group] + jnp.arange(count) - of_group[group], size)
    x = jnp.zeros((dim, size)).at[:, place].set(x, mode="drop")
    present = jnp.zeros(size).at[place].set(1.0, mode="drop")
    tile_group = jnp.searchsorted(jnp.cumsum(tiles), jnp.arange(size // tile), side="right")
    # of tiles behind the last one any will do
    tile_group = jnp.minimum(tile_group, num_groups - 1).astype(jnp.int32)
    member = _one_hot(jnp.repeat(tile_group, tile), num_groups) * present[None]
    moments = jnp.concatenate([x, present[None]]).T.reshape(-1, tile, dim + 1)
    return Points(x, member, tile_group, moments), jnp.minimum(place, size - 1)


def _candidates(x: Array, groups: Array, num_groups: int) -> tuple[Array, Array]:
    """Candidate centres [N, C, G] from sorted points [G, P], and how many are distinct [N]."""
    new = jnp.any(x[:, 1:] != x[:, :-1], axis=0) | (groups[1:] != groups[:-1])
    new = jnp.concatenate([jnp.ones(1, bool), new]) & (groups < num_groups)
    distinct = (_one_hot(groups, num_groups) * new[None]).sum(axis=1).astype(jnp.int32)
    # of the i-th distinct point, over all groups
    place = jnp.nonzero(new, size=len(new), fill_value=0)[0]
    first = jnp.cumsum(distinct) - distinct
    # With fewer than C distinct points some are taken twice, which changes nothing.
    spaced = jnp.arange(CANDIDATES)[None] * jnp.maximum(distinct - 1, 0)[:, None] / (CANDIDATES - 1)
    chosen = place[first[:, None] + jnp.round(spaced).astype(jnp.int32)]
    return jnp.moveaxis(x[:, chosen], 0, -1), distinct


def _grow(points: Points, candidates: Array, k_cap: Array, k_max: int) -> tuple[Array, Array]:
    """Labels [P] and chosen k [N], by growing k from 1 until every group is at its elbow or at
    k_cap [N].
    """
    member, size = points.member, points.x.shape[1]
    to_candidates = _squared_distances(points, candidates)  # [C, P]

    def next_k(state: tuple[Array, ...]) -> tuple[Array, ...]:
        k, centres, distances, inertia, drop, labels, kept, chosen, done = state
        # [C, N]
        gain = _sums(jnp.maximum(distances.min(axis=0)[None] - to_candidates, 0.0), member)
        gain = gain.reshape(STARTS, -1, len(member))
        # [S, N]
        best = _first(gain >= gain.max(axis=1, keepdims=True) * (1 - TIE_RELATIVE), axis=1)
        best += (CANDIDATES // STARTS * jnp.arange(STARTS))[:, None]
        # One step from each start: [S, ...].
        new = candidates[jnp.arange(len(member))[None], best]  # [S, N, G]
        starts = jnp.broadcast_to(centres, (STARTS, *centres.shape[1:])).at[:, :, k].set(new)
        spread = jnp.broadcast_to(distances[None], (STARTS, k_max, size))
        start_labels = _nearest(spread.at[:, k].set(_per_point(to_candidates, best, member)))
        starts, start_distances, start_labels = _move(points, starts, start_labels, k + 1)
        inertias = _sums(start_distances.min(axis=1), member)  # [S, N]
        run = _first(
            inertias <= inertias.min(axis=0, keepdims=True) * (1 + TIE_RELATIVE) + TIE_ABSOLUTE
        )[None]
        # From the best of them to the end: [1, ...].
        centres = starts[run, jnp.arange(len(member))[None]]
        next_labels = _per_point(start_labels, run, member).astype(jnp.int32)
        centres, distances, next_labels = _lloyd(
            points, centres, next_labels, k + 1, _of_group(~done, member)
        )
        next_inertia = _sums(distances.min(axis=1), member)[0]
        next_drop = inertia - next_inertia
        elbow = (k >= 2) & (next_drop < ELBOW * drop * (1 - TIE_RELATIVE)) & ~done
        last = (k + 1 >= k_cap) & ~elbow & ~done
        chosen = jnp.where(elbow, k, jnp.where(last, k + 1, chosen))
        kept = jnp.where(_of_group(elbow, member), labels, kept)
        kept = jnp.where(_of_group(last, member), next_labels[0], kept)
        done |= elbow | last
        return (
            k + 1,
            centres,
            distances[0],
            next_inertia,
            next_drop,
            next_labels[0],
            kept,
            chosen,
            done,
        )

    mean = (_sums(points.x, member) / jnp.maximum(member.sum(axis=1), 1)[None]).T
    centres = jnp.zeros((1, len(member), k_max, len(points.x))).at[0, :, 0].set(mean)
    # Centres that are not in use yet are infinitely far away.
    distances = (
        jnp.full((k_max, size), jnp.inf).at[0].set(_squared_distances(points, mean[:, None])[0])
    )
    inertia = _sums(distances[:1], member)[0]
    labels = jnp.zeros(size, jnp.int32)
    chosen, done = jnp.minimum(k_cap, 1), k_cap <= 1
    start = (1, centres, distances, inertia, jnp.zeros_like(inertia), labels, labels, chosen, done)
    *_, kept, chosen, _ = jax.lax.while_loop(
        lambda state: (state[0] < k_max) & ~state[-1].all(), next_k, start
    )
    return kept, chosen


def _move(points: Points, centres: Array, labels: Array, k: Array) -> tuple[Array, Array, Array]:
    """One step of Lloyd's iteration, from labels [S, P], for the first k of the centres [S, N, K,
    G].

    Returns the centres; the squared distances [S, K, P] from each point to the centres of its own
    group, inf beyond the first k; the labels that follow.
    """
    starts, groups, k_max, dim = centres.shape
    # Sums over each tile, then over the tiles of a group.
    tiled = jnp.moveaxis(labels.reshape(starts, len(points.tile_group), 1, -1), 1, 0)
    cells = (tiled == jnp.arange(k_max)[None, None, :, None]).astype(jnp.float32)
    cells = cells.reshape(len(tiled), starts * k_max, -1)  # [P / T, S * K, T]
    total = _matmul(cells, points.moments).reshape(len(tiled), -1)
    total = _matmul(_one_hot(points.tile_group, groups), total).reshape(
        groups, starts, k_max, dim + 1
    )
    total = jnp.moveaxis(total, 1, 0)
    count = total[..., -1:]
    # An empty cluster keeps its centre.
    centres = jnp.where(count > 0, total[..., :-1] / jnp.maximum(count, 1), centres)
    distances = _squared_distances(points, jnp.moveaxis(centres, 0, 1).reshape(groups, -1, dim))
    distances = distances.reshape(starts, k_max, -1)
    distances = jnp.where((jnp.arange(k_max) < k)[None, :, None], distances, jnp.inf)
    return centres, distances, _nearest(distances)


def _lloyd(
    points: Points, centres: Array, labels: Array, k: Array, matters: Array
) -> tuple[Array, Array, Array]:
    """`_move` until no label of a point that `matters` [P] changes, at least once and at most
    LLOYD_STEPS times.
    """

    def move(state: tuple[Array, ...]) -> tuple[Array, ...]:
        step, centres, _, labels, _ = state
        centres, distances, new_labels = _move(points, centres, labels, k)
        return (
            step + 1,
            centres,
            distances,
            new_labels,
            jnp.any((new_labels != labels) & matters[None]),
        )

    distances = jnp.zeros((len(centres), centres.shape[2], labels.shape[1]))
    start = (0, centres, distances, labels, True)
    return jax.lax.while_loop(lambda state: (state[0] < LLOYD_STEPS) & state[-1], move, start)[1:4]


def _nearest(distances: Array) -> Array:
    """[S, K, P] -> index of the nearest centre, the first of those that tie: [S, P]."""
    return _first(
        distances <= distances.min(axis=1, keepdims=True) * (1 + TIE_RELATIVE) + TIE_ABSOLUTE,
        axis=1,
    )


def _squared_distances(points: Points, centres: Array) -> Array:
    """From each point to the centres [N, J, G] of its own group: [J, P].

    By differences, not by products, which cancel. The sum over coordinates is written out: so it
    becomes one loop over the points, which vectorises, where a reduction would not.
    """
    own = jnp.moveaxis(centres[points.tile_group], 0, 1)  # [J, P / T, G]
    total = 0.0
    for g, x in enumerate(points.x):
        total += jnp.square(x.reshape(1, len(points.tile_group), -1) - own[:, :, g, None])
    return total.reshape(len(own), -1)


def _sums(values: Array, cells: Array) -> Array:
    """Sums values [J, P] over the points of each cell, weighted by cells [M, P]: [J, M].

    A product, since scatter-add is not deterministic on GPUs.
    """
    return _matmul(values, cells.T)


def _matmul(a: Array, b: Array) -> Array:
    """At full float32 precision, since the default of accelerators would round the values."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _of_group(flag: Array, member: Array) -> Array:
    """A flag of each group [N] at each of its points: [P]."""
    return (member * flag[:, None]).any(axis=0)


def _per_point(arrays: Array, index: Array, member: Array) -> Array:
    """Entry index[s, n] of arrays [J, P] at each point of group n: float32 [S, P]."""
    own = _matmul(index.astype(jnp.float32), member)  # [S, P]
    total = 0.0
    for j, array in enumerate(arrays):
        total += jnp.where(own == j, array[None], 0)
    return total.astype(jnp.float32)


def _one_hot(index: Array, size: int) -> Array:
    """[P] -> [size, P]."""
    return (index[None] == jnp.arange(size)[:, None]).astype(jnp.float32)


def _first(condition: Array, axis: int = 0) -> Array:
    """Index of the first True along an axis that has one."""
    # Not argmax, a reduction of pairs that CPUs do not vectorise.
    place = jax.lax.broadcasted_iota(jnp.int32, condition.shape, axis)
    return jnp.where(condition, place, condition.shape[axis] - 1).min(axis=axis)
