"""qoq_jax: clinical vision-language-signal models in JAX. `qoq_jax.load` gives a model to ask; see
README.md.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jax

    from qoq_jax.sampling.model import Model

__all__ = ["load"]


def load(
    source: str | os.PathLike, mesh: jax.sharding.Mesh | None = None, dtype: Any = None
) -> Model:
    """A model with `.logits(samples)` and `.generate(samples, ...)`: see sampling/model.py.

    Args:
      source: a Hugging Face directory or hub id, the workdir of a training run, or a variant's name
        (random weights).
      mesh: the device mesh that weights are sharded over; None = one device.
      dtype: "float32" or "bfloat16"; None = as stored.
    """
    from qoq_jax.train.load import load as load_model  # here: `import qoq_jax` stays light

    return load_model(source, mesh, dtype)
