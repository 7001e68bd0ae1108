"""The Apache Beam pipeline that writes shards: one element per shard, so nothing is shuffled.

The runner decides where the work is done: DirectRunner in this process, or Flink, Spark or Dataflow
on many machines, which all see the two folders (a shared file system, or URLs).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from qoq_jax.base import files, storage
from qoq_jax.base.errors import ConfigError, QoqError
from qoq_jax.climb.shards import plan, write
from qoq_jax.data import shards

DIRECT = "DirectRunner"


def run(
    root: str,
    out: str,
    shard_bytes: int = 256 << 20,
    runner: str = DIRECT,
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """Makes the shards of a folder of rows and media; returns the manifest.

    What an earlier call with the same rows has finished is kept.

    Args:
      root: folder with {split}.jsonl and the media.
      out: folder of the shards; it gets copies of the row files.
      shard_bytes: media of a shard.
      runner, options: of Beam, as ("--direct_num_workers=8",).

    Raises:
      DataError: a medium cannot be read; the other shards are written all the same.
      ConfigError: Beam is not installed or does not know the runner or an option.
    """
    beam = _beam()
    tasks = plan.plan(root, out, shard_bytes)
    todo = [task for task in tasks if not write.is_done(task, out)]
    manifest = files.read_json(os.path.join(out, shards.MANIFEST), missing=None)
    if not todo and manifest and len(manifest["shards"]) == len(tasks):
        return manifest
    if manifest is not None:  # of other rows: until the end there is none that holds
        storage.remove(os.path.join(out, shards.MANIFEST))
    if todo:
        pipeline = _pipeline(beam, runner, options)
        elements = [dataclasses.asdict(task) for task in todo]
        _ = pipeline | beam.Create(elements) | beam.Reshuffle() | beam.Map(_shard, root, out)
        pipeline.run().wait_until_finish()
    return write.finish(tasks, out)


def _shard(task: dict[str, Any], root: str, out: str) -> str:
    return write.shard(plan.Task(**task), root, out)


def _beam() -> Any:
    try:
        import apache_beam
    except ImportError:
        raise ConfigError(
            "shards are made with Apache Beam, which is not installed",
            hint='pip install "qoq_jax[beam]"',
        ) from None
    return apache_beam


def _pipeline(beam: Any, runner: str, options: Sequence[str]) -> Any:
    from apache_beam.options.pipeline_options import PipelineOptions

    try:
        return beam.Pipeline(options=PipelineOptions([f"--runner={runner}", *options]))
    except QoqError:
        raise
    except Exception as error:  # each runner checks its options in its own way
        raise ConfigError(
            f"Beam refuses the runner {runner!r} or its options ({str(error)[:120]})",
            hint="see the page of the runner in Beam's documentation",
        ) from None
