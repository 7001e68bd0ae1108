"""K-means in many groups at once, with the number of clusters chosen by the elbow rule, as a jitted function.

    P points   G coordinates   N groups (each point is in one)   K most clusters a group
    C candidates for a new centre   S starts

All groups share one set of [P, K] distances, each point meeting the centres of its own group only, so the
cost does not grow with the number of groups. Nothing is random, and nothing depends on the order of the
points: they are put on a fine grid, sorted, and ties go to the first.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

Array = jax.Array

GRID = 2.0**20  # steps from 0 to the largest coordinate: rounding noise of rewards makes no points of its own
ELBOW = 0.1
SHORT_STEPS, LLOYD_STEPS = 1, 20  # upper limits: iteration stops when no point changes its cluster
CANDIDATES, STARTS = 32, 4
# Distances closer than this are a tie. If rounding decided ties, relabelled groups would cluster otherwise.
TIE_RELATIVE, TIE_ABSOLUTE = 1e-5, 1e-9


@functools.partial(jax.jit, static_argnames=("num_groups", "k_max"))
def kmeans_elbow(points: Array, groups: Array, num_groups: int, k_max: int) -> tuple[Array, Array]:
    """Clusters the points of each group; k is chosen a group.

    With I_k the inertia of k clusters and dI_k = I_{k-1} - I_k, k is the first k >= 2 with dI_{k+1} < 0.1
    dI_k; at most k_max and the number of distinct points; 1 for one distinct point.

    k clusters grow out of k - 1 (fast global k-means, Likas et al. 2003). Candidates for the new centre are
    up to 32 points of the group, evenly spaced among its distinct points in lexicographic order, so all of
    them in a group of up to 32. Of each quarter of the candidates, the one that lowers the inertia most with
    all other centres held starts a short run of Lloyd's iteration; the best of the four runs goes on to its
    fixed point. The loop over k ends as soon as every group has its k.

    Args:
      points: [P, G].
      groups: int [P]; points with other ids than 0 .. num_groups - 1 are left out.
      num_groups: N.
      k_max: K.

    Returns:
      labels int32 [P], the cluster of each point within its group (0 for points left out), and k int32 [N] (0
      for an empty group).
    """
    present = (groups >= 0) & (groups < num_groups)
    scale = jnp.max(jnp.where(present[:, None], jnp.abs(points), 0.0), initial=0.0)
    points = jnp.round(points / jnp.where(scale > 0, scale, 1.0) * GRID) / GRID
    points = jnp.where(present[:, None], points, 0.0)
    groups = jnp.where(present, groups, num_groups).astype(jnp.int32)

    columns = (groups, *points.T, jnp.arange(len(groups)))
    groups, *coordinates, order = jax.lax.sort(columns, num_keys=len(columns) - 1)
    x, member = jnp.stack(coordinates), _one_hot(groups, num_groups)
    candidates, distinct = _candidates(x, groups, member)
    labels, chosen = _grow(x, member, candidates, jnp.minimum(distinct, k_max), k_max)
    return jnp.zeros_like(labels).at[order].set(labels), chosen


def _candidates(x: Array, groups: Array, member: Array) -> tuple[Array, Array]:
    """Candidate centres [N, C, G] from sorted points [G, P], and the number of distinct points [N]."""
    new = jnp.any(x[:, 1:] != x[:, :-1], axis=0) | (groups[1:] != groups[:-1])
    new = jnp.concatenate([jnp.ones(1, bool), new]) & (groups < len(member))
    distinct = (member * new[None]).sum(axis=1).astype(jnp.int32)
    place = jnp.nonzero(new, size=len(new), fill_value=0)[0]  # of the i-th distinct point, over all groups
    first = jnp.cumsum(distinct) - distinct
    # With fewer than C distinct points some are taken twice, which changes nothing.
    spaced = jnp.arange(CANDIDATES)[None] * jnp.maximum(distinct - 1, 0)[:, None] / (CANDIDATES - 1)
    chosen = place[first[:, None] + jnp.round(spaced).astype(jnp.int32)]
    return jnp.moveaxis(x[:, chosen], 0, -1), distinct


def _grow(x: Array, member: Array, candidates: Array, k_cap: Array, k_max: int) -> tuple[Array, Array]:
    """Labels [P] and chosen k [N], by growing k from 1 until every group is at its elbow or at k_cap [N]."""
    to_candidates = _squared_distances(x, member, candidates)  # [C, P]

    def short_run(k: Array, centres: Array, candidate: Array) -> tuple[Array, Array]:
        centres = centres.at[:, k].set(_pick(candidates, candidate, axis=1))
        centres, _, distance = _lloyd(x, member, centres, k + 1, SHORT_STEPS)
        return centres, distance

    def wanted(state):
        k, *_, done = state
        return (k < k_max) & ~done.all()

    def next_k(state):
        k, centres, distance, inertia, drop, labels, kept, chosen, done = state
        gain = _sums(jnp.maximum(distance[None] - to_candidates, 0.0), member)  # [C, N]
        gain = gain.reshape(STARTS, -1, len(member))
        best = _first(gain >= gain.max(axis=1, keepdims=True) * (1 - TIE_RELATIVE), axis=1)  # [STARTS, N]
        best += (CANDIDATES // STARTS * jnp.arange(STARTS))[:, None]
        # One after another: as a batch, the small products of the runs are slower on a CPU than in sequence.
        starts, distances = jax.lax.map(functools.partial(short_run, k, centres), best)
        inertias = _sums(distances, member)  # [STARTS, N]
        run = _first(inertias <= inertias.min(axis=0, keepdims=True) * (1 + TIE_RELATIVE) + TIE_ABSOLUTE)
        centres, next_labels, distance = _lloyd(x, member, _pick(starts, run, axis=0), k + 1, LLOYD_STEPS)
        next_inertia = _sums(distance[None], member)[0]
        next_drop = inertia - next_inertia
        elbow = (k >= 2) & (next_drop < ELBOW * drop * (1 - TIE_RELATIVE)) & ~done
        last = (k + 1 >= k_cap) & ~elbow & ~done
        chosen = jnp.where(elbow, k, jnp.where(last, k + 1, chosen))
        kept = jnp.where(_of_group(elbow, member), labels, kept)
        kept = jnp.where(_of_group(last, member), next_labels, kept)
        done |= elbow | last
        return k + 1, centres, distance, next_inertia, next_drop, next_labels, kept, chosen, done

    mean = (_sums(x, member) / jnp.maximum(member.sum(axis=1), 1)[None]).T
    centres = jnp.zeros((len(member), k_max, len(x))).at[:, 0].set(mean)
    distance = _squared_distances(x, member, mean[:, None])[0]
    inertia = _sums(distance[None], member)[0]
    labels = jnp.zeros(x.shape[1], jnp.int32)
    chosen, done = jnp.minimum(k_cap, 1), k_cap <= 1
    start = (1, centres, distance, inertia, jnp.zeros_like(inertia), labels, labels, chosen, done)
    *_, kept, chosen, _ = jax.lax.while_loop(wanted, next_k, start)
    return kept, chosen


def _lloyd(x: Array, member: Array, centres: Array, k: Array, steps: int) -> tuple[Array, Array, Array]:
    """At most `steps` of Lloyd's iteration with the first k of the centres [N, K, G].

    Returns the centres, and the label and the squared distance to its centre of each point, [P].
    """
    k_max = centres.shape[1]
    unused = (jnp.arange(k_max) >= k)[:, None]

    def assign(centres: Array) -> tuple[Array, Array]:
        distances = jnp.where(unused, jnp.inf, _squared_distances(x, member, centres))
        nearest = distances.min(axis=0)
        return _first(distances <= nearest[None] * (1 + TIE_RELATIVE) + TIE_ABSOLUTE), nearest

    def moving(state):
        step, _, _, _, changed = state
        return (step < steps) & changed

    def move(state):
        step, centres, labels, _, _ = state
        cells = (member[:, None] * _one_hot(labels, k_max)[None]).reshape(-1, x.shape[1])
        count = cells.sum(axis=1).reshape(-1, k_max, 1)
        total = _sums(x, cells).T.reshape(centres.shape)
        # An empty cluster keeps its centre.
        centres = jnp.where(count > 0, total / jnp.maximum(count, 1), centres)
        new_labels, distance = assign(centres)
        return step + 1, centres, new_labels, distance, jnp.any(new_labels != labels)

    start = (0, centres, *assign(centres), True)
    _, centres, labels, distance, _ = jax.lax.while_loop(moving, move, start)
    return centres, labels, distance


def _squared_distances(x: Array, member: Array, centres: Array) -> Array:
    """From each point [G, P] to the centres [N, J, G] of its own group: [J, P].

    By differences, not by products, which cancel; points stay on the last axis, which vectorises.
    """
    groups, count, dim = centres.shape
    own = _matmul(centres.reshape(groups, -1).T, member).reshape(count, dim, -1)
    return jnp.square(x[None] - own).sum(axis=1)


def _sums(values: Array, cells: Array) -> Array:
    """Sums values [J, P] over the points of each cell, cells [M, P] being 0 or 1: [J, M].

    A product, since scatter-add is not deterministic on GPUs.
    """
    return _matmul(values, cells.T)


def _matmul(a: Array, b: Array) -> Array:
    """At full float32 precision, since the default of accelerators would round the values."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _of_group(flag: Array, member: Array) -> Array:
    """A flag of each group [N] at each of its points: [P]."""
    return (member * flag[:, None]).any(axis=0)


def _pick(arrays: Array, index: Array, axis: int) -> Array:
    """Entry index[n] along `axis` of each group n: [S, N, ...] (axis 0), [N, C, ...] (axis 1) -> [N, ...]."""
    groups = jnp.arange(len(index))
    return arrays[index, groups] if axis == 0 else arrays[groups, index]


def _one_hot(index: Array, size: int) -> Array:
    """[P] -> [size, P]."""
    return (index[None] == jnp.arange(size)[:, None]).astype(jnp.float32)


def _first(condition: Array, axis: int = 0) -> Array:
    """Index of the first True along an axis."""
    return jnp.argmax(condition, axis=axis).astype(jnp.int32)
