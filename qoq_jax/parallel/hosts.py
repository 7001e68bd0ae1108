"""Everything that a second process changes: who writes files, and how arrays of the host become
arrays of the mesh and come back.

A run has one process per host, each with some of the devices. All processes run the same program;
each holds its own rows of a batch, in the order of the process indices. In one process every
function here is the plain one, with the same bits.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding


def initialize(
    coordinator: str | None = None, count: int | None = None, index: int | None = None
) -> None:
    """Joins the processes of a run; before any other call of JAX, and not needed for a single one.

    Args:
      coordinator: HOST:PORT of process 0. None: JAX reads it, with the other two, from the
        cluster's own environment (SLURM, a TPU pod, Kubernetes).
      count: number of processes.
      index: this one's, 0 to count - 1.
    """
    # Processes on CPUs, as in tests, have no collectives of their own.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, count, index)


def process_index() -> int:
    """Of this process; 0 in a run of one."""
    return jax.process_index()


def process_count() -> int:
    """Of the run."""
    return jax.process_count()


def is_main() -> bool:
    """Whether this process is the one that writes files and prints."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until all processes are here; all must give the same name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


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
