"""Compiles the package's own step functions for TPU pods, without hardware, and prints what they
need: peak memory, FLOPs, bytes of HBM and of collectives, and the three times of a roofline.

    pip install "jax[tpu]"        # the compiler of TPUs; it runs on a machine without any
    python benchmarks/pod_programs.py --size 7b --program policy --topology v5e:4x4 --mesh fsdp=16
    pip install jax-cuda12-pjrt jax-cuda12-plugin --no-deps    # the compiler of GPUs, likewise
    python benchmarks/pod_programs.py --topology h100:1x1x8 --mesh fsdp=8 --attention flash

4,096 prompt and 4,096 response tokens, 5 responses per question, one image of 524,288 pixels
(2,688 patches) and one ECG per row. Optimised HLO is read by hlo_traffic.py; FLOPs and peaks of
devices are those of program_cost.py. Programs: sft, policy (update), scorer (log-probabilities of
the reference), and, on the mesh of rollouts (--tensor), reshard (the weights of a step on their
way to it), prefill, and decode (one token of every response).
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import sys
import time

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}

import jax
import jax.numpy as jnp
from hlo_traffic import Traffic, traffic
from jax.experimental import topologies
from program_cost import DEVICES, Load, decode_bytes, model_and_hardware_flops

from qoq_jax.data.packing import Budget, empty_batch
from qoq_jax.models import sizes, spec, vlm
from qoq_jax.parallel import compiler
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.rl.batches import UpdateBatch
from qoq_jax.sampling import layout, loop, rollout
from qoq_jax.train import config as config_lib
from qoq_jax.train import optim, plan, policy, sft, state

PROMPT, RESPONSE, RESPONSES, PATCHES = 4096, 4096, 5, 2688
GIB = 2**30
PROGRAMS = ("sft", "policy", "scorer", "reshard", "prefill", "decode")


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
    tensor: int
    slices: int
    no_media: bool


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
    kind, _, shape = case.topology.partition(":")
    if kind == "h100":
        with open(os.path.join(os.path.dirname(__file__), "h100.textproto"), encoding="utf-8") as f:
            described = topologies.get_topology_desc(
                platform="cuda", target_config=f.read(), topology=shape
            )
    else:
        several = {"num_slices": case.slices} if case.slices > 1 else {}
        described = topologies.get_topology_desc(
            platform="tpu", topology_name=case.topology, **several
        )
    ways = {name: int(n) for name, n in (part.split("=") for part in case.mesh.split(","))}
    return mesh_lib.make_mesh(**ways, devices=described.devices)


def batch_of(case: Case, model: sizes.VlmConfig, mesh: jax.sharding.Mesh, tokens: int) -> dict:
    """A batch of padding as shapes with shardings."""
    budget = Budget(
        rows=case.rows,
        tokens=tokens,
        media_rows=case.rows,
        patches=0 if case.no_media else PATCHES,
        ecgs=0 if case.no_media else 1,
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
    if case.program in ("reshard", "prefill", "decode"):
        return lowered_for_rollout(case, model, mesh)
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
    layout_of_state = state.layout(weights_of(model, mesh, jnp.float32), optimizer, mesh)
    if case.program == "sft":
        step = sft.make_sft_step(model, optimizer, case.accumulate, layout_of_state)
        return step.lower(layout_of_state, batch_of(case, model, mesh, PROMPT + RESPONSE))
    step = policy.make_policy_step(model, stage, optimizer, layout_of_state)
    group = jax.ShapeDtypeStruct(responses.shape[:2], jnp.float32)
    each = dict(mask=responses, sampler_logprobs=responses, ref_logprobs=responses)
    batch = UpdateBatch(
        prompts=batch_of(case, model, mesh, PROMPT),
        tokens=shaped(responses.update(dtype=jnp.int32), mesh),
        old_logprobs=None,
        advantages=shaped(group, mesh),
        **shaped(each, mesh),
    )
    return step.lower(layout_of_state, batch)


def lowered_for_rollout(
    case: Case, model: sizes.VlmConfig, mesh: jax.sharding.Mesh
) -> jax.stages.Lowered:
    """Programs of sampling, on the mesh of rollouts."""
    there = layout.Layout(model, mesh, case.tensor)
    if case.program == "reshard":
        return there.reshard.lower(weights_of(model, mesh, jnp.float32))
    specs = vlm.sampling_specs(model)
    weights = jax.tree.map(
        lambda one, at: jax.ShapeDtypeStruct(one.shape, jnp.bfloat16, sharding=at),
        specs,
        spec.shardings(specs, there.mesh),
    )
    with jax.set_mesh(there.mesh):
        if case.program == "prefill":
            run = functools.partial(loop.start_slots, model, rows=RESPONSES, places=RESPONSE)
            return jax.jit(run).lower(weights, batch_of(case, model, there.mesh, PROMPT))
        return lowered_decode(case, model, there.mesh, {"decoder": weights["decoder"]})


def lowered_decode(
    case: Case, model: sizes.VlmConfig, mesh: jax.sharding.Mesh, weights: dict
) -> jax.stages.Lowered:
    """One step of `loop.decode`: a token of every response, the cache being full."""
    rows, whole = (
        functools.partial(jax.ShapeDtypeStruct, sharding=at)
        for at in (mesh_lib.batch_sharding(mesh), mesh_lib.named_sharding(mesh, (), ()))
    )
    grid = (case.rows, RESPONSES)
    slots = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=of_slot(x, case, model, mesh)),
        jax.eval_shape(lambda: loop.empty_slots(model, case.rows, RESPONSES, PROMPT, RESPONSE)),
    )
    decoded = loop.Decoded(
        tokens=rows((*grid, RESPONSE), jnp.int32),
        logprobs=rows((*grid, RESPONSE), jnp.float32),
        count=rows(grid, jnp.int32),
        steps=whole((), jnp.int32),
    )
    decoding = loop.DecodeState(slots, decoded, rows(grid, bool), rows(grid, bool))
    orders = loop.Orders(
        start=rows(grid, bool),
        live=rows(grid, bool),
        keys=rows((*grid, 2), jnp.uint32),
        limit=whole((), jnp.int32),
        steps=whole((), jnp.int32),
        more=rows(grid[:1], bool),
        wanted=whole((), jnp.int32),
    )

    def one_token(
        weights: dict, decoding: loop.DecodeState, orders: loop.Orders
    ) -> loop.DecodeState:
        banned = jnp.zeros(model.decoder.vocab_size, bool)
        draw = loop.Draw(banned, temperature=1.0)
        return loop.step(model, weights, decoding, orders, draw)

    return jax.jit(one_token, donate_argnums=1).lower(weights, decoding, orders)


def of_slot(
    x: jax.ShapeDtypeStruct, case: Case, model: sizes.VlmConfig, mesh: jax.sharding.Mesh
) -> jax.sharding.NamedSharding:
    """Rows over data, kv heads of the cache over tensor."""
    axes: list[str | None] = [None] * len(x.shape)
    if axes and x.shape[0] == case.rows:
        axes[0] = "batch"
        if len(axes) > 3 and x.shape[1] == model.decoder.num_kv_heads:
            axes[1] = "kv_heads"
    return mesh_lib.named_sharding(mesh, axes, x.shape)


@dataclasses.dataclass
class Measured:
    """What was found out about a case."""

    seconds: float
    arguments: float
    temporaries: float
    peak: float
    traffic: Traffic
    times: dict[str, float]
    model_flops: float
    least: float  # seconds that the model's FLOPs (decode: weights and cache) take at full speed

    @property
    def bound(self) -> float:
        """MFU (decode: share of the bandwidth) if the slowest of the three times were all."""
        return self.least / max(self.times.values())


def measured(case: Case, file: str | None = None) -> Measured:
    """Compiles a case.

    Raises jax.errors.JaxRuntimeError when it does not fit.
    """
    model, mesh = model_of(case), mesh_of(case)
    device = DEVICES[case.topology.partition(":")[0]]
    begun = time.monotonic()
    with jax.set_mesh(mesh):
        options = {} if case.topology.startswith("h100") else compiler.TPU_OPTIONS
        compiled = lowered(case, model, mesh).compile(compiler_options=options)
    seconds = time.monotonic() - begun
    memory, hlo = compiled.memory_analysis(), compiled.as_text()
    if file:
        with open(file, "w", encoding="utf-8") as f:
            f.write(hlo)
    moved = traffic(hlo)
    media = (0, 0) if case.no_media else (PATCHES, 1)
    load = Load(case.rows, PROMPT, RESPONSE, RESPONSES, *media)
    wanted, done = (0, 0)
    if case.program != "reshard":
        wanted, done = model_and_hardware_flops(
            model, load, case.program, case.remat in ("full", "offload")
        )
    times = {
        "compute": done / mesh.size / device.flops,
        "hbm": moved.hbm / device.hbm,
        # an all-reduce is a reduce-scatter and an all-gather
        "links": (sum(moved.collectives.values()) + moved.collectives["all-reduce"]) / device.links,
    }
    least = wanted / mesh.size / device.flops
    if case.program == "decode":
        ways = mesh.size // case.tensor
        least = decode_bytes(model, load, case.tensor, ways) / device.hbm
    return Measured(
        seconds=seconds,
        arguments=memory.argument_size_in_bytes / GIB,
        temporaries=memory.temp_size_in_bytes / GIB,
        peak=memory.peak_memory_in_bytes / GIB,
        traffic=moved,
        times=times,
        model_flops=wanted,
        least=least,
    )


def make_parser() -> argparse.ArgumentParser:
    """The options of a case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="7b")
    parser.add_argument("--program", default="policy", choices=PROGRAMS)
    parser.add_argument("--topology", default="v5e:4x4")
    parser.add_argument("--mesh", default="fsdp=16")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--layers", type=int, default=0, help="0 = as the size has")
    parser.add_argument("--attention", default="splash", choices=("splash", "flash", "einsum"))
    parser.add_argument("--remat", default="full")
    parser.add_argument("--tensor", type=int, default=4, help="of the mesh of rollouts")
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--no-media", action="store_true", help="text alone: compiles faster")
    return parser


def main() -> None:
    parser = make_parser()
    parser.add_argument("--hlo", help="file for the optimised HLO")
    parser.add_argument("--operations", type=int, default=0, help="print so many of the costliest")
    parser.add_argument("--json", action="store_true", help="print one line of JSON alone")
    arguments = vars(parser.parse_args())
    file, shown, as_json = (arguments.pop(name) for name in ("hlo", "operations", "json"))
    case = Case(**arguments)
    if not as_json:
        print(case)
    try:
        found = measured(case, file)
    except jax.errors.JaxRuntimeError as error:
        sys.exit(str(error)[:1500])
    capacity = DEVICES[case.topology.partition(":")[0]].memory
    if as_json:
        facts = {name: getattr(found, name) for name in ("peak", "times", "model_flops", "bound")}
        facts |= {"hbm": found.traffic.hbm, "collectives": found.traffic.collectives}
        print(json.dumps(facts | {"capacity": capacity, "seconds": found.seconds}))
        return
    print(
        f"compiled in {found.seconds:.0f} s; peak {found.peak:.2f} of {capacity} GiB (arguments "
        f"{found.arguments:.2f}, temporaries {found.temporaries:.2f}); model FLOPs "
        f"{found.model_flops:.3g}; HBM {found.traffic.hbm / 1e9:.1f} GB"
    )
    for kind, amount in found.traffic.collectives.most_common():
        one, times, where = found.traffic.largest.get(kind, (0, 0, ""))
        print(f"{kind}: {amount / 1e9:.2f} GB; most: {times} x {one / 1e6:.1f} MB, {where[-120:]}")
    said = ", ".join(f"{name} {seconds:.4g} s" for name, seconds in found.times.items())
    print(f"roofline: {said}; bound {found.bound:.1%}")
    for name, amount in found.traffic.by_operation.most_common(shown):
        print(f"{amount / 1e9:10.2f} GB {name[-110:]}")


if __name__ == "__main__":
    main()
