"""Hugging Face directories for tests: config.json of a tiny Qwen3-VL, edits, tensors in files."""

from __future__ import annotations

import json
import shutil

import numpy as np

from qoq_jax.hf import safetensors as files
from qoq_jax.models import spec

# config.json in the form of Qwen/Qwen3-VL-4B-Instruct, of the tiny model in golden/qwen3_tiny.npz.
QWEN3_TEXT = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 110,
    "dtype": "float16",
    "eos_token_id": 111,
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_size": 48,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
    "model_type": "qwen3_vl_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 5000000,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 128,
    "rope_scaling": {"mrope_interleaved": True, "mrope_section": [4, 2, 2], "rope_type": "default"},
}
QWEN3_TOWER = {
    "deepstack_visual_indexes": [0, 2],
    "depth": 4,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 32,
    "in_channels": 3,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "model_type": "qwen3_vl",
    "num_heads": 2,
    "num_position_embeddings": 36,
    "out_hidden_size": 48,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
QWEN3 = {
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "model_type": "qwen3_vl",
    "image_token_id": 120,
    "video_token_id": 121,
    "vision_start_token_id": 122,
    "vision_end_token_id": 123,
    "tie_word_embeddings": False,
    "text_config": QWEN3_TEXT,
    "vision_config": QWEN3_TOWER,
    "transformers_version": "4.57.0",
}


def same(a, b):
    """Bit-equal trees of equal structure and dtypes."""
    a, b = spec.flatten(a), spec.flatten(b)
    assert a.keys() == b.keys()
    for path in a:
        assert a[path].dtype == b[path].dtype, path
        np.testing.assert_array_equal(np.asarray(a[path]), np.asarray(b[path]), err_msg=path)


def edited(published, tmp_path, tensors=None, **fields):
    """A copy of a directory with other tensors (one file) and other fields of config.json; None
    removes a field.
    """
    directory = tmp_path / "edited"
    shutil.copytree(published, directory)
    content = json.loads((directory / "config.json").read_text())
    content = {name: value for name, value in {**content, **fields}.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(content))
    if tensors is not None:
        for old in [*directory.glob("*.safetensors"), directory / files.INDEX]:
            old.unlink(missing_ok=True)
        write(directory / files.SINGLE, tensors)
    return str(directory)


def write(path, tensors):
    files.write(
        str(path),
        {name: (files.dtype_name(x.dtype), x.shape) for name, x in tensors.items()},
        tensors.values(),
    )


def arrays(directory):
    return {
        name: np.array(tensor.map()) for name, tensor in files.open_directory(directory).items()
    }
