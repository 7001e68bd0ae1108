"""`qoq data list`, `info` and `licences`: what is in CLIMB, and who may use it."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence

from qoq_jax.base import terminal
from qoq_jax.cli.parser import Commands, command


def add(actions: Commands) -> None:
    """Adds the commands to those of `qoq data`."""
    listing = command(actions, "list", _list, "List the data sets of CLIMB.")
    _add_filters(listing)
    listing.add_argument(
        "--licence",
        default="",
        metavar="WORD",
        help="commercial or redistribution: only what certainly allows it; or an identifier",
    )
    form = listing.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="every field, as JSON")
    form.add_argument("--csv", action="store_true", help="every field, as CSV")
    info = command(actions, "info", _info, "Say everything about one data set.")
    info.add_argument("name", metavar="NAME", help="as qoq data list has it")
    info.add_argument("--json", action="store_true", help="every field, as JSON")
    _add_filters(
        command(
            actions,
            "licences",
            _licences,
            "Say which data sets may train a model that is sold, and why.",
        )
    )


def _add_filters(parser: argparse.ArgumentParser) -> None:
    for name, text in (
        ("domain", "only these domains, as ct,mri"),
        ("access", "only these kinds of access, or open, login, physionet, kaggle"),
        ("modality", "only what has this in its modality, as video"),
    ):
        parser.add_argument(f"--{name}", default="", metavar="WORD", help=text)
    parser.add_argument(
        "--qoq-med", action="store_true", help="only QoQ-Med's thirty classification sets"
    )
    parser.add_argument(
        "--companions",
        action="store_true",
        help="also what CLIMB's sets need and it does not list, as mimic-iv-ecg",
    )


def _selected(arguments: argparse.Namespace, licence: str = "") -> tuple:
    from qoq_jax.climb.catalogue.select import Filter, select

    return select(
        Filter(
            domain=arguments.domain,
            access=arguments.access,
            modality=arguments.modality,
            licence=licence,
            qoq_med=arguments.qoq_med,
            companions=arguments.companions,
        )
    )


def _list(arguments: argparse.Namespace) -> int:
    from qoq_jax.climb.catalogue import show

    rows = _selected(arguments, arguments.licence)
    if arguments.json or arguments.csv:
        print(show.to_json(rows) if arguments.json else show.to_csv(rows))
        return 0
    columns, lines = show.COLUMNS, [show.cells(row) for row in rows]
    if terminal.is_terminal():
        columns, lines = show.fitting(columns, lines, shutil.get_terminal_size().columns)
    _table("Data sets of CLIMB", columns, lines)
    if len(columns) < len(show.COLUMNS):
        left_out = [name for name in show.COLUMNS if name not in columns]
        print(f"left out for want of room: {', '.join(left_out)}; --csv has all")
    print(f"\n{len(rows)} data sets, {sum(row.records or 0 for row in rows):,} records.")
    if not all(row.adds_up for row in rows):
        print("* train and test of the paper do not add up to its total: qoq data info NAME")
    print("commercial: whether it may train a model that is sold; why: qoq data licences")
    return 0


def _info(arguments: argparse.Namespace) -> int:
    from qoq_jax.climb.catalogue import show, table

    row = table.find(arguments.name)
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    print(show.to_json([row]) if arguments.json else show.page(row, width))
    return 0


def _licences(arguments: argparse.Namespace) -> int:
    from qoq_jax.climb.catalogue import show

    order = ("yes", "ask", "no")
    lines = sorted(map(show.licence_cells, _selected(arguments)), key=lambda c: order.index(c[2]))
    _table("Licences", show.LICENCE_COLUMNS, lines)
    counts = {answer: sum(cells[2] == answer for cells in lines) for answer in order}
    print(
        f"\n{counts['yes']} may train a model that is sold, {counts['no']} may not, "
        f"{counts['ask']} only if their owners agree."
    )
    print("(SA): copies and what is derived carry the same licence.")
    print("This is how we read the licences, no legal advice; each set's own terms decide.")
    return 0


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:

    if rows:
        terminal.table(title, columns, rows, terminal.aligned(columns, rows))
