"""ECG-JEPA weights in safetensors: read, written, and broken files."""

from __future__ import annotations

import pathlib

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from qoq_jax.base.errors import CheckpointError
from qoq_jax.hf import ecg as ecg_files
from qoq_jax.models.encoders import ecg

WEIGHTS = pathlib.Path(__file__).parents[1] / "golden" / "ecg_jepa_small.safetensors"


@pytest.fixture(scope="module")
def published():
    return ecg_files.load(str(WEIGHTS), num_heads=4)


def test_broken_files_are_named(tmp_path):
    path = tmp_path / "ecg.safetensors"
    with pytest.raises(CheckpointError, match="not readable"):
        ecg_files.load(str(path), num_heads=4)
    path.write_bytes(b"no tensors here")
    with pytest.raises(CheckpointError, match="not readable"):
        ecg_files.load(str(path), num_heads=4)
    tensors = load_file(WEIGHTS)
    save_file({name: x for name, x in tensors.items() if name != "encoder.norm.bias"}, path)
    with pytest.raises(CheckpointError, match="encoder.norm.bias: tensor is missing"):
        ecg_files.load(str(path), num_heads=4)
    save_file({**tensors, "encoder.norm.bias": np.zeros(7, np.float32)}, path)
    with pytest.raises(CheckpointError, match="encoder.norm.bias: shape"):
        ecg_files.load(str(path), num_heads=4)
    save_file({name: x for name, x in tensors.items() if "encoder_blocks" not in name}, path)
    with pytest.raises(CheckpointError, match="the blocks of the encoder are missing"):
        ecg_files.load(str(path), num_heads=4)
    save_file({"x": np.zeros(1, np.float32)}, path)
    with pytest.raises(CheckpointError, match="no ECG-JEPA encoder"):
        ecg_files.load(str(path), num_heads=4)


def test_encoder_alone_inside_a_vlm_checkpoint_is_found(tmp_path, published):
    encoder = {name: x for name, x in load_file(WEIGHTS).items() if name.startswith("encoder.")}
    save_file(
        {ecg.VLM_PREFIX + name: x for name, x in encoder.items()}, tmp_path / "vlm.safetensors"
    )
    params, cfg = ecg_files.load(str(tmp_path / "vlm.safetensors"), num_heads=4)
    assert set(params) == {"encoder"} and cfg.width == 96 and cfg.depth == 3
    jax.tree.map(np.testing.assert_array_equal, params["encoder"], published[0]["encoder"])


def test_saved_weights_are_the_published_file_again(tmp_path, published):
    params, cfg = published
    path = str(tmp_path / "ecg.safetensors")
    ecg_files.save(path, params, cfg)
    theirs, ours = load_file(WEIGHTS), load_file(path)
    assert {n: x.shape for n, x in ours.items()} == {n: x.shape for n, x in theirs.items()}
    for name, tensor in theirs.items():
        if name.endswith("pos_embed"):
            np.testing.assert_allclose(ours[name], tensor, rtol=0, atol=1e-6)
        else:
            np.testing.assert_array_equal(ours[name], tensor, err_msg=name)
    again, sizes = ecg_files.load(path, num_heads=4)
    assert sizes == cfg
    jax.tree.map(np.testing.assert_array_equal, again, params)
    with pytest.raises(CheckpointError, match="was trained with 4 heads, not 8"):
        ecg_files.load(path, num_heads=8)
    ecg_files.save(path, {"encoder": params["encoder"]}, cfg)
    assert set(ecg_files.load(path, num_heads=4)[0]) == {"encoder"} and list(
        tmp_path.iterdir()
    ) == [tmp_path / "ecg.safetensors"]
