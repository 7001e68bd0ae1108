"""Compiles a program of training or sampling for a TPU or GPU topology, without hardware, and
prints what it needs: `qoq plan --compile` for a size in the place of a config.

    pip install "jax[tpu]"        # the compiler of TPUs; it runs on a machine without any
    python benchmarks/pod_programs.py --size 7b --program policy --topology v5e:4x4 --mesh fsdp=16
    pip install jax-cuda12-pjrt jax-cuda12-plugin --no-deps    # the compiler of GPUs, likewise
    python benchmarks/pod_programs.py --topology h100:1x1x8 --mesh fsdp=8 --attention flash

4,096 prompt and 4,096 response tokens unless said otherwise, 5 responses per question, one image of
524,288 pixels (2,688 patches) and one ECG per row. Programs: sft, policy (update), scorer
(log-probabilities of the reference), and, on the mesh of rollouts (--tensor), reshard (the weights
of a step on their way to it), prefill, and decode (one token of every response). The package's
plan/ has the formulas, the devices and the reading of optimised programs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}

from qoq_jax.base.errors import QoqError
from qoq_jax.plan import case as case_lib
from qoq_jax.plan import compiled, devices, flops, instant
from qoq_jax.plan.case import Case
from qoq_jax.plan.memory import GIB
from qoq_jax.train import config as config_lib

PROMPT, RESPONSE, RESPONSES, PATCHES = 4096, 4096, 5, 2688
PROGRAMS = ("sft", "policy", "scorer", "reshard", "prefill", "decode")


def case_of(arguments: argparse.Namespace) -> Case:
    """The case that the options describe."""
    config, rows = config_lib.default(), arguments.rows
    config.model.variant, config.model.ecg_tokens = arguments.size, 1
    config.model.compute_dtype, config.model.remat = "bfloat16", arguments.remat
    config.model.attention = arguments.attention
    config.model.decode_attention = arguments.decode_attention
    ways = {"data": 1, "fsdp": 1, "sequence": 1, "tensor": 1}
    ways |= {name: int(n) for name, n in (part.split("=") for part in arguments.mesh.split(","))}
    config.mesh.update(ways | {"rollout_tensor": arguments.tensor})
    patches, ecgs = (0, 0) if arguments.no_media else (PATCHES, 1)
    config.data.media_rows, config.data.mean_ecgs = rows, float(ecgs)
    config.data.max_patches = config.data.mean_patches = patches
    prompt, response = arguments.prompt, arguments.response
    config.data.max_prompt_tokens, config.data.max_response_tokens = prompt, response
    config.sft.rows = config.sft.samples = config.rl.questions = config.eval.rows = rows
    config.sft.tokens, config.rl.response_tokens = prompt + response, response
    config.rl.rollouts, config.rl.old_logprobs = RESPONSES, "trainer"
    config.sft.accumulate = config.rl.accumulate = arguments.accumulate
    config.rl.rollout_weights = arguments.rollout_weights
    config.rl.kv_cache_dtype = arguments.kv_cache_dtype
    stage = "sft" if arguments.program == "sft" else "rl"
    case = case_lib.make(config_lib.parse(config), topology_of(arguments), stage)
    if not arguments.layers:
        return case
    decoder = dataclasses.replace(case.model.decoder, num_layers=arguments.layers)
    return dataclasses.replace(case, model=dataclasses.replace(case.model, decoder=decoder))


def topology_of(arguments: argparse.Namespace) -> devices.Topology:
    """The topology, of GPUs also in the form of JAX: slices x nodes x GPUs."""
    text = arguments.topology.replace("h100:1x1x", "h100:1x")
    return devices.parse(f"{arguments.slices}*{text}" if arguments.slices > 1 else text)


def least_seconds(case: Case, program: str) -> float:
    """Seconds that the model's FLOPs (decode: weights and cache) take at full speed."""
    name = {"sft": "update", "policy": "update"}.get(program, program)
    device = case.topology.device
    if program == "decode":
        load = instant.load_of(case, name)
        ways = case.rollout_ways
        least = flops.decode_bytes(
            case.model, load, case.rollout_tensor, ways, case.rollout_weights
        )
        return least / device.hbm
    return instant.program(case, name).model_flops / case.topology.size / device.flops


def make_parser() -> argparse.ArgumentParser:
    """The options of a case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="7b")
    parser.add_argument("--program", default="policy", choices=PROGRAMS)
    parser.add_argument("--topology", default="v5e:4x4")
    parser.add_argument("--mesh", default="fsdp=16")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=PROMPT, help="tokens")
    parser.add_argument("--response", type=int, default=RESPONSE, help="tokens")
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--layers", type=int, default=0, help="0 = as the size has")
    parser.add_argument("--attention", default="splash", choices=("splash", "flash", "einsum"))
    parser.add_argument("--decode-attention", default="auto", choices=("auto", "einsum", "ragged"))
    parser.add_argument("--remat", default="full")
    parser.add_argument("--tensor", type=int, default=4, help="of the mesh of rollouts")
    parser.add_argument("--rollout-weights", default="auto", choices=("auto", "int8"))
    parser.add_argument("--kv-cache-dtype", default="auto", choices=("auto", "int8"))
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--no-media", action="store_true", help="text alone: compiles faster")
    parser.add_argument("--hlo", help="file for the optimised HLO")
    parser.add_argument("--operations", type=int, default=0, help="print so many of the costliest")
    parser.add_argument("--json", action="store_true", help="print one line of JSON alone")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    try:
        case = case_of(arguments)
        name = {"sft": "update", "policy": "update"}.get(arguments.program, arguments.program)
        compiled.check(case.topology)
        found = compiled.measure(case, name)
    except QoqError as error:
        sys.exit(str(error))
    if arguments.hlo:
        with open(arguments.hlo, "w", encoding="utf-8") as f:
            f.write(found.text)
    bound = least_seconds(case, arguments.program) / found.bound
    capacity, times = case.topology.device.memory_gib, {}
    for term, seconds in found.times.items():
        times[{"HBM": "hbm", "ICI": "links", "NVLink": "links"}.get(term, term)] = seconds
    if arguments.json:
        facts = {"peak": found.peak / GIB, "times": times, "bound": bound, "capacity": capacity}
        facts |= {"model_flops": found.program.model_flops, "hbm": found.traffic.hbm}
        facts |= {"collectives": found.traffic.collectives, "seconds": found.seconds}
        print(json.dumps(facts))
        return
    print(
        f"compiled in {found.seconds:.0f} s; peak {found.peak / GIB:.2f} of {capacity} GiB "
        f"(arguments {found.arguments / GIB:.2f}, temporaries {found.temporaries / GIB:.2f}); "
        f"model FLOPs {found.program.model_flops:.3g}; HBM {found.traffic.hbm / 1e9:.1f} GB"
    )
    for kind, amount in found.traffic.collectives.most_common():
        one, often, where = found.traffic.largest.get(kind, (0, 0, ""))
        print(f"{kind}: {amount / 1e9:.2f} GB; most: {often} x {one / 1e6:.1f} MB, {where[-120:]}")
    said = ", ".join(f"{term} {seconds:.4g} s" for term, seconds in times.items())
    print(f"roofline: {said}; bound {bound:.1%}")
    for operation, amount in found.traffic.by_operation.most_common(arguments.operations):
        print(f"{amount / 1e9:10.2f} GB {operation[-110:]}")


if __name__ == "__main__":
    main()
