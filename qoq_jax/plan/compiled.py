"""The programs of a step compiled for a topology that is not there, and what they need: peak memory
as the compiler assigns it, bytes moved as its optimised program says.

    pip install "jax[tpu]"                                       # the compiler of TPUs
    pip install jax-cuda12-pjrt jax-cuda12-plugin --no-deps      # the compiler of GPUs
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import importlib.util
import time
from collections.abc import Mapping
from typing import Any

import jax
from jax.experimental import topologies

from qoq_jax.base.errors import ConfigError, QoqError
from qoq_jax.parallel import compiler
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.plan import hlo, instant, memory, programs
from qoq_jax.plan.case import Case
from qoq_jax.plan.devices import Topology
from qoq_jax.plan.instant import StagePlan
from qoq_jax.plan.memory import GIB

_DESCRIBED = {"h100": "h100.textproto"}  # GPUs whose compiler is told of here
_HOST_CHIPS = 4  # of the hosts that libtpu takes a topology to have, if nothing else is said
_EXTRA = {"v4": {"chip_config_name": "megacore"}}  # both cores of a chip as one device


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled program.

    Attributes:
      program: the instant counts of the same program, with the same FLOPs.
      seconds: of compiling.
      arguments, temporaries, peak: bytes of a device.
      traffic: what the optimised program moves.
      times: of the roofline with these counts.
      text: the optimised program.
    """

    program: instant.Program
    seconds: float
    arguments: int
    temporaries: int
    peak: int
    traffic: hlo.Traffic
    times: Mapping[str, float]
    text: str

    @property
    def bound(self) -> float:
        """Least seconds of a call by the compiled program's counts."""
        return max(self.times.values())


def check(topology: Topology) -> None:
    """Checks that the compiler of a topology is installed and knows it.

    Raises:
      ConfigError: it is not, there is no description of the GPU, or the compiler refuses the
        topology.
    """
    _check_installed(topology)
    described(topology)


def _check_installed(topology: Topology) -> None:
    device = topology.device
    if device.kind == "tpu":
        if importlib.util.find_spec("libtpu") is None:
            raise ConfigError(
                "--compile needs the compiler of TPUs, which is not installed (it needs no TPU)",
                hint='pip install "jax[tpu]"',
            )
        return
    if device.name not in _DESCRIBED:
        raise ConfigError(
            f"--compile knows no description of {device.name} for the compiler",
            hint=f"one of {', '.join(_DESCRIBED)}, or plan without --compile",
        )
    if importlib.util.find_spec("jax_cuda12_plugin") is None:
        raise ConfigError(
            "--compile needs the compiler of GPUs, which is not installed (it needs no GPU)",
            hint="pip install jax-cuda12-pjrt jax-cuda12-plugin --no-deps",
        )


@functools.cache
def described(topology: Topology) -> tuple[Any, ...]:
    """The devices of a topology, as its compiler describes them.

    Raises:
      ConfigError: the compiler refuses the topology.
    """
    shape, extra = "x".join(map(str, topology.shape)), {}
    try:
        if topology.device.kind == "gpu":
            file = _DESCRIBED[topology.device.name]
            text = importlib.resources.files("qoq_jax.plan").joinpath(file).read_text("utf-8")
            found = topologies.get_topology_desc(
                platform="cuda", target_config=text, topology=f"1x{shape}"
            )
        else:
            extra |= _EXTRA.get(topology.device.name, {})
            if topology.slices > 1:
                extra["num_slices"] = topology.slices
            if topology.chips < _HOST_CHIPS:
                extra["chips_per_host_bounds"] = [*topology.shape, 1, 1][:3]
            found = topologies.get_topology_desc(
                platform="tpu", topology_name=f"{topology.device.name}:{shape}", **extra
            )
    except jax.errors.JaxRuntimeError as error:
        raise ConfigError(
            f"the compiler knows no {topology}: {_first_line(error)}",
            hint="give a topology that is for hire, as v5e:2x4, or plan without --compile",
        ) from error
    return tuple(found.devices)


def mesh_of(case: Case) -> jax.sharding.Mesh:
    """The mesh of a case over described devices."""
    sizes, there = case.config.mesh, described(case.topology)
    return mesh_lib.make_mesh(sizes.data, sizes.fsdp, sizes.tensor, there, sizes.sequence)


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "")[:300]


def measure(case: Case, name: str) -> Compiled:
    """Compiles a program of a step.

    Raises:
      QoqError: it does not fit the devices, as the compiler says.
    """
    mesh, tpu = mesh_of(case), case.topology.device.kind == "tpu"
    begun = time.monotonic()
    try:
        lowered = programs.lower(case, name, mesh)
        built = lowered.compile(compiler_options=compiler.TPU_OPTIONS if tpu else {})
    except jax.errors.JaxRuntimeError as error:
        section = "rl" if case.is_rl else "sft"
        raise QoqError(
            f"{name} does not compile: {_first_line(error)}",
            where=str(case.topology),
            hint=f"where it is out of memory: model.remat=offload, a larger {section}.accumulate, "
            "or more devices",
        ) from error
    seconds, facts, text = time.monotonic() - begun, built.memory_analysis(), built.as_text()
    moved, counted = hlo.traffic(text), instant.program(case, name)
    return Compiled(
        program=counted,
        seconds=seconds,
        arguments=facts.argument_size_in_bytes,
        temporaries=facts.temp_size_in_bytes,
        peak=facts.peak_memory_in_bytes,
        traffic=moved,
        times=_times(case, counted, moved),
        text=text,
    )


def _times(case: Case, counted: instant.Program, moved: hlo.Traffic) -> dict[str, float]:
    """The roofline: FLOPs from shapes, bytes from the program. What goes over links and network is
    shared between them as the instant counts say: a compiled program does not tell them apart.
    """
    device = case.topology.device
    # an all-reduce is a reduce-scatter and an all-gather
    links = sum(moved.collectives.values()) + moved.collectives["all-reduce"]
    whole = counted.links + counted.network
    far = counted.network / whole if whole else 0.0
    times = {
        "compute": counted.seconds["compute"],
        "HBM": moved.hbm / device.hbm,
        "ICI" if device.kind == "tpu" else "NVLink": (1 - far) * links / case.topology.links,
    }
    if far:
        times["network"] = far * links / device.dcn
    return times


def resident(plan: StagePlan, name: str) -> float:
    """Bytes that lie on a device beside a program: what its phase keeps and it does not take."""
    phase = plan.phases[name]
    kept = {
        "update": ("reference",),
        "scorer": ("moments", "parameters"),
        "reshard": ("moments", "reference", "base"),
    }.get(name, ("parameters", "moments", "reference", "base"))
    if name in ("embed", "prefill") and not plan.case.config.mesh.rollout_tensor:
        # the trainer's own weights are read, or those with the adapters merged into them
        kept = ("moments", "reference", "base")
    if name == "scorer" and "reference" not in phase and "base" not in phase:
        kept = ("moments",)
    padding = phase.get("tile padding", 0.0)
    if name == "update":
        padding = memory.reference_padding(plan.case) if "reference" in phase else 0
    return sum(phase.get(part, 0.0) for part in kept) + padding


def update_arguments(case: Case) -> float:
    """Bytes that an update takes, by the instant level: the train state, its part of the batch, and
    what adapters are added to.
    """
    base = 0
    if case.stage.lora.rank:
        base = memory.reference(case) + memory.reference_padding(case)
    parts = case.stage.rl.minibatches if case.is_rl else 1
    state = memory.device_bytes(case.state) + memory.state_padding(case)
    return state + memory.batch(case) / parts + base


def describe(plan: StagePlan, one: Compiled) -> str:
    """What was found, in a few lines."""
    beside = resident(plan, one.program.name)
    whole, capacity = one.peak + beside, plan.capacity
    state = f"; arguments {one.arguments / GIB:.3f} GiB"
    if one.program.name == "update":
        state += f", instant {update_arguments(plan.case) / GIB:.3f}"
    times = ", ".join(f"{name} {seconds:.4g}" for name, seconds in one.times.items())
    collectives = ", ".join(
        f"{kind} {amount / 1e9:.2f}" for kind, amount in one.traffic.collectives.most_common()
    )
    return (
        f"{one.program.name} compiled in {one.seconds:.0f} s: peak {one.peak / GIB:.2f} GiB"
        f" + {beside / GIB:.2f} beside it = {whole / GIB:.2f} of {capacity / GIB:.2f}"
        f" ({'fits' if whole <= capacity else 'does not fit'}){state}\n"
        f"  HBM {one.traffic.hbm / 1e9:.1f} GB, collectives, GB: {collectives or 'none'}\n"
        f"  seconds: {times}; bound {one.bound:.4g}, instant {one.program.bound:.4g}"
    )


def as_json(plan: StagePlan, one: Compiled) -> dict[str, Any]:
    """A compiled program as plain values."""
    return {
        "name": one.program.name,
        "compile_seconds": one.seconds,
        "arguments": one.arguments,
        "temporaries": one.temporaries,
        "peak": one.peak,
        "beside": resident(plan, one.program.name),
        "hbm_bytes": one.traffic.hbm,
        "collective_bytes": dict(one.traffic.collectives),
        "seconds": dict(one.times),
        "bound": one.bound,
        "instant_bound": one.program.bound,
    }
