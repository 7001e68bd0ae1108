"""Which data sets are read as arrays, by their name in the catalogue."""

from __future__ import annotations

from qoq_jax.base.errors import ConfigError, did_you_mean
from qoq_jax.climb.arrays import connectomes, eeg, expression, gait, molecules
from qoq_jax.climb.arrays.record import Reader

READERS: dict[str, Reader] = {
    reader.name: reader
    for module in (eeg, connectomes, molecules, gait, expression)
    for reader in module.READERS
}


def get(name: str) -> Reader:
    """The reader of a data set.

    Raises:
      ConfigError: it has none.
    """
    if name not in READERS:
        raise ConfigError(
            f"no reader of arrays for {name!r}",
            hint=did_you_mean(name, READERS, f"there are {', '.join(READERS)}"),
        )
    return READERS[name]
