"""Arrays of the host to the mesh and back, in one process and in two."""

from __future__ import annotations

import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qoq_jax.parallel import hosts
from qoq_jax.parallel.mesh import batch_sharding, make_mesh

REPOSITORY = pathlib.Path(__file__).parents[2]
# Each process has two of the four devices, and four of the eight rows.
CHILD = """
import sys, time
import jax, numpy as np
from qoq_jax.parallel import hosts
from qoq_jax.parallel.mesh import batch_sharding, make_mesh

index = int(sys.argv[2])
hosts.initialize(sys.argv[1], 2, index)
assert (hosts.process_count(), hosts.process_index()) == (2, index)
assert hosts.is_main() == (index == 0)

mesh = make_mesh(data=2, fsdp=2)
whole = np.arange(24, dtype=np.float32).reshape(8, 3)
share = whole[4 * index : 4 * index + 4]
with jax.transfer_guard_host_to_device("disallow"):
    batch = hosts.to_global({"x": share, "n": np.arange(8)[4 * index :][:4]}, batch_sharding(mesh))
assert batch["x"].shape == (8, 3) and not batch["x"].is_fully_addressable
double = jax.jit(lambda x: 2 * x)(batch["x"])
total = jax.jit(lambda x: x.sum())(batch["x"])
found = hosts.gather({"x": double, "n": batch["n"], "host": 7, "sum": total})
np.testing.assert_array_equal(found["x"], 2 * whole)
np.testing.assert_array_equal(found["n"], np.arange(8))
assert found["host"] == 7 and found["sum"] == whole.sum()

begin = time.monotonic()
if hosts.is_main():
    time.sleep(1.0)
hosts.barrier("after the sleep")
assert time.monotonic() - begin > 0.9
print("well", index)
"""


@pytest.fixture
def batch():
    return {"x": np.arange(12, dtype=np.float32).reshape(4, 3), "n": np.arange(4, dtype=np.int32)}


def test_to_global_in_one_process_is_device_put(batch):
    sharding = batch_sharding(make_mesh(data=1, devices=jax.devices()[:1]))
    with jax.transfer_guard_host_to_device("disallow"):
        found = hosts.to_global(batch, sharding)
    for name, value in batch.items():
        assert found[name].sharding == sharding
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(np.asarray(found[name]), value)


def test_gather_in_one_process_gives_the_bits_as_numpy(batch):
    on_device = jax.tree.map(jnp.asarray, batch)
    found = hosts.gather((on_device, 3, np.float32(0.1)))
    assert isinstance(found[0]["x"], np.ndarray)
    np.testing.assert_array_equal(found[0]["x"], batch["x"])
    assert found[1:] == (3, np.float32(0.1))


def test_one_process_is_the_main_one_and_does_not_wait():
    assert hosts.is_main()
    assert (hosts.process_index(), hosts.process_count()) == (0, 1)
    hosts.barrier("alone")


@pytest.mark.slow
def test_two_processes():
    """Real processes with gloo between them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, address, str(index)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=REPOSITORY,
            env=environment | {"PATH": "/usr/bin:/bin"},
        )
        for index in range(2)
    ]
    try:
        said = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for index, (process, text) in enumerate(zip(processes, said, strict=True)):
        assert process.returncode == 0, text
        assert f"well {index}" in text
