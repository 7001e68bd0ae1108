"""A small model with nano's tokenizer, loud enough that its answers differ, and samples for it."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np

from helpers.train import tiny_model
from qoq_jax.data import tokenizer as tokenizer_lib
from qoq_jax.models import spec, vlm
from qoq_jax.sampling.model import Model


def config(**changes):
    """The tiny model with a head of its own: a tied one repeats its last word."""
    cfg = tiny_model()
    return dataclasses.replace(
        cfg, decoder=dataclasses.replace(cfg.decoder, tied_embeddings=False), **changes
    )


@functools.cache
def weights():
    """Initial weights with a head four times as large: greedy answers then go through many words,
    and answers differ.

    Layers four times as large do so too, but magnify rounding by 100: a change of all weights by
    their last bit moves log-probabilities by 4e-4 then, by 2e-5 so.
    """
    params = spec.init_params(vlm.param_specs(config()), jax.random.key(0))
    return params | {"decoder": params["decoder"] | {"lm_head": 4 * params["decoder"]["lm_head"]}}


def make_model(mesh=None, **changes) -> Model:
    cfg = config(**changes)
    params = (
        weights()
        if mesh is None
        else jax.device_put(weights(), spec.shardings(vlm.param_specs(cfg), mesh))
    )
    return Model(cfg, params, tokenizer_lib.load("nano"), mesh=mesh)


@functools.cache
def samples() -> list[dict]:
    """Unequal prompts: an image, an image and an ECG, text, a video."""
    rng = np.random.default_rng(0)

    def pixels(*shape):
        return rng.integers(0, 256, shape).astype(np.uint8)

    return [
        {"prompt": "What is the diagnosis?", "images": pixels(56, 56, 3)},
        {
            "prompt": "Compare <image> with the heart: <ecg>. Is it normal?",
            "images": [pixels(56, 112, 3)],
            "ecg": rng.normal(0, 0.3, (8, 2500)).astype(np.float32),
        },
        {"prompt": "A question without a picture."},
        {"prompt": "What moves?", "videos": pixels(4, 56, 56)},
    ]
