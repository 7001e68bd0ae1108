"""Padding of arrays on a TPU."""

import pytest
from helpers.plan import nano_case

from benchmarks import pod_programs
from qoq_jax.plan import compiled, memory, tiles


@pytest.mark.parametrize(
    ("shape", "numbers"),
    [
        ((), 1),
        ((100,), 128),
        ((8, 128), 8 * 128),
        ((152064, 224), 152064 * 224),  # the other way round nothing is padded
        ((3, 4, 128), 3 * 4 * 128),  # a tile of four rows
        ((32, 80, 16, 80), 32 * 80 * 16 * 128),
    ],
)
def test_padded(shape, numbers):
    assert tiles.padded(shape) == numbers


def test_the_arguments_of_a_compiled_7b_update():
    """libtpu 0.0.42.1 says 5.99 GiB for stage sft on v5e:4x4 (docs/plan.md)."""
    options = ["--program=sft", "--topology=v5e:4x4", "--mesh=fsdp=16", "--no-media"]
    case = pod_programs.case_of(pod_programs.make_parser().parse_args(options))
    assert compiled.update_arguments(case) / 2**30 == pytest.approx(5.99, abs=0.005)


def test_nothing_is_padded_elsewhere():
    assert memory.state_padding(nano_case(topology="h100:1x8")) == 0
    assert memory.state_padding(nano_case()) > 0
