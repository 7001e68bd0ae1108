"""Weights of an encoder that was trained here: one safetensors file, its arrays named by their
paths; of ECG-JEPA by its own names, so that `model.ecg_weights` takes the file too.
"""

from __future__ import annotations

import os
from typing import Any

import jax
import numpy as np

from qoq_jax.base import storage
from qoq_jax.base.errors import CheckpointError, ConfigError
from qoq_jax.base.files import replacing
from qoq_jax.climb.mini import ecg_set
from qoq_jax.hf import ecg as ecg_files
from qoq_jax.hf import encoders as published
from qoq_jax.models import spec
from qoq_jax.models.encoders.encoder import Encoder, Params
from qoq_jax.models.sizes import EcgConfig

FILE = "encoder.safetensors"  # in the workdir of a run
_NAME = "qoq_jax encoder"  # in the file's metadata


def save(encoder: Encoder, path: str, params: Params) -> None:
    """Writes the encoder's weights, float32, on one process alone."""
    from safetensors.numpy import save_file

    if _is_jepa(encoder):
        ecg_files.save(path, {"encoder": params}, encoder.cfg)
        return
    flat = {
        name: np.ascontiguousarray(np.asarray(one, np.float32))
        for name, one in spec.flatten(params).items()
    }
    with replacing(path) as partial:
        save_file(flat, partial, {_NAME: encoder.name})


def load_encoder(encoder: Encoder, path: str) -> Params:
    """Weights of an encoder, float32 on the host.

    Args:
      path: what `save` wrote, or the workdir of a run that did; a published file
        (hf/encoders.py); for ECG-JEPA also its own file, or "climb-mini", that of the package.

    Raises:
      CheckpointError: the file cannot be read, is not of this encoder, or has weights that are not
        finite.
      ConfigError: "climb-mini" for another encoder than ecg_jepa_nano.
    """
    if path == ecg_set.WEIGHTS_NAME:
        if encoder.name != "ecg_jepa_nano":
            raise ConfigError(
                f"{path!r} has weights of ecg_jepa_nano, not of {encoder.name}",
                hint="name a file, or the workdir of a run",
            )
        path = ecg_set.WEIGHTS
    elif storage.exists(os.path.join(path, FILE)):
        path = os.path.join(path, FILE)
    name, arrays = _own(path)
    if name is None and not _is_jepa(encoder):
        return _checked(published.load(encoder, path, dtype=np.float32), path)
    if name is None:
        arrays = spec.flatten(ecg_files.load(path, encoder.cfg.num_heads)[0]["encoder"])
    specs = spec.flatten(encoder.param_specs(encoder.cfg))
    shapes = {key: one.shape for key, one in specs.items()}
    if name not in (None, encoder.name) or shapes != {k: one.shape for k, one in arrays.items()}:
        raise CheckpointError(
            f"has weights of {name or 'another size'}, not of {encoder.name}",
            where=path,
            hint="name their encoder",
        )
    return _checked(spec.unflatten(arrays), path)


def _checked(params: Params, path: str) -> Params:
    """The weights in float32, as random ones are, all of them finite."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float32), params)
    if bad := [name for name, x in spec.flatten(params).items() if not np.isfinite(x).all()]:
        raise CheckpointError(
            f"weights that are not finite: {', '.join(bad)}", where=path, hint="give another file"
        )
    return params


def _is_jepa(encoder: Encoder) -> bool:
    return isinstance(encoder.cfg, EcgConfig)


def _own(path: str) -> tuple[str | None, dict[str, Any]]:
    """(encoder, arrays) of a file that `save` wrote; (None, {}) of any other."""
    from safetensors import SafetensorError, safe_open

    if not os.path.isfile(path):
        return None, {}  # whose error is that of the published weights
    try:
        with safe_open(storage.local(path), "numpy") as file:
            name = (file.metadata() or {}).get(_NAME)
            names = file.keys() if name else ()
            return name, {key: file.get_tensor(key) for key in names}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"not read ({error})", where=path, hint="give a safetensors file"
        ) from error
