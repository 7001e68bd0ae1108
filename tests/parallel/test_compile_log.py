"""The compiler finds a way for every array of our programs: it never falls back to replicating one
("involuntary full rematerialization").
"""

import os
import subprocess
import sys

import pytest

COMPLAINT = "Involuntary full rematerialization"


def compile_log(*arguments: object) -> str:
    """What compiling in a process of its own said; warnings are off in this one."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "1"}
    # what was compiled before is silent
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-m", "helpers.compile_programs", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr


# data, fsdp, sequence, tensor; ways of tensor for rollouts
@pytest.mark.parametrize(
    "ways",
    [(2, 2, 1, 2, 2), (1, 8, 1, 1, 4), pytest.param((1, 4, 2, 1, 2), marks=pytest.mark.slow)],
)
def test_no_array_is_replicated_for_want_of_a_way(ways):
    assert COMPLAINT not in compile_log(*ways)


def test_the_complaint_would_be_seen():
    assert COMPLAINT in compile_log("self-check")
