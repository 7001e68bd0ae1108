"""What config files import: `config = config.default()`, then one assignment per line.

The sections stand beside what they configure; train/config.py composes them.
"""

from qoq_jax.train.config import default

__all__ = ["default"]
