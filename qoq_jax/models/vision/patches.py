"""What the vision towers share: patches as numbers, their embedding's initial value, positions.

Axis letters: base/axes.py; a patch is flat, C colour channels x f frames x p x p pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from qoq_jax.models.sizes import PatchTower
from qoq_jax.models.spec import fan_in

# beyond it a patch has too few frequencies; towers that wide are loaded, not trained from scratch
MAX_COSINE_WIDTH = 336


def patch_embed_init(cfg: PatchTower) -> float | Callable[[tuple[int, int]], np.ndarray]:
    """Initial value of the patch embedding, for ParamSpec."""
    return cosine_basis if cfg.width <= MAX_COSINE_WIDTH else fan_in(cfg.patch_dim)


def cosine_basis(shape: tuple[int, int]) -> np.ndarray:
    """Initial patch embedding [C*f*p*p, W]: the lowest frequencies of a patch, as in JPEG, with
    higher ones amplified.

    Energy of natural images falls with frequency, so random projections see hardly more than a
    patch's mean brightness. A cosine basis whose gain grows with frequency starts from nearly white
    features instead, and a small tower trained from scratch learns to see in about half of the
    steps. Columns: brightness (7/12 of W), two colour contrasts (1/8 each), and the change between
    the two frames.
    """
    size, width = shape
    side, frames = math.isqrt(size // 6), 2
    x = np.arange(side)
    cosine = (
        np.cos(np.pi * (2 * x[None] + 1) * x[:, None] / (2 * side))
        * np.where(x, 2, 1)[:, None] ** 0.5
        / side**0.5
    )
    order = sorted(((u, v) for u in x for v in x), key=lambda f: (f[0] ** 2 + f[1] ** 2, f))
    grey, red_green, blue_yellow = (
        np.array(c) / np.linalg.norm(c) for c in ((1, 1, 1), (1, -1, 0), (1, 1, -2))
    )
    same, change = np.array([1, 1]) / 2**0.5, np.array([1, -1]) / 2**0.5
    plan = [
        (grey, same, width * 7 // 12, 0.35),
        (red_green, same, width // 8, 0.7),
        (blue_yellow, same, width // 8, 0.7),
    ]
    plan.append((grey, change, width - sum(count for _, _, count, _ in plan), 0.7))
    assert size == 3 * frames * side * side and max(count for _, _, count, _ in plan) <= side * side
    columns = [
        gain
        * (1 + math.hypot(u, v))
        / side
        * np.einsum("c,f,y,x->cfyx", channel, time, cosine[u], cosine[v]).ravel()
        for channel, time, count, gain in plan
        for u, v in order[:count]
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def normalise(patches: jax.Array, cfg: PatchTower, dtype: jnp.dtype) -> jax.Array:
    """uint8 [R,P,C*f*p*p] -> (x / 255 - mean) / std per colour channel, in `dtype`; floats are
    normalised already.
    """
    if jnp.issubdtype(patches.dtype, jnp.floating):
        return patches.astype(dtype)
    per_channel = cfg.temporal_patch_size * cfg.patch_size**2
    mean = np.repeat(np.array(cfg.pixel_mean, np.float32), per_channel)
    std = np.repeat(np.array(cfg.pixel_std, np.float32), per_channel)
    x = patches.astype(jnp.float32) / 255.0
    return ((x - mean[None, None]) / std[None, None]).astype(dtype)


def rotary_angles(cfg: PatchTower, patch_hw: jax.Array) -> jax.Array:
    """Row and column of patches int32 [R,P,2] -> angles float32 [R,P,h/2], rows first, then
    columns.
    """
    quarter = cfg.width // cfg.num_heads // 4
    frequency = cfg.rope_theta ** -(np.arange(quarter, dtype=np.float32) / quarter)
    angles = patch_hw.astype(jnp.float32)[..., None] * frequency[None, None, None]
    return angles.reshape(*patch_hw.shape[:2], 2 * quarter)
