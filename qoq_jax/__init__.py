"""qoq_jax: clinical vision-language-signal models in JAX. `qoq_jax.load` gives a model to ask,
`qoq_jax.results` the responses of an evaluation; see README.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jax

    from qoq_jax.report.results import Results
    from qoq_jax.sampling.model import Model

__all__ = ["load", "results"]


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


def results(
    path: str | os.PathLike,
    data: Mapping[str, str] | str | os.PathLike | None = None,
    split: str = "test",
) -> Results:
    """The responses of an evaluation, as cases to `.plot()` and as `.to_frame()`: see
    report/results.py.

    Args:
      path: the workdir of a run (its last evaluation of the test split), or a file: eval/*.json of
        a run, records.json of `qoq evaluate --tasks`, cells/NAME/evaluation.json of a sweep.
      data: for the media: source -> folder of rows, or the workdir of the run that read them.
      split: of the rows, where the file does not say it.
    """
    from qoq_jax.report.results import results as read_results

    return read_results(path, data, split)
