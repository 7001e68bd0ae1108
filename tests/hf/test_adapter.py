"""Directories of PEFT adapters: the sum, where files are found, and what is refused."""

from __future__ import annotations

import json
import pathlib

import ml_dtypes
import numpy as np
import pytest
from helpers.checkpoints import arrays, edited, same, write
from helpers.models import random_params

from qoq_jax import hf
from qoq_jax.base.errors import CheckpointError, ConfigError
from qoq_jax.cli import main as cli
from qoq_jax.hf import adapter, template
from qoq_jax.models import spec

TARGET = "model.layers.1.self_attn.q_proj"
# the fields that peft 0.21 writes with a value
LORA = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 6,
    "target_modules": ["q_proj"],
    "bias": "none",
    "init_lora_weights": True,
    "megatron_core": "megatron.core",
    "qalora_group_size": 16,
    "inference_mode": True,
    "peft_version": "0.21.2",
}


def matrices(module=TARGET, outputs=64, inputs=64, rank=2):
    rng = np.random.default_rng(0)
    return {
        f"base_model.model.{module}.lora_A.weight": rng.normal(size=(rank, inputs)),
        f"base_model.model.{module}.lora_B.weight": rng.normal(size=(outputs, rank)),
    }


def adapter_of(base, directory, tensors=None, **fields):
    """A directory with an adapter; `fields` of adapter_config.json beside LORA."""
    directory.mkdir()
    content = LORA | {"base_model_name_or_path": str(base)} | fields
    (directory / adapter.CONFIG).write_text(json.dumps(content))
    tensors = matrices() if tensors is None else tensors
    write(directory / adapter.WEIGHTS, {name: x.astype(np.float32) for name, x in tensors.items()})
    return str(directory)


def test_the_product_is_added_to_its_weight_and_to_no_other(published, tmp_path):
    a, b = matrices().values()
    _, params = hf.load(adapter_of(published, tmp_path / "adapter"))
    expected = spec.flatten(random_params())
    path = "decoder/layers/q/kernel"
    kernel = np.array(expected[path])
    kernel[1] += (3 * b @ a).T.reshape(kernel[1].shape)
    found = spec.flatten(params)
    np.testing.assert_allclose(found.pop(path), kernel, atol=1e-5)
    del expected[path]
    same(spec.unflatten(found), spec.unflatten(expected))


def test_the_sum_is_made_in_float32_and_kept_in_the_type_of_the_base(published, tmp_path):
    half = {name: x.astype(ml_dtypes.bfloat16) for name, x in arrays(published).items()}
    base = edited(published, tmp_path, half)
    directory = adapter_of(base, tmp_path / "adapter")
    kept = hf.load(directory)[1]["decoder"]["layers"]["q"]["kernel"]
    exact = hf.load(directory, dtype="float32")[1]["decoder"]["layers"]["q"]["kernel"]
    assert kept.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(np.asarray(kept), np.asarray(exact).astype(kept.dtype))


def test_files_that_an_adapter_lacks_are_those_of_its_base(published, tmp_path):
    base = pathlib.Path(edited(published, tmp_path))
    (base / template.JINJA).write_text("of the base")
    (base / "tokenizer.json").write_text("{}")
    directory = adapter_of(base, tmp_path / "adapter")
    (pathlib.Path(directory) / template.JINJA).write_text("of the adapter")
    assert hf.find(directory, template.JINJA) == f"{directory}/{template.JINJA}"
    assert hf.find(directory, "tokenizer.json") == f"{base}/tokenizer.json"
    assert hf.find(directory, "merges.txt") is None


def test_convert_writes_the_sum_as_a_model(published, tmp_path):
    directory, dest = adapter_of(published, tmp_path / "adapter"), str(tmp_path / "merged")
    assert cli.main(["convert", directory, dest]) == 0
    same(hf.load(dest)[1], hf.load(directory)[1])


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"use_dora": True}, "use_dora = True is not supported"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save = \['lm_head'\] is not supported"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"peft_type": "IA3"}, "peft_type = 'IA3' is not supported, only 'LORA'"),
        ({"bias": "all"}, "bias = 'all' is not supported, only 'none'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa' is not supported"),
        ({"lora_alpha": None}, "lora_alpha is None, not a number"),
    ],
)
def test_other_adapters_are_refused_by_name(published, tmp_path, fields, message):
    with pytest.raises(ConfigError, match=message):
        hf.load(adapter_of(published, tmp_path / "adapter", **fields))


@pytest.mark.parametrize(
    "tensors, message",
    [
        (matrices("model.layers.7.self_attn.q_proj"), "the base has no model.layers.7"),
        (matrices(inputs=32), r"q_proj.weight is \[64, 64\], lora_B \[64, 2\], lora_A \[2, 32\]"),
        (dict(list(matrices().items())[:1]), "q_proj has no lora_B"),
        (
            matrices() | {"base_model.model.model.embed_tokens.lora_embedding_A": np.zeros((2, 2))},
            "lora_embedding_A is not supported",
        ),
    ],
)
def test_matrices_that_do_not_fit_are_named(published, tmp_path, tensors, message):
    with pytest.raises(CheckpointError, match=message):
        hf.load(adapter_of(published, tmp_path / "adapter", tensors))


def test_a_base_that_is_not_found_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="the base model './nowhere' of the adapter"):
        hf.load(adapter_of("./nowhere", tmp_path / "adapter"))
    with pytest.raises(CheckpointError, match="does not say which model it belongs to"):
        hf.load(adapter_of("", tmp_path / "other"))
