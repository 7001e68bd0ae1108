"""Topologies and the table of devices."""

import pytest

from qoq_jax.base.errors import ConfigError
from qoq_jax.plan import devices


@pytest.mark.parametrize(
    ("text", "size", "chips", "near"),
    [
        ("v5e:4x4", 16, 16, 16),
        ("2*v5e:4x4", 32, 32, 16),
        ("v5p:2x2x4", 16, 16, 16),
        ("tpu7x:2x2x1", 8, 4, 8),
        ("h100:8", 8, 8, 8),
        ("h100:2x8", 16, 16, 8),
    ],
)
def test_topologies(text, size, chips, near):
    found = devices.parse(text)
    assert (found.size, found.chips, found.near) == (size, chips, near)
    assert devices.parse(str(found)) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v5e", "write v5e:4x4"),
        ("v5x:4x4", "did you mean 'v5"),
        ("v5e:4x4x4", "write 2 sizes, v5e:4x4"),
        ("v5e:32x16", "at most 256 chips"),
        ("v5p:16x24x24", "at most 6144 chips"),
        ("v4:16x16x20", "at most 4096 chips"),
        ("h100:1x1x8", "NODESxGPUS"),
        ("h100:16", "at most 8 GPUs a node"),
    ],
)
def test_mistakes_say_what_to_write(text, message):
    with pytest.raises(ConfigError, match=message):
        devices.parse(text)


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("v5e:4x4", 2),  # the corner of a mesh of two dimensions
        ("v5e:1x4", 1),
        ("v5e:16x16", 4),  # rings
        ("v5p:2x2x4", 3),
        ("v5p:4x4x4", 6),
        ("h100:1x8", 1),
    ],
)
def test_links_of_the_worst_placed_device(text, links):
    found = devices.parse(text)
    assert found.links == links * found.device.link


@pytest.mark.parametrize(
    ("text", "larger"),
    [
        ("v5e:1x1", "v5e:2x2"),  # there is none of two chips
        ("v5e:2x4", "v5e:4x4"),
        ("2*v5e:4x4", "2*v5e:4x8"),
        ("v5e:16x16", None),
        ("v5p:2x2x1", "v5p:2x2x2"),
        ("v5p:2x2x4", "v5p:2x4x4"),
        ("h100:1x4", "h100:1x8"),
        ("h100:1x8", "h100:2x8"),
    ],
)
def test_the_next_larger_topology_is_one_for_hire(text, larger):
    found = devices.parse(text).larger()
    assert found == (larger and devices.parse(larger))


def test_every_row_says_where_it_is_from():
    assert {"v4", "v5e", "v5p", "v6e", "tpu7x", "a100", "h100", "h200", "b200"} == set(
        devices.table()
    )
    for one in devices.table().values():
        assert len(one.source) > 40
        assert min(one.memory_gib, one.flops, one.hbm, one.link, one.dcn) > 0
        assert one.hbm > one.link > one.dcn
