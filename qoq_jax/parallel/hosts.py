"""Everything that a second process changes: how a run finds its processes, which rows are whose,
and how arrays of the host become arrays of the mesh and come back.

A run has one process per host, each with some of the devices. All processes run the same program;
each holds its own rows of a batch (`Share`). In one process every function here is the plain one,
with the same bits. What is no array goes through parallel/messages.py.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, Sharding

from qoq_jax.base.errors import ConfigError
from qoq_jax.parallel import leaving, messages
from qoq_jax.parallel.leaving import leave as leave  # the other end of `join`

# How a process is told of the others.
COORDINATOR, COUNT, INDEX = "QOQ_COORDINATOR", "QOQ_PROCESS_COUNT", "QOQ_PROCESS_INDEX"
HEARTBEAT = "QOQ_HEARTBEAT_SECONDS"  # without a sign of life for so long, a process is dead
_HEARTBEAT, _JOIN, _LEAVE = 60, 600, 600  # seconds
# What tells JAX (jax/_src/clusters) and libtpu of others: variables that begin so. The shape of a
# slice is among them, as GKE gives it.
_OTHERS = (
    *(COORDINATOR, COUNT, INDEX),
    *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", "SLURM_STEP_", "OMPI_"),
    *("MEGASCALE_", "TPU_WORKER_", "TPU_PROCESS_", "TPU_HOST_BOUNDS", "TPU_CHIPS_PER_HOST_BOUNDS"),
    *("TPU_TOPOLOGY", "CLOUD_TPU_TASK_ID"),
)

# ---------------------------------------------------------------------------------------- joining


def join(detect: bool = False, environment: Mapping[str, str] = os.environ) -> None:
    """Joins the other processes of the run that the environment tells of, or does nothing; before
    any other call of JAX.

    Args:
      detect: JAX finds the processes in the cluster's own environment (SLURM, Cloud TPU pods,
        Kubernetes, Open MPI).
      environment: with QOQ_COORDINATOR (HOST:PORT of process 0), QOQ_PROCESS_COUNT and
        QOQ_PROCESS_INDEX, or none of them.

    Raises:
      ConfigError: it tells half of it, or nonsense.
    """
    place = told(environment)
    if place is not None:
        # For one process too: on CPUs it then adds up in the order in which several processes do.
        initialize(*place, _heartbeat(environment))
    elif detect:
        initialize(heartbeat=_heartbeat(environment))


def told(environment: Mapping[str, str] = os.environ) -> tuple[str, int, int] | None:
    """(HOST:PORT of process 0, number of processes, this one's) as the environment says, or None
    where it says nothing.

    Raises:
      ConfigError: it tells half of it, or nonsense.
    """
    given = [environment.get(name, "") for name in (COORDINATOR, COUNT, INDEX)]
    if not any(given):
        return None
    if not all(given):
        raise ConfigError(
            f"of {COORDINATOR}, {COUNT} and {INDEX} some are set and some are not",
            hint="set all three, or none",
        )
    try:
        count, index = int(given[1]), int(given[2])
        fits = 0 <= index < count and int(given[0].rpartition(":")[2]) > 0
    except ValueError:
        fits = False
    if not fits or ":" not in given[0]:
        raise ConfigError(
            f"{COORDINATOR}={given[0]} {COUNT}={given[1]} {INDEX}={given[2]}",
            hint="give HOST:PORT of process 0, the number of processes, and a number below it",
        )
    return given[0], count, index


def environment_of_job(number: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment for the n-th of several runs one after the other (from 1): each has a port
    of its own, so that no process joins the run before.
    """
    place = told(environment)
    if place is None:
        return dict(environment)
    host, _, port = place[0].rpartition(":")
    return {**environment, COORDINATOR: f"{host}:{int(port) + number}"}


def environment_apart(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment for a run of one process on this machine: nothing in it tells of others."""
    return {name: to for name, to in environment.items() if not name.startswith(_OTHERS)}


def initialize(
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    heartbeat: int = _HEARTBEAT,
) -> None:
    """Joins the processes of a run; before any other call of JAX, and not needed for a single one.

    Args:
      coordinator: HOST:PORT of process 0. None: JAX reads it, with the other two, from the
        cluster's own environment.
      count: number of processes.
      index: this one's, 0 to count - 1.
      heartbeat: seconds without a sign of life after which a process is dead, and the run ends.

    Raises:
      ConfigError: process 0 has no interface of the coordinator's address, or JAX finds no cluster.
    """
    bind = None if coordinator is None or index else _interface(coordinator)
    joined = threading.Event()
    # JAX ends the process with a C++ stack trace when it cannot join in time; this comes before.
    waited = joined, coordinator, count, index
    threading.Thread(target=_give_up, args=waited, name="joining", daemon=True).start()
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            initialization_timeout=2 * _JOIN,
            heartbeat_timeout_seconds=heartbeat,
            shutdown_timeout_seconds=_LEAVE,
            coordinator_bind_address=bind,
        )
    except ValueError as error:  # no cluster was found
        raise ConfigError(
            f"--distributed: JAX finds no cluster here ({error})",
            hint=f"set {COORDINATOR}, {COUNT} and {INDEX}",
        ) from None
    finally:
        joined.set()
    leaving.watch()


def _heartbeat(environment: Mapping[str, str]) -> int:
    try:
        return max(int(environment.get(HEARTBEAT) or _HEARTBEAT), 1)
    except ValueError:
        raise ConfigError(
            f"{HEARTBEAT}={environment[HEARTBEAT]}", hint="give whole seconds"
        ) from None


def _interface(coordinator: str) -> str:
    """ADDRESS:PORT for process 0 to listen at: the interface that the others are told of and no
    other, since whoever reaches the coordinator can end the run.
    """
    host, _, port = coordinator.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        for family, _, _, _, address in found:
            with socket.socket(family, socket.SOCK_STREAM) as tried:
                tried.bind((address[0], 0))
            return f"[{address[0]}]:{port}" if ":" in address[0] else f"{address[0]}:{port}"
    except OSError as error:
        reason = error.strerror
    else:
        reason = "no address"
    raise ConfigError(
        f"{COORDINATOR}={coordinator} is no address of this machine ({reason})",
        hint="process 0 runs on the machine that it names; give the address of its private network",
    )


def _give_up(joined: threading.Event, coordinator: str | None, count: Any, index: Any) -> None:
    if not joined.wait(_JOIN):
        print(
            f"qoq: process {index} of {count} waited {_JOIN} s for the others at {coordinator} "
            "(hint: start all processes, and open that port between their machines)",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)


# ------------------------------------------------------------------------------------------- who


def process_index() -> int:
    """Of this process; 0 in a run of one."""
    return jax.process_index()


def process_count() -> int:
    """Of the run."""
    return jax.process_count()


def is_main() -> bool:
    """Whether this process is the one that writes files and prints."""
    return jax.process_index() == 0


def barrier(name: str, limit: float = messages.LIMIT) -> None:
    """Waits until all processes are here; all must give the same name.

    Raises:
      PeerError: one has failed, or was not here in time.
    """
    messages.exchange(f"barrier {name}", None, limit)


def say(line: str) -> None:
    """Prints a line that all processes come to, once."""
    if is_main():
        print(line, flush=True)


@functools.cache
def leads_machine() -> bool:
    """Whether this is the first process on its machine; all processes must call it."""
    machines = messages.exchange("machines", socket.gethostname())
    return machines.index(machines[process_index()]) == process_index()


def once_per_machine(name: str, make: Callable[[], None], limit: float) -> None:
    """Calls `make` on process 0, and after it on the first process of every other machine; the
    others wait. So what it makes in a folder is made once where all machines see the folder, and
    once on each where it is their own.

    Args:
      limit: seconds to wait for others.

    Raises:
      PeerError: a process has failed, or took longer.
    """
    if process_count() == 1:
        make()
        return
    leads = leads_machine()
    messages.from_main(name, make, limit)
    if leads and not is_main():
        make()
    barrier(name, limit)


# ---------------------------------------------------------------------------------- rows of a batch


@dataclasses.dataclass(frozen=True)
class Share:
    """Which rows of every batch the devices of this process hold: part `index` of `count` equal
    ones.

    Attributes:
      holders: the first process that holds each part. Processes between which only the tensor axis
        is cut hold the same part, and all of them make it.
    """

    index: int = 0
    count: int = 1
    holders: tuple[int, ...] = (0,)

    @classmethod
    def of(cls, mesh: Mesh) -> Share:
        """That of this process on a mesh whose rows are cut over its first two axes, data and
        fsdp.

        Raises:
          ConfigError: the rows of a process are not one such part.
        """
        held: dict[int, set[int]] = {}
        rows = math.prod(mesh.devices.shape[:2])
        for row, devices in enumerate(mesh.devices.reshape(rows, -1)):
            for device in devices:
                held.setdefault(device.process_index, set()).add(row)
        size = len(held[min(held)])
        parts: dict[int, int] = {}  # part -> its first process
        of = {}
        for process, mine in sorted(held.items()):
            first = min(mine)
            if len(mine) != size or max(mine) - first + 1 != size or first % size or rows % size:
                raise ConfigError(
                    f"mesh {dict(mesh.shape)}: process {process} holds the rows of "
                    f"{len(mine)} of {rows} devices, which are no run of equal length",
                    hint="choose mesh.data * mesh.fsdp and mesh.tensor so that one of them divides "
                    "the devices of a process",
                )
            of[process] = first // size
            parts.setdefault(of[process], process)
        return cls(of[process_index()], rows // size, tuple(parts[i] for i in range(rows // size)))

    def join(self, name: str, mine: Any) -> list[Any]:
        """What the processes tell of their rows (JSON, see `messages.exchange`), once for each
        part, in the order of the rows.
        """
        found = messages.exchange(name, mine)
        return [found[process] for process in self.holders]

    def to_main(self, name: str, mine: Any) -> list[Any] | None:
        """As `join`, on process 0 alone; None elsewhere."""
        found = messages.to_main(name, mine if process_index() in self.holders else None)
        return None if found is None else [found[process] for process in self.holders]


WHOLE = Share()  # of a run of one process

# ----------------------------------------------------------------------------------------- arrays


def to_global(batch: Any, sharding: Sharding) -> Any:
    """Host arrays as arrays of the mesh.

    Args:
      batch: a pytree of numpy arrays, this process's share: where the sharding cuts an axis over
        processes, its part of that axis; where it does not, the whole.
      sharding: of every array.

    Returns:
      The same pytree of jax.Arrays, whose shape is that of all shares together.
    """
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    # Explicit, as device_put is: a guard against accidental transfers does not mean this one.
    with jax.transfer_guard_host_to_device("allow"):
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch
        )


def place(tree: Any, sharding: Any) -> Any:
    """Whole host arrays, which all processes have, as arrays of the mesh; each process sends the
    parts of its devices.

    Args:
      tree: a pytree of numpy arrays.
      sharding: of every array, or a pytree of them.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def one(x: Any, of_it: Sharding) -> jax.Array:
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, of_it, lambda part: x[part])

    with jax.transfer_guard_host_to_device("allow"):
        if isinstance(sharding, Sharding):
            return jax.tree.map(lambda x: one(x, sharding), tree)
        return jax.tree.map(one, tree, sharding)


def own_rows(tree: Any, sharding: Sharding) -> Any:
    """The rows (axis 0) of this process's share as numpy arrays, in order: the inverse of
    `to_global`.

    Args:
      tree: a pytree of jax.Arrays, which are moved first where they lie in another way.
      sharding: that of a batch.
    """
    if jax.process_count() == 1:
        return jax.device_get(tree)

    def rows(x: jax.Array) -> np.ndarray:
        # Copies over the tensor axis begin at the same row.
        parts = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
        return np.concatenate([np.asarray(parts[first]) for first in sorted(parts)])

    return jax.tree.map(rows, jax.device_put(tree, sharding))


def gather(tree: Any) -> Any:
    """Arrays of the mesh as whole numpy arrays, on every host; all processes must call it.

    Args:
      tree: a pytree of jax.Arrays (numpy arrays and numbers stay what they are).
    """
    arrays, structure = jax.tree.flatten(tree)
    far = [
        i
        for i, x in enumerate(arrays)
        if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated)
    ]
    whole = multihost_utils.process_allgather([arrays[i] for i in far], tiled=True) if far else []
    for i, x in zip(far, whole, strict=True):
        arrays[i] = np.asarray(x)
    return jax.device_get(jax.tree.unflatten(structure, arrays))
