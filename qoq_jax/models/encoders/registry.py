"""The encoders by name. To add one: a file with a tuple `ENCODERS`, and its row here."""

from __future__ import annotations

from qoq_jax.base.errors import ConfigError, did_you_mean
from qoq_jax.models.encoders import (
    biot,
    convnextv2,
    ecg,
    eva02,
    expression,
    gat,
    gcn,
    graph_transformer,
    labram,
    motion,
    swinv2,
    units,
    vit,
)
from qoq_jax.models.encoders.encoder import Encoder

_FILES: tuple[tuple[Encoder, ...], ...] = (
    convnextv2.ENCODERS,
    vit.ENCODERS,
    swinv2.ENCODERS,
    eva02.ENCODERS,
    ecg.ENCODERS,
    units.ENCODERS,
    biot.ENCODERS,
    labram.ENCODERS,
    gcn.ENCODERS,
    gat.ENCODERS,
    graph_transformer.ENCODERS,
    motion.ENCODERS,
    expression.ENCODERS,
)
ENCODERS: dict[str, Encoder] = {one.name: one for rows in _FILES for one in rows}


def get(name: str) -> Encoder:
    """The encoder of that name.

    Raises:
      ConfigError: there is none.
    """
    if name not in ENCODERS:
        hint = did_you_mean(name, ENCODERS)
        raise ConfigError(f"there is no encoder {name!r}", where="encoder", hint=hint)
    return ENCODERS[name]
