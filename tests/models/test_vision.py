"""The vision tower: parity with Hugging Face on packed images."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.models import TINY, golden, hf_params, random_params

from qoq_jax.models import sizes as variants
from qoq_jax.models.vision import qwen25 as vision
from qoq_jax.models.vision.patches import normalise

NAMES = ("patches", "patch_hw", "patch_frame", "patch_window")


@functools.cache
def run():
    """Jitted (features, tokens) of packed patches; one compilation for each packed length."""

    def both(params, inputs):
        features = vision.tower(params, TINY, *inputs)
        return features, vision.merge(params["merger"], TINY.vision, features)

    return jax.jit(both)


def packed(pad: int = 0) -> list[np.ndarray]:
    """The two images and the video of the fixture in one media row, then `pad` padding patches."""
    rows = [golden()[name][None] for name in NAMES]
    return [np.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2)) for x in rows]


@pytest.mark.parametrize("pad", [0, 12])
def test_features_and_tokens_equal_hugging_face(pad):
    """Images of 6x10 and 4x6 patches (uneven windows) and a video, also with padding."""
    features, tokens = run()(hf_params()["vision"], packed(pad))
    count = golden()["patches"].shape[0]
    np.testing.assert_allclose(features[0, :count], golden()["vision_features"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(
        tokens[0, : count // 4], golden()["vision_tokens"], atol=1e-4, rtol=0
    )
    assert np.isfinite(tokens).all()


def test_packed_images_equal_images_alone():
    """The second image alone, padded to the packed length, has the features that it has beside the
    others.
    """
    inputs = packed()
    alone = [np.roll(x, -60, axis=1) for x in inputs]
    alone = [
        np.where(np.arange(x.shape[1]).reshape(1, -1, *[1] * (x.ndim - 2)) < 24, x, 0)
        for x in alone
    ]
    alone = [x.astype(y.dtype) for x, y in zip(alone, inputs)]
    params = random_params()["vision"]
    together, _ = run()(params, inputs)
    separate, _ = run()(params, alone)
    np.testing.assert_allclose(together[0, 60:84], separate[0, :24], atol=1e-5)


def test_normalisation_is_per_colour_channel():
    patches = np.repeat(np.array([0, 128, 255], np.uint8), 32)[
        None, None
    ]  # a flat patch is channel by channel
    got = np.asarray(normalise(jnp.asarray(patches), TINY.vision, jnp.float32)).reshape(3, 32)
    want = (np.array([0, 128, 255]) / 255 - variants.CLIP_MEAN) / variants.CLIP_STD
    np.testing.assert_allclose(got, np.repeat(want[:, None], 32, axis=1), atol=1e-6)
