"""What `qoq plan` prints: tables for a person, JSON for a program."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from qoq_jax.base import terminal
from qoq_jax.parallel.mesh import text_of
from qoq_jax.plan.advice import Proposal
from qoq_jax.plan.change import overrides
from qoq_jax.plan.cost import Cost
from qoq_jax.plan.devices import Topology
from qoq_jax.plan.instant import Program, StagePlan
from qoq_jax.plan.memory import GIB
from qoq_jax.plan.search import Layout
from qoq_jax.train.config import Config


def show_stage(plan: StagePlan) -> None:
    """Memory, programs and verdict of a stage."""
    case = plan.case
    mesh = text_of(case.mesh.axis_sizes)
    ways = case.config.mesh.rollout_tensor
    sampling = f", sampling on tensor={ways}" if case.is_rl and ways else ""
    micro = f", {case.parts} parts of a batch" if case.parts > 1 else ""
    print(
        f"\nstage {case.stage.name} of {case.config.model.variant} on {case.topology} "
        f"({case.topology.size} devices): {mesh}{sampling}, remat={case.model.remat}, "
        f"attention={case.model.attention}{micro}"
    )
    table("GiB of a device, by phase of a step", *_memory(plan))
    table("one step", *_programs(plan))
    print(verdict(plan))


def verdict(plan: StagePlan) -> str:
    """Fits or not, by how much, and the least time of a step, in two lines."""
    peak, capacity, spare = (x / GIB for x in (plan.peak, plan.capacity, plan.spare))
    said = {
        "fits": f"fits: {peak:.2f} of {capacity:.2f} GiB in phase {plan.fullest}, {spare:.2f} to "
        "spare",
        "tight": f"tight: {peak:.2f} of {capacity:.2f} GiB in phase {plan.fullest}, {spare:.2f} to "
        "spare, less than the formula is exact to: ask --compile",
        "does not fit": f"does not fit: {peak:.2f} of {capacity:.2f} GiB in phase {plan.fullest}, "
        f"{-spare:.2f} too many",
    }[plan.verdict]
    host = f"; {plan.host / GIB:.2f} GiB of the host's memory a device" if plan.host else ""
    update = plan.programs[-1]
    return (
        f"{said}{host}\na step takes at least {plan.step_seconds:.3g} s; MFU at most "
        f"{plan.update_mfu:.0%} in the update (bound by {update.bound_by}), {plan.mfu:.0%} of the "
        f"whole step; {plan.steps} steps"
    )


def show_advice(found: Sequence[Proposal], topology: Topology, most: int = 8) -> None:
    """What to change of a config on a topology, with what it would give."""
    rows = []
    for one in found[:most] if len(found) <= most else [*found[: most - 1], found[-1]]:
        what = overrides(one.changes) or "no change"
        if one.topology != topology:
            what = f"--topology {one.topology} {what}"
        rows.append(
            (
                what,
                f"{one.plan.peak / GIB:.2f}",
                one.plan.verdict,
                f"{one.plan.step_seconds:.3g}",
                one.costs,
            )
        )
    if not rows:
        print("no single change of the layout lowers the peak: use more devices or a smaller model")
        return
    table("what to change", ("change", "peak, GiB", "", "step, s", "cost"), rows)


def show_layouts(found: Sequence[Layout], most: int = 5) -> None:
    """The best layouts, as overrides that can be pasted."""
    print(f"\n{len(found)} layouts that fit; the fastest:")
    for one in found[:most]:
        each = ", ".join(
            f"{plan.case.stage.name} {plan.step_seconds:.3g} s a step, {plan.peak / GIB:.2f} GiB"
            + (" (tight)" if plan.verdict == "tight" else "")
            for plan in one.plans
        )
        print(f"  {each}\n    {overrides(one.changes)}")


def show_none(cfg: Config, topology: Topology, least: Layout | None) -> None:
    """Why no layout fits, with the one that needs least, if there is any."""
    if least is None:
        wanted = topology.size * cfg.rl.minibatches
        print(
            f"no mesh of the {topology.size} devices of {topology} divides data.media_rows = "
            f"{cfg.data.media_rows}: make it {wanted} or a multiple"
        )
        return
    plan = max(least.plans, key=lambda one: one.peak)
    print(
        f"no layout of {topology} fits: stage {plan.case.stage.name} needs at least "
        f"{plan.peak / GIB:.2f} of {plan.capacity / GIB:.2f} GiB, in phase {plan.fullest}, with\n"
        f"    {overrides(least.changes)}\n"
        "take more devices, a smaller model, fewer or shorter rows, or adapters (lora.rank)"
    )


def show_cost(cost: Cost, plans: Sequence[StagePlan]) -> None:
    """Hours and money."""
    price = "" if cost.price is None else f", {cost.price:,.0f} {cost.currency}".rstrip()
    print(
        f"\nall steps at {cost.mfu:.0%} of the peak: {cost.hours:,.1f} hours, "
        f"{cost.chip_hours:,.0f} chip hours{price} (without start-up, evaluation, checkpoints and "
        "restarts)"
    )
    if cost.price is None:
        print("no price: give --prices FILE (docs/plan.md)")


# ------------------------------------------------------------------------------------------- tables


def _memory(plan: StagePlan) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    parts = list(dict.fromkeys(name for phase in plan.phases.values() for name in phase))
    rows = [(name, *(_gib(phase.get(name)) for phase in plan.phases.values())) for name in parts]
    rows.append(("sum", *(_gib(sum(phase.values())) for phase in plan.phases.values())))
    return ("", *plan.phases), rows


def _gib(amount: float | None) -> str:
    return "" if amount is None else f"{amount / GIB:.2f}"


def _programs(plan: StagePlan) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    names = list(dict.fromkeys(name for one in plan.programs for name in one.seconds))
    rows = [
        (
            one.name,
            str(one.calls),
            f"{one.model_flops:.3g}",
            f"{one.hbm / 1e9:.4g}",
            f"{one.links / 1e9:.3g}",
            *(f"{one.seconds[name]:.3g}" if name in one.seconds else "" for name in names),
            f"{one.calls * one.bound:.3g} ({one.bound_by})",
        )
        for one in plan.programs
    ]
    links = next(name for name in names if name in ("ICI", "NVLink"))
    times = tuple(f"{name}, s" for name in names)
    heads = ("program", "calls", "model FLOPs", "HBM, GB", f"{links}, GB", *times, "of a step, s")
    return heads, rows


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on a terminal, plain lines elsewhere."""
    terminal.table(title, heads, rows, _plain(title, heads, rows))


def _plain(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield title
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    for row in (heads, *rows):
        first, *others = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(("", first, *others)).rstrip()


# ------------------------------------------------------------------------------------------ JSON


def stage_json(plan: StagePlan) -> dict[str, Any]:
    """A stage's plan as plain values; bytes of a device, seconds."""
    case = plan.case
    return {
        "stage": case.stage.name,
        "topology": str(case.topology),
        "devices": case.topology.size,
        "mesh": dict(case.mesh.shape) | {"rollout_tensor": case.config.mesh.rollout_tensor},
        "remat": case.model.remat,
        "attention": case.model.attention,
        "accumulate": case.stage.accumulate,
        "capacity": plan.capacity,
        "phases": plan.phases,
        "peak": plan.peak,
        "fullest_phase": plan.fullest,
        "verdict": plan.verdict,
        "host": plan.host,
        "programs": [program_json(one) for one in plan.programs],
        "step_seconds": plan.step_seconds,
        "mfu_bound": plan.mfu,
        "update_mfu_bound": plan.update_mfu,
        "steps": plan.steps,
    }


def program_json(one: Program) -> dict[str, Any]:
    """A program as plain values."""
    return {
        "name": one.name,
        "calls": one.calls,
        "model_flops": one.model_flops,
        "hardware_flops": one.hardware_flops,
        "hbm_bytes": one.hbm,
        "link_bytes": one.links,
        "network_bytes": one.network,
        "seconds": one.seconds,
        "bound": one.bound,
        "bound_by": one.bound_by,
    }


def proposal_json(one: Proposal) -> dict[str, Any]:
    """A proposal as plain values."""
    return {
        "changes": dict(one.changes),
        "topology": str(one.topology),
        "peak": one.plan.peak,
        "verdict": one.plan.verdict,
        "step_seconds": one.plan.step_seconds,
        "costs": one.costs,
    }


def layout_json(one: Layout) -> dict[str, Any]:
    """A layout as plain values."""
    return {
        "changes": dict(one.changes),
        "overrides": overrides(one.changes),
        "seconds": one.seconds,
        "peak": one.peak,
        "stages": [stage_json(plan) for plan in one.plans],
    }
