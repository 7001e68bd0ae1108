"""The devices of this machine, dealt out to runs side by side: each run is a process of its own
that sees its devices alone, by the variables that JAX and its libraries read when they start.

    GPUs    CUDA_VISIBLE_DEVICES
    TPUs    TPU_VISIBLE_CHIPS with the bounds of one process of 1, 2, 4 or 8 chips (JAX issue 8809)
    CPU     the number in XLA_FLAGS, where --xla_force_host_platform_device_count gives one

On a host of a TPU slice these bounds also keep a run from waiting for the other hosts, all chips of
the host being one run's or not (pytorch/xla issue 7714, where they have their older names).
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping

from qoq_jax.base.errors import ConfigError

_FORCED = re.compile(r"(--xla_force_host_platform_device_count=)(\d+)")
# Chips of a process, as they lie side by side.
_BOUNDS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}
_PORT = 8476  # of the first process on TPUs; the others have those behind it


def of_runs(
    runs: int, environment: Mapping[str, str] = os.environ, dev: str = "/dev"
) -> list[dict[str, str]]:
    """What each of so many runs at a time has in its environment beside that of this process; {}
    where there is nothing to deal out. Devices that are left over are idle.

    Args:
      dev: where the files of devices are.

    Raises:
      ConfigError: there are fewer devices than runs, or a run on TPUs would get 3, 5, ... chips.
    """
    if runs < 1:
        raise ConfigError(f"--jobs {runs}", hint="at least 1")
    platforms = environment.get("JAX_PLATFORMS", "")
    forced = _FORCED.search(environment.get("XLA_FLAGS", ""))
    cpu = platforms == "cpu"
    gpus = [] if cpu else _gpus(environment, dev)
    chips = [] if cpu or gpus else _chips(environment, dev)
    if not gpus and not chips:
        if not forced:
            return [{}] * runs
        each = _each(int(forced[2]), runs, "CPU devices")
        flags = _FORCED.sub(rf"\g<1>{each}", environment["XLA_FLAGS"])
        return [{"XLA_FLAGS": flags}] * runs
    each = _each(len(gpus or chips), runs, "GPUs" if gpus else "TPU chips")
    parts = [",".join((gpus or chips)[i * each : (i + 1) * each]) for i in range(runs)]
    if gpus:
        return [{"CUDA_VISIBLE_DEVICES": part} for part in parts]
    if each not in _BOUNDS:
        fit = ", ".join(str(len(chips) // n) for n in _BOUNDS if n <= len(chips))
        raise ConfigError(
            f"--jobs {runs} on {len(chips)} TPU chips: a run gets 1, 2, 4 or 8 of them",
            hint=f"use --jobs {fit}",
        )
    return [
        {
            "TPU_VISIBLE_CHIPS": part,
            "TPU_CHIPS_PER_PROCESS_BOUNDS": _BOUNDS[each],
            "TPU_PROCESS_BOUNDS": "1,1,1",
            "TPU_MESH_CONTROLLER_ADDRESS": f"localhost:{_PORT + i}",
            "TPU_MESH_CONTROLLER_PORT": str(_PORT + i),
            # GKE names all hosts of a slice here
            "TPU_WORKER_HOSTNAMES": "localhost",
            "TPU_WORKER_ID": "0",
        }
        for i, part in enumerate(parts)
    ]


def _each(devices: int, runs: int, kind: str) -> int:
    if devices < runs:
        raise ConfigError(f"--jobs {runs} with {devices} {kind}", hint=f"use at most {devices}")
    return devices // runs


def _gpus(environment: Mapping[str, str], dev: str) -> list[str]:
    given = environment.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name.strip()]
    return [str(i) for i in range(len(glob.glob(f"{dev}/nvidia[0-9]*")))]


def _chips(environment: Mapping[str, str], dev: str) -> list[str]:
    if given := environment.get("TPU_VISIBLE_CHIPS"):
        return given.split(",")
    found = glob.glob(f"{dev}/accel[0-9]*") or glob.glob(f"{dev}/vfio/[0-9]*")
    return [str(i) for i in range(len(found))]
