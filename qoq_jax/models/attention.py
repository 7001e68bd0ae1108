"""The masked softmax attention that every part of the model goes through.

    out = softmax(q kᵀ / sqrt(h), over the keys that the query sees) v        (arXiv 1706.03762)

Masks are data: ids of queries and of keys (`TokenIds`) and rules between them (`KeySet`). No array
of all pairs of tokens is ever an argument, so a kernel that knows segments and causal order can
take them as they are, and the einsums here build the mask for one block of queries at a time.

A query may attend to several sets of keys in one softmax: a prompt that responses share and a
response's own tokens; the time steps of a lead and the leads of a time step. An array names its
axes by the letters of base/axes.py. Those of the heads are k, n and h, of the queries t, of the
keys s; all others are rows, which a set of keys may lack when rows share it.

The forms of rows at the end of this file take the name of a kernel: "einsum" is the code here, the
reference of all others; "splash" is for TPUs (splash.py), "splash-interpret" the same on any
platform, for tests. Softmax is in float32 whatever the dtype of q, k and v.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import ModuleType

import einops
import flax.struct
import jax
import jax.numpy as jnp

from qoq_jax.models import flash, splash

# finite, so that a query that sees nothing (padding) stays free of NaN
MASKED = -1e30
# longer rows attend in blocks of queries, one after the other, so that [T, S] scores never exist
QUERY_BLOCK = 512
# on one CPU, towers' rows of so many tokens attend head by head, in blocks of so many queries
CPU_ROW, CPU_BLOCK = 512, 256
# rows cut at their segments: blocks larger than this are computed one after the other
DENSE_BLOCK = 512

HEADS = "knh"


@flax.struct.dataclass
class TokenIds:
    """What the rules of a mask know of tokens; None where no rule asks.

    Each has the axes of the tokens' queries or keys but those of heads and channels, so [B,T] for
    queries [B,T,K,N,h]; an axis of size 1 stands for equal ids.

    Attributes:
      segment: int32, the sample that a token belongs to; 0 = padding.
      branch: int32, the response that a token belongs to; 0 = the prompt that all share.
      index: int32, order of the tokens.
    """

    segment: jax.Array | None = None
    branch: jax.Array | None = None
    index: jax.Array | None = None


NO_IDS = TokenIds()


@flax.struct.dataclass
class KeySet:
    """Keys with their values, and the rules by which queries see them; all that apply must hold.

    A rule on ids applies where both queries and keys have them:
      segment: equal, and not 0.
      branch: the key's is 0 or equals the query's.

    Attributes:
      k: axes of `k_axes`; has no n, since query heads share keys.
      v: axes of `v_axes`.
      ids: of the keys.
      valid: bool, axes as the ids have; keys that are False are seen by none.
      causal: a key is seen from its own index on.
      exclude_self: a key is not seen from its own index.
      bias: added to the scores, whose axes are those of `bias_axes`: of the heads, t and s, and of
        rows that it differs between.
      longest: equal segments are contiguous and at most so many tokens long, and the keys are
        those of the queries: scores exist between neighbours only. None = not known.
    """

    k: jax.Array
    v: jax.Array
    ids: TokenIds = NO_IDS
    valid: jax.Array | None = None
    bias: jax.Array | None = None
    k_axes: str = flax.struct.field(pytree_node=False, default="bskh")
    v_axes: str = flax.struct.field(pytree_node=False, default="bskh")
    bias_axes: str = flax.struct.field(pytree_node=False, default="kts")
    causal: bool = flax.struct.field(pytree_node=False, default=False)
    exclude_self: bool = flax.struct.field(pytree_node=False, default=False)
    longest: int | None = flax.struct.field(pytree_node=False, default=None)


@jax.named_scope("attention")
def attention(
    q: jax.Array, keys: Sequence[KeySet], ids: TokenIds = NO_IDS, *, axes: str = "btknh"
) -> jax.Array:
    """One softmax of each query over all keys that it sees.

    Args:
      q: queries with the axes `axes`: "btknh" = [B,T,K,N,h] for rows of tokens; without t each
        row has one query (decoding), without n each query head has keys of its own (towers).
      keys: the sets of keys; their rows are among those of q.
      ids: of the queries.

    Returns:
      As q, in the dtype of the values; arbitrary where a query sees no key.
    """
    longest = keys[0].longest
    if longest is not None and q.shape[axes.index("t")] > longest:
        one = keys[0]
        assert len(keys) == 1 and len(axes) == 4, "a bound on segments is for one set, [R,T,K,h]"
        return _between_neighbours(q, one.k, one.v, ids.segment, longest)
    # Scores against keys that differ from token to token are few: as many as those keys.
    own_keys = any("t" in one.k_axes for one in keys)
    biased = any(one.bias is not None for one in keys)
    if "t" in axes and not own_keys and not biased and q.shape[axes.index("t")] > 2 * QUERY_BLOCK:
        return _in_query_blocks(q, keys, ids, axes, QUERY_BLOCK)
    return _masked_softmax(q, keys, ids, axes)


def _masked_softmax(q: jax.Array, keys: Sequence[KeySet], ids: TokenIds, axes: str) -> jax.Array:
    """`attention` by einsums; the only masked softmax of the package."""
    # scores have the axes of the queries with the channels gone and the tokens behind the heads
    rows = "".join(axis for axis in axes if axis not in "th") + ("t" if "t" in axes else "")
    scores = jnp.concatenate(
        [
            # "btknh,bskh->bknts" for rows of tokens
            jnp.einsum(
                f"{axes},{one.k_axes}->{rows}s", q, one.k, preferred_element_type=jnp.float32
            )
            for one in keys
        ],
        axis=-1,
    )
    scores = scores * q.shape[-1] ** -0.5
    if any(one.bias is not None for one in keys):
        scores = scores + _bias(keys, f"{rows}s")
    seen = _seen(keys, ids, axes, f"{rows}s")
    if seen is not None:
        scores = jnp.where(seen, scores, MASKED)
    weights = jax.nn.softmax(scores)
    parts, start = [], 0
    for one in keys:
        end = start + one.k.shape[one.k_axes.index("s")]
        part = weights[..., start:end].astype(one.v.dtype)
        # "bknts,bskh->btknh" for rows of tokens
        parts.append(jnp.einsum(f"{rows}s,{one.v_axes}->{axes}", part, one.v))
        start = end
    return functools.reduce(jnp.add, parts)


def _bias(keys: Sequence[KeySet], to: str) -> jax.Array:
    """What is added to scores of axes `to`; of one set of keys, which all users of a bias have."""
    (one,) = keys
    return _spread(one.bias.astype(jnp.float32), one.bias_axes, to)


def _seen(keys: Sequence[KeySet], ids: TokenIds, axes: str, to: str) -> jax.Array | None:
    """Which query sees which key: bool that broadcasts to scores of axes `to`; None = all do."""
    masks = [_seen_of_one(one, ids, axes, to) for one in keys]
    if len(masks) == 1 or all(mask is None for mask in masks):
        return masks[0]
    sizes = [one.k.shape[one.k_axes.index("s")] for one in keys]
    shape = jnp.broadcast_shapes(*(mask.shape[:-1] for mask in masks if mask is not None))
    whole = [
        jnp.broadcast_to(jnp.ones((1,) * len(to), bool) if mask is None else mask, (*shape, size))
        for mask, size in zip(masks, sizes, strict=True)
    ]
    return jnp.concatenate(whole, axis=-1)


def _seen_of_one(one: KeySet, ids: TokenIds, axes: str, to: str) -> jax.Array | None:
    """`_seen` for one set of keys."""
    spread = functools.partial(_spread, to=to)
    query, key = _rows(axes), _rows(one.k_axes)
    rules = []
    if one.valid is not None:
        rules.append(spread(one.valid, key))
    if ids.segment is not None and one.ids.segment is not None:
        of_query, of_key = spread(ids.segment, query), spread(one.ids.segment, key)
        rules.append((of_query == of_key) & (of_key > 0))
    if ids.branch is not None and one.ids.branch is not None:
        of_query, of_key = spread(ids.branch, query), spread(one.ids.branch, key)
        rules.append((of_key == 0) | (of_key == of_query))
    if one.causal:
        rules.append(spread(one.ids.index, key) <= spread(ids.index, query))
    if one.exclude_self:
        rules.append(spread(one.ids.index, key) != spread(ids.index, query))
    return functools.reduce(jnp.logical_and, rules) if rules else None


def _rows(axes: str) -> str:
    """Axes that ids have: those of the queries or keys but heads and channels."""
    return "".join(axis for axis in axes if axis not in HEADS)


def _spread(x: jax.Array, axes: str, to: str) -> jax.Array:
    """x with axes `axes` put in the order of `to`, and size 1 for those that it lacks."""
    held = [axis for axis in to if axis in axes]
    return einops.rearrange(
        x, f"{' '.join(axes)} -> {' '.join(axis if axis in held else '1' for axis in to)}"
    )


# ------------------------------------------------------------------------------- blocks of queries


def _in_query_blocks(
    q: jax.Array, keys: Sequence[KeySet], ids: TokenIds, axes: str, size: int
) -> jax.Array:
    """`attention` in blocks of `size` queries, one after the other, recomputed backwards."""
    at, at_ids = axes.index("t"), _rows(axes).index("t")
    length = q.shape[at]
    pad = -length % size

    def cut(x: jax.Array, axis: int) -> jax.Array:  # [..,T,..] -> [T / size, .., size, ..]
        x = jnp.pad(x, [(0, pad if i == axis else 0) for i in range(x.ndim)])
        x = x.reshape(*x.shape[:axis], -1, size, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis, 0)

    @jax.checkpoint
    def one(q: jax.Array, ids: TokenIds) -> jax.Array:
        return _masked_softmax(q, keys, ids, axes)

    blocks = cut(q, at), jax.tree.map(lambda x: cut(x, at_ids), ids)
    out = jnp.moveaxis(jax.lax.map(lambda block: one(*block), blocks), 0, at)
    out = out.reshape(*out.shape[:at], length + pad, *out.shape[at + 2 :])
    return jax.lax.slice_in_dim(out, 0, length, axis=at)


# ------------------------------------------------------------------------ blocks of short segments


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def _between_neighbours(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, longest: int
) -> jax.Array:
    """Attention within segments of at most `longest` tokens: exact, and linear in T.

    q, k, v [R,T,K,h]; segments int32 [R,T]. Such a segment touches at most two neighbouring blocks
    of `longest` tokens, wherever it starts, so queries of block i need the keys of blocks i-1, i
    and i+1 only; those of block i alone when no segment crosses from one block to the next, as the
    windows of images whose sides are multiples of a window.
    """
    T = q.shape[1]
    if longest > DENSE_BLOCK:
        return _in_blocks(q, k, v, segments, longest)
    ends, starts = segments[:, longest - 1 : T - 1 : longest], segments[:, longest::longest]
    crossing = ((ends == starts) & (starts > 0)).any()
    forms = (
        functools.partial(_in_blocks, longest=longest, neighbours=neighbours)
        for neighbours in (True, False)
    )
    return jax.lax.cond(crossing, *forms, q, k, v, segments)


@_between_neighbours.defjvp
def _between_neighbours_jvp(
    longest: int, primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    """Gradients know the general form alone: those of a condition would keep the activations of
    both.
    """
    general: Callable[..., jax.Array] = functools.partial(_in_blocks, longest=longest)
    return jax.jvp(general, primals, tangents)


def _in_blocks(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array,
    longest: int,
    neighbours: bool = True,
) -> jax.Array:
    """`_between_neighbours`; without `neighbours` for segments that each lie in one block."""
    R, T = segments.shape
    pad = -T % longest
    count = (T + pad) // longest

    def blocks(x: jax.Array) -> jax.Array:  # [R,T,...] -> [R,count,longest,...]
        x = jnp.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2))
        return x.reshape(R, count, longest, *x.shape[2:])

    def around(x: jax.Array) -> jax.Array:  # [R,T,...] -> [R,count,3 longest,...]
        if not neighbours:
            return blocks(x)
        # beyond the ends lie segments 0
        x = jnp.pad(blocks(x), [(0, 0), (1, 1)] + [(0, 0)] * (x.ndim - 1))
        return jnp.concatenate([x[:, :-2], x[:, 1:-1], x[:, 2:]], axis=2)

    def one(
        q: jax.Array, k: jax.Array, v: jax.Array, of_query: jax.Array, of_key: jax.Array
    ) -> jax.Array:
        keys = KeySet(k, v, TokenIds(segment=of_key), k_axes="rskh", v_axes="rskh")
        return _masked_softmax(q, [keys], TokenIds(segment=of_query), "rtkh")

    cut = (blocks(q), around(k), around(v), blocks(segments), around(segments))
    if longest <= DENSE_BLOCK:
        out = one(*(einops.rearrange(x, "r c ... -> (r c) ...") for x in cut))
    else:
        by_block = [einops.rearrange(x, "r c ... -> c r ...") for x in cut]
        out = jax.lax.map(lambda block: jax.checkpoint(one)(*block), by_block)
        out = einops.rearrange(out, "c r ... -> r c ...")
    return out.reshape(R, count * longest, *q.shape[2:])[:, :T]


# ------------------------------------------------------------------------------------ forms of rows


def packed_rows(
    q: jax.Array, k: jax.Array, v: jax.Array, ids: TokenIds, kernel: str = "einsum"
) -> jax.Array:
    """Rows of packed samples, in which responses see the prompt that they share and themselves.

    q [B,T,K,N,h], k and v [B,T,K,h], segment and branch int32 [B,T]. Token i attends to j iff j <=
    i, their segment is equal and not 0, and j is in the prompt (branch 0) or in the branch of i.
    Returns [B,T,K,N,h]. Kernels but "einsum" ask that each segment has one response, as the rows of
    data/packing.py have; rows of several go through `grouped_rows`.
    """
    if kernel != "einsum":
        module, interpret = _kernel(kernel)
        return module.packed_rows(q, k, v, ids.segment, interpret=interpret)
    ids = ids.replace(index=jnp.arange(q.shape[1])[None])
    return attention(q, [KeySet(k, v, ids, causal=True)], ids)


def grouped_rows(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment: jax.Array,
    *,
    prompt: int,
    branches: int,
    kernel: str = "einsum",
) -> jax.Array:
    """`packed_rows` of rows [prompt | branch 1 | ... | branch G], without scores between branches.

    For rows that hold one sample whose prompt takes the first `prompt` places and whose `branches`
    responses share the rest evenly: Tp^2 + G S (Tp + S) scores per head instead of (Tp + G S)^2.
    """
    if kernel != "einsum":
        module, interpret = _kernel(kernel)
        return module.grouped_rows(
            q, k, v, segment, prompt=prompt, branches=branches, interpret=interpret
        )
    in_prompt = segment[:, :prompt]
    first = packed_rows(q[:, :prompt], k[:, :prompt], v[:, :prompt], TokenIds(segment=in_prompt))
    q_own, k_own, v_own, segment_own = (
        einops.rearrange(x[:, prompt:], "b (g s) ... -> b g s ...", g=branches)
        for x in (q, k, v, segment)
    )
    index = jnp.arange(segment_own.shape[-1])[None, None]
    shared = KeySet(k[:, :prompt], v[:, :prompt], valid=in_prompt > 0)
    own = KeySet(
        k_own,
        v_own,
        TokenIds(index=index),
        valid=segment_own > 0,
        k_axes="bgskh",
        v_axes="bgskh",
        causal=True,
    )
    rest = attention(q_own, [shared, own], TokenIds(index=index), axes="bgtknh")
    return jnp.concatenate([first, einops.rearrange(rest, "b g t ... -> b (g t) ...")], axis=1)


def segment_rows(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array,
    longest: int,
    kernel: str = "einsum",
) -> jax.Array:
    """Tokens of a tower that see their own segment, both ways.

    q, k, v [R,T,K,h]; segments int32 [R,T], equal ids contiguous and at most `longest` long, 0 =
    padding. Returns [R,T,K,h], arbitrary at padding.
    """
    # Windows are shorter than a block of the kernel, most of which nobody would see.
    if kernel != "einsum" and longest > DENSE_BLOCK:
        module, interpret = _kernel(kernel)
        return module.segment_rows(q, k, v, segments, longest, interpret=interpret)
    if CPU_ROW <= q.shape[1] <= longest and _on_one_cpu():
        return _head_by_head(q, k, v, segments)
    ids = TokenIds(segment=segments)
    keys = KeySet(k, v, ids, k_axes="rskh", v_axes="rskh", longest=longest)
    return attention(q, [keys], ids, axes="rtkh")


def _on_one_cpu() -> bool:
    """Whether the program that is being traced is for one CPU."""
    return jax.sharding.get_abstract_mesh().empty and jax.default_backend() == "cpu"


def _head_by_head(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array) -> jax.Array:
    """`segment_rows` of one head of one row after the other, in blocks of CPU_BLOCK queries.

    The products are of plain matrices, and their scores stay in the caches. The scores of 16 heads
    and 1024 tokens are 64 MiB, pages that the system has to find and to zero in every call.
    """
    K = q.shape[2]
    segments = jnp.repeat(segments, K, axis=0)

    def one(q: jax.Array, k: jax.Array, v: jax.Array, segment: jax.Array) -> jax.Array:
        ids = TokenIds(segment=segment)
        keys = KeySet(k, v, ids, k_axes="sh", v_axes="sh")
        return _in_query_blocks(q, [keys], ids, "th", CPU_BLOCK)

    heads = (einops.rearrange(x, "r t k h -> (r k) t h") for x in (q, k, v))
    out = jax.lax.map(lambda head: one(*head), (*heads, segments))
    return einops.rearrange(out, "(r k) t h -> r t k h", k=K)


def kernel_for(platform: str) -> str:
    """The kernel that model.attention="auto" stands for on a platform, as jax.default_backend()
    names it.
    """
    return "splash" if platform == "tpu" else "einsum"


def _kernel(name: str) -> tuple[ModuleType, bool]:
    """(module of a kernel, whether it is interpreted)."""
    name, _, how = name.partition("-")
    return {"splash": splash, "flash": flash}[name], how == "interpret"
