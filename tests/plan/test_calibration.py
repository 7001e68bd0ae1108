"""The instant level beside what compilers said of the same programs (golden/scaling.jsonl, by
benchmarks/scaling_table.py and pod_programs.py; docs/plan.md has the table).
"""

import pathlib

import pytest

from benchmarks import plan_calibration
from qoq_jax.plan import compiled as compiled_lib
from qoq_jax.plan import devices, instant
from qoq_jax.train import config as config_lib

ROWS = plan_calibration.read(plan_calibration.GOLDEN)
each = pytest.mark.parametrize("row", ROWS, ids=[row["case"] for row in ROWS])


@each
def test_no_program_is_faster_than_its_compiled_counts(row):
    found = plan_calibration.pair(row)
    instant, compiled = found.bound
    assert instant >= compiled
    assert found.model_flops == pytest.approx(row["model_flops"], rel=0.005)


@each
def test_no_program_moves_more_than_planned(row):
    instant, compiled = plan_calibration.pair(row).hbm
    assert compiled <= instant <= 1.6 * compiled


@each
def test_peaks_are_near_those_of_the_compiler(row):
    found = plan_calibration.pair(row)
    instant, compiled = found.peak
    least, most = (0.8, 1.25) if found.program == "scorer" else (0.95, 1.12)
    assert least <= instant / compiled <= most


# Stage rl of configs/qoq_med_7b.py:v5e-4x4 by `qoq plan --compile` (libtpu 0.0.42.1; docs/plan.md):
# seconds by the compiled program's counts, in four digits, and GiB that the update takes.
FULL_SIZE = {
    "update": 31.68,
    "scorer": 7.921,
    "reshard": 0.05243,
    "decode": 0.00784,
    "embed": 0.1564,
    "prefill": 0.1407,
}
ARGUMENTS = 6.003


@pytest.fixture(scope="module")
def full_size():
    file = pathlib.Path(__file__).parents[2] / "configs" / "qoq_med_7b.py"
    cfg = config_lib.parse(config_lib.load(f"{file}:v5e-4x4"))
    return instant.plan(cfg, devices.parse("v5e:4x4"))[1]


def test_no_program_of_the_full_size_config_is_faster_than_its_compiled_counts(full_size):
    bounds = {one.name: float(f"{one.bound:.4g}") for one in full_size.programs}
    assert bounds.keys() == FULL_SIZE.keys()
    assert [name for name in bounds if bounds[name] < FULL_SIZE[name]] == []


def test_the_state_of_the_full_size_config_is_that_of_the_compiler(full_size):
    planned = compiled_lib.update_arguments(full_size.case) / 2**30
    assert planned == pytest.approx(ARGUMENTS, rel=0.01)
