"""Whole small runs that are disturbed: benchmarks/kill_storm.py and signal_matrix.py, shorter."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks import kill_storm, signal_matrix


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of all runs of this file: they share the data set and the compiled programs."""
    return tmp_path_factory.mktemp("faults")


@pytest.mark.slow
def test_killed_at_random_moments_and_while_saving_a_run_ends_with_the_same_bits(folder):
    tally = kill_storm.storm(folder, kills=3, saving=1, seed=1)
    assert tally.kills >= 3 and tally.saving >= 1
    assert tally.lost == tally.different == 0


@pytest.fixture(scope="module")
def prepared(folder):
    signal_matrix.prepare(folder, processes=1)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "fault"), [("rollout", "SIGTERM"), ("save", "SIGTERM")])
def test_a_phase_meets_a_fault(phase, fault, prepared):
    case = signal_matrix.try_case(prepared, phase, fault, processes=1)
    assert case.is_right(), case


@pytest.mark.slow
def test_two_processes_meet_the_death_of_one(prepared):
    signal_matrix.prepare(prepared, processes=2)
    case = signal_matrix.try_case(prepared, "train", "SIGKILL", processes=2)
    assert case.is_right(), case


RIGHT = signal_matrix.Case("train", "SIGKILL", (42, -9), 9.0, 2, (0, 0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"codes": (1, -9)},  # the other one would not be started again
        {"again": (0, 42)},
        {"seconds": 500.0},
        {"fault": "SIGTERM"},
        {"phase": "save"},  # in which the first process is hit
    ],
)
def test_the_matrix_sees_what_is_not_as_documented(wrong):
    assert RIGHT.is_right() and "| 42, -9, then 0, 0 |" in RIGHT.row()
    case = dataclasses.replace(RIGHT, **wrong)
    assert not case.is_right() and "WRONG" in case.row()
