"""8-bit weights beside their scales, as the hub's FP8 checkpoints hold them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from helpers.checkpoints import arrays, edited
from safetensors.numpy import save_file

from qoq_jax import hf
from qoq_jax.base.errors import CheckpointError, ConfigError
from qoq_jax.hf import safetensors as files

NAME = "model.layers.0.mlp.up_proj.weight"  # [96, 64]
FP8 = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [40, 32],
    "modules_to_not_convert": ["lm_head"],
}


def quantised(published, tmp_path, edit=lambda tensors: tensors, **fields):
    """The tiny model in bfloat16 with one matrix in blocks of 40 x 32; (directory, that matrix)."""
    tensors = {name: x.astype(ml_dtypes.bfloat16) for name, x in arrays(published).items()}
    rng = np.random.default_rng(0)
    eight = rng.normal(size=(96, 64)).astype(ml_dtypes.float8_e4m3fn)
    scales = rng.uniform(0.1, 2, (3, 2)).astype(np.float32)
    expected = np.zeros((96, 64), np.float32)
    for row, column in np.ndindex(96, 64):
        expected[row, column] = np.float32(eight[row, column]) * scales[row // 40, column // 32]
    tensors |= {NAME: eight, NAME + "_scale_inv": scales}
    directory = edited(published, tmp_path, {}, quantization_config=FP8 | fields)
    save_file(edit(tensors), f"{directory}/{files.SINGLE}")
    return directory, expected


def up(directory, **options):
    return hf.load(directory, **options)[1]["decoder"]["layers"]["mlp"]["up"]["kernel"][0]


def test_weights_are_multiplied_by_the_scale_of_their_block(published, tmp_path):
    directory, expected = quantised(published, tmp_path)
    np.testing.assert_array_equal(up(directory, dtype="float32"), expected.T)
    np.testing.assert_array_equal(up(directory), expected.T.astype(ml_dtypes.bfloat16))


def test_the_export_is_a_plain_model(published, tmp_path):
    directory, _ = quantised(published, tmp_path)
    hf.save(str(tmp_path / "plain"), *hf.load(directory), directory)
    tensors = files.open_directory(str(tmp_path / "plain"))
    assert {tensor.dtype_name for tensor in tensors.values()} == {"BF16"}
    np.testing.assert_array_equal(up(str(tmp_path / "plain")), up(directory))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"quant_method": "awq"}, "quant_method = 'awq' is not supported, only 'fp8'"),
        ({"activation_scheme": "static"}, "activation_scheme = 'static' is not supported"),
        ({"weight_block_size": 128}, "weight_block_size is 128, not two numbers"),
        ({"bits": 4}, "quantization_config.bits is not supported"),
    ],
)
def test_other_quantisations_are_refused_by_name(published, tmp_path, fields, message):
    with pytest.raises(ConfigError, match=message):
        hf.load(quantised(published, tmp_path, **fields)[0])


def without_scale(tensors):
    return {name: x for name, x in tensors.items() if not name.endswith("_scale_inv")}


def test_a_missing_scale_and_one_of_other_blocks_are_named(published, tmp_path):
    with pytest.raises(CheckpointError, match=f"{NAME} has no {NAME}_scale_inv"):
        hf.load(quantised(published, tmp_path / "a", without_scale)[0])
    with pytest.raises(CheckpointError, match=r"in blocks of \[16, 32\] has scales \[3, 2\]"):
        hf.load(quantised(published, tmp_path / "b", weight_block_size=[16, 32])[0])


def test_8_bit_weights_without_a_quantization_config_are_named(published, tmp_path):
    directory = quantised(published, tmp_path, without_scale)[0]
    content = files.header(f"{directory}/{files.SINGLE}")
    assert content[NAME].dtype == ml_dtypes.float8_e4m3fn
    plain = edited(directory, tmp_path / "plain", quantization_config=None)
    with pytest.raises(CheckpointError, match=r"of another type: .*up_proj.weight.*F8_E4M3"):
        hf.load(plain)
