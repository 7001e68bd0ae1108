"""Bytes of a device, part by part, for each program of a step.

Weights, moments, base, reference, cache and batch are exact: shapes of the package's own
declarations, cut by its own shardings, with the padding of a TPU's tiles beside them. What a
program makes on its way is a formula, fitted to programs that were compiled; docs/plan.md has both
side by side. Per token of a device, with width
D, q and kv channels of queries and keys that a device computes, b bytes of the compute dtype:

  backward pass of one layer   (12 + 6 b) D + 9 b (q + 2 kv) bytes
                               float32: the input, the sum and the gradient of the MLP by slices;
                               compute dtype: inputs, their gradients, what attention reads and
                               returns, each also in the layout of its kernel
  forward pass of one layer    (8 + b) D + 2 b (q + 2 kv) bytes

and the hidden values of a slice of the MLP (models/mlp.py), three times and 1.5 times.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from qoq_jax.models import mlp, spec
from qoq_jax.models.attention import QUERY_BLOCK
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.plan import slots, tiles
from qoq_jax.plan.case import Case, batch_on, device_bytes, numbers, rows_on

GIB = 2**30
Parts = dict[str, float]  # what -> bytes on a device


def phases(case: Case) -> dict[str, Parts]:
    """{phase of a step: its parts}; the sum of a phase is its peak."""
    found = {"update": _without_nothing(_update(case))}
    if not case.is_rl:
        return found
    found["scorer"] = _scorer(case)
    if case.copies_weights:
        found["reshard"] = _reshard(case)
    found |= _sampling(case)
    return {name: _without_nothing(parts) for name, parts in found.items()}


def peak(case: Case) -> float:
    """Bytes of a device at its fullest moment."""
    return max(sum(parts.values()) for parts in phases(case).values())


def host_bytes(case: Case) -> float:
    """Bytes that a device keeps in the host's memory."""
    found = 0.0
    if case.stage.optimizer.offload:
        found += moments(case)
    if offloads_reference(case):
        found += reference(case)
    if case.model.remat == "offload":
        found += layer_inputs(case, "full")
    return found


# -------------------------------------------------------------------------------------------- state


def parameters(case: Case) -> int:
    """Master weights that are trained, and a critic."""
    return device_bytes(case.state.params)


def moments(case: Case) -> int:
    """The optimiser's state."""
    return device_bytes(case.state.opt_state)


def checkpoint(case: Case) -> int:
    """Bytes of a checkpoint, of all devices together: trained weights and the optimiser's state."""
    leaves = jax.tree.leaves((case.state.params, case.state.opt_state))
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)


def reference(case: Case) -> int:
    """The reference policy, or what adapters are added to, in float32."""
    return sum(4 * numbers(case.mesh, one) for one in spec.flatten(case.specs).values())


def state_padding(case: Case) -> int:
    """Padding of weights and moments on a TPU (plan/tiles.py)."""
    if case.topology.device.kind != "tpu":
        return 0
    shards = [(x, x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(case.state)]
    return sum((tiles.padded(at) - math.prod(at)) * x.dtype.itemsize for x, at in shards)


def reference_padding(case: Case) -> int:
    """Padding of `reference` on a TPU."""
    if case.topology.device.kind != "tpu":
        return 0
    found = 0
    for one in spec.flatten(case.specs).values():
        at = mesh_lib.named_sharding(case.mesh, one.axes, one.shape).shard_shape(one.shape)
        found += 4 * (tiles.padded(at) - math.prod(at))
    return found


def offloads_reference(case: Case) -> bool:
    """Whether the reference is in the host's memory while it is not needed."""
    return case.is_rl and case.stage.rl.offload_reference and not case.stage.lora.rank


def gradients(case: Case) -> int:
    """Gradients of a micro-batch: in the compute dtype of decoder layers and head, which are cast
    before they are used, else in float32; with several micro-batches a sum in float32 beside them.
    """
    found = 0
    for path, one in spec.flatten(_moved_specs(case)).items():
        if not _frozen(case, path):
            found += numbers(case.mesh, one) * (case.compute_bytes if _is_cast(path) else 4)
    if case.stage.accumulate > 1:
        found += sum(
            numbers(case.mesh, one) * 4
            for path, one in spec.flatten(case.trained).items()
            if not _frozen(case, path)
        )
    return found


def cast_weights(case: Case) -> int:
    """The copy of decoder layers and head in the compute dtype; of adapters also the merged
    weights.
    """
    found = 0
    if case.compute_bytes < 4:
        found = sum(
            numbers(case.mesh, one) * case.compute_bytes
            for path, one in spec.flatten(case.specs).items()
            if _is_cast(path)
        )
    return found + merged(case)


def merged(case: Case) -> int:
    """Weights with their adapters added, float32."""
    if not case.stage.lora.rank:
        return 0
    paths = {path.rsplit("/", 1)[0] for path in spec.flatten(case.trained["lora"])}
    return sum(
        4 * numbers(case.mesh, one)
        for path, one in spec.flatten(case.specs).items()
        if path in paths
    )


def batch(case: Case) -> int:
    """Prompts or rows of text and media, and in RL the responses with three numbers a token."""
    found = device_bytes(batch_on(case.budget, case.mesh))
    if case.is_rl:
        rl = case.stage.rl
        shape = (rl.questions, rl.rollouts, rl.response_tokens)
        responses = [jax.ShapeDtypeStruct(shape, jnp.float32)] * 4
        found += device_bytes(rows_on(responses, case.mesh))
    return found


# --------------------------------------------------------------------------------------- on the way


def tokens(case: Case, rows: float | None = None) -> float:
    """Tokens of a micro-batch on a device, or of so many rows."""
    budget = case.budget
    length = budget.tokens
    if case.is_rl:
        length += case.stage.rl.rollouts * case.stage.rl.response_tokens
    micro = budget.rows / case.batch_ways / case.parts if rows is None else rows
    return micro * length / case.sequence


def layer_inputs(case: Case, remat: str) -> float:
    """What the backward pass finds of the forward pass: inputs of layers, and what the policy keeps
    beside them.
    """
    decoder, n, b = case.model.decoder, tokens(case), case.compute_bytes
    inputs = decoder.num_layers * n * decoder.width * b
    if remat == "offload":
        return inputs / decoder.num_layers * 2  # on their way to the host and back
    if remat == "full":
        return inputs
    (q, kv), D = channels(case), decoder.width
    kept = (q + 2 * kv + 2 * D) * b  # products with weights
    if remat == "none":  # all that the backward pass reads, much of it in float32 too
        kept = (44 + 6 * b) * D + 6 * b * (q + 2 * kv) + 4 * b * decoder.mlp_dim / case.tensor
    return inputs + decoder.num_layers * n * kept


def media(case: Case) -> float:
    """Inputs of the towers' blocks, which wait for the backward pass."""
    budget, vision, b = case.budget, case.model.vision, case.compute_bytes
    rows = budget.media_rows / case.batch_ways / case.parts
    found = vision.depth * patches(case) * vision.width * b
    if (ecg := case.model.ecg) is not None:
        found += ecg.depth * budget.ecgs * ecg.leads * ecg.patches * ecg.width * b
    return rows * found


def patches(case: Case) -> float:
    """Patches of a media row that a device computes in training."""
    found = case.budget.patches
    return (
        found / case.sequence
        if found % (case.sequence * case.model.vision.merge_unit) == 0
        else found
    )


def channels(case: Case, tensor: int | None = None) -> tuple[float, float]:
    """(channels of queries, of keys) that a device computes."""
    decoder, ways = case.model.decoder, tensor or case.tensor
    heads, kv = decoder.num_heads, decoder.num_kv_heads
    return tuple(
        decoder.head_dim * (count / ways if count % ways == 0 else count) for count in (heads, kv)
    )


def layer_at_work(case: Case, n: float, backward: bool, tensor: int = 0) -> float:
    """What one layer makes on its way, for n tokens of a device."""
    decoder, b, ways = case.model.decoder, case.compute_bytes, tensor or case.tensor
    q, kv = channels(case, ways)
    hidden = min(n * decoder.mlp_dim / ways, mlp.HIDDEN) * b
    if backward:
        found = n * ((12 + 6 * b) * decoder.width + 9 * b * (q + 2 * kv)) + 3 * hidden
    else:
        found = n * ((8 + b) * decoder.width + 2 * b * (q + 2 * kv)) + 1.5 * hidden
    return found + (3 if backward else 2) * scores(case, n)


def scores(case: Case, n: float) -> float:
    """Bytes of the attention's scores: none with a kernel; else of a block of queries and all
    keys.
    """
    if case.model.attention != "einsum":
        return 0.0
    length = seen(case)
    block = length if length <= 2 * QUERY_BLOCK else QUERY_BLOCK
    return 4 * n * block * case.model.decoder.num_heads / case.tensor


def seen(case: Case) -> int:
    """Keys that the last token of a row sees: of its prompt and its own response."""
    return case.budget.tokens + (case.stage.rl.response_tokens if case.is_rl else 0)


# ------------------------------------------------------------------------------------------- phases


def _kept(case: Case, moments_on_device: bool) -> Parts:
    """What lies on a device the whole step."""
    found = {"parameters": float(parameters(case))}
    if moments_on_device or not case.stage.optimizer.offload:
        found["moments"] = float(moments(case))
    padding = state_padding(case) * (1.0 if "moments" in found else 1 / 3)
    if case.stage.lora.rank:
        found["base"] = float(reference(case))
        padding += reference_padding(case)
    elif case.is_rl and not offloads_reference(case):
        found["reference"] = float(reference(case))
        padding += reference_padding(case)
    return found | {"tile padding": padding}


def _update(case: Case) -> Parts:
    parts = case.stage.rl.minibatches if case.is_rl else 1
    found = _kept(case, True)
    found["batch"] = batch(case) * (1 + (1 / parts if parts > 1 else 0))
    found["gradients"] = float(gradients(case))
    found["weights as computed with"] = float(cast_weights(case))
    found["layer inputs"] = layer_inputs(case, case.model.remat)
    found["towers"] = media(case)
    found["layer at work"] = layer_at_work(case, tokens(case), backward=True)
    return found


def _scorer(case: Case) -> Parts:
    found = _kept(case, False)
    if offloads_reference(case):
        found["reference"] = float(reference(case))
    rows = case.budget.rows / case.batch_ways
    found["batch"] = float(batch(case))
    found["weights as computed with"] = float(cast_weights(case) - merged(case))
    found["layer at work"] = layer_at_work(case, tokens(case, rows), backward=False)
    return found


def _reshard(case: Case) -> Parts:
    weights = float(slots.sampling_weights(case))
    return _kept(case, False) | {
        "merged weights": float(merged(case)),
        "weights of the sampler": weights,
        "weights on their way": weights,
    }


def _sampling(case: Case) -> dict[str, Parts]:
    """Prefill and decoding. With fewer places than responses (rl.rollout_rows) the prompts of the
    whole batch are embedded first, and wait for places (sampling/sampler.py).
    """
    (prompts, width), ways, rl = slots.grid(case), case.rollout_ways, case.stage.rl
    decoder, b, ring = case.model.decoder, case.compute_bytes, float(slots.cache_bytes(case))
    common = _kept(case, False)
    common["merged weights"] = float(merged(case))
    common["weights of the sampler"] = float(slots.sampling_weights(case))
    common["batch"] = float(device_bytes(batch_on(case.budget, case.rollout_mesh)))
    inputs = rl.questions / ways * case.budget.tokens * decoder.width * b
    n = slots.chunk(case) / ways * case.budget.tokens
    layer = layer_at_work(case, n, backward=False, tensor=case.rollout_tensor)
    keys = decoder.num_layers * n * 2 * channels(case, case.rollout_tensor)[1] * b
    # a few arrays of the logits of a token
    logits = 6 * 4 * prompts / ways * width * decoder.vocab_size / case.rollout_tensor
    found = {}
    if slots.waits(case):
        common["prompts"] = inputs
        found["embed"] = common | {"at work": towers_at_work(case)}
        work = keys + layer
    else:  # the ring is made while the prompts' own arrays go
        work = max(keys + layer / 2, towers_at_work(case) + inputs + keys + layer - ring)
    found["prefill"] = common | {"KV cache": ring, "at work": work}
    found["decode"] = common | {"KV cache": ring, "at work": logits}
    return found


def towers_at_work(case: Case) -> float:
    """What a block of the vision tower makes on its way, for the media of a whole batch: ten arrays
    of its width and three of its hidden values.
    """
    budget, vision = case.budget, case.model.vision
    n = budget.media_rows / case.rollout_ways * budget.patches
    per_patch = 10 * vision.width + 3 * vision.mlp_dim / case.rollout_tensor
    return n * per_patch * case.compute_bytes


# ------------------------------------------------------------------------------------------- leaves


def _moved_specs(case: Case) -> dict[str, Any]:
    """Declarations of what a backward pass gives gradients of: of adapters the weights that they
    are merged into.
    """
    if not case.stage.lora.rank:
        return case.trained
    paths = {path.rsplit("/", 1)[0] for path in spec.flatten(case.trained["lora"])}
    flat = spec.flatten(case.specs)
    return spec.unflatten({path: flat[path] for path in paths})


def _is_cast(path: str) -> bool:
    """Whether a weight is cast before it is used: decoder layers as a stack, and the head."""
    return path.startswith("decoder/layers/") or path == "decoder/lm_head"


def _frozen(case: Case, path: str) -> bool:
    name = path.removeprefix("lora/")
    return any(name == one or name.startswith(one + "/") for one in case.stage.optimizer.frozen)


def _without_nothing(parts: Parts) -> Parts:
    return {name: amount for name, amount in parts.items() if amount}
