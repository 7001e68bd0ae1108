"""What sampling keeps on a device: weights of its own, slots of prompts and responses, and their
keys and values. Exact, from the package's own declarations and shardings.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
from jax.sharding import AbstractMesh

from qoq_jax.models import int8, spec
from qoq_jax.models.sizes import VlmConfig
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.plan.case import Case, Mesh, device_bytes, numbers
from qoq_jax.sampling import loop
from qoq_jax.sampling.sampler import CHUNKS
from qoq_jax.sampling.schedule import Settings


def sampling_weights(case: Case) -> int:
    """What the sampler reads, beside the trainer's own weights."""
    layers = case.specs["decoder"]["layers"]
    if not case.copies_weights:
        return sum(
            numbers(case.mesh, one) * case.compute_bytes for one in spec.flatten(layers).values()
        )
    if case.rollout_weights == "int8":
        layers = int8.layer_specs(layers)
    specs = case.specs | {"decoder": case.specs["decoder"] | {"layers": layers}}
    return sum(_sampling_bytes(case, one) for one in spec.flatten(specs).values())


def _sampling_bytes(case: Case, one: spec.ParamSpec | int8.Int8) -> int:
    """Bytes of a weight of the sampler on a device."""
    if isinstance(one, int8.Int8):
        mesh = case.rollout_mesh
        return numbers(mesh, one.quantised) + _sampling_bytes(case, one.scale)
    size = 4 if one.compute_in_float32 else case.compute_bytes
    return numbers(case.rollout_mesh, one) * size


def waits(case: Case) -> bool:
    """Whether fewer responses are sampled at the same time than a step asks for."""
    rl = case.stage.rl
    return 0 < rl.rollout_rows < rl.questions * rl.rollouts


def chunk(case: Case) -> int:
    """Prompts that are prefilled together (sampling/sampler.py)."""
    prompts, ways = grid(case)[0], case.rollout_ways
    return -(-prompts // (CHUNKS * ways)) * ways if waits(case) else prompts


def grid(case: Case) -> tuple[int, int]:
    """(prompts, responses of each) that are sampled at the same time."""
    rl = case.stage.rl
    settings = Settings(rl.response_tokens, num_samples=rl.rollouts, rows=rl.rollout_rows)
    if not waits(case):
        return rl.questions, rl.rollouts
    return settings.slots(rl.questions, case.rollout_ways)


def cache_bytes(case: Case) -> int:
    """The keys and values of the prompts and responses that are sampled at the same time."""
    # of one layer, since all are alike
    decoder = dataclasses.replace(case.model.decoder, num_layers=1)
    model = dataclasses.replace(case.model, decoder=decoder, remat="full", attention="einsum")
    layer, once = _cache_of_layer(model, case.rollout_mesh, sizes(case))
    return case.model.decoder.num_layers * layer + once


@functools.lru_cache(maxsize=1 << 10)
def _cache_of_layer(
    model: VlmConfig, mesh: AbstractMesh, sizes: tuple[int, int, int, int]
) -> tuple[int, int]:
    """(bytes of a layer's keys and values, of what is there once)."""
    cache = shapes(model, mesh, sizes).cache
    layer = (cache.prompt_k, cache.prompt_v, cache.response_k, cache.response_v)
    return device_bytes(layer), device_bytes((cache.prompt_mask, cache.step, cache.length))


def sizes(case: Case) -> tuple[int, int, int, int]:
    """(slots, rows of a slot, places for prompts, places for responses)."""
    return (*grid(case), case.budget.tokens, case.stage.rl.response_tokens)


def shapes(model: VlmConfig, mesh: Mesh, sizes: tuple[int, int, int, int]) -> Any:
    """The slots of sampling as shapes: rows over data and fsdp, kv heads of the cache over
    tensor.
    """
    prompts = sizes[0]
    found = jax.eval_shape(lambda: loop.empty_slots(model, *sizes))

    def on_mesh(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        axes: list[str | None] = [None] * len(x.shape)
        if axes and x.shape[0] == prompts:
            axes[0] = "batch"
            if len(axes) > 3 and x.shape[1] == model.decoder.num_kv_heads:
                axes[1] = "kv_heads"
        at = mesh_lib.named_sharding(mesh, axes, x.shape)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at)

    return jax.tree.map(on_mesh, found)
