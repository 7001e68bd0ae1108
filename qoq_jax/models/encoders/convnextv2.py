"""ConvNeXt V2 (Woo et al., arXiv 2301.00808): depthwise convolutions, MLPs per place, and a global
response normalisation (GRN) of their hidden units.

Axis letters: as in image.py; F hidden units of an MLP, 4 W.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from qoq_jax.models import layers
from qoq_jax.models.encoders import image
from qoq_jax.models.encoders.encoder import Encoder, Params
from qoq_jax.models.spec import ParamSpec, fan_in
from qoq_jax.models.tables import layer_norm_specs, linear_specs

GRN_EPS = 1e-6
KERNEL = 7  # rows and columns of the depthwise convolution
STEM, STEP = 4, 2  # strides of the first convolution and of those between stages


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvNeXtConfig(image.ImageConfig):
    """Sizes.

    Attributes:
      depths: blocks per stage. widths: W per stage.
      conv_mlp: timm's file of this size has the MLPs as convolutions of one pixel.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    conv_mlp: bool = False


def param_specs(cfg: ConvNeXtConfig) -> dict[str, Any]:
    """Weights, with the names of timm."""
    W = cfg.widths[0]
    std = fan_in(3 * STEM**2)
    stem = linear_specs(
        "stem.0", (STEM, STEM, 3, W), (None, None, None, "embed"), std, layout="conv"
    )
    specs: dict[str, Any] = {"stem": {"conv": stem, "norm": layer_norm_specs("stem.1", W)}}
    for i, depth in enumerate(cfg.depths):
        specs[f"stage{i}"] = {"blocks": _block_specs(cfg, i, depth)} | _step_specs(cfg, i)
    return specs | {"norm": layer_norm_specs("head.norm", cfg.widths[-1])}


def _step_specs(cfg: ConvNeXtConfig, stage: int) -> dict[str, Any]:
    """Norm and convolution before a stage; the first has the stem instead."""
    if stage == 0:
        return {}
    before, W = cfg.widths[stage - 1 : stage + 1]
    key = f"stages.{stage}.downsample"
    shape, axes = (STEP, STEP, before, W), (None, None, None, "embed")
    conv = linear_specs(f"{key}.1", shape, axes, fan_in(before * STEP**2), layout="conv")
    return {"step": {"norm": layer_norm_specs(f"{key}.0", before), "conv": conv}}


def _block_specs(cfg: ConvNeXtConfig, stage: int, depth: int) -> dict[str, Any]:
    W, key = cfg.widths[stage], f"stages.{stage}.blocks.{{}}."
    F = 4 * W
    mlp = "pointwise" if cfg.conv_mlp else "linear"
    shape, axes = (KERNEL, KERNEL, W), (None, None, "embed")
    grn = {
        name: ParamSpec(
            (depth, F), ("layers", "mlp"), "zeros", f"{key}mlp.grn.{theirs}", "vector", True
        )
        for name, theirs in (("scale", "weight"), ("bias", "bias"))
    }
    return {
        "depthwise": linear_specs(
            f"{key}conv_dw", shape, axes, fan_in(KERNEL**2), depth, "depthwise"
        ),
        "norm": layer_norm_specs(f"{key}norm", W, depth),
        "up": linear_specs(f"{key}mlp.fc1", (W, F), ("embed", "mlp"), fan_in(W), depth, mlp),
        "grn": grn,
        "down": linear_specs(f"{key}mlp.fc2", (F, W), ("mlp", "embed"), fan_in(F), depth, mlp),
    }


# -------------------------------------------------------------------------------- depthwise kernels


def depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Each channel convolved with a kernel of its own, zeros beyond the border.

    x [N,y,x,W], kernel [k,k,W] with k odd. On a CPU XLA's convolution with one group per channel
    runs one channel at a time; there the sum of k * k shifted products takes its place, which is
    one loop over vectors of channels (docs/performance.md).
    """
    return jax.lax.platform_dependent(x, kernel, cpu=shifted_sum, default=grouped_convolution)


def grouped_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`depthwise` by XLA's convolution."""
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@jax.custom_vjp
def shifted_sum(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`depthwise` as a sum: y[p] = Σ_d x[p + d] kernel[d] over the places d of the kernel.

    The condition keeps the sum a pass of its own. Without it the compiler computes the sum again
    for each use of a value, which the norm behind it has several of, at 15 times the time. It
    changes no result: a kernel with a first value of infinity or NaN has none but NaN.
    """

    def products() -> jax.Array:
        return sum(
            part * kernel[i, j].reshape(1, 1, 1, -1) for (i, j), part in _shifts(x, kernel.shape[0])
        )

    finite = (jnp.abs(kernel[0, 0]) < jnp.inf).all()
    return jax.lax.cond(finite, products, lambda: jnp.full_like(x, jnp.nan))


def _shifts(x: jax.Array, k: int) -> list[tuple[tuple[int, int], jax.Array]]:
    """x as each place of a kernel of k x k meets it."""
    rows, columns = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    return [((i, j), x[:, i : i + rows, j : j + columns]) for i in range(k) for j in range(k)]


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return shifted_sum(x, kernel), (x, kernel)


def _backward(
    saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """To x the same sum with the kernel turned by 180 degrees; left to JAX it would be k * k padded
    arrays.
    """
    x, kernel = saved
    k = kernel.shape[0]
    of_kernel = jnp.stack([(part * gradient).sum(axis=(0, 1, 2)) for _, part in _shifts(x, k)])
    return shifted_sum(gradient, kernel[::-1, ::-1]), of_kernel.reshape(kernel.shape)


shifted_sum.defvjp(_forward, _backward)


# ------------------------------------------------------------------------------------------- model


def grn(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Global response normalisation (section 3.2, equations 1 to 3): x [N,y,x,F]; scale, bias [F].

    G_f = sqrt(Σ_yx x_f²);  out_f = scale_f x_f G_f / mean_f(G) + bias_f + x_f
    """
    # [N,y,x,F] -> [N,1,1,F], in float32
    squares = jnp.square(x.astype(jnp.float32)).sum(axis=(1, 2), keepdims=True)
    norm = image.root(squares)
    share = norm / (norm.mean(axis=-1, keepdims=True) + GRN_EPS)
    factor = 1 + layers.expand(scale.astype(jnp.float32), 4) * share
    return x * factor.astype(x.dtype) + layers.expand(bias.astype(x.dtype), 4)


def block(cfg: ConvNeXtConfig, p: Params, x: jax.Array) -> jax.Array:
    """One block, x [N,y,x,W]."""
    y = depthwise(x, p["depthwise"]["kernel"].astype(x.dtype))
    y = y + layers.expand(p["depthwise"]["bias"].astype(x.dtype), 4)
    y = layers.layer_norm(y, p["norm"], cfg.norm_eps)
    with jax.named_scope("mlp"):
        # [N,y,x,W] x [W,F] -> [N,y,x,F] and back
        y = jax.nn.gelu(layers.linear("byxw,wf->byxf", y, **p["up"]), approximate=False)
        y = grn(y, **p["grn"])
        y = layers.linear("byxf,fw->byxw", y, **p["down"])
    return x + y


def features(params: Params, cfg: ConvNeXtConfig, pictures: jax.Array) -> jax.Array:
    """The last stage's places as tokens, without the norm before the classifier.

    Args:
      params: as `param_specs` describes.
      cfg: sizes.
      pictures: [N,y,x,3]; y and x are multiples of 32.

    Returns:
      [N, y / 32 * x / 32, W].
    """
    specs = param_specs(cfg)
    x = image.convolve_patches(pictures, **params["stem"]["conv"])
    x = layers.layer_norm(x, params["stem"]["norm"], cfg.norm_eps)
    for i in range(len(cfg.depths)):
        stage = params[f"stage{i}"]
        if i:
            x = layers.layer_norm(x, stage["step"]["norm"], cfg.norm_eps)
            x = image.convolve_patches(x, **stage["step"]["conv"])
        form = functools.partial(block, cfg)
        x = image.through([form], x, stage["blocks"], specs[f"stage{i}"]["blocks"])
    return x.reshape(x.shape[0], -1, x.shape[-1])


def pool(params: Params, cfg: ConvNeXtConfig, x: jax.Array) -> jax.Array:
    """Norm of the mean of the tokens [N,S,W] -> [N,W]."""
    return layers.layer_norm(x.mean(axis=1), params["norm"], cfg.norm_eps)


def _row(
    name: str,
    depths: tuple[int, ...],
    width: int,
    conv_mlp: bool = False,
    image_size: int = ConvNeXtConfig.image_size,
) -> Encoder:
    widths = tuple(width << stage for stage in range(4))
    cfg = ConvNeXtConfig(depths=depths, widths=widths, conv_mlp=conv_mlp, image_size=image_size)
    return image.row(
        f"convnextv2_{name}",
        cfg,
        widths[-1],
        (param_specs, features, pool),
        ("timm", "ConvNextV2Model"),
        "arXiv 2301.00808; timm convnext.py, transformers modeling_convnextv2.py",
    )


ENCODERS = (
    # not of the paper: small enough to be trained on a laptop, the first one many times over
    _row("micro", (1, 1, 2, 1), 16, image_size=64),
    _row("mini", (1, 1, 2, 1), 24, image_size=96),
    _row("atto", (2, 2, 6, 2), 40, conv_mlp=True),
    _row("femto", (2, 2, 6, 2), 48, conv_mlp=True),
    _row("pico", (2, 2, 6, 2), 64, conv_mlp=True),
    _row("nano", (2, 2, 8, 2), 80, conv_mlp=True),
    _row("tiny", (3, 3, 9, 3), 96),
    _row("base", (3, 3, 27, 3), 128),
    _row("large", (3, 3, 27, 3), 192),
)
