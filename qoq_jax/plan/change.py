"""Changes of a config by dotted names, as on the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from qoq_jax.train.config import Config

Changes = Mapping[str, Any]  # {"mesh.fsdp": 16}


def changed(cfg: Config, changes: Changes) -> Config:
    """The config with some fields changed."""
    for name, value in changes.items():
        cfg = _with(cfg, name.split("."), value)
    return cfg


def overrides(changes: Changes) -> str:
    """The changes as the command line takes them."""
    return " ".join(f"--config.{name}={_text(value)}" for name, value in changes.items())


def _with(section: Any, names: list[str], value: Any) -> Any:
    name, *rest = names
    new = _with(getattr(section, name), rest, value) if rest else value
    return dataclasses.replace(section, **{name: new})


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
