"""The table of docs/plan.md: instant plans beside compiled programs.

python benchmarks/plan_calibration.py                       # tests/golden/scaling.jsonl
python benchmarks/plan_calibration.py runs/scaling.jsonl    # what scaling_table.py has compiled

Peaks are those of the program alone: what lies on the device beside it is taken off the instant
one. The scorers of the golden file were compiled with their weights in bfloat16, where the trainer
scores with float32 masters: half of the weights' bytes, and the copy that they are cast to, are
taken off too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import sys

sys.path.insert(0, os.path.dirname(__file__))

import pod_programs

from qoq_jax.plan import compiled, instant
from qoq_jax.plan.memory import GIB

GOLDEN = pathlib.Path(__file__).parents[1] / "tests" / "golden" / "scaling.jsonl"


@dataclasses.dataclass(frozen=True)
class Pair:
    """A compiled program and its instant plan.

    Attributes:
      where: size, program, topology and what else the case says.
      program: its name. peak, bound, hbm: (instant, compiled) in GiB, seconds, GB.
      model_flops: instant.
    """

    where: str
    program: str
    peak: tuple[float, float]
    bound: tuple[float, float]
    hbm: tuple[float, float]
    model_flops: float


def pair(row: dict) -> Pair:
    """A row of scaling_table.py's results beside the plan of the same case."""
    arguments = pod_programs.make_parser().parse_args(row["case"].split())
    name = {"sft": "update", "policy": "update"}.get(arguments.program, arguments.program)
    plan = instant.plan_stage(pod_programs.case_of(arguments))
    one = next(program for program in plan.programs if program.name == name)
    phase = plan.phases[name]
    peak = sum(phase.values()) - compiled.resident(plan, name)
    if name == "scorer":  # compiled with weights in bfloat16 (above)
        peak -= phase["reference"] / 2 + phase["weights as computed with"]
    mesh = " ".join(f"{axis}={n}" for axis, n in plan.case.mesh.shape.items() if n > 1)
    ways = f"tensor={arguments.tensor}" if name in ("prefill", "decode") else mesh
    more = "" if arguments.accumulate == 1 else f", {arguments.accumulate} micro-batches"
    more += ", einsum" if plan.case.model.attention == "einsum" else ""
    remat = f", {arguments.remat}" if arguments.program in ("sft", "policy") else ""
    where = f"{arguments.size} {arguments.program}{remat}{more}, {plan.case.topology}, {ways}"
    return Pair(
        where,
        name,
        (peak / GIB, row["peak"]),
        (one.bound, max(row["times"].values())),
        (one.hbm / 1e9, row["hbm"] / 1e9),
        one.model_flops,
    )


def read(path: pathlib.Path) -> list[dict]:
    """The rows that compiled."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if "failed" not in row]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="?", type=pathlib.Path, default=GOLDEN)
    print("| program | peak, GiB: instant / compiled | HBM, GB | bound, s |")
    print("|---|---|---|---|")
    for row in read(parser.parse_args().results):
        one = pair(row)
        (peak, real), (hbm, moved), (bound, least) = one.peak, one.hbm, one.bound
        print(
            f"| {one.where} | {peak:.2f} / {real:.2f} ({peak / real - 1:+.0%}) | {hbm:.4g} / "
            f"{moved:.4g} ({hbm / moved - 1:+.0%}) | {bound:.3g} / {least:.3g} |"
        )


if __name__ == "__main__":
    main()
