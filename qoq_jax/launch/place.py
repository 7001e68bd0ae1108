"""Where a job runs: slices, hosts and chips, from its topology alone."""

from __future__ import annotations

import dataclasses
import math

from qoq_jax.base.errors import ConfigError
from qoq_jax.launch.spec import Job
from qoq_jax.plan import devices

_MULTI_HOST = 4  # chips of a machine in slices of several (device.per_host: of one alone)


@dataclasses.dataclass(frozen=True)
class Place:
    """Hosts and accelerators of a job.

    Attributes:
      kind: "tpu", "gpu" or "cpu".
      device: "v5e", "h100", ... (a row of qoq_jax/plan/devices.json), or "cpu".
      shape: of chips of a slice, (nodes, GPUs of a node), or (processes,).
      slices: TPU slices; 1 for all else.
      hosts: machines of a slice, or nodes.
      per_host: chips or GPUs of a machine.
      devices: of JAX, altogether.
    """

    kind: str
    device: str
    shape: tuple[int, ...]
    slices: int
    hosts: int
    per_host: int
    devices: int

    @property
    def all_hosts(self) -> int:
        """Machines altogether."""
        return self.hosts * self.slices

    @property
    def grid(self) -> str:
        """The shape as Google Cloud writes it, "4x4"."""
        return "x".join(map(str, self.shape))

    @property
    def slice_chips(self) -> int:
        """Chips of a slice."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        several = f"{self.slices}*" if self.slices > 1 else ""
        return f"{several}{self.device}:{self.grid}"


def of(job: Job) -> Place:
    """The place of a job.

    A TPU machine has 4 chips, but a v5e or v6e slice of up to 8 chips is one machine
    (docs.cloud.google.com/tpu/docs/v5e and /v6e).

    Raises:
      ConfigError: an unknown topology, or a shape that its machines do not fill.
    """
    if job.slices < 1:
        raise ConfigError(f"slices = {job.slices}", hint="at least 1")
    name, _, rest = job.topology.partition(":")
    if name == "cpu":
        if not (rest.isascii() and rest.isdigit() and int(rest)):
            raise ConfigError(f"topology {job.topology!r}", hint="write cpu:2 for two processes")
        if job.slices > 1:
            raise ConfigError("CPU processes have no slices", hint="leave slices at 1")
        return Place("cpu", "cpu", (int(rest),), 1, 1, 0, int(rest))
    topology = devices.parse(job.topology)
    if topology.slices > 1:
        raise ConfigError(
            f"topology {job.topology!r}",
            hint=f"write slices={topology.slices} and the topology of one",
        )
    device, shape = topology.device, topology.shape
    if device.kind == "gpu":
        if job.slices > 1:
            raise ConfigError(
                f"{device.name} has no slices", hint=f"write {device.name}:NODESxGPUS"
            )
        return Place("gpu", device.name, shape, 1, shape[0], shape[1], topology.size)
    chips = math.prod(shape)
    if not device.hires(shape):
        larger = ", or multiples of 4 as 4x4x8, the smallest first" if device.small else ""
        raise ConfigError(
            f"topology {job.topology!r}: no such slice is for hire",
            hint=f"one of {', '.join(device.slices or device.small)}{larger}",
        )
    per_host = chips if chips <= device.per_host else _MULTI_HOST
    if chips % per_host:
        raise ConfigError(
            f"topology {job.topology!r}: {chips} chips are no whole machines of {per_host}"
        )
    return Place(
        "tpu",
        device.name,
        shape,
        job.slices,
        chips // per_host,
        per_host,
        topology.size * job.slices,
    )
