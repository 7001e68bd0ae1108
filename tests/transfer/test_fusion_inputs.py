"""What encoders say of admissions, and the weights of encoders."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.encoders import random_params, tiny
from PIL import Image

from qoq_jax.base.errors import CheckpointError, ConfigError
from qoq_jax.hf import encoders
from qoq_jax.models import spec
from qoq_jax.models.encoders import registry
from qoq_jax.models.encoders.encoder import Encoder
from qoq_jax.transfer import fusion_inputs, weights


class Tiny:
    image_size = 8
    mean = std = (0.5, 0.5, 0.5)


def _tokens(params, cfg, batch):
    rows = batch["pixels"].mean(axis=(1, 4)) * params["scale"]
    return rows, jnp.ones(rows.shape[:2], bool)


TINY = Encoder(
    "tiny",
    "image",
    Tiny(),
    8,
    lambda cfg: {"scale": spec.ParamSpec((), (), "ones")},
    _tokens,
    lambda params, cfg, batch: _tokens(params, cfg, batch)[0].mean(axis=1),
)


@pytest.fixture
def paths(tmp_path):
    rng = np.random.default_rng(0)
    found = []
    for n in range(5):
        path = tmp_path / f"{n}.png"
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(path)
        found.append(str(path))
    found[1] = ""
    return found


def test_each_admission_has_what_the_encoder_says_of_its_file(paths):
    params = [{"scale": jnp.zeros(())}, {"scale": jnp.ones(())}]
    train = np.array([0, 1, 2, 3])
    sizes, (blind, found) = fusion_inputs.medium("xray", TINY, params, paths, train, 4, batch=2)
    assert not blind.pooled.any() and (blind.valid == found.valid).all()
    assert (sizes.pooled, sizes.tokens, sizes.width) == (8, 4, 8)
    np.testing.assert_array_equal(found.valid.any(axis=1), [True, False, True, True, True])
    pixels = [np.asarray(Image.open(path)) / 255 * 2 - 1 for path in paths if path]
    rows = np.stack([one.mean(axis=2) for one in pixels])
    pooled, tokens = rows.mean(axis=1), rows.reshape(4, 4, 2, 8).mean(axis=2)
    seen = pooled[:3]  # the last one is no training admission
    expected = (pooled - seen.mean(axis=0)) / seen.std(axis=0)
    np.testing.assert_allclose(found.pooled[[0, 2, 3, 4]], expected, atol=1e-3)
    assert not found.pooled[1].any()
    seen = tokens[:3].reshape(-1, 8)
    expected = (tokens - seen.mean(axis=0)) / seen.std(axis=0)
    np.testing.assert_allclose(found.tokens[[0, 2, 3, 4]], expected, atol=1e-3)


def test_neighbours_are_joined_without_those_that_are_not_valid():
    tokens = jnp.arange(10.0).reshape(1, 5, 2)
    valid = jnp.array([[True, False, True, True, False]])
    short, kept = fusion_inputs.shorten(tokens, valid, 3)
    np.testing.assert_array_equal(short, [[[0, 1], [5, 6], [0, 0]]])
    np.testing.assert_array_equal(kept, [[True, True, False]])


@pytest.mark.parametrize("name", ["ecg_jepa_nano", "gcn"])
def test_weights_are_read_back_by_their_own_encoder_alone(name, tmp_path):
    encoder = registry.get(name)
    params = spec.init_params(encoder.param_specs(encoder.cfg), jax.random.key(0))
    weights.save(encoder, str(tmp_path / weights.FILE), params)
    read = weights.load_encoder(encoder, str(tmp_path))  # the workdir of a run
    jax.tree.map(np.testing.assert_array_equal, read, params)
    other = registry.get({"ecg_jepa_nano": "ecg_jepa_base", "gcn": "gat"}[name])
    with pytest.raises(CheckpointError, match=f"not of {other.name}|4 heads, not 16"):
        weights.load_encoder(other, str(tmp_path / weights.FILE))


def test_the_weights_of_the_package_are_those_of_its_encoder():
    encoder = registry.get("ecg_jepa_nano")
    params = weights.load_encoder(encoder, "climb-mini")
    shapes = jax.tree.map(lambda one: one.shape, encoder.param_specs(encoder.cfg))
    assert jax.tree.map(np.shape, params) == shapes
    with pytest.raises(ConfigError, match="has weights of ecg_jepa_nano, not of units"):
        weights.load_encoder(registry.get("units"), "climb-mini")


def test_published_weights_are_made_float32(tmp_path):
    encoder, path = tiny("vit_small"), str(tmp_path / "half.safetensors")
    half = jax.tree.map(lambda x: x.astype(jnp.float16), random_params(encoder))
    encoders.save(encoder, path, half)
    read = weights.load_encoder(encoder, path)
    jax.tree.map(np.testing.assert_array_equal, read, half)
    assert {x.dtype for x in jax.tree.leaves(read)} == {np.dtype(np.float32)}


def test_weights_that_are_not_finite_are_refused(tmp_path):
    encoder, path = registry.get("gcn"), str(tmp_path / "nan.safetensors")
    params = spec.init_params(encoder.param_specs(encoder.cfg), jax.random.key(0))
    weights.save(encoder, path, jax.tree.map(lambda x: x.at[0].set(jnp.nan), params))
    with pytest.raises(CheckpointError, match="weights that are not finite: "):
        weights.load_encoder(encoder, path)


def test_a_damaged_or_missing_file_is_refused(tmp_path):
    encoder = registry.get("units")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    for name in ("cut.safetensors", "none.safetensors"):
        with pytest.raises(CheckpointError, match=name):
            weights.load_encoder(encoder, str(tmp_path / name))
