"""The instant level beside what compilers said of the same programs (golden/scaling.jsonl, by
benchmarks/scaling_table.py and pod_programs.py; docs/plan.md has the table).
"""

import pytest

from benchmarks import plan_calibration

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
