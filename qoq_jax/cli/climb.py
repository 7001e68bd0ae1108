"""`qoq data convert`: a data set of CLIMB, as its publisher's archives unpack, to rows."""

from __future__ import annotations

import argparse

from qoq_jax.base import storage
from qoq_jax.cli.parser import Commands, command


def add(actions: Commands) -> None:
    """Adds the action to those of `qoq data`."""
    convert = command(
        actions,
        "convert",
        _convert,
        "Write the rows of a data set of CLIMB beside its media: train.jsonl and so on.",
    )
    convert.add_argument("name", help="of the data set, or list for those that have a converter")
    convert.add_argument(
        "root", nargs="?", help="folder into which the published archives were unpacked"
    )
    convert.add_argument(
        "--seed", type=int, default=0, help="of splits, wordings and label order; default: 0"
    )


def _convert(arguments: argparse.Namespace) -> int:
    from qoq_jax.base.errors import ConfigError
    from qoq_jax.climb.catalogue import table
    from qoq_jax.climb.convert import sets, write

    if arguments.name == "list":
        for name in sets.CONVERTERS:
            row = table.find(name)
            print(f"{name:16} {row.domain:13} {', '.join(row.labels)}")
        return 0
    converter = sets.get(arguments.name)
    if arguments.root is None:
        raise ConfigError("no folder is given", hint=f"qoq data convert {converter.name} FOLDER")
    storage.check_local(arguments.root)
    report = write.convert(converter, arguments.root, arguments.seed)
    print(write.summary(report))
    return 0
