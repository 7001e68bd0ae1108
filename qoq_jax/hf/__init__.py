"""Hugging Face checkpoints in and out.

    cfg, params = hf.load(hf.resolve("Qwen/Qwen2.5-VL-7B-Instruct"), mesh, dtype="float32")
    hf.save("out", cfg, params, source=directory)

Modules: `config` (config.json <-> VlmConfig) with `fields` (the forms that are read) and
`architectures` (the registry), `names` (names and layouts of published tensors), `template` (chat
templates), `safetensors` (headers, reading, writing), `fp8` (8-bit weights), `adapter` (PEFT
directories), `hub` (downloads), `load`, `save`, and `ecg` (files of ECG-JEPA, the one place that
reads pickles, with weights_only).
"""

import os

# transformers says at every import that PyTorch is missing; what is used of it here needs none
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

from qoq_jax.hf.adapter import find
from qoq_jax.hf.hub import resolve
from qoq_jax.hf.load import from_tensors, load, read_config
from qoq_jax.hf.save import save, to_tensors

__all__ = ["find", "from_tensors", "load", "read_config", "resolve", "save", "to_tensors"]
