"""What encoders of images share: slices of a volume, patches, positions, stacks of blocks.

An encoder's own file gives two functions on single pictures, which `row` makes an `Encoder` of:

  features(params, cfg, pictures [N,y,x,3]) -> [N,S,W], the last hidden state of the published model
  pool(params, cfg, features [N,S,W]) -> [N,W], the vector on which its classifier acts

Axis letters: base/axes.py; B samples, Z slices or frames of a sample, N = B * Z pictures (b in
einsums), y and x rows and columns of pixels or of patches, S tokens, W width.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np

from qoq_jax.models import layers
from qoq_jax.models import spec as spec_lib
from qoq_jax.models.encoders.encoder import Batch, Encoder, Params
from qoq_jax.models.gathered import gathered
from qoq_jax.parallel.mesh import constrain

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
OPENAI_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
TINY = 1e-30  # below it a sum of squares counts as 0, whose root has no gradient

Features = Callable[[Params, Any, jax.Array], jax.Array]
Pool = Callable[[Params, Any, jax.Array], jax.Array]
Block = Callable[[Params, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """What every encoder of images has.

    Attributes:
      image_size: rows and columns of pixels that the published weights were trained at.
      mean, std: of red, green and blue in 0 .. 1; pixels are (value - mean) / std.
      norm_eps: of all LayerNorms.
    """

    image_size: int = 224
    mean: tuple[float, float, float] = IMAGENET[0]
    std: tuple[float, float, float] = IMAGENET[1]
    norm_eps: float = 1e-6


def row(
    name: str,
    cfg: ImageConfig,
    width: int,
    architecture: tuple[Callable[[Any], Params], Features, Pool],
    layouts: tuple[str, ...],
    source: str,
) -> Encoder:
    """A row of the registry; `architecture` is (param_specs, features, pool)."""
    param_specs, features, pool = architecture
    return Encoder(
        name=name,
        kind="image",
        cfg=cfg,
        width=width,
        param_specs=param_specs,
        tokens=functools.partial(tokens, features),
        pooled=functools.partial(pooled, features, pool),
        layouts=layouts,
        source=source,
    )


def tokens(
    features: Features, params: Params, cfg: ImageConfig, batch: Batch
) -> tuple[jax.Array, jax.Array]:
    """Tokens [B,S,W] and their mask [B,S]: for each place of a picture the mean of its tokens over
    the valid slices. A sample without a valid slice has zeros, and False in the mask.

    batch: of kind "image"; pixels [B,Z,y,x,3], slice_valid [B,Z].
    """
    valid = batch["slice_valid"]
    x = over_slices(features(params, cfg, pictures(params, batch)), valid)
    return x, jnp.broadcast_to(valid.any(axis=1, keepdims=True), x.shape[:2])


def pooled(
    features: Features, pool: Pool, params: Params, cfg: ImageConfig, batch: Batch
) -> jax.Array:
    """[B,W]: the mean over the valid slices of each slice's pooled vector; `batch` as for `tokens`.

    A sample without a valid slice has zeros.
    """
    x = pool(params, cfg, features(params, cfg, pictures(params, batch)))
    return over_slices(x, batch["slice_valid"])


def pictures(params: Params, batch: Batch) -> jax.Array:
    """Pixels [B,Z,y,x,3] -> pictures [N,y,x,3] in the dtype of the weights; slices that are not
    valid are black, so that no gradient meets what they hold.
    """
    valid = batch["slice_valid"][:, :, None, None, None]
    x = einops.rearrange(jnp.where(valid, batch["pixels"], 0), "b z y x c -> (b z) y x c")
    return constrain(x.astype(dtype_of(params)), ("batch", None, None, None))


def dtype_of(params: Params) -> jnp.dtype:
    """Dtype of the weights, in which activations are computed."""
    return jax.tree.leaves(params)[0].dtype


def over_slices(x: jax.Array, slice_valid: jax.Array) -> jax.Array:
    """[N,...] -> [B,...], the mean over the slices that are valid, bool [B,Z]; zeros where none is.

    The sum is in float32, and what slices that are not valid hold changes nothing.
    """
    B, Z = slice_valid.shape
    x = x.reshape(B, Z, *x.shape[1:])
    valid = slice_valid.reshape(B, Z, *(1,) * (x.ndim - 2))
    total = jnp.where(valid, x, 0).sum(axis=1, dtype=jnp.float32)
    return (total / jnp.maximum(valid.sum(axis=1), 1)).astype(x.dtype)


# ---------------------------------------------------------------------------------------- patches


def convolve_patches(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """A convolution whose stride is its kernel, as one product.

    x [N,y,x,i], kernel [p,p,i,o], bias [o] -> [N,y/p,x/p,o].

    Raises:
      ValueError: y or x is no multiple of p.
    """
    p, _, i, o = kernel.shape
    if x.shape[1] % p or x.shape[2] % p:
        raise ValueError(f"{x.shape[1]} x {x.shape[2]} does not divide into patches of {p} x {p}")
    x = einops.rearrange(x, "n (y p) (x q) i -> n y x (p q i)", p=p, q=p)
    # [N,y,x,ppi] x [ppi,o] -> [N,y,x,o]
    return layers.linear("byxi,io->byxo", x, kernel.reshape(p * p * i, o), bias)


def resized_positions(table: jax.Array, size: tuple[int, int], antialias: bool) -> jax.Array:
    """A square grid of learned positions for pictures of another size.

    Args:
      table: [1, side * side, W].
      size: rows and columns of patches; as it is for (side, side).
      antialias: whether the filter is stretched where there are fewer patches than positions.

    Returns:
      [1, rows * columns, W], bicubic as torch.nn.functional.interpolate has it.
    """
    side = round(table.shape[1] ** 0.5)
    if size == (side, side):
        return table
    grid = table.astype(jnp.float32).reshape(side, side, -1)
    down, across = (jnp.asarray(bicubic(side, to, antialias)) for to in size)
    # [y,side] x [side,side,W] x [x,side] -> [y,x,W]
    grid = jnp.einsum("yi,ijw,xj->yxw", down, grid, across, precision="highest")
    return grid.reshape(1, size[0] * size[1], -1).astype(table.dtype)


@functools.lru_cache(maxsize=64)
def bicubic(inputs: int, outputs: int, antialias: bool) -> np.ndarray:
    """Weights [outputs, inputs] of bicubic interpolation along one axis, centres of pixels aligned.

    The kernel is Keys' (IEEE Trans. ASSP 29(6), 1981, equation 15 has a = -0.5) with a = -0.75, and
    pixels beyond the border repeat the last; with `antialias` a = -0.5, stretched by inputs /
    outputs where that is above 1, and cut at the border. Both as torch has them
    (aten/src/ATen/native/UpSample.h, and cpu/UpSampleKernel.cpp for antialias).
    """

    def kernel(distance: np.ndarray, a: float) -> np.ndarray:
        d = np.abs(distance)
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        return np.where(d <= 1, near, np.where(d < 2, far, 0))

    scale = inputs / outputs
    centres = (np.arange(outputs)[:, None] + 0.5) * scale - 0.5
    if antialias:
        weights = kernel((np.arange(inputs)[None] - centres) / max(scale, 1), -0.5)
        return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    weights = np.zeros((outputs, inputs))
    for tap in range(-1, 3):
        place = np.floor(centres) + tap
        inside = np.clip(place, 0, inputs - 1).astype(int)
        weights[np.arange(outputs), inside[:, 0]] += kernel(place - centres, -0.75)[:, 0]
    return weights.astype(np.float32)


# ----------------------------------------------------------------------------------------- blocks


def through(forms: Sequence[Block], x: jax.Array, blocks: Any, specs: Any) -> jax.Array:
    """x through blocks one after the other, recomputed in the backward pass.

    Args:
      forms: (weights of a block, x) -> x; blocks take them in turns, and are a multiple of them.
      blocks: their weights, stacked, or the tuple of dicts of `inference_params`.
      specs: declarations of the stack.
    """
    if isinstance(blocks, tuple):
        for i, weights in enumerate(blocks):
            x = forms[i % len(forms)](weights, x)
        return x

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def turn(x: jax.Array, group: Params) -> tuple[jax.Array, None]:
        for i, form in enumerate(forms):
            weights = jax.tree.map(lambda w, i=i: w[i], group)
            x = form(gathered(weights, specs, x.dtype), x)
            x = constrain(x, ("batch", *(None,) * (x.ndim - 1)))
        return x, None

    groups = jax.tree.map(lambda w: w.reshape(-1, len(forms), *w.shape[1:]), blocks)
    return jax.lax.scan(turn, x, groups)[0]


def inference_params(encoder: Encoder, params: Params) -> Params:
    """The weights with every stack of blocks taken apart where that saves copies: on one CPU device
    (`layers.views`); elsewhere as they are. They share the memory of `params`.
    """

    def apart(params: Any, specs: Any) -> Any:
        if not isinstance(params, dict):
            return params
        return {
            name: (layers.views(params[name], specs[name], dtype_of(params)) or params[name])
            if name == "blocks"
            else apart(params[name], specs[name])
            for name in params
        }

    return apart(params, encoder.param_specs(encoder.cfg))


def root(x: jax.Array) -> jax.Array:
    """Square root of a sum of squares, with a gradient of 0 at 0."""
    return jnp.sqrt(jnp.maximum(x, TINY))


# ------------------------------------------------------------------------------ specs of all files


def token_spec(name: str, count: int, width: int) -> spec_lib.ParamSpec:
    """Learned tokens or positions [1,S,W]."""
    return spec_lib.ParamSpec((1, count, width), (None, None, "embed"), 0.02, name, "tensor")
