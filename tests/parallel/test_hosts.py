"""Arrays of the host to the mesh and back, in one process and in two."""

from __future__ import annotations

import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import processes

from qoq_jax.base.errors import ConfigError
from qoq_jax.parallel import hosts
from qoq_jax.parallel.mesh import batch_sharding, make_mesh

# Each process has two of the four devices, and four of the eight rows.
CHILD = """
import time
import jax, numpy as np
from qoq_jax.parallel import hosts
from qoq_jax.parallel.mesh import batch_sharding, make_mesh

hosts.join()
index = hosts.process_index()
assert hosts.process_count() == 2
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

mine = hosts.own_rows({"x": double}, batch_sharding(mesh))["x"]
np.testing.assert_array_equal(mine, 2 * share)
shape = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
placed = hosts.place({"x": whole}, shape)["x"]
np.testing.assert_array_equal(hosts.gather(placed), whole)
share = hosts.Share.of(mesh)
assert (share.index, share.count) == (index, 2)
assert share.join("numbers", index) == [0, 1]

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


def test_own_rows_and_place_in_one_process_are_plain(batch):
    sharding = batch_sharding(make_mesh(data=1, devices=jax.devices()[:1]))
    found = hosts.own_rows(hosts.place(batch, sharding), sharding)
    for name, value in batch.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.slow
def test_two_processes():
    """Real processes with gloo between them."""
    for index, text in enumerate(processes.run(["-c", CHILD], count=2, devices=2, limit=120)):
        assert f"well {index}" in text


# ----------------------------------------------------------------------------------------- shares


def mesh_of(processes_of_devices) -> types.SimpleNamespace:
    """A mesh [data, fsdp, tensor] whose devices belong to these processes."""
    owners = np.asarray(processes_of_devices)
    devices = np.empty(owners.shape, object)
    for place, owner in np.ndenumerate(owners):
        devices[place] = types.SimpleNamespace(process_index=int(owner))
    shape = dict(zip(("data", "fsdp", "tensor"), owners.shape, strict=True))
    return types.SimpleNamespace(devices=devices, shape=shape)


@pytest.mark.parametrize(
    ("owners", "index", "wanted"),
    [
        ([[[0], [0], [1], [1]]], 1, (1, 2, (0, 1))),  # fsdp between processes
        ([[[0, 0]], [[1, 1]]], 0, (0, 2, (0, 1))),  # data between, tensor within
        ([[[0, 1]], [[2, 3]]], 3, (1, 2, (0, 2))),  # tensor between: 2 and 3 hold the same rows
        ([[[1], [1]], [[0], [0]]], 0, (1, 2, (1, 0))),  # devices in another order
        ([[[0, 0, 1, 1]]], 1, (0, 1, (0,))),  # no rows are cut
    ],
)
def test_the_rows_of_a_process_follow_the_mesh(monkeypatch, owners, index, wanted):
    monkeypatch.setattr(hosts, "process_index", lambda: index)
    share = hosts.Share.of(mesh_of(owners))
    assert (share.index, share.count, share.holders) == wanted


@pytest.mark.parametrize("owners", [[[[0], [1], [0], [1]]], [[[0], [0], [0], [1]]]])
def test_rows_in_pieces_are_refused(monkeypatch, owners):
    monkeypatch.setattr(hosts, "process_index", lambda: 0)
    with pytest.raises(ConfigError, match="process . holds the rows of . of 4 devices"):
        hosts.Share.of(mesh_of(owners))


# ------------------------------------------------------------------------------------ environment


def variables(coordinator="", count="", index="") -> dict[str, str]:
    return {hosts.COORDINATOR: coordinator, hosts.COUNT: count, hosts.INDEX: index}


def test_an_environment_that_says_nothing_is_a_run_of_one():
    assert hosts.told({}) is None
    hosts.join(environment={})
    assert hosts.environment_of_job(3, {"A": "b"}) == {"A": "b"}


def test_the_environment_names_the_processes_and_each_job_has_a_port():
    environment = variables("10.0.0.5:8476", "4", "2")
    assert hosts.told(environment) == ("10.0.0.5:8476", 4, 2)
    assert hosts.environment_of_job(3, environment)[hosts.COORDINATOR] == "10.0.0.5:8479"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (variables("10.0.0.5:8476", "4"), "some are set and some are not"),
        (variables("10.0.0.5", "4", "2"), "give HOST:PORT"),
        (variables("10.0.0.5:8476", "4", "4"), "a number below it"),
        (variables("10.0.0.5:8476", "four", "0"), "the number of processes"),
        (variables("192.0.2.1:8476", "2", "0"), "is no address of this machine"),
        (variables("127.0.0.1:1", "2", "0") | {hosts.HEARTBEAT: "soon"}, "give whole seconds"),
    ],
)
def test_an_environment_that_cannot_be_is_one_line(environment, message):
    with pytest.raises(ConfigError, match=message):
        hosts.join(environment=environment)
    # It would end this process ten minutes later.
    assert "joining" not in [thread.name for thread in threading.enumerate()]
