"""`qoq compare`: two runs, or two stages of one, on the rows that both have answered."""

from __future__ import annotations

import argparse
import os

from qoq_jax.cli.parser import Commands, command


def add(commands: Commands) -> None:
    """Adds the command to the parser of `qoq`."""
    compare = command(
        commands,
        "compare",
        run,
        "Compare two evaluations of the same rows: macro-F1 by domain, paired intervals, McNemar.",
    )
    for name in ("first", "second"):
        compare.add_argument(
            name, help="workdir of a run (its last evaluation of the test split), or an eval/*.json"
        )


def run(arguments: argparse.Namespace) -> int:
    """Prints the table."""
    from qoq_jax.base import files, storage, terminal
    from qoq_jax.base.errors import DataError
    from qoq_jax.evaluation.compare import compare

    def records(path: str) -> list[dict]:
        if not storage.is_dir(path):
            return files.read_json(path, finite=False, hint="name an eval/*.json")["records"]
        for stage in ("rl", "align", "sft"):
            file = os.path.join(path, "eval", f"{stage}.json")
            if storage.is_file(file):
                return files.read_json(file, finite=False, hint="run the evaluation again")[
                    "records"
                ]
        raise DataError(
            "no evaluation of the test split is there", where=path, hint=f"qoq evaluate {path}"
        )

    rows = compare(records(arguments.first), records(arguments.second))
    cells, lines = [], []
    for row in rows:
        low, high = row["interval"]
        cells.append(
            [
                row["name"],
                str(row["count"]),
                f"{row['first']:.3f}",
                f"{row['second']:.3f}",
                f"{row['gain']:+.3f}",
                f"{low:+.3f} to {high:+.3f}",
                f"{row['won']} / {row['lost']}",
                f"{row['p']:.2g}",
            ]
        )
        lines.append("  ".join(cells[-1]))
    columns = ("domain", "rows", "first", "second", "gain", "95 %", "won / lost", "p")
    title = f"macro-F1, {arguments.first} -> {arguments.second}"
    terminal.table(title, columns, cells, plain=(title, "  ".join(columns), *lines))
    return 0
