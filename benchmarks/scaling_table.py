"""The table of docs/scaling.md: programs x topologies, each compiled by pod_programs.py in a
process of its own.

    pip install "jax[tpu]"; pip install jax-cuda12-pjrt jax-cuda12-plugin --no-deps
    python benchmarks/scaling_table.py      # all cases, minutes each; continues where it was
    python benchmarks/scaling_table.py --only policy --print

Results are kept, one JSON line per case, in runs/scaling.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys

from qoq_jax.models import sizes, spec, vlm

RESULTS = os.path.join("runs", "scaling.jsonl")
PLACES = {
    "v5e": "--topology v5e:4x4 --mesh fsdp=16",
    "v6e": "--topology v6e:4x4 --mesh fsdp=16",
    "v5p": "--topology v5p:2x2x4 --mesh fsdp=16",
    "h100": "--topology h100:1x1x8 --mesh fsdp=8 --attention flash",
    "2 x v5e": "--topology v5e:4x4 --slices 2 --mesh data=2,fsdp=16 --rows 32",
}
CAPACITY = {"v5e": 15.75, "v6e": 31.25, "v5p": 95.74, "h100": 79.1, "2 x v5e": 15.75}  # GiB
CHIPS = {"h100": 8}  # over which a copy of the weights is cut; elsewhere 16
# Where inputs of layers are kept in the host's memory; elsewhere they are computed again.
OFFLOAD = {
    *((size, place) for size in ("3b", "7b") for place in ("v5e", "2 x v5e")),
    *((size, place) for size in ("32b", "72b") for place in ("v5p", "v6e", "h100")),
}
TENSOR = {"3b": 2, "7b": 4, "32b": 8, "72b": 8}  # of the mesh of rollouts
PROGRAMS = ("policy", "sft", "scorer", "decode")
BYTES = {"policy": 12, "sft": 12, "scorer": 4}  # of weights and moments, per parameter


def case_of(size: str, program: str, place: str) -> str:
    """The arguments of pod_programs.py."""
    more = ""
    if program in ("policy", "sft") and (size, place) in OFFLOAD:
        # Rows of SFT are a third as long, and fit without where a chip has memory.
        more = " --remat offload" if program == "policy" or size in ("32b", "72b") else ""
    if program == "decode" and TENSOR[size] != 4:
        more = f" --tensor {TENSOR[size]}"
    return f"--size {size} {PLACES[place]} --program {program}{more}"


def state_gib(size: str, program: str, place: str) -> float:
    """What weights and moments alone take of a device."""
    count = spec.count(vlm.param_specs(sizes.get(size)))
    if program == "decode":
        return count * 2 / TENSOR[size] / 2**30
    return count * BYTES[program] / CHIPS.get(place, 16) / 2**30


GRID = [(s, p, w) for s in ("7b", "32b", "3b", "72b") for w in PLACES for p in PROGRAMS]
TOO_LARGE = {case_of(*one): state_gib(*one) for one in GRID if state_gib(*one) > CAPACITY[one[2]]}
CASES = [
    *(case_of(*one) for one in GRID),
    *(f"--size 7b {PLACES['v5e']} --program {name}" for name in ("reshard", "prefill")),
]


def known() -> dict[str, dict]:
    """Results so far."""
    if not os.path.exists(RESULTS):
        return {}
    with open(RESULTS, encoding="utf-8") as f:
        return {row["case"]: row for row in map(json.loads, f)}


def compile_case(case: str) -> dict:
    """The result of a case, or why there is none."""
    script = os.path.join(os.path.dirname(__file__), "pod_programs.py")
    done = subprocess.run(
        [sys.executable, script, *case.split(), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        return {"case": case, "failed": next((x for x in said if "RESOURCE" in x), said[-1])}
    return {"case": case} | json.loads(done.stdout.splitlines()[-1])


def too_much(failure: str) -> str:
    """The compiler's message, short where it says how much memory the program would need."""
    used = re.search(r"Used ([\d.]+)G of ([\d.]+)G hbm", failure)
    if used:
        return f"does not fit: {used[1]} of {used[2]}"
    needed = re.search(r"temporaries \(([\d.]+)G\) exceeds available HBM \(([\d.]+)G\)", failure)
    if needed:
        return f"does not fit: temporaries alone are {needed[1]} of {needed[2]} GiB"
    return f"does not compile: {failure[:120]}"


def line(row: dict) -> str:
    """A row of the table, in Markdown."""
    words = row["case"].split()
    options = dict(zip(words[::2], words[1::2], strict=False))
    slices = options.get("--slices")
    where = f"{slices} x {options['--topology']}" if slices else options["--topology"]
    mesh = options["--mesh"].replace(",", " ")
    if options["--program"] in ("prefill", "decode"):
        mesh = f"tensor={options.get('--tensor', 4)}"
    name = options["--program"] + (", offload" if "--remat" in options else "")
    start = f"| {options['--size']} | {name} | {where}, {mesh} |"
    if row["case"] in TOO_LARGE:
        needed = f"{TOO_LARGE[row['case']]:.1f} GiB"
        return f"{start} does not fit: weights and moments alone are {needed} | | | | | |"
    if "failed" in row:
        return f"{start} {too_much(row['failed'])} | | | | | |"
    times, moved = row["times"], row["collectives"]
    gathered, reduced = (moved.get(kind, 0) / 1e9 for kind in ("all-gather", "all-reduce"))
    reduced += moved.get("reduce-scatter", 0) / 1e9
    other = (moved.get("all-to-all", 0) + moved.get("collective-permute", 0)) / 1e9
    bound = f"{row['bound']:.0%}" if row["model_flops"] else ""
    links = f"{times['links']:.3g}" + (f" + {times['network']:.3g}" if "network" in times else "")
    return (
        f"{start} {row['peak']:.2f} of {row['capacity']} | {row['model_flops']:.3g} | "
        f"{row['hbm'] / 1e9:.1f} | {gathered:.2f} / {reduced:.2f} / {other:.2f} | "
        f"{times['compute']:.3g} / {times['hbm']:.3g} / {links} | {bound} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases that contain this")
    parser.add_argument("--print", action="store_true", help="compile nothing")
    arguments = parser.parse_args()
    found, wanted = known(), [case for case in CASES if arguments.only in case]
    for case in wanted:
        if case in TOO_LARGE:
            found[case] = {"case": case}
        if case in found or arguments.print:
            continue
        print(case, file=sys.stderr, flush=True)
        found[case] = compile_case(case)
        os.makedirs(os.path.dirname(RESULTS), exist_ok=True)
        with open(RESULTS, "a", encoding="utf-8") as f:
            f.write(json.dumps(found[case]) + "\n")
    print(
        "| size | program | where | peak, GiB | model FLOPs | HBM, GB | gathers / reductions / "
        "other, GB | compute / HBM / links (+ network), s | bound |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for case in wanted:
        if case in found:
            print(line(found[case]))


if __name__ == "__main__":
    main()
