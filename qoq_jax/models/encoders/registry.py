"""The encoders by name. To add one: a file with a tuple `ENCODERS`, and its row here."""

from __future__ import annotations

from qoq_jax.base.errors import ConfigError, did_you_mean
from qoq_jax.models.encoders import ecg
from qoq_jax.models.encoders.encoder import Encoder

_FILES: tuple[tuple[Encoder, ...], ...] = (ecg.ENCODERS,)
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
