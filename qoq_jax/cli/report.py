"""`qoq report`: a finished or running run as one HTML file."""

from __future__ import annotations

import argparse

from qoq_jax.cli.parser import Commands, command


def add(commands: Commands) -> None:
    """Adds the command to the parser of `qoq`."""
    report = command(
        commands, "report", run, "Write a run's report as one self-contained HTML file."
    )
    report.add_argument("workdir", help="the workdir of a run")
    report.add_argument("--out", help="default: WORKDIR/report.html")


def run(arguments: argparse.Namespace) -> int:
    """Writes the report and prints its path."""
    from qoq_jax.report import report

    print(report.write_report(arguments.workdir, arguments.out))
    return 0
