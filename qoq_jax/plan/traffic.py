"""Bytes that a program moves on a device, from shapes: through its memory, over the links within a
slice or a node, and over the network between them.

Collectives follow from the package's own rules: weights that lie cut over fsdp are gathered once a
direction in the compute dtype, their gradients summed once (models/gathered.py, logprobs.py),
embeddings of tokens travel instead of their table (embedding.py), activations are summed over
tensor behind attention and MLP, and trade tokens for heads over sequence around attention
(sequence.py). An all-reduce is a reduce-scatter and an all-gather, and counts twice; TPUs make
every reduce-scatter one (docs/scaling.md).

Memory traffic counts passes over arrays: those of a layer's forward pass, and of its backward pass
with the layer computed again as three more. Compilers differ in how much they fuse: `FUSION`,
fitted to the compiled programs of docs/plan.md, so that none of them moves more.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
from jax.sharding import AbstractMesh

from qoq_jax.models import logprobs, mlp, spec
from qoq_jax.parallel.mesh import AXIS_RULES, partition_spec
from qoq_jax.plan import flops, memory, slots
from qoq_jax.plan.case import Case

WEIGHT_AXES = AXIS_RULES["embed"]  # that weights are cut over along their width
FUSION = {"tpu": 1.06, "gpu": 1.45}
BACKWARD = 4  # passes of a layer in an update, in forward passes
SCORE_PASSES = 6  # over the scores of attention without a kernel, float32
KEPT_PASSES = 5  # over what remat=none keeps
HEAD_PASSES = {False: 4, True: 8}  # over the scores of the head, without and with backward


@dataclasses.dataclass
class Moved:
    """Bytes on one device.

    Attributes:
      hbm: read and written. links: received from devices of its slice or node. network: received
        from those of others.
    """

    hbm: float = 0.0
    links: float = 0.0
    network: float = 0.0


def moved(case: Case, program: str, load: flops.Load) -> Moved:
    """What one call of a program moves; load: its work, on all devices."""
    if program == "reshard":
        return _reshard(case)
    found = Moved()
    if program == "decode":
        _decode(case, load, found)
    else:
        _pass(case, program, load, found)
    found.hbm *= FUSION[case.topology.device.kind]
    return found


# ------------------------------------------------------------------------ whole rows: update, score


def _pass(case: Case, program: str, load: flops.Load, found: Moved) -> None:
    """Rows of tokens through towers, decoder and, but for a prefill, the head."""
    training, prefill = program in flops.UPDATES, program in ("prefill", "embed")
    ways = case.rollout_ways if prefill else case.batch_ways
    tensor = case.rollout_tensor if prefill else case.tensor
    micro = case.stage.accumulate if training else 1
    decoder, b = case.model.decoder, case.compute_bytes
    length = load.prompt if prefill else load.tokens / case.sequence
    scored = 0 if prefill else (load.responses * load.response or load.prompt)
    n = load.rows / ways / micro * length  # tokens of a micro-batch on a device
    scored *= load.rows / ways / micro / case.sequence

    layers = 0.0 if program == "embed" else decoder.num_layers * layer_bytes(case, n, tensor)
    patches = load.patches if prefill else memory.patches(case)
    of_device = dataclasses.replace(load, patches=patches)
    towers = tower_bytes(case, of_device, ways * micro, tensor)
    found.hbm = (layers + towers) * (BACKWARD if training else 1)
    if training and case.model.remat == "none":
        found.hbm += KEPT_PASSES * memory.layer_inputs(case, "none")
    if scored:
        found.hbm += head_bytes(case, scored, tensor, training)
    found.hbm += n * decoder.width * (b + 4) * 2
    found.hbm *= micro
    if training:  # the optimiser: state read and written, gradients read, once for the norm
        found.hbm += 2 * (memory.parameters(case) + memory.moments(case))
        found.hbm += 3 * memory.gradients(case)

    if not (prefill and case.config.mesh.rollout_tensor):
        _weights_over_fsdp(case, training, micro, bool(scored), found)
    at_layers = 0.0 if program == "embed" else n * micro
    _activations_over_tensor(case, at_layers, load, (ways, tensor), training, found)
    if prefill:
        return
    amount = micro * n * decoder.width * (b + (4 if training else 0))  # embeddings of tokens
    for axis in (axis for axis in WEIGHT_AXES if case.mesh.shape[axis] > 1):
        _over(case, axis, amount, found)
    if case.sequence > 1:
        _activations_over_sequence(case, n * micro, load, training, found)


def layer_bytes(case: Case, n: float, tensor: int) -> float:
    """Memory traffic of one layer's forward pass over n tokens of a device."""
    decoder, b = case.model.decoder, case.compute_bytes
    D, F = decoder.width, decoder.mlp_dim / tensor
    q, kv = memory.channels(case, tensor)
    attention = n * b * (7 * D + 6 * q + 6 * kv)
    slices = 2 ** max(math.ceil(math.log2(max(n * F / mlp.HIDDEN, 1))), 0)
    passes = 16 * slices if slices > 1 else 3 * b  # float32 input and sum, once a slice
    hidden = n * (passes * D + 6 * b * F)
    if case.model.attention == "einsum":
        attention += SCORE_PASSES * 4 * n * memory.seen(case) * decoder.num_heads / tensor
    weights = sum(
        math.prod(one.shape[1:]) for one in spec.flatten(case.specs["decoder"]["layers"]).values()
    )
    return attention + hidden + 2 * b * weights / tensor


def tower_bytes(case: Case, load: flops.Load, ways: int, tensor: int) -> float:
    """Memory traffic of the towers' forward pass: some 40 passes a block, and its weights."""
    b, rows, found = case.compute_bytes, load.media_rows / ways, 0.0
    for tower, depth, n, width in (
        ("vision", case.model.vision.depth, rows * load.patches, case.model.vision.width),
        *(
            [("ecg", e.depth, rows * load.ecgs * e.leads * e.patches, e.width)]
            if (e := case.model.ecg)
            else []
        ),
    ):
        found += depth * 40 * b * n * width
        found += 2 * b * spec.count(case.specs[tower]["blocks"]) / tensor if n else 0
    return found


def head_bytes(case: Case, scored: float, tensor: int, training: bool) -> float:
    """Memory traffic of the scores of so many tokens, by slices of the vocabulary."""
    decoder, b = case.model.decoder, case.compute_bytes
    scores = scored * decoder.vocab_size / tensor
    slices = max(math.ceil(scores / logprobs.SCORES), 1)
    hidden = slices * scored * decoder.width * (b if not training else 2 * b + 8)
    return (
        HEAD_PASSES[training] * scores * 4
        + hidden
        + 4 * b * scores / max(scored, 1) * decoder.width
    )


def _weights_over_fsdp(case: Case, training: bool, micro: int, head: bool, found: Moved) -> None:
    """Gathers of weights, sums of their gradients over fsdp and data."""
    b, tpu = case.compute_bytes, case.topology.device.kind == "tpu"
    directions = 2 if training else 1
    for path, one in spec.flatten(case.specs).items():
        if path == "decoder/embedding" and not case.model.decoder.tied_embeddings:
            continue
        if path in ("decoder/embedding", "decoder/lm_head") and not head:
            continue
        cut = _cut(case.mesh, one.axes, one.shape)
        ways = case.tensor if "tensor" in cut else 1
        whole = math.prod(one.shape) / ways * (4 if one.compute_in_float32 else b)
        if any(axis in cut and case.mesh.shape[axis] > 1 for axis in WEIGHT_AXES):
            _over(case, "fsdp", directions * micro * whole, found)
            if training:
                _over(case, "fsdp", micro * whole * (2 if tpu else 1), found)
        elif training and case.batch_ways * case.sequence > 1:
            _over(case, "fsdp", 2 * micro * whole, found)
    if training and case.mesh.shape["data"] > 1:
        _over(case, "data", 2 * micro * memory.gradients(case), found)


def _activations_over_sequence(
    case: Case, n: float, load: flops.Load, training: bool, found: Moved
) -> None:
    """Queries, keys and values of n tokens of a device on their way to other devices of its rows,
    what attention returns on its way back, and the last layer's output, which these gather.
    """
    decoder, vision, b = case.model.decoder, case.model.vision, case.compute_bytes
    q, kv = memory.channels(case)
    layer = n * 2 * (q + kv)
    media = load.media_rows / case.batch_ways * memory.patches(case)
    block = media * 4 * vision.width / case.tensor
    traded = (decoder.num_layers * layer + vision.depth * block) * (3 if training else 1)
    whole = n * case.sequence * decoder.width * (2 if training else 1) if load.response else 0.0
    _over(case, "sequence", b * (traded + whole), found)


def _activations_over_tensor(
    case: Case,
    n: float,
    load: flops.Load,
    cut: tuple[int, int],
    training: bool,
    found: Moved,
) -> None:
    """Sums behind attention and MLP of the decoder and the vision tower; cut: (ways of the rows, of
    tensor).
    """
    (ways, tensor), b, vision = cut, case.compute_bytes, case.model.vision
    if tensor == 1:
        return
    decoder = case.model.decoder
    sliced = n * decoder.mlp_dim / tensor > mlp.HIDDEN
    layer = n * decoder.width * (b + (4 if sliced else b))
    block = 2 * load.media_rows / ways * load.patches * vision.width * b
    whole = decoder.num_layers * layer + vision.depth * block + 2 * n * decoder.width * b
    _over(case, "tensor", 2 * whole * (3 if training else 1), found, tensor)


# ----------------------------------------------------------------------------------------- sampling


def _decode(case: Case, load: flops.Load, found: Moved) -> None:
    """One token of every response."""
    decoder, b, tensor = case.model.decoder, case.compute_bytes, case.rollout_tensor
    ways, D = case.rollout_ways, decoder.width
    rows = load.rows / ways * load.responses
    layers = spec.count(case.specs["decoder"]["layers"])
    of_layers = 1 if case.rollout_weights == "int8" else b
    weights = (of_layers * layers + b * decoder.vocab_size * D) / tensor
    cache = slots.cache_bytes(case)
    # A part of the ring is fetched once more; off a TPU, where it is written first, all of it.
    again = 1.35 if case.model.attention == "splash" else 2
    q, kv = memory.channels(case, tensor)
    activations = decoder.num_layers * rows * b * (14 * D + 8 * q + 8 * kv)
    activations += decoder.num_layers * rows * b * 6 * decoder.mlp_dim / tensor
    logits = 12 * 4 * rows * decoder.vocab_size
    fusion = FUSION[case.topology.device.kind]  # not of weights and cache, which stand as they are
    found.hbm = (weights + again * cache) / fusion + activations + logits
    if tensor > 1:
        sums = (2 * decoder.num_layers + 1) * rows * D * b * 2 + rows * decoder.vocab_size * 4
        _over(case, "tensor", sums, found, tensor)
    cut = math.prod(case.mesh.shape[axis] for axis in WEIGHT_AXES)
    if not case.config.mesh.rollout_tensor and cut > 1:
        # the mesh of training: each token gathers the weights, or computes all rows everywhere
        _over(case, "fsdp", b * (layers + decoder.vocab_size * D) / tensor, found)
        found.hbm += b * (layers + decoder.vocab_size * D) / tensor


def _reshard(case: Case) -> Moved:
    """Weights cast, and laid over the devices of sampling."""
    there = float(slots.sampling_weights(case))
    here = memory.reference(case) / 4 * case.compute_bytes
    found = Moved(hbm=memory.reference(case) + 3 * here + 5 * there)
    _over(case, "fsdp", there + here, found)
    return found


def _over(case: Case, axis: str, amount: float, found: Moved, tensor: int = 0) -> None:
    """Adds bytes that a device receives along a mesh axis: over its links where the axis stays
    within a slice or a node, else over the network.
    """
    mesh = case.mesh.shape
    inner = {"tensor": tensor or mesh["tensor"]}
    inner["sequence"] = mesh["sequence"] * mesh["tensor"]
    inner["fsdp"] = mesh["fsdp"] * inner["sequence"]
    inner["data"] = case.mesh.size
    if inner[axis] > case.topology.near:
        found.network += amount
    else:
        found.links += amount


@functools.lru_cache(maxsize=1 << 14)
def _cut(mesh: AbstractMesh, axes: tuple, shape: tuple[int, ...]) -> frozenset[str]:
    """Mesh axes that a weight is cut over."""
    found = partition_spec(mesh, axes, shape)
    return frozenset(jax.tree.leaves(tuple(found)))
