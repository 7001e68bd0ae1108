"""`qoq compare`: two runs, or two stages of one, on the rows that both have answered."""

from __future__ import annotations

import argparse

from qoq_jax.cli.parser import Commands, command

_NOTE = """\
95 %: of the gain, bootstrap over patients. won/lost: rows that the second
alone or the first alone has right. p: of these, exchanging the two by patient
(McNemar's exact test with one row each); not corrected for several domains."""


def add(commands: Commands) -> None:
    """Adds the command to the parser of `qoq`."""
    compare = command(
        commands,
        "compare",
        run,
        "Compare two evaluations of the same rows: macro-F1 by domain, intervals by patient, a "
        "paired test.",
    )
    for name in ("first", "second"):
        compare.add_argument(
            name, help="workdir of a run (its last evaluation of the test split), or an eval/*.json"
        )


def run(arguments: argparse.Namespace) -> int:
    """Prints the table."""
    from qoq_jax.base import terminal
    from qoq_jax.evaluation import saved
    from qoq_jax.evaluation.compare import compare

    sides = [saved.read(path)["records"] for path in (arguments.first, arguments.second)]
    rows = compare(*sides)
    left_out = [len(side) - rows[0]["count"] for side in sides]
    cells = [
        [
            row["name"],
            str(row["count"]),
            str(row["patients"]),
            f"{row['first']:.3f}",
            f"{row['second']:.3f}",
            f"{row['gain']:+.3f}",
            "{:+.3f} to {:+.3f}".format(*row["interval"]),
            f"{row['won']}/{row['lost']}",
            "<0.001" if row["p"] < 0.001 else f"{row['p']:.3f}",
        ]
        for row in rows
    ]
    columns = ("domain", "rows", "patients", "first", "second", "gain", "95 %", "won/lost", "p")
    title = f"macro-F1, {arguments.first} -> {arguments.second}"
    terminal.table(title, columns, cells, plain=(title, *terminal.aligned(columns, cells)))
    print(_NOTE)
    if any(left_out):
        print(f"rows that only one of them has, left out: {left_out[0]} and {left_out[1]}")
    return 0
