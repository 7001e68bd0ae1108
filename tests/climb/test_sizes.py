"""Sizes for people."""

import pytest

from qoq_jax.climb import sizes


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (23_440_000, "23.4 MB"),
        (1_700_000_000, "1.7 GB"),
        (19_010_000_000_000, "19.0 TB"),
    ],
)
def test_a_size_is_said_in_its_unit(count, said):
    assert sizes.readable(count) == said
