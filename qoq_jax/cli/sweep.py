"""`qoq sweep`: all runs of a config file, several seeds each, compared."""

from __future__ import annotations

import argparse
import pathlib

from qoq_jax.cli.parser import Commands, command


def add(commands: Commands) -> None:
    """Adds the command to the parser of `qoq`."""
    sweep = command(
        commands,
        "sweep",
        run,
        "Run all runs of a config file that defines SWEEP, several seeds each, and compare them.",
    )
    sweep.add_argument(
        "file",
        help="for example configs/evidence.py; override fields of every run with "
        "--config.section.field=value",
    )
    sweep.add_argument("--out", help="folder of the runs; default: runs/NAME of the config file")
    sweep.add_argument(
        "--only", default="", help="only these runs, separated by commas, and those they start from"
    )
    sweep.add_argument("--seeds", type=int, help="seeds of each run; default: the file's")
    sweep.add_argument("--jobs", type=int, default=1, help="runs at the same time; default: 1")


def run(arguments: argparse.Namespace) -> int:
    """Runs the sweep; see sweep/run.py."""
    from qoq_jax.sweep import run as sweeps

    out = arguments.out or f"runs/{pathlib.Path(arguments.file).stem}"
    only = [name for name in arguments.only.split(",") if name]
    return sweeps.run(
        arguments.file, out, only, arguments.seeds, arguments.jobs, arguments.overrides
    )
