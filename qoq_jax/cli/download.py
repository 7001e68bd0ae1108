"""`qoq data download`: a data set of the catalogue onto the disk."""

from __future__ import annotations

import argparse
import pathlib

from qoq_jax.base import storage
from qoq_jax.cli.parser import Commands, command


def add(actions: Commands) -> None:
    """Adds the command to those of `qoq data`."""
    parser = command(
        actions, "download", _run, "Get a data set of the catalogue, or check what is there of it."
    )
    parser.add_argument("name", metavar="NAME", help="in the catalogue")
    parser.add_argument("--root", required=True, metavar="DIR", help="folder of the data set")
    parser.add_argument(
        "--files",
        nargs="+",
        default=(),
        metavar="GLOB",
        help="only files of the host that fit a pattern, as 'training/*'; default: all",
    )
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--dry-run",
        action="store_true",
        help="say files, bytes, licence, where logins are looked for and free disk; get nothing",
    )
    other.add_argument(
        "--check", action="store_true", help="say whether the folder is complete; get nothing"
    )


def _run(arguments: argparse.Namespace) -> int:
    from qoq_jax.climb.access import access, check, get

    storage.check_local(arguments.root)
    found = access.access_of(arguments.name)
    root = pathlib.Path(arguments.root)
    if arguments.check:
        check.check(found, root)
    elif arguments.dry_run:
        get.dry_run(found, root, arguments.files)
    else:
        get.download(found, root, arguments.files)
    return 0
