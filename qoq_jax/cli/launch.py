"""`qoq launch`: a job on Cloud TPU, GKE, SkyPilot, SLURM or this machine."""

from __future__ import annotations

import argparse
import importlib
import math
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from qoq_jax.base import exit_codes
from qoq_jax.base.errors import ConfigError
from qoq_jax.cli.parser import Commands, command
from qoq_jax.launch import check, place, placeholders, process
from qoq_jax.launch.engines import local
from qoq_jax.launch.place import Place
from qoq_jax.launch.spec import ENGINES, Job


def add(commands: Commands) -> None:
    """Adds the command to the parser of `qoq`."""
    launch = command(
        commands,
        "launch",
        run,
        "Run a job file on Cloud TPU VMs, GKE, SkyPilot, SLURM or this machine (docs/launch.md).",
    )
    launch.add_argument("job", help="Python file that defines get_job() (qoq_jax/launch/spec.py)")
    launch.add_argument("engine", choices=ENGINES)
    launch.add_argument(
        "--action", choices=process.ACTIONS, default="submit", help="default: submit"
    )
    launch.add_argument(
        "--dry-run", action="store_true", help="print what would be sent and run, and stop"
    )


def run(arguments: argparse.Namespace) -> int:
    """Checks the job, renders it and runs the engine's commands; the first failure ends it."""
    job = load(arguments.job)
    # What is started later gets the environment as it is here: below configs are read, with JAX
    # on the CPU, which must not become the job's.
    environment = dict(os.environ)
    mistakes = check.check(job, arguments.engine)
    if not mistakes and arguments.action == "submit":
        mistakes = [*check_config(job), *([] if arguments.dry_run else placeholders.check(job))]
    for mistake in mistakes:
        print(f"qoq: {arguments.job}: {mistake}", file=sys.stderr)
    if mistakes:
        return exit_codes.MISTAKE
    if arguments.engine == "local":
        return _local(job, arguments, environment)
    engine = importlib.import_module(f"qoq_jax.launch.engines.{arguments.engine.replace('-', '_')}")
    for note in check.notes(job, arguments.engine):
        _note(note)
    if arguments.action == "submit" and arguments.engine == "tpu-vm":
        _note_changes()
    lines = engine.commands(job, arguments.action)
    if arguments.dry_run:
        if arguments.action == "submit":
            print(engine.render(job))
        for line in lines:
            print("$ " + shlex.join(_with_file(line, f"{job.name}{engine.SUFFIX}")))
        return exit_codes.DONE
    return _run(job, engine, lines, environment)


def _local(job: Job, arguments: argparse.Namespace, environment: Mapping[str, str]) -> int:
    """The processes run here, to their end: there is nothing to ask or to delete later."""
    if arguments.action != "submit":
        raise ConfigError(
            f"engine local has no --action {arguments.action}",
            hint="a local run stays in its terminal; Ctrl-C ends it",
        )
    if arguments.dry_run:
        print(local.render(job), end="")
        return exit_codes.DONE
    return local.run(job, environment)


def load(path: str) -> Job:
    """The job that a job file defines.

    Raises:
      ConfigError: no file, no get_job(), or something else than a Job.
    """
    from qoq_jax.train import config

    if not pathlib.Path(path).is_file():
        raise ConfigError(f"no job file {path}", hint="see launch/jobs")
    make = getattr(config.load_module(path), "get_job", None)
    if make is None:
        raise ConfigError("no get_job()", where=path, hint="it returns a qoq_jax.launch.spec.Job")
    try:
        job = make()
    except ConfigError:
        raise
    except TypeError as error:  # a field that Job does not have
        raise ConfigError(str(error), where=path, hint="see qoq_jax/launch/spec.py") from None
    except Exception as error:
        said = f"get_job() fails ({type(error).__name__}: {error})"
        raise ConfigError(said, where=path, hint="correct the job file") from error
    if not isinstance(job, Job):
        raise ConfigError("get_job() returns no Job", where=path)
    return job


def check_config(job: Job) -> list[ConfigError]:
    """Whether the mesh of the command's config is that of the accelerators, its batch divides over
    them, and a last save fits into the graces. A config that is not on this machine, as inside the
    image, is not looked at; a note says so.
    """
    words = shlex.split(job.command)
    if words[:2] != ["qoq", "train"]:
        _note("the command is not `qoq train --config=...`: no config is checked")
        return []
    file, overrides = "", []
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--config=") or word == "--config":
            file = word.removeprefix("--config=") if "=" in word else after
        elif word.startswith("--config."):
            overrides.append(word if "=" in word else f"{word}={after}")
    if not pathlib.Path(file.partition(":")[0]).is_file():
        _note(f"{file or 'the config'} is not here and not checked; see qoq plan")
        return []
    # Configs import JAX; no accelerator is asked for.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from qoq_jax.train import config
    from qoq_jax.transfer import config as transfer_config

    try:
        of_encoder = config.kind_of(file) == transfer_config.KIND
        parse = transfer_config.parse if of_encoder else config.parse
        cfg = parse(config.override(config.load(file), overrides))
        at = place.of(job)
        return _processes(at, cfg) if at.kind == "cpu" else _mesh_and_batch(job, at, cfg)
    except ConfigError as error:
        return [error]


def _processes(at: Place, cfg: Any) -> list[ConfigError]:
    """Whether N processes, which have as many devices each, make up the mesh."""
    sizes = cfg.mesh.sizes
    _note(f"{at} does not say what devices its processes find: memory and batch are not checked")
    if -1 in sizes or math.prod(sizes) % at.devices == 0:
        return []
    return [
        ConfigError(
            f"mesh {cfg.mesh} does not divide over {at.devices} processes",
            hint=f"--config.mesh.data={at.devices}, or -1 for all that is left",
        )
    ]


def _mesh_and_batch(job: Job, at: Place, cfg: Any) -> list[ConfigError]:
    """By the instant plan: what `qoq plan` says of the same config and topology."""
    from qoq_jax.plan import case, devices, instant, memory
    from qoq_jax.train import stages
    from qoq_jax.transfer.config import TransferConfig

    topology = devices.parse(str(at))
    case.resolved(cfg.mesh, topology)
    if isinstance(cfg, TransferConfig) or any(stages.get(name).alone for name in cfg.stages):
        _note("only the mesh of the config is checked: the plan knows multimodal models")
        return check.graces(job, 0, cfg.faults.grace)
    plans = instant.plan(cfg, topology)
    found = [
        ConfigError(
            f"stage {plan.case.stage.name} needs {plan.peak / 2**30:.1f} GiB of a device of "
            f"{at}, which has {plan.capacity / 2**30:.1f}",
            hint=f"qoq plan --config=... --topology={at} --search",
        )
        for plan in plans
        if plan.verdict == "does not fit"
    ]
    largest = max(memory.checkpoint(plan.case) for plan in plans)
    return found or check.graces(job, largest / 2**30, cfg.faults.grace)


def _note_changes() -> None:
    """The machines of tpu-vm get the last commit (`git archive HEAD`), and nothing else."""
    words = ["git", "status", "--porcelain"]
    try:
        found = subprocess.run(words, capture_output=True, text=True)
    except OSError:
        return  # the submit names a program that is not there
    if changed := found.stdout.splitlines():
        several = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        _note(f"the machines get the last commit, without changes: {changed[0][3:]}{several}")


def _note(text: str) -> None:
    print(f"qoq: note: {text}", file=sys.stderr)


def _with_file(line: list[str], path: str) -> list[str]:
    return [path if word == process.FILE else word for word in line]


def _run(
    job: Job, engine: ModuleType, lines: list[list[str]], environment: Mapping[str, str]
) -> int:
    missing = sorted({line[0] for line in lines if not shutil.which(line[0])})
    if missing:
        raise ConfigError(
            f"{missing[0]} is not installed here",
            hint="--dry-run prints what it would get; docs/launch.md says how to install it",
        )
    with tempfile.TemporaryDirectory(prefix="qoq-") as folder:  # of this user alone
        path = pathlib.Path(folder) / f"{job.name}{engine.SUFFIX}"
        path.write_text(engine.render(job), encoding="utf-8")
        for line in lines:
            code = subprocess.run(_with_file(line, str(path)), env=environment).returncode
            if code:
                return code if code > 0 else 128 - code
    return exit_codes.DONE
