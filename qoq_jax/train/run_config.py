"""WORKDIR/config.json: the config that a run was started with."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from qoq_jax.base import files, storage
from qoq_jax.base.errors import CheckpointError, ConfigError, DataError
from qoq_jax.data.answer_format import PIXELS
from qoq_jax.parallel import messages
from qoq_jax.train import config as config_lib
from qoq_jax.train.checkpoint import has_checkpoint
from qoq_jax.train.config import Config, RunSettings


def check_alike(cfg: RunSettings) -> None:
    """Checks that all processes of the run were started with the same config.

    Raises:
      ConfigError: they were not.
    """
    for index, theirs in enumerate(messages.exchange("config", config_lib.as_json(cfg))):
        changed = config_lib.differences(cfg, theirs)
        if changed or theirs["workdir"] != cfg.workdir:
            raise ConfigError(
                f"process {index} was started with another {', '.join(changed[:5]) or 'workdir'}",
                hint="start all processes of a run with the same command",
            )


def claim(cfg: RunSettings) -> bool:
    """Writes config.json and returns True, or checks that the run there was started with the same
    config.

    Raises:
      ConfigError: it was started with another one.
      CheckpointError: the file is damaged.
    """
    path = _path(cfg.workdir)
    if not storage.exists(path):
        files.write_json(path, config_lib.as_json(cfg))
        return True
    changed = config_lib.differences(cfg, _content(path))
    if changed:
        raise ConfigError(
            f"the run there was started with another {', '.join(changed[:5])}",
            where=cfg.workdir,
            hint="give the same config, or another --config.workdir",
        )
    return False


def release(workdir: str) -> None:
    """Takes the claim back, if nothing was trained: the corrected config may have the workdir."""
    if not storage.exists(os.path.join(workdir, "metrics.jsonl")):
        storage.remove(_path(workdir))


def read(workdir: str) -> Config:
    """The config of the run in `workdir`.

    Raises:
      CheckpointError: there is none, or the file is damaged.
      ConfigError: the folder is a Hugging Face model.
    """
    path = _path(workdir)
    if not storage.exists(path):
        raise CheckpointError(
            "no run here (config.json is missing)",
            where=workdir,
            hint="name the workdir of a qoq train run",
        )
    content = _content(path)
    if "model_type" in content:
        raise ConfigError(
            "this is a Hugging Face model, not a run",
            where=workdir,
            hint="train from it with --config.model.variant",
        )
    # Runs from before this field wrote pixels, whatever the family.
    model = {"box_coordinates": PIXELS} | dict(content.get("model", {}))
    return dataclasses.replace(config_lib.parse(content | {"model": model}), workdir=workdir)


def last_trained_stage(cfg: Config) -> str:
    """The last stage of a run that has a checkpoint.

    Raises:
      CheckpointError: none has.
    """
    for name in reversed(cfg.stages):
        if has_checkpoint(os.path.join(cfg.workdir, "checkpoints", name)):
            return name
    raise CheckpointError("no checkpoint", where=cfg.workdir, hint="train first")


def _path(workdir: str) -> str:
    return os.path.join(workdir, "config.json")


def _content(path: str) -> dict[str, Any]:
    try:
        return dict(files.read_json(path, finite=False))
    except (DataError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"is damaged ({type(error).__name__})",
            where=path,
            hint="delete the file and start the same qoq train command again, which writes it anew",
        ) from error
