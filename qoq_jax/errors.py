"""The errors of the package under their public name, for config files and scripts of users."""

from qoq_jax.base.errors import CheckpointError, ConfigError, DataError, QoqError

__all__ = ["CheckpointError", "ConfigError", "DataError", "QoqError"]
