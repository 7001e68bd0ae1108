"""Files of encoders: written in every layout and read again, and what does not fit is named."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from helpers.encoders import random_params, tiny
from safetensors.numpy import load_file, save_file

from qoq_jax.base.errors import CheckpointError, ConfigError
from qoq_jax.hf import encoders
from qoq_jax.models.encoders import registry

ENCODER = tiny("vit_small")


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        (name, layout)
        for name in ("vit_small", "dinov2_small_registers")
        for layout in tiny(name).layouts
    ],
)
def test_a_file_is_read_as_it_was_written(name, layout, tmp_path):
    encoder, path = tiny(name), str(tmp_path / "model.safetensors")
    params = random_params(encoder)
    encoders.save(encoder, path, params, layout)
    jax.tree.map(np.testing.assert_array_equal, encoders.load(encoder, path), params)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("vit") / "model.safetensors"
    encoders.save(ENCODER, str(path), random_params(ENCODER), "ViTModel")
    return load_file(path)


def test_a_classifier_and_a_prefix_are_no_mistake(written, tmp_path):
    named = {f"vit.{name}": x for name, x in written.items()}
    save_file(named | {"classifier.weight": np.zeros((3, 16))}, tmp_path / "model.safetensors")
    encoders.load(ENCODER, str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder.layer.1.attention.attention.key.bias": None},
            "missing: encoder.layer.1.attention.attention.key.bias",
        ),
        ({"decoder.weight": np.zeros(3)}, "left over: decoder.weight"),
        (
            {"layernorm.weight": np.zeros(3, np.float32)},
            r"of another shape: layernorm.weight \[3\] for \[16\]",
        ),
    ],
)
def test_what_does_not_fit_is_named(written, changes, message, tmp_path):
    tensors = {name: x for name, x in (written | changes).items() if x is not None}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        encoders.load(ENCODER, str(tmp_path / "model.safetensors"))


def test_parameters_of_another_encoder_are_not_written(tmp_path):
    with pytest.raises(CheckpointError, match="parameters that do not fit: .*, blocks/q/bias"):
        encoders.save(ENCODER, str(tmp_path / "x"), random_params(tiny("eva02_base")))
    assert not list(tmp_path.iterdir())


def test_an_unknown_layout_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no layout 'VitModel'.*did you mean 'ViTModel'"):
        encoders.save(ENCODER, str(tmp_path / "x"), {}, "VitModel")


@pytest.mark.parametrize("name", ["gcn", "ecg_jepa_nano", "ecg_jepa_base"])
def test_an_encoder_without_a_layout_is_refused_in_one_line(name, tmp_path):
    path = str(tmp_path / "model.safetensors")
    save_file({"a": np.zeros(3, np.float32)}, path)
    encoder = registry.get(name)
    with pytest.raises(ConfigError, match=f"no published layout of {name}"):
        encoders.load(encoder, path)
    with pytest.raises(ConfigError, match=f"no published layout of {name}"):
        encoders.save(encoder, path, {})
