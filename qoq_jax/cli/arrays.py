"""`qoq data arrays`: a data set that trains encoders, published or made up, as shards of arrays."""

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
    arrays.add_argument("name", help="of the data set, or list for those that there are")
    arrays.add_argument(
        "root",
        nargs="?",
        help="folder into which the published archives were unpacked; of a made-up set, the folder "
        "to write",
    )
    arrays.add_argument("out", nargs="?", default="", help="folder to write; default: ROOT/arrays")
    arrays.add_argument("--seed", type=int, default=0, help="of splits by patient; default: 0")
    arrays.add_argument(
        "--patients", type=int, default=0, help="of a made-up set; default: as docs/arrays.md says"
    )


def _arrays(arguments: argparse.Namespace) -> int:
    from qoq_jax.base import storage
    from qoq_jax.base.errors import ConfigError
    from qoq_jax.climb.arrays import sets, write
    from qoq_jax.climb.mini import array_sets

    if arguments.name == "list":
        for form in (*sets.READERS.values(), *(one.form for one in array_sets.SETS.values())):
            arrays = "; ".join(
                f"{name} {array.dtype} [{', '.join(map(str, array.axes))}]"
                for name, array in form.arrays.items()
            )
            print(f"{form.name:17} {arrays}")
        return 0
    made_up = arguments.name in array_sets.SETS
    if not made_up:
        sets.get(arguments.name)
    if arguments.root is None:
        raise ConfigError("no folder is given", hint=f"qoq data arrays {arguments.name} FOLDER")
    if made_up:
        if arguments.out:
            raise ConfigError(
                f"{arguments.name} is made up and read from nowhere", hint="give one folder"
            )
        storage.check_local(arguments.root)
        report = array_sets.build(
            arguments.name, arguments.root, arguments.patients, arguments.seed
        )
    elif arguments.patients:
        raise ConfigError("--patients is for made-up sets", hint=", ".join(array_sets.SETS))
    else:
        report = write.write(arguments.name, arguments.root, arguments.out, arguments.seed)
    print(write.summary(report))
    return 0
