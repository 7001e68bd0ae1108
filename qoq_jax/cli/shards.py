"""`qoq data shards` and `qoq data tfds`: a folder of rows and media to ArrayRecord files."""

from __future__ import annotations

import argparse

from qoq_jax.cli import beam
from qoq_jax.cli.parser import Commands, command, shard_bytes


def add(actions: Commands) -> None:
    """Adds the command to those of `qoq data`."""
    parser = command(
        actions,
        "shards",
        _run,
        "Write a data set as ArrayRecord shards with the media inside, by Apache Beam.",
    )
    parser.add_argument("root", help="folder with train.jsonl and so on, and the media")
    parser.add_argument("out", help="folder of the shards; finished ones in it are kept")
    parser.add_argument(
        "--shard-size", default="256MB", metavar="SIZE", help="media per shard; default: 256MB"
    )
    parser.add_argument(
        "--frames",
        type=int,
        default=4,
        help="frames of an interval of a video, as training reads; default: 4",
    )
    beam.add(parser, "DirectRunner", "DirectRunner")
    tfds = command(
        actions, "tfds", _tfds, "Prepare a data set for tensorflow-datasets, as ArrayRecord files."
    )
    tfds.add_argument("root", help="folder with train.jsonl and so on, and the media")
    tfds.add_argument("data_dir", help="of tensorflow-datasets")
    tfds.add_argument("--name", default="", help="default: that of the folder")


def _run(arguments: argparse.Namespace) -> int:
    from qoq_jax.climb.shards import pipeline

    manifest = pipeline.run(
        arguments.root,
        arguments.out,
        shard_bytes(arguments.shard_size),
        arguments.frames,
        arguments.runner,
        beam.options(arguments),
    )
    shards = manifest["shards"]
    records, size = (sum(one[key] for one in shards) for key in ("records", "bytes"))
    print(f"{arguments.out}: {records:,} rows in {len(shards)} shards, {size / 1e6:,.1f} MB")
    return 0


def _tfds(arguments: argparse.Namespace) -> int:
    from qoq_jax.climb import tfds_builder

    out = tfds_builder.prepare(arguments.root, arguments.data_dir, arguments.name)
    name = out.rstrip("/").split("/")[-2]
    print(f"{out}: data.extra = tfds:{tfds_builder.NAME}/{name}@{arguments.data_dir}")
    return 0
