"""The plan of a config on a topology, from shapes alone: memory of each phase of a step, and the
roofline of each program of it.
"""

from __future__ import annotations

import dataclasses
import math

from qoq_jax.plan import case as case_lib
from qoq_jax.plan import flops, memory, slots, traffic
from qoq_jax.plan.case import Case
from qoq_jax.plan.devices import Topology
from qoq_jax.plan.memory import GIB, Parts
from qoq_jax.train.config import Config

# Nearer to the limit is "tight". Instant peaks of updates, prefill and decode were at most 3 %
# below compiled ones, and up to 10 % above (docs/plan.md).
MARGIN = 0.05


# In the order of a step.
PROGRAMS = ("reshard", "embed", "prefill", "decode", "scorer", "update")


@dataclasses.dataclass(frozen=True)
class Program:
    """One program of a step.

    Attributes:
      name: one of PROGRAMS. Where responses wait for places,
        embed is the towers over all prompts, and prefill a chunk of them.
      calls: in a step.
      model_flops, hardware_flops: of a call, on all devices: what the mathematics asks for, and
        with what is computed again.
      hbm, links, network: bytes of a call on a device: memory, links, and the network.
      seconds: of a call, if each were all: {"compute", "HBM", "ICI" or "NVLink", "network"}.
    """

    name: str
    calls: int
    model_flops: float
    hardware_flops: float
    hbm: float
    links: float
    network: float
    seconds: dict[str, float]

    @property
    def bound(self) -> float:
        """Least seconds of a call: the slowest of its terms."""
        return max(self.seconds.values())

    @property
    def bound_by(self) -> str:
        """The slowest term."""
        return max(self.seconds, key=self.seconds.__getitem__)


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """One stage on a topology.

    Attributes:
      case: what was planned.
      phases: {phase of a step: {part: bytes on a device}}.
      programs: of a step, in their order.
      steps: of the stage.
      host: bytes that a device keeps in the host's memory.
    """

    case: Case
    phases: dict[str, Parts]
    programs: tuple[Program, ...]
    steps: int
    host: float

    @property
    def fullest(self) -> str:
        """The phase with the highest peak."""
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def peak(self) -> float:
        """Bytes of a device at its fullest moment."""
        return sum(self.phases[self.fullest].values())

    @property
    def capacity(self) -> float:
        """Bytes that a program may use."""
        return self.case.topology.device.memory_gib * GIB

    @property
    def spare(self) -> float:
        """Bytes left at the peak; below 0: that it does not fit by."""
        return self.capacity - self.peak

    @property
    def verdict(self) -> str:
        """fits; tight, nearer to the limit than the formula is exact; does not fit."""
        if self.spare < 0:
            return "does not fit"
        return "fits" if self.peak * (1 + MARGIN) <= self.capacity else "tight"

    @property
    def step_seconds(self) -> float:
        """Least seconds of a step: its programs one after the other, each at its bound."""
        return sum(one.calls * one.bound for one in self.programs)

    @property
    def mfu(self) -> float:
        """Model FLOPs of a whole step over what the devices can do in its least time."""
        done = sum(one.calls * one.model_flops for one in self.programs)
        topology = self.case.topology
        return done / (self.step_seconds * topology.size * topology.device.flops)

    @property
    def update_mfu(self) -> float:
        """The same of the update alone."""
        one = self.programs[-1]
        topology = self.case.topology
        return one.model_flops / (one.bound * topology.size * topology.device.flops)


def plan(cfg: Config, topology: Topology) -> list[StagePlan]:
    """The plan of each stage of a config.

    Raises:
      ConfigError: the mesh does not fit the topology, or batches do not divide over it.
    """
    return [plan_stage(case_lib.make(cfg, topology, name)) for name in cfg.stages]


def plan_stage(case: Case) -> StagePlan:
    """The plan of one stage."""
    names = _calls(case)
    programs = tuple(program(case, name, calls) for name, calls in names.items())
    return StagePlan(case, memory.phases(case), programs, case.stage.steps, memory.host_bytes(case))


def _calls(case: Case) -> dict[str, int]:
    """Calls of each program in a step."""
    if not case.is_rl:
        return {"update": 1}
    rl, algorithm = case.stage.rl, case.stage.algorithm
    prompts, width = slots.grid(case)
    waves = math.ceil(rl.questions * rl.rollouts / (prompts * width))
    rollouts = 1 + (1 if algorithm.greedy else 0)
    return {
        **({"reshard": 1} if case.copies_weights else {}),
        **({"embed": rollouts} if slots.waits(case) else {}),
        "prefill": rollouts * math.ceil(rl.questions / slots.chunk(case)),
        "decode": (waves + rollouts - 1) * rl.response_tokens,
        "scorer": 1 + case.stage.scores_old + bool(algorithm.critic),
        "update": case.updates,
    }


def load_of(case: Case, name: str) -> flops.Load:
    """The work of one call of a program."""
    budget, parts = case.budget, 1
    if name == "update" and case.is_rl:
        parts = case.stage.rl.minibatches
    rows, responses, length = budget.rows // parts, 0, 0
    media_rows = budget.media_rows // parts
    if case.is_rl:
        responses, length = case.stage.rl.rollouts, case.stage.rl.response_tokens
    if name == "decode":
        rows, responses = slots.grid(case)
    if name == "prefill" and slots.waits(case):
        rows, media_rows = slots.chunk(case), 0
    return flops.Load(
        rows=rows,
        prompt=budget.tokens,
        response=length,
        responses=responses,
        media_rows=media_rows,
        patches=budget.patches,
        ecgs=budget.ecgs,
    )


def kind_of(case: Case, name: str) -> str:
    """The name under which flops.py and traffic.py know a program."""
    if name != "update":
        return name
    return "policy" if case.is_rl else "sft"


def program(case: Case, name: str, calls: int = 1) -> Program:
    """The counts of one call of a program, and the times of its roofline."""
    device, kind, load = case.topology.device, kind_of(case, name), load_of(case, name)
    wanted = done = 0.0
    if name != "reshard":
        frozen = case.stage.optimizer.frozen
        wanted, done = flops.model_and_hardware(case.model, load, kind, frozen)
    moved = traffic.moved(case, kind, load)
    seconds = {
        "compute": done / case.topology.size / device.flops,
        "HBM": moved.hbm / device.hbm,
        "ICI" if device.kind == "tpu" else "NVLink": moved.links / case.topology.links,
        "network": moved.network / device.dcn,
    }
    if not moved.network:
        del seconds["network"]
    return Program(name, calls, wanted, done, moved.hbm, moved.links, moved.network, seconds)
