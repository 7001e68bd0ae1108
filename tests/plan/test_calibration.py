"""The instant level beside what compilers said of the same programs (golden/scaling.jsonl, by
benchmarks/scaling_table.py and pod_programs.py; docs/plan.md has the table).
"""

import json
import pathlib

import pytest

from benchmarks import pod_programs
from qoq_jax.plan import compiled, instant

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "scaling.jsonl"
ROWS = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
IDS = [row["case"] for row in ROWS]


def planned(row):
    """(plan of the stage, name of the program)."""
    arguments = pod_programs.make_parser().parse_args(row["case"].split())
    name = {"sft": "update", "policy": "update"}.get(arguments.program, arguments.program)
    return instant.plan_stage(pod_programs.case_of(arguments)), name


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_no_program_is_faster_than_its_compiled_counts(row):
    plan, name = planned(row)
    one = next(program for program in plan.programs if program.name == name)
    assert one.bound >= max(row["times"].values())
    assert one.model_flops == pytest.approx(row["model_flops"], rel=0.005)


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_peaks_are_near_those_of_the_compiler(row):
    plan, name = planned(row)
    phase = plan.phases[{"prefill": "rollout", "decode": "rollout"}.get(name, name)]
    peak = sum(phase.values()) - compiled.resident(plan, name)
    least, most = 0.95, 1.12
    if name == "scorer":  # these were compiled with weights in bfloat16 in the place of float32
        peak -= phase["reference"] / 2 + phase["weights as computed with"]
        least, most = 0.8, 1.25
    assert least <= peak / (row["peak"] * 2**30) <= most
