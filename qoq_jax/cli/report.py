"""`qoq report`: a finished or running run as one HTML file, its cases as another, or a grading
sheet of its responses.
"""

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
        "--tfds",
        action="store_true",
        help="the data set of --traces for tensorflow-datasets: DIR is its data_dir, which may "
        "hold others",
    )
    report.add_argument(
        "--license", metavar="NAME", help="of that data set, as cc-by-4.0; default: unknown"
    )
    report.add_argument(
        "--grading",
        type=int,
        metavar="N",
        help="write in their place a blinded sheet, grading.html, on which clinicians compare the "
        "responses of two evaluations to N rows, and its key, grading-key.json (qoq grade)",
    )
    report.add_argument("--seed", type=int, help="of the sheet's rows and their order; default: 0")


def run(arguments: argparse.Namespace) -> int:
    """Writes the pages, the sheet or the data set, and prints their paths."""
    from qoq_jax.base import storage
    from qoq_jax.report import cases_page, pages

    path, roots = arguments.workdir, dict(map(_root, arguments.data))
    if arguments.traces:
        if arguments.grading is not None:
            raise ConfigError("--grading does not go with --traces", hint="leave one out")
        return _write_traces(arguments, roots)
    for option in ("license", "tfds"):
        if getattr(arguments, option):
            raise ConfigError(f"--{option} is that of a data set", hint="add --traces DIR")
    if arguments.grading is not None:
        return _grading(arguments, roots)
    if arguments.seed is not None:
        raise ConfigError("--seed is that of a grading sheet", hint="add --grading N")
    if storage.is_file(path):
        print(cases_page.of_file(path, arguments.out or "cases.html", arguments.against, roots))
        return 0
    for page in pages.write(path, arguments.out, arguments.against, roots).values():
        print(page)
    return 0


def _grading(arguments: argparse.Namespace, roots: dict[str, str]) -> int:
    from qoq_jax.base import storage
    from qoq_jax.report import cases_page, grading

    path, against = arguments.workdir, arguments.against
    count, seed = arguments.grading, arguments.seed or 0
    if storage.is_file(path):
        out = arguments.out or "grading.html"
        key = grading.write(out, *cases_page.opened_file(path, against, roots), count, seed)
    else:
        if not storage.is_dir(path):
            hint = "name the workdir of a run, or an eval/*.json"
            raise ConfigError("no such file or folder", where=path, hint=hint)
        out = arguments.out or os.path.join(path, "grading.html")
        with cases_page.opened_run(path, against, roots) as (sides, library):
            key = grading.write(out, sides, library, count, seed)
    print(out)
    print(key)
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
    given = (arguments.workdir, arguments.traces, arguments.license or "unknown", roots)
    if arguments.tfds:
        from qoq_jax.report import traces_tfds  # slow to import

        found = [
            (f"tfds:{name}@{arguments.traces} {part.split}", part)
            for name, parts in traces_tfds.export(*given)
            for part in parts
        ]
    else:
        made = traces.export(*given)
        found = [(os.path.join(arguments.traces, part.path), part) for part in made]
    parts = [part for _, part in found]
    for name, part in found:
        print(f"{name}: {len(part.rows)} rows", end="")
        print(f", {part.left_out} left out that name their patient" if part.left_out else "")
    if names := traces_card.restricted(parts):
        print(f"before you pass it on, check the terms of {', '.join(names)}")
    return 0


def _root(text: str) -> tuple[str, str]:
    name, found, folder = text.partition("=")
    return (name, folder) if found else (os.path.basename(os.path.normpath(text)), text)
