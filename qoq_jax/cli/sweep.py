"""`qoq sweep`: all runs of a config file, several seeds each, compared; evaluations of the
checkpoints of runs; or encoders on the labels of many data sets.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib

from qoq_jax.base import storage
from qoq_jax.base.errors import ConfigError, QoqError
from qoq_jax.cli.parser import Commands, command, may_be_distributed


def add(commands: Commands) -> None:
    """Adds the command to the parser of `qoq`."""
    sweep = command(
        commands,
        "sweep",
        run,
        "Do all that the SWEEP of a config file says: runs, several seeds each, and compare them; "
        "or evaluations of checkpoints, in one table.",
    )
    sweep.add_argument(
        "file",
        help="for example configs/evidence.py, or NAME.py:ARG of a sweep of encoders; override "
        "fields of every run that is trained with --config.section.field=value",
    )
    sweep.add_argument("--out", help="folder of the results; default: runs/NAME of the config file")
    sweep.add_argument(
        "--only", default="", help="only these runs, separated by commas, and those they start from"
    )
    sweep.add_argument(
        "--seeds", type=int, help="seeds of each run or way of decoding; default: the file's"
    )
    sweep.add_argument(
        "--jobs",
        type=int,
        help="runs that are trained at the same time, each on its share of this machine's "
        "cores and of its GPUs or TPU chips; start it on each of several hosts, and they share out "
        "the runs; default: one, with all processes",
    )
    sweep.add_argument(
        "--dry-run", action="store_true", help="list what would be done, and what is finished"
    )
    may_be_distributed(sweep)


def joins(arguments: argparse.Namespace) -> bool:
    """Whether this process itself is one of several (docs/pods.md): it evaluates, or trains
    encoders. Other trainings run in processes of their own.
    """
    from qoq_jax.sweep import run as sweeps
    from qoq_jax.sweep import transfers

    try:
        return not arguments.dry_run and (
            transfers.is_of_encoders(arguments.file) or sweeps.is_of_evaluations(arguments.file)
        )
    except QoqError:  # which `run` meets again
        return False


def run(arguments: argparse.Namespace) -> int:
    """Runs the sweep; see sweep/run.py, sweep/evaluations.py and sweep/transfers.py."""
    from qoq_jax.sweep import run as sweeps
    from qoq_jax.sweep import transfers

    file, _, variant = arguments.file.partition(":")
    name = pathlib.Path(file).stem + (f"-{variant}" if variant else "")
    out = arguments.out or f"runs/{name}"
    storage.check_local(out)
    only = [name for name in arguments.only.split(",") if name]
    if transfers.is_of_encoders(arguments.file):
        if only or arguments.jobs not in (None, 1):
            raise ConfigError(
                "--jobs or --only with a sweep of encoders",
                hint="they are trained one after the other; choose sets in the config",
            )
        loaded = transfers.load(arguments.file, arguments.overrides, arguments.seeds)
        return (transfers.dry_run if arguments.dry_run else transfers.run)(*loaded, out)
    if not sweeps.is_of_evaluations(arguments.file):
        if arguments.distributed:
            raise ConfigError(
                "--distributed with a sweep that trains",
                hint="set QOQ_COORDINATOR, QOQ_PROCESS_COUNT and QOQ_PROCESS_INDEX for runs that "
                "take all processes; --jobs N needs neither (docs/pods.md)",
            )
        if arguments.dry_run:
            return sweeps.dry_run(arguments.file, out, only, arguments.seeds)
        return sweeps.run(
            arguments.file, out, only, arguments.seeds, arguments.jobs, arguments.overrides
        )
    if arguments.overrides or arguments.jobs not in (None, 1):
        raise ConfigError(
            "--jobs or --config... with a sweep of evaluations",
            hint="each takes all devices, with the config of its run",
        )
    from qoq_jax.sweep import evaluations

    sweep = sweeps.load_evaluations(arguments.file)
    if arguments.seeds is not None:
        sweep = dataclasses.replace(sweep, seeds=arguments.seeds)
        sweep.check("--seeds")
    if arguments.dry_run:
        return evaluations.dry_run(sweep, out, only)
    return evaluations.run(sweep, out, only)
