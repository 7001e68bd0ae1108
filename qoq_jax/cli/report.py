"""`qoq report`: a finished or running run as one HTML file, and its cases as another."""

from __future__ import annotations

import argparse
import os

from qoq_jax.base.errors import ConfigError
from qoq_jax.cli.parser import Commands, command


def add(commands: Commands) -> None:
    """Adds the command to the parser of `qoq`."""
    report = command(
        commands,
        "report",
        run,
        "Write a run's report as one self-contained HTML file, and cases.html beside it to look "
        "through its test rows; of an eval/*.json the second alone.",
    )
    report.add_argument("workdir", help="the workdir of a run, or an eval/*.json")
    report.add_argument("--out", help="default: WORKDIR/report.html; of a file: cases.html")
    report.add_argument(
        "--against", help="a workdir or eval/*.json to show beside it, as the one before"
    )
    report.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="[SOURCE=]FOLDER",
        help="a data set with the rows and their media; default: those that the run read",
    )
    report.add_argument(
        "--traces",
        metavar="DIR",
        help="write no pages, but the responses of the run's evaluations as a data set with a "
        "card, without media and patients, into this new folder",
    )
    report.add_argument(
        "--license", metavar="NAME", help="of that data set, as cc-by-4.0; default: unknown"
    )


def run(arguments: argparse.Namespace) -> int:
    """Writes the pages, or the data set, and prints their paths."""
    from qoq_jax.base import storage
    from qoq_jax.report import cases_page, report

    path, roots = arguments.workdir, dict(map(_root, arguments.data))
    if arguments.traces:
        return _write_traces(arguments, roots)
    if arguments.license:
        raise ConfigError("--license is that of a data set", hint="add --traces DIR")
    if storage.is_file(path):
        print(cases_page.of_file(path, arguments.out or "cases.html", arguments.against, roots))
        return 0
    out = report.write_report(path, arguments.out)
    print(out)
    if page := cases_page.of_run(path, os.path.dirname(out), arguments.against, roots):
        print(page)
    return 0


def _write_traces(arguments: argparse.Namespace, roots: dict[str, str]) -> int:
    from qoq_jax.base import storage
    from qoq_jax.report import traces, traces_card

    for option in ("out", "against"):
        if getattr(arguments, option):
            raise ConfigError(f"--{option} does not go with --traces", hint="leave it out")
    if not storage.is_dir(arguments.workdir):
        raise ConfigError(
            "no such folder", where=arguments.workdir, hint="--traces takes the workdir of a run"
        )
    licence = arguments.license or "unknown"
    parts = traces.export(arguments.workdir, arguments.traces, licence, roots)
    for part in parts:
        print(f"{os.path.join(arguments.traces, part.path)}: {len(part.rows)} rows", end="")
        print(f", {part.left_out} left out that name their patient" if part.left_out else "")
    if names := traces_card.restricted(parts):
        print(f"before you pass it on, check the terms of {', '.join(names)}")
    return 0


def _root(text: str) -> tuple[str, str]:
    name, found, folder = text.partition("=")
    return (name, folder) if found else (os.path.basename(os.path.normpath(text)), text)
