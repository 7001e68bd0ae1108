"""`qoq data shards`: a folder of rows and media to ArrayRecord shards."""

from __future__ import annotations

import argparse
import shlex

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
        "--runner", default="DirectRunner", help="of Beam, as DataflowRunner; default: DirectRunner"
    )
    parser.add_argument(
        "--runner-options",
        default="",
        metavar="TEXT",
        help="for the runner: '--direct_num_workers=8 --direct_running_mode=multi_processing'",
    )


def _run(arguments: argparse.Namespace) -> int:
    from qoq_jax.climb.shards import pipeline

    manifest = pipeline.run(
        arguments.root,
        arguments.out,
        shard_bytes(arguments.shard_size),
        arguments.runner,
        shlex.split(arguments.runner_options),
    )
    shards = manifest["shards"]
    records, size = (sum(one[key] for one in shards) for key in ("records", "bytes"))
    print(f"{arguments.out}: {records:,} rows in {len(shards)} shards, {size / 1e6:,.1f} MB")
    return 0
