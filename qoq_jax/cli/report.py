"""`qoq report`: a finished or running run as one HTML file, its cases as another, or a grading
sheet of its responses.
"""

from __future__ import annotations

import argparse
import os

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
        help="a data set with the media of the rows; default: those that the run read",
    )
    report.add_argument(
        "--grading",
        type=int,
        metavar="N",
        help="in their place a blinded sheet, grading.html, on which clinicians compare the "
        "responses of two evaluations to N rows, and its key, grading-key.json (qoq grade)",
    )
    report.add_argument(
        "--seed", type=int, default=0, help="of the sheet's rows and their order; default: 0"
    )


def run(arguments: argparse.Namespace) -> int:
    """Writes the pages and prints their paths."""
    from qoq_jax.base import storage
    from qoq_jax.report import cases_page, report

    path, roots = arguments.workdir, dict(map(_root, arguments.data))
    if arguments.grading is not None:
        return _grading(arguments, roots)
    if storage.is_file(path):
        print(cases_page.of_file(path, arguments.out or "cases.html", arguments.against, roots))
        return 0
    out = report.write_report(path, arguments.out)
    print(out)
    if page := cases_page.of_run(path, os.path.dirname(out), arguments.against, roots):
        print(page)
    return 0


def _grading(arguments: argparse.Namespace, roots: dict[str, str]) -> int:
    from qoq_jax.base import storage
    from qoq_jax.report import cases_page, grading

    path, against = arguments.workdir, arguments.against
    count, seed = arguments.grading, arguments.seed
    if storage.is_file(path):
        out = arguments.out or "grading.html"
        key = grading.write(out, *cases_page.opened_file(path, against, roots), count, seed)
    else:
        out = arguments.out or os.path.join(path, "grading.html")
        with cases_page.opened_run(path, against, roots) as (sides, library):
            key = grading.write(out, sides, library, count, seed)
    print(out)
    print(key)
    return 0


def _root(text: str) -> tuple[str, str]:
    name, found, folder = text.partition("=")
    return (name, folder) if found else (os.path.basename(os.path.normpath(text)), text)
