"""Compiles the package's own step functions for TPU pods, without hardware, and prints what they
need: peak memory, and bytes of collectives and HBM.

    pip install "jax[tpu]"        # the compiler of TPUs; it runs on a machine without any
    python benchmarks/pod_programs.py --size 7b --program policy --topology v5e:4x4 --mesh fsdp=16

4,096 prompt and 4,096 response tokens, 5 responses per question, one image of 524,288 pixels
(2,688 patches) and one ECG per row. Optimised HLO is read by hlo_traffic.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}

import jax
import jax.numpy as jnp
from hlo_traffic import traffic
from jax.experimental import topologies

from qoq_jax.data.packing import Budget, empty_batch
from qoq_jax.models import sizes, spec, vlm
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.rl.batches import UpdateBatch
from qoq_jax.sampling import rollout
from qoq_jax.train import config as config_lib
from qoq_jax.train import optim, plan, policy, sft, state

PROMPT, RESPONSE, RESPONSES, PATCHES = 4096, 4096, 5, 2688
GIB = 2**30
CAPACITY = {"v5e": 15.75, "v5p": 95.74, "v6e": 31.25}  # usable memory of a device, GiB


@dataclasses.dataclass(frozen=True)
class Case:
    size: str
    program: str
    topology: str
    mesh: str
    rows: int
    accumulate: int
    layers: int
    attention: str
    remat: str


def model_of(case: Case) -> sizes.VlmConfig:
    model = sizes.get(case.size)
    decoder = model.decoder
    if case.layers:
        decoder = dataclasses.replace(decoder, num_layers=case.layers)
    return dataclasses.replace(
        model,
        decoder=decoder,
        ecg=sizes.BASE_ECG,
        ecg_tokens=1,
        compute_dtype="bfloat16",
        remat=case.remat,
        attention=case.attention,
    )


def mesh_of(case: Case) -> jax.sharding.Mesh:
    described = topologies.get_topology_desc(platform="tpu", topology_name=case.topology)
    ways = {name: int(n) for name, n in (part.split("=") for part in case.mesh.split(","))}
    return mesh_lib.make_mesh(**ways, devices=described.devices)


def batch_of(case: Case, model: sizes.VlmConfig, mesh: jax.sharding.Mesh, tokens: int) -> dict:
    """A batch of padding as shapes with shardings."""
    budget = Budget(
        rows=case.rows,
        tokens=tokens,
        media_rows=case.rows,
        patches=PATCHES,
        ecgs=1,
        pad_id=0,
        ecg_tokens=1,
        patch_dim=model.vision.patch_dim,
    )
    return shaped(empty_batch(budget), mesh)


def shaped(tree: object, mesh: jax.sharding.Mesh) -> object:
    """Arrays as shapes with rows over data and fsdp."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=mesh_lib.batch_sharding(mesh)),
        tree,
    )


def weights_of(model: sizes.VlmConfig, mesh: jax.sharding.Mesh, dtype: object) -> dict:
    specs = vlm.param_specs(model)
    return jax.tree.map(
        lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at),
        spec.abstract(specs, dtype),
        spec.shardings(specs, mesh),
    )


def lowered(case: Case, model: sizes.VlmConfig, mesh: jax.sharding.Mesh) -> jax.stages.Lowered:
    """The program, not compiled yet."""
    cfg = config_lib.parse(config_lib.default())
    cfg = dataclasses.replace(
        cfg,
        sft=dataclasses.replace(cfg.sft, accumulate=case.accumulate),
        rl=dataclasses.replace(
            cfg.rl, accumulate=case.accumulate, questions=case.rows, rollouts=RESPONSES
        ),
    )
    responses = jax.ShapeDtypeStruct((case.rows, RESPONSES, RESPONSE), jnp.float32)
    if case.program == "scorer":
        batch = batch_of(case, model, mesh, PROMPT)
        tokens, mask = shaped((responses.update(dtype=jnp.int32), responses), mesh)
        weights = weights_of(model, mesh, jnp.bfloat16)
        return rollout.make_scorer(model, 1.0).lower(weights, batch, tokens, mask)
    stage = plan.plan(cfg, "sft" if case.program == "sft" else "rl")
    rate = optim.schedule(stage.schedule, stage.lr, stage.warmup, stage.updates)
    optimizer = optim.make_optimizer(stage.optimizer, rate, vlm.param_specs(model))
    layout = state.layout(weights_of(model, mesh, jnp.float32), optimizer, mesh)
    if case.program == "sft":
        step = sft.make_sft_step(model, optimizer, case.accumulate, layout)
        return step.lower(layout, batch_of(case, model, mesh, PROMPT + RESPONSE))
    step = policy.make_policy_step(model, stage, optimizer, layout)
    group = jax.ShapeDtypeStruct(responses.shape[:2], jnp.float32)
    each = dict(mask=responses, sampler_logprobs=responses, ref_logprobs=responses)
    batch = UpdateBatch(
        prompts=batch_of(case, model, mesh, PROMPT),
        tokens=shaped(responses.update(dtype=jnp.int32), mesh),
        old_logprobs=None,
        advantages=shaped(group, mesh),
        **shaped(each, mesh),
    )
    return step.lower(layout, batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="7b")
    parser.add_argument("--program", default="policy", choices=("sft", "policy", "scorer"))
    parser.add_argument("--topology", default="v5e:4x4")
    parser.add_argument("--mesh", default="fsdp=16")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--layers", type=int, default=0, help="0 = as the size has")
    parser.add_argument("--attention", default="splash", choices=("splash", "einsum"))
    parser.add_argument("--remat", default="full")
    parser.add_argument("--hlo", help="file for the optimised HLO")
    arguments = vars(parser.parse_args())
    file = arguments.pop("hlo")
    case = Case(**arguments)
    model, mesh = model_of(case), mesh_of(case)
    capacity = CAPACITY[case.topology.partition(":")[0]]
    begun = time.monotonic()
    with jax.set_mesh(mesh):
        program = lowered(case, model, mesh)
        try:
            compiled = program.compile()
        except jax.errors.JaxRuntimeError as error:
            print(case)
            sys.exit(str(error)[:1500])
    memory = compiled.memory_analysis()
    peak = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
    hlo = compiled.as_text()
    if file:
        with open(file, "w", encoding="utf-8") as f:
            f.write(hlo)
    moved = traffic(hlo)
    print(case)
    print(
        f"compiled in {time.monotonic() - begun:.0f} s; peak {peak / GIB:.2f} of {capacity} GiB "
        f"(arguments {memory.argument_size_in_bytes / GIB:.2f}, temporaries "
        f"{memory.temp_size_in_bytes / GIB:.2f}); HBM {moved.hbm / 1e9:.0f} GB"
    )
    for kind, amount in moved.collectives.most_common():
        one, times, where = moved.largest[kind]
        print(f"{kind}: {amount / 1e9:.1f} GB; most: {times} x {one / 1e6:.0f} MB, {where[-120:]}")


if __name__ == "__main__":
    main()
