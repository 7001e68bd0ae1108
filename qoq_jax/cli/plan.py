"""`qoq plan`: what a config needs on a topology, without the hardware."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

from qoq_jax.base.errors import ConfigError, did_you_mean
from qoq_jax.cli.parser import Commands, command

MFU = 0.4  # of the hours, unless --mfu says another
MESH = ("data", "fsdp", "sequence", "tensor", "rollout_tensor")


def add(commands: Commands) -> None:
    """Adds the command to the parser of `qoq`."""
    plan = command(
        commands,
        "plan",
        run,
        "Memory, step time, fitting meshes and cost of a config on a TPU or GPU topology, without "
        "the hardware.",
    )
    plan.add_argument("--config", required=True, help="as for qoq train, overrides too")
    plan.add_argument(
        "--topology", required=True, help="v5e:4x4, 2*v5e:4x4 (slices), v5p:2x2x4, h100:1x8, ..."
    )
    plan.add_argument(
        "--mesh", help="data=1,fsdp=16,tensor=1,rollout_tensor=4; default: the config's"
    )
    plan.add_argument("--search", action="store_true", help="rank the meshes that fit")
    plan.add_argument(
        "--compile",
        nargs="?",
        const="",
        metavar="PROGRAMS",
        help="compile the programs of a step too, or these of them (update,decode): minutes each; "
        "needs the compiler of the devices",
    )
    plan.add_argument("--prices", help="JSON file with the price of a chip hour (docs/plan.md)")
    plan.add_argument(
        "--mfu", type=float, default=MFU, help=f"utilisation that hours are for; default: {MFU}"
    )
    plan.add_argument("--json", action="store_true", help="print JSON alone")


def run(arguments: argparse.Namespace) -> int:
    """Plans; exit code 1 when a stage does not fit. All arguments are checked first: searching and
    compiling take minutes.
    """
    # No accelerator is asked for, and none is needed; both before JAX is imported.
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    from qoq_jax.plan import advice, case, cost, devices, instant, show
    from qoq_jax.plan import search as search_lib
    from qoq_jax.train import config

    topology = devices.parse(arguments.topology)
    _check(arguments, topology)
    prices = cost.read_prices(arguments.prices) if arguments.prices else None
    if prices is not None:
        cost.price_of(topology.device.name, prices)
    raw = config.override(config.load(arguments.config), arguments.overrides)
    if kind := config.kind_of(arguments.config):
        return _plan_encoder(kind, raw, topology, arguments)
    cfg = config.parse(raw)
    case.check_stages(cfg)
    if arguments.mesh:
        cfg = dataclasses.replace(cfg, mesh=_mesh(cfg.mesh, arguments.mesh))
    found: dict[str, Any] = {}

    if arguments.search:
        layouts = search_lib.search(cfg, topology)
        found["layouts"] = [show.layout_json(one) for one in layouts[:5]]
        if not layouts:
            least = search_lib.smallest(cfg, topology)
            found["smallest"] = least and show.layout_json(least)
            if not arguments.json:
                show.show_none(cfg, topology, least)
            return _done(arguments, found, False)
        if not arguments.json:
            show.show_layouts(layouts)
        plans = list(layouts[0].plans)
    else:
        plans = instant.plan(cfg, topology)
    wanted = _programs(plans, arguments)
    found["stages"] = [show.stage_json(plan) for plan in plans]
    for plan, content in zip(plans, found["stages"], strict=True):
        ideas = []
        if plan.verdict != "fits":
            ideas = advice.proposals(plan.case.config, topology, plan)
            content["proposals"] = [show.proposal_json(one) for one in ideas]
        if not arguments.json:
            show.show_stage(plan)
            if plan.verdict != "fits":
                show.show_advice(ideas, topology)
        if arguments.compile is not None:
            content["compiled"] = _compile(plan, wanted, arguments)
    paid = cost.cost(plans, arguments.mfu, prices)
    found["cost"] = dataclasses.asdict(paid)
    if not arguments.json:
        show.show_cost(paid, plans)
    return _done(arguments, found, all(plan.spare >= 0 for plan in plans))


def _plan_encoder(kind: str, raw: Any, topology: Any, arguments: argparse.Namespace) -> int:
    """The plan of a config of an encoder (configs/climb_multitask.py)."""
    from qoq_jax.plan import encoder
    from qoq_jax.transfer import config

    if kind != config.KIND:
        raise ConfigError("fusions are compared on one device", hint="there is nothing to plan")
    given = [name for name in ("search", "prices") if getattr(arguments, name)]
    if arguments.compile is not None or given:
        name = "compile" if arguments.compile is not None else given[0]
        raise ConfigError(f"--{name} is not for the config of an encoder", hint="leave it out")
    cfg = config.parse(raw)
    if arguments.mesh:
        cfg = dataclasses.replace(cfg, mesh=_mesh(cfg.mesh, arguments.mesh))
    found = encoder.plan(cfg, topology)
    if arguments.json:
        print(json.dumps(encoder.as_json(found), indent=1))
    else:
        encoder.show(found)
    return 0 if found.spare >= 0 else 1


def _check(arguments: argparse.Namespace, topology: Any) -> None:
    """What is wrong with the arguments by themselves.

    Raises:
      ConfigError: something is.
    """
    from qoq_jax.plan import compiled, instant

    if not 0 < arguments.mfu <= 1:
        raise ConfigError(f"--mfu {arguments.mfu:g}", hint="give a share of the peak, as 0.4")
    if arguments.search and arguments.mesh:
        raise ConfigError("--search and --mesh", hint="--search tries all meshes: leave one out")
    if arguments.compile is None:
        return
    for name in arguments.compile.split(",") if arguments.compile else []:
        if name not in instant.PROGRAMS:
            hint = did_you_mean(name, instant.PROGRAMS)
            raise ConfigError(f"--compile {name}: no program of a step", hint=hint)
    compiled.check(topology)


def _programs(plans: Sequence[Any], arguments: argparse.Namespace) -> list[str]:
    """The names to compile, each a program of a stage.

    Raises:
      ConfigError: one is of no stage.
    """
    names = list(dict.fromkeys(one.name for plan in plans for one in plan.programs))
    wanted = arguments.compile.split(",") if arguments.compile else names
    for name in wanted:
        if name not in names:
            stages = " or ".join(plan.case.stage.name for plan in plans)
            raise ConfigError(
                f"--compile {name}: no program of stage {stages} of this config",
                hint=f"one of {', '.join(names)}",
            )
    return wanted


def _compile(
    plan: Any, wanted: Sequence[str], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Compiles programs of a stage; prints each as soon as it is there."""
    from qoq_jax.plan import compiled

    names, results = [one.name for one in plan.programs], []
    for name in (one for one in wanted if one in names):
        one = compiled.measure(plan.case, name)
        if not arguments.json:
            print(compiled.describe(plan, one), flush=True)
        results.append(compiled.as_json(plan, one))
    return results


def _mesh(mesh: Any, text: str) -> Any:
    """Section mesh with the sizes of `--mesh`; a size that is not named is 1 (rollout_tensor: as
    the config has it).
    """
    sizes = {"data": 1, "fsdp": 1, "sequence": 1, "tensor": 1}
    for part in text.split(","):
        name, _, size = part.partition("=")
        if name not in MESH or not size.removeprefix("-").isdigit():
            raise ConfigError(f"cannot read --mesh {text}", hint="write --mesh fsdp=16,tensor=1")
        sizes[name] = int(size)
    return dataclasses.replace(mesh, **sizes)


def _done(arguments: argparse.Namespace, found: dict[str, Any], fits: bool) -> int:
    if arguments.json:
        print(json.dumps(found, indent=1))
    return 0 if fits else 1
