"""`qoq data arrays`: a data set that trains encoders to shards of arrays."""

from __future__ import annotations

import argparse

from qoq_jax.cli.parser import Commands, command


def add(actions: Commands) -> None:
    """Adds the action to those of `qoq data`."""
    arrays = command(
        actions,
        "arrays",
        _arrays,
        "Write a data set of EEG, graphs, inertial sensors or gene expression as shards of arrays.",
    )
    arrays.add_argument("name", help="of the data set, or list for those that have a reader")
    arrays.add_argument(
        "root", nargs="?", help="folder into which the published archives were unpacked"
    )
    arrays.add_argument("out", nargs="?", default="", help="folder to write; default: ROOT/arrays")
    arrays.add_argument("--seed", type=int, default=0, help="of splits by patient; default: 0")


def _arrays(arguments: argparse.Namespace) -> int:
    from qoq_jax.base.errors import ConfigError
    from qoq_jax.climb.arrays import sets, write

    if arguments.name == "list":
        for reader in sets.READERS.values():
            arrays = "; ".join(
                f"{name} {form.dtype} [{', '.join(map(str, form.axes))}]"
                for name, form in reader.arrays.items()
            )
            print(f"{reader.name:17} {arrays}")
        return 0
    reader = sets.get(arguments.name)
    if arguments.root is None:
        raise ConfigError("no folder is given", hint=f"qoq data arrays {reader.name} FOLDER")
    report = write.write(reader.name, arguments.root, arguments.out, arguments.seed)
    print(write.summary(report))
    return 0
