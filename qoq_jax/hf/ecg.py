"""ECG-JEPA's original .pth files -> safetensors with the same names. The only place that reads
pickles.

A published file is {"encoder": state dict, "epoch": ...}; "predictor" is read too. torch (the extra
`parity`) reads it with weights_only=True, which builds tensors and nothing else.
"""

from __future__ import annotations

import os
import pickle

import numpy as np

from qoq_jax.base.errors import CheckpointError, ConfigError
from qoq_jax.base.files import replacing
from qoq_jax.hf import safetensors as files
from qoq_jax.models.encoders import ecg

PARTS = ("encoder", "predictor")


def convert(source: str, path: str) -> None:
    """Writes the safetensors file that `models.ecg.load` reads, float32.

    Raises:
      ConfigError: torch is not installed. CheckpointError: not a file of ECG-JEPA, or it is
        incomplete.
    """
    if os.path.exists(path):
        raise CheckpointError("already exists", where=path, hint="name a new file")
    tensors = _read(source)
    plan = {
        name: (files.dtype_name(tensor.dtype), tensor.shape)
        for name, tensor in sorted(tensors.items())
    }
    try:
        with replacing(path) as partial:
            files.write(partial, plan, (tensors[name] for name in plan))
            # complete, and of one width; the number of heads changes no shape
            ecg.load(partial, num_heads=1)
    except CheckpointError as error:
        raise CheckpointError(
            error.what, where=source, hint="give a checkpoint of ECG-JEPA with sin-cos positions"
        ) from error


def _read(source: str) -> dict[str, np.ndarray]:
    """{"encoder.W_P.weight": float32 array, ...} of a .pth file."""
    try:
        import torch
    except ImportError as error:
        raise ConfigError(
            "torch is not installed", where=source, hint="pip install -e '.[parity]'"
        ) from error
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own words recommend to load it all the same
        raise CheckpointError(
            "it is damaged, or holds more than tensors", where=source, hint="give a file of tensors"
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"not read ({reason})", where=source, hint="give a file of tensors"
        ) from error
    found = {}
    for part in PARTS:
        state = content.get(part) if isinstance(content, dict) else None
        for name, tensor in (state or {}).items():
            if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
                raise CheckpointError(
                    f"{part}.{name} is no weight",
                    where=source,
                    hint="give a checkpoint of ECG-JEPA",
                )
            found[f"{part}.{name}"] = tensor.detach().to(torch.float32).contiguous().numpy()
    return found
