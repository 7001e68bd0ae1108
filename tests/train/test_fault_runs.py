"""Whole small runs that are disturbed: benchmarks/kill_storm.py and signal_matrix.py, shorter."""

from __future__ import annotations

import pytest

from benchmarks import kill_storm, signal_matrix


@pytest.mark.slow
def test_killed_at_random_moments_and_while_saving_a_run_ends_with_the_same_bits(tmp_path):
    tally = kill_storm.storm(tmp_path, kills=4, saving=2, seed=1)
    assert tally.kills >= 4 and tally.saving >= 2
    assert tally.lost == tally.different == 0


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("matrix")
    signal_matrix.prepare(folder, processes=1)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "fault"), [("rollout", "SIGTERM"), ("save", "SIGTERM"), ("train", "sleep")]
)
def test_a_phase_meets_a_fault(phase, fault, prepared):
    case = signal_matrix.try_case(prepared, phase, fault, processes=1)
    assert case.is_right(), case
