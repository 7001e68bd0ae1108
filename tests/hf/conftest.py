"""Directories as the hub has them."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from helpers.checkpoints import QWEN3, write
from helpers.models import TINY, random_params

from qoq_jax import hf
from qoq_jax.hf import config
from qoq_jax.hf import names as keys
from qoq_jax.hf import safetensors as files

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
SHARD = 60_000  # bytes: a dozen files


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The tiny model with its ECG encoder, written in several files."""
    directory = str(tmp_path_factory.mktemp("hf") / "tiny")
    hf.save(directory, TINY, random_params(), shard_size=SHARD)
    return directory


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    """The tiny Qwen3-VL as the hub has it."""
    directory = tmp_path_factory.mktemp("qwen3")
    with np.load(GOLDEN / "qwen3_tiny.npz") as golden:
        tensors = {
            keys.transformers_5(name.removeprefix("weight:")): x
            for name, x in golden.items()
            if name.startswith("weight:")
        }
    assert {
        "model.language_model.layers.2.self_attn.k_norm.weight",
        "model.visual.pos_embed.weight",
        keys.LM_HEAD,
    } <= tensors.keys()
    write(directory / files.SINGLE, tensors)
    (directory / "config.json").write_text(json.dumps(QWEN3))
    processor = {
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "patch_size": 4,
        "temporal_patch_size": 2,
        "merge_size": 2,
    }
    for name in (config.PREPROCESSOR, config.VIDEO_PREPROCESSOR):
        (directory / name).write_text(json.dumps(processor))
    return str(directory)
