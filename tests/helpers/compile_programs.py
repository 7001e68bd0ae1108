"""Compiles the programs of training and sampling for a mesh of eight devices; what the compiler
says goes to stderr. Arguments: data, fsdp, sequence, tensor, ways of tensor for rollouts.

`self-check` instead compiles a program that the compiler is known to complain of.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from helpers.train import prompt_batch, tiny_model
from qoq_jax.models import spec, vlm
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.rl.batches import UpdateBatch
from qoq_jax.sampling import layout, rollout
from qoq_jax.sampling.schedule import Settings
from qoq_jax.train import optim, plan, policy, sft, state
from qoq_jax.train.config import Config, RlConfig

ROWS, G, S = 16, 4, 8


def shaped(tree: object, mesh: jax.sharding.Mesh) -> object:
    at = mesh_lib.batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), tree)


def weights_of(specs: dict, mesh: jax.sharding.Mesh) -> dict:
    return jax.tree.map(
        lambda one, at: jax.ShapeDtypeStruct(one.shape, jnp.float32, sharding=at),
        specs,
        spec.shardings(specs, mesh),
    )


def programs(mesh: jax.sharding.Mesh, rollout_tensor: int) -> Iterator[jax.stages.Lowered]:
    # scanned, rematerialised layers, as those of a large model; twelve of them are not unrolled
    model = tiny_model()
    decoder = dataclasses.replace(model.decoder, num_layers=12)
    model = dataclasses.replace(model, decoder=decoder, remat="full", compute_dtype="bfloat16")
    specs = vlm.param_specs(model)
    responses = jax.ShapeDtypeStruct((ROWS, G, S), jnp.float32)
    tokens, mask = shaped((responses.update(dtype=jnp.int32), responses), mesh)
    prompts = shaped(prompt_batch(model, ROWS), mesh)
    stage = plan.plan(Config(rl=RlConfig(questions=ROWS, rollouts=G)), "rl")
    rate = optim.schedule("constant", 1e-4, 2, 10)
    optimizer = optim.make_optimizer(stage.optimizer, rate, specs)
    trained = state.layout(weights_of(specs, mesh), optimizer, mesh)
    yield sft.make_sft_step(model, optimizer, 2, trained).lower(trained, prompts)
    batch = UpdateBatch(
        prompts=prompts,
        tokens=tokens,
        mask=mask,
        sampler_logprobs=mask,
        ref_logprobs=mask,
        old_logprobs=None,
        advantages=shaped(jax.ShapeDtypeStruct((ROWS, G), jnp.float32), mesh),
    )
    yield policy.make_policy_step(model, stage, optimizer, trained).lower(trained, batch)
    yield rollout.make_scorer(model, 1.0).lower(weights_of(specs, mesh), prompts, tokens, mask)

    there = layout.Layout(model, mesh, rollout_tensor)
    weights = weights_of(specs, mesh)
    if there.moves:
        yield there.reshard.lower(weights)
        weights = weights_of(vlm.sampling_specs(model), there.mesh)
    settings = Settings(max_new_tokens=S, temperature=1.0, num_samples=G, rows=0)
    whole = NamedSharding(there.mesh, PartitionSpec())
    banned = jax.ShapeDtypeStruct((model.decoder.vocab_size,), bool, sharding=whole)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def sample(weights: dict, batch: dict, key: jax.Array, banned: jax.Array) -> rollout.Rollout:
        return rollout.sample(weights, model, batch, key, banned, settings)

    with there.on_mesh():
        prompts = shaped(prompt_batch(model, ROWS), there.mesh)
        yield jax.jit(sample).lower(weights, prompts, key, banned)


def badly_cut(mesh: jax.sharding.Mesh) -> jax.stages.Lowered:
    """Rows cut over all devices are asked for cut along another axis, in an order that no
    collective has.
    """

    def run(x: jax.Array) -> jax.Array:
        x = jax.lax.with_sharding_constraint(x * 2, PartitionSpec(("data", "fsdp"), None, None))
        x = jnp.sin(x)
        return jax.lax.with_sharding_constraint(x, PartitionSpec(None, "fsdp", "data")) + 1

    at = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    return jax.jit(run).lower(jax.ShapeDtypeStruct((8, 8, 8), jnp.float32, sharding=at))


def main() -> None:
    if sys.argv[1] == "self-check":
        mesh = mesh_lib.make_mesh(data=2, fsdp=4)
        with jax.set_mesh(mesh):
            badly_cut(mesh).compile()
        return
    data, fsdp, sequence, tensor, ways = map(int, sys.argv[1:])
    mesh = mesh_lib.make_mesh(data, fsdp, tensor, sequence=sequence)
    with jax.set_mesh(mesh):
        several = programs(mesh, ways)
        if sequence > 1:  # the update of the policy, which has what the others have
            several = itertools.islice(several, 1, 2)
        for number, program in enumerate(several):
            program.compile()
            print("compiled", number)


if __name__ == "__main__":
    main()
