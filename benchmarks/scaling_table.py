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
import subprocess
import sys

RESULTS = os.path.join("runs", "scaling.jsonl")
V5E = "--topology v5e:4x4 --mesh fsdp=16"
V6E = "--topology v6e:4x4 --mesh fsdp=16"
V5P = "--topology v5p:2x2x4 --mesh fsdp=16"
H100 = "--topology h100:1x1x8 --mesh fsdp=8 --attention flash"
SLICES = "--topology v5e:4x4 --slices 2 --mesh data=2,fsdp=16 --rows 32"
CASES = [
    *(f"--size 7b {H100} --program {name}" for name in ("sft", "policy", "scorer", "decode")),
    f"--size 3b {H100} --program policy",
    f"--size 32b {H100} --program policy --remat offload",
    f"--size 32b {H100} --program decode --tensor 8",
    *(f"--size 7b {V5E} --program {name}" for name in ("scorer", "reshard", "prefill", "decode")),
    f"--size 7b {V5E} --program sft",
    f"--size 7b {V5E} --program policy --remat offload",
    f"--size 7b {V6E} --program decode",
    f"--size 7b {V5P} --program decode",
    f"--size 7b {V6E} --program policy",
    f"--size 7b {V5P} --program policy",
    f"--size 7b {SLICES} --program policy --remat offload",
    f"--size 3b {V5E} --program policy --remat offload",
    f"--size 3b {V5E} --program decode --tensor 2",
    f"--size 32b {V5P} --program policy --remat offload",
    f"--size 32b {V5P} --program decode --tensor 8",
    f"--size 72b {V5P} --program decode --tensor 8",
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
    if "failed" in row:
        return f"{start} does not compile: {row['failed'][:120]} |"
    times, moved = row["times"], row["collectives"]
    gathered, reduced = (moved.get(kind, 0) / 1e9 for kind in ("all-gather", "all-reduce"))
    reduced += moved.get("reduce-scatter", 0) / 1e9
    other = (moved.get("all-to-all", 0) + moved.get("collective-permute", 0)) / 1e9
    bound = f"{row['bound']:.0%}" if row["model_flops"] else ""
    return (
        f"{start} {row['peak']:.2f} of {row['capacity']} | {row['model_flops']:.3g} | "
        f"{row['hbm'] / 1e9:.1f} | {gathered:.2f} / {reduced:.2f} / {other:.2f} | "
        f"{times['compute']:.3g} / {times['hbm']:.3g} / {times['links']:.3g} | {bound} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases that contain this")
    parser.add_argument("--print", action="store_true", help="compile nothing")
    arguments = parser.parse_args()
    found, wanted = known(), [case for case in CASES if arguments.only in case]
    for case in wanted:
        if case in found or arguments.print:
            continue
        print(case, file=sys.stderr, flush=True)
        found[case] = compile_case(case)
        os.makedirs(os.path.dirname(RESULTS), exist_ok=True)
        with open(RESULTS, "a", encoding="utf-8") as f:
            f.write(json.dumps(found[case]) + "\n")
    print(
        "| size | program | where | peak, GiB | model FLOPs | HBM, GB | gathers / reductions / "
        "other, GB | compute / HBM / links, s | bound |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for case in wanted:
        if case in found:
            print(line(found[case]))


if __name__ == "__main__":
    main()
