"""The package's own programs of a step, lowered for a mesh of real or described devices: the same
functions that train/rl.py and train/sft.py call, on the shapes of a config.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from qoq_jax.models import spec, vlm
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.plan import slots
from qoq_jax.plan.case import Case, batch_on, rows_on, state_on, weights_on
from qoq_jax.plan.instant import load_of
from qoq_jax.rl.batches import UpdateBatch
from qoq_jax.sampling import layout, loop, rollout
from qoq_jax.train import policy, sft

Mesh = jax.sharding.Mesh


def lower(case: Case, name: str, mesh: Mesh) -> jax.stages.Lowered:
    """The program `name` of a step (as in instant.Program), not compiled yet."""
    with jax.set_mesh(mesh):
        if name == "update":
            return _update(case, mesh)
        if name == "scorer":
            weights = weights_on(case.specs, mesh, jnp.float32)
            tokens, mask = _responses(case, mesh, case.budget.rows)
            scorer = rollout.make_scorer(case.model, case.stage.rl.temperature)
            return scorer.lower(weights, batch_on(case.budget, mesh), tokens, mask)
        ways, kind = case.config.mesh.rollout_tensor, case.rollout_weights
        there = layout.Layout(case.model, mesh, ways, kind)
        if name == "reshard":
            return there.reshard.lower(weights_on(case.specs, mesh, jnp.float32))
    weights = _of_sampling(case, there.mesh)
    # All weights of the sampler lie on the devices, also those that a program does not read: they
    # stay arguments, so that its peak has them.
    jit = functools.partial(jax.jit, keep_unused=True)
    with jax.set_mesh(there.mesh):
        if name == "decode":
            return jit(_one_token(case), donate_argnums=1).lower(
                weights, *_decoding(case, there.mesh)
            )
        if not there.moves:
            weights = weights_on(case.specs, mesh, jnp.float32)
        batch, embed = batch_on(case.budget, there.mesh), _embed(case)
        if name == "embed":
            return jit(embed).lower(weights, batch)
        if slots.waits(case):
            admit = functools.partial(loop.admit_rows, case.model)
            prompts = jax.eval_shape(embed, weights, batch)
            return jit(admit, donate_argnums=1).lower(
                weights, *_admitted(case, there.mesh, prompts)
            )
        rl = case.stage.rl
        run = functools.partial(
            loop.start_slots, case.model, rows=rl.rollouts, places=rl.response_tokens
        )
        return jit(run).lower(weights, batch)


def _of_sampling(case: Case, mesh: Mesh) -> Any:
    """The sampler's own weights as shapes and places."""
    specs = vlm.sampling_specs(case.model, case.rollout_weights)
    shapes = jax.eval_shape(
        lambda params: vlm.sampling_params(params, case.model, case.rollout_weights),
        spec.abstract(case.specs),
    )
    return jax.tree.map(
        lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at),
        shapes,
        spec.shardings(specs, mesh),
    )


def _embed(case: Case) -> Callable[..., loop.Prompts]:
    """Towers and embeddings of all prompts of a step."""
    return functools.partial(loop.embed_prompts, case.model)


def _admitted(case: Case, mesh: Mesh, prompts: loop.Prompts) -> tuple[Any, ...]:
    """The slots, and a chunk of the prompts on its way to them."""
    whole = mesh_lib.named_sharding(mesh, (None,), (1,))
    where = jax.ShapeDtypeStruct((slots.chunk(case),), jnp.int32, sharding=whole)
    rows = rows_on(prompts.replace(features=None), mesh)
    if prompts.features is not None:  # [J,R,M,D]
        x = prompts.features
        at = mesh_lib.named_sharding(mesh, (None, "media", None, None), x.shape)
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at)
        rows = rows.replace(features=shape)
    there = slots.shapes(case.model, mesh, slots.sizes(case))
    return there, rows, where, where


def _responses(
    case: Case, mesh: Mesh, rows: int
) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """(tokens, mask) of the responses to so many prompts, as shapes."""
    rl = case.stage.rl
    mask = jax.ShapeDtypeStruct((rows, rl.rollouts, rl.response_tokens), jnp.float32)
    return rows_on((mask.update(dtype=jnp.int32), mask), mesh)


def _update(case: Case, mesh: Mesh) -> jax.stages.Lowered:
    state, optimizer = state_on(case.model, case.stage, mesh)
    base = _base(case, mesh)
    if not case.is_rl:
        stage = case.stage
        step = sft.make_sft_step(
            case.model, optimizer, stage.accumulate, state, stage.lora, stage.optimizer.frozen
        )
        return step.lower(state, batch_on(case.budget, mesh), *base)
    return policy.make_policy_step(case.model, case.stage, optimizer, state).lower(
        state, _update_batch(case, mesh), *base
    )


def _base(case: Case, mesh: Mesh) -> tuple:
    """What adapters are added to, where there are some."""
    return (weights_on(case.specs, mesh, jnp.float32),) if case.stage.lora.rank else ()


def _update_batch(case: Case, mesh: Mesh) -> UpdateBatch:
    """The batch of one update, a mini-batch of the step's."""
    rl, load = case.stage.rl, load_of(case, "update")
    budget = dataclasses.replace(case.budget, rows=load.rows, media_rows=load.media_rows)
    tokens, mask = _responses(case, mesh, load.rows)
    by_group = rows_on(jax.ShapeDtypeStruct((load.rows, rl.rollouts), jnp.float32), mesh)
    is_given = case.stage.scores_old or rl.old_logprobs == "sampler"
    critic = case.stage.critic
    return UpdateBatch(
        prompts=batch_on(budget, mesh),
        tokens=tokens,
        mask=mask,
        sampler_logprobs=mask,
        ref_logprobs=mask,
        old_logprobs=mask if is_given else None,
        advantages=mask if critic else by_group,
        values=mask if critic else None,
        returns=mask if critic else None,
    )


def _decoding(case: Case, mesh: Mesh) -> tuple[loop.DecodeState, loop.Orders]:
    """What a step of `loop.decode` takes beside the weights."""
    rows, whole = (
        functools.partial(jax.ShapeDtypeStruct, sharding=at)
        for at in (mesh_lib.batch_sharding(mesh), mesh_lib.named_sharding(mesh, (), ()))
    )
    grid, places = slots.grid(case), case.stage.rl.response_tokens
    decoded = loop.Decoded(
        tokens=rows((*grid, places), jnp.int32),
        logprobs=rows((*grid, places), jnp.float32),
        count=rows(grid, jnp.int32),
        steps=whole((), jnp.int32),
    )
    there = slots.shapes(case.model, mesh, slots.sizes(case))
    decoding = loop.DecodeState(there, decoded, rows(grid, bool), rows(grid, bool))
    orders = loop.Orders(
        start=rows(grid, bool),
        live=rows(grid, bool),
        keys=rows((*grid, 2), jnp.uint32),
        limit=whole((), jnp.int32),
        steps=whole((), jnp.int32),
        more=rows(grid[:1], bool),
        wanted=whole((), jnp.int32),
    )
    return decoding, orders


def _one_token(case: Case) -> Callable[..., loop.DecodeState]:
    """One step of `loop.decode`: a token of every response."""

    def one_token(
        weights: dict, decoding: loop.DecodeState, orders: loop.Orders
    ) -> loop.DecodeState:
        banned = jnp.zeros(case.model.decoder.vocab_size, bool)
        draw = loop.Draw(banned, temperature=case.stage.rl.temperature)
        return loop.step(case.model, weights, decoding, orders, draw)

    return one_token
