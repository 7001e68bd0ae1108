"""The pipeline that writes shards: one task per shard (climb/pipeline.py)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from qoq_jax.base import files, storage
from qoq_jax.climb import pipeline
from qoq_jax.climb.shards import plan, write
from qoq_jax.data import shards


def run(
    root: str,
    out: str,
    shard_bytes: int = 256 << 20,
    frames: int = 4,
    runner: str = pipeline.DIRECT,
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """Makes the shards of a folder of rows and media; returns the manifest.

    What an earlier call with the same rows has finished is kept.

    Args:
      root: folder with {split}.jsonl and the media.
      out: folder of the shards; it gets copies of the row files.
      shard_bytes: media of a shard.
      frames: of an interval of a video, as the runs to come read (4; data.frames of encoders).
      runner, options: of Beam, as ("--direct_num_workers=8",).

    Raises:
      DataError: a medium cannot be read; the other shards are written all the same.
      ConfigError: Beam is not installed or does not know the runner or an option.
    """
    make = pipeline.beam(runner, options)
    tasks = plan.plan(root, out, shard_bytes, frames)
    todo = [task for task in tasks if not write.is_done(task, out)]
    manifest = files.read_json(os.path.join(out, shards.MANIFEST), missing=None)
    if not todo and manifest and len(manifest["shards"]) == len(tasks):
        return manifest
    if manifest is not None:  # of other rows: until the end there is none that holds
        storage.remove(os.path.join(out, shards.MANIFEST))
    make(_shard, [dataclasses.asdict(task) for task in todo], root, out)
    return write.finish(tasks, out)


def _shard(task: dict[str, Any], root: str, out: str) -> str:
    return write.shard(plan.Task(**task), root, out)
