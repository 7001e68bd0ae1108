"""Hugging Face checkpoints in and out.

    cfg, params = hf.load(hf.resolve("Qwen/Qwen2.5-VL-7B-Instruct"), mesh, dtype="float32")
    hf.save("out", cfg, params, source=directory)

Modules: `config` (config.json <-> VlmConfig, the registry of architectures), `keys` (names and
layouts of
published tensors), `template` (chat templates), `files` (safetensors: headers, reading, writing),
`load`, `save`, `ecg_jepa` (.pth files of ECG-JEPA, the one place that reads pickles, with
weights_only) and `convert` (the command `qoq convert`).
"""

from qoq_jax.hf.load import from_tensors, load, read_config, resolve
from qoq_jax.hf.save import save, to_tensors

__all__ = ["from_tensors", "load", "read_config", "resolve", "save", "to_tensors"]
