"""`qoq grade`: what the graders of a sheet found (`qoq report --grading`), unblinded."""

from __future__ import annotations

import argparse

from qoq_jax.cli.parser import Commands, command


def add(commands: Commands) -> None:
    """Adds the command to the parser of `qoq`."""
    grade = command(
        commands,
        "grade",
        run,
        "Unblind a grading sheet: wins of each evaluation, means of each question, and how far the "
        "graders agree.",
    )
    grade.add_argument("key", help="the sheet's -key.json (qoq report --grading)")
    grade.add_argument("answers", nargs="+", help="what each grader downloaded from the sheet")
    grade.add_argument("--out", help="write the same as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Prints the tables."""
    from qoq_jax.base import terminal
    from qoq_jax.evaluation import grades

    found = grades.summary(*grades.read(arguments.key, arguments.answers))
    wins = found["wins"]
    first, second = found["evaluations"]
    print(f"first: {first}; second: {second}")
    print(f"{len(found['graders'])} graders, {found['rows']} rows, {wins['judgements']} judgements")
    cells = [
        [name, _number(wins[name]), _interval(wins[f"{name}_interval"])]
        for name in ("first", "second", "same")
    ]
    tables = [("Which is better", ("better", "share", "95 %"), cells)]
    cells = [
        [
            name,
            *map(_number, (one["first"], one["second"])),
            _number(one["difference"], "+"),
            _interval(one["interval"], "+"),
        ]
        for name, one in found["questions"].items()
    ]
    columns = ("question", "first", "second", "difference", "95 %")
    tables.append(("Means (share of yes, or 1 to 5)", columns, cells))
    if len(found["graders"]) > 1:
        kind = "cohen" if len(found["graders"]) == 2 else "fleiss"
        cells = [
            [name, str(one["units"]), _number(one[kind]), _number(one["alpha"]), one["level"]]
            for name, one in found["agreement"].items()
        ]
        columns = ("question", "units", f"{kind} kappa", "Krippendorff alpha", "level")
        tables.append(("Agreement of graders", columns, cells))
    for title, names, lines in tables:
        plain = (title, "  ".join(names), *map("  ".join, lines))
        terminal.table(title, names, lines, plain=plain)
    if arguments.out:
        grades.write(arguments.out, found)
        print(arguments.out)
    return 0


def _number(value: float | None, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.3f}"


def _interval(values: list[float], sign: str = "") -> str:
    return " to ".join(_number(value, sign) for value in values) or "–"
