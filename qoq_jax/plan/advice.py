"""What to change when a stage does not fit: single changes with what each would give, and the first
of them together that fit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from qoq_jax.base.errors import ConfigError
from qoq_jax.plan import case as case_lib
from qoq_jax.plan.change import Changes, changed
from qoq_jax.plan.devices import Topology
from qoq_jax.plan.instant import StagePlan, plan_stage
from qoq_jax.train.config import Config

LORA_RANK = 16  # of the proposal


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A change and the plan with it.

    Attributes:
      changes: of the config; {} where the topology alone changes.
      topology: that it is for.
      plan: of the stage.
      costs: what it costs beside time, in words; "" for nothing.
    """

    changes: Changes
    topology: Topology
    plan: StagePlan
    costs: str = ""


def proposals(cfg: Config, topology: Topology, plan: StagePlan) -> list[Proposal]:
    """Single changes that lower the peak of a stage, the lowest peak first; then, where none of
    them fits, the first few of them together that do.
    """
    found = []
    for changes, there, costs in _ideas(cfg, topology, plan):
        new = _planned(cfg, changes, there, plan.case.stage.name)
        if new is not None and new.peak < plan.peak:
            found.append(Proposal(changes, there, new, costs))
    found.sort(key=lambda one: one.plan.peak)
    here = [one for one in found if one.topology == topology and one.changes]
    if here and not any(one.plan.spare >= 0 for one in here):
        found += _together(cfg, topology, plan, here)
    return found


def _planned(cfg: Config, changes: Changes, topology: Topology, stage: str) -> StagePlan | None:
    """None where the change does not go with the rest of the config."""
    try:
        return plan_stage(case_lib.make(changed(cfg, changes), topology, stage))
    except ConfigError:
        return None


def _together(
    cfg: Config, topology: Topology, plan: StagePlan, singles: list[Proposal]
) -> Iterator[Proposal]:
    """Changes one after the other, as long as each helps, until the stage fits."""
    changes: dict = {}
    costs: list[str] = []
    for one in singles:
        if "lora.rank" in one.changes:
            continue  # another training, not another layout
        tried = changes | dict(one.changes)
        new = _planned(cfg, tried, topology, plan.case.stage.name)
        if new is None or new.peak >= plan.peak:
            continue
        changes, plan = tried, new
        costs += [one.costs] if one.costs else []
        if plan.spare >= 0:
            yield Proposal(changes, topology, plan, "; ".join(costs))
            return


def _ideas(
    cfg: Config, topology: Topology, plan: StagePlan
) -> Iterator[tuple[Changes, Topology, str]]:
    """(changes, topology, what it costs beside time)."""
    case, mesh = plan.case, plan.case.config.mesh
    section = "rl" if case.is_rl else "sft"
    for parts in (2, 4, 8, 16):
        if case.config.data.media_rows % (case.batch_ways * case.parts * parts) == 0:
            changes = {f"{section}.accumulate": case.stage.accumulate * parts}
            yield changes, topology, "weights are gathered for each micro-batch"
    if case.model.remat in ("none", "dots"):
        yield {"model.remat": "full"}, topology, ""
    if case.model.remat != "offload":
        yield {"model.remat": "offload"}, topology, "inputs of layers go to the host and back"
    if case.model.attention == "einsum":
        kernel = "splash" if topology.device.kind == "tpu" else "flash"
        yield {"model.attention": kernel}, topology, ""
    if case.is_rl and not case.stage.lora.rank and not case.stage.rl.offload_reference:
        yield {"rl.offload_reference": True}, topology, "one copy from the host a step"
    if not case.stage.optimizer.offload:
        yield {"optimizer.offload": True}, topology, "moments go to the host and back each step"
    if not case.stage.lora.rank and case.stage.name in cfg.lora.stages:
        yield {"lora.rank": LORA_RANK}, topology, "adapters are trained, not the weights"
    yield from ((changes, topology, costs) for changes, costs in _by_tokens(cfg, plan))
    if mesh.data % (2 * topology.slices) == 0:
        changes = {"mesh.data": mesh.data // 2, "mesh.fsdp": mesh.fsdp * 2}
        yield changes, topology, ""
    if case.is_rl:
        yield from _of_sampling(plan, topology)
    if larger := topology.larger():
        times = larger.size // topology.size
        for changes in _spread(cfg, plan, larger):
            yield changes, larger, f"{times} times the devices"


def _by_tokens(cfg: Config, plan: StagePlan) -> Iterator[tuple[Changes, str]]:
    """Rows cut by their tokens in the place of their heads; or over half of the devices that share
    rows, with as many micro-batches or twice as many, which the rows allow then; where the tokens
    do not divide, the heads.
    """
    case, mesh, topology = plan.case, plan.case.config.mesh, plan.case.topology
    if mesh.tensor > 1:
        changes = {"mesh.tensor": 1, "mesh.sequence": mesh.sequence * mesh.tensor}
        if case.is_rl and not mesh.rollout_tensor:
            changes["mesh.rollout_tensor"] = mesh.tensor  # sampling stays as it is
        yield changes, ""
    if mesh.fsdp % 2:
        return
    half = {"mesh.fsdp": mesh.fsdp // 2}
    tokens = half | {"mesh.sequence": mesh.sequence * 2} | _sampling_beside(case)
    if _planned(cfg, tokens, topology, case.stage.name) is not None:
        costs = "two all-to-alls a layer"
        yield tokens, costs
        section = "rl" if case.is_rl else "sft"
        more = tokens | {f"{section}.accumulate": case.stage.accumulate * 2}
        yield more, f"{costs}; weights are gathered for each micro-batch"
    elif case.model.decoder.num_kv_heads % (2 * mesh.tensor) == 0:
        yield half | {"mesh.tensor": mesh.tensor * 2}, "activations are summed over tensor"


def _sampling_beside(case: case_lib.Case) -> dict[str, int]:
    """A layout of its own for sampling, where there is none: devices that share the tokens of a
    row would all decode the same ones.
    """
    mesh, rows = case.config.mesh, case.config.data.media_rows
    if not case.is_rl or mesh.rollout_tensor:
        return {}
    size, heads = case.mesh.size, case.model.decoder.num_kv_heads
    ways = (n for n in range(1, heads + 1) if heads % n == 0 and size % n == 0)
    fit = next((n for n in ways if rows % (size // n) == 0), None)
    return {} if fit is None else {"mesh.rollout_tensor": fit}


def _spread(cfg: Config, plan: StagePlan, larger: Topology) -> Iterator[Changes]:
    """The mesh over more devices: rows over them where they divide, be it in fewer micro-batches,
    and their tokens where the micro-batches stay; else the heads.
    """
    case, mesh = plan.case, plan.case.config.mesh
    times, section = larger.size // case.topology.size, "rl" if case.is_rl else "sft"
    names = ("data", "fsdp", "sequence", "tensor")
    sizes = {f"mesh.{name}": getattr(mesh, name) for name in names}
    sizes = {name: size for name, size in sizes.items() if size > 1 or name != "mesh.sequence"}

    def with_more(name: str) -> dict[str, int]:
        return sizes | {name: sizes.get(name, 1) * times}

    rows = with_more("mesh.fsdp")
    fewer = rows | {f"{section}.accumulate": max(case.stage.accumulate // times, 1)}
    for group in ([rows], [fewer, with_more("mesh.sequence")], [with_more("mesh.tensor")]):
        go = [one for one in group if _planned(cfg, one, larger, case.stage.name) is not None]
        if go:
            yield from go
            return


def _of_sampling(plan: StagePlan, topology: Topology) -> Iterator[tuple[Changes, Topology, str]]:
    """Ideas for the rollout's memory."""
    case = plan.case
    ways, rl = case.config.mesh.rollout_tensor, case.stage.rl
    heads = case.model.decoder.num_kv_heads
    for wider in (2, 4, 8, 16):
        if heads % wider == 0 and wider > ways:
            yield {"mesh.rollout_tensor": wider}, topology, "more sums a token"
    rows = rl.rollout_rows or rl.questions * rl.rollouts
    for fewer in (rows // 2, rows // 4):
        if fewer >= case.rollout_ways:
            yield {"rl.rollout_rows": fewer}, topology, "responses are sampled in waves"
