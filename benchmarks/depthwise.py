"""Ways to compute a depthwise convolution of 7 x 7 on one CPU core, at ConvNeXt V2 tiny's shapes.

    JAX_PLATFORMS=cpu taskset -c 0 python benchmarks/depthwise.py

Milliseconds of processor time, the least of seven calls, a batch of 8, float32: the convolution
alone, and with the LayerNorm that follows it in the model. Results are compared first.
"""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np
import torch

from qoq_jax.models import layers
from qoq_jax.models.encoders import convnextv2

SHAPES = ((56, 96), (28, 192), (14, 384), (7, 768))
BATCH, K, TURNS = 8, 7, 7


def channels_first(x, kernel):
    """XLA's grouped convolution with the channels before the rows."""
    y = jax.lax.conv_general_dilated(
        x.transpose(0, 3, 1, 2),
        kernel.transpose(2, 0, 1)[:, None],
        (1, 1),
        "SAME",
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
        feature_group_count=x.shape[-1],
    )
    return y.transpose(0, 2, 3, 1)


def banded(x, kernel):
    """A product per channel with bands of the kernel's rows, after im2col over the rows."""
    rows, columns = x.shape[1:3]
    offset = np.arange(columns)[:, None] - np.arange(columns) + K // 2
    inside = jnp.asarray((offset >= 0) & (offset < K))[None, :, :, None]
    bands = jnp.where(inside, kernel[:, np.clip(offset, 0, K - 1)], 0)
    x = jnp.pad(x, ((0, 0), (K // 2, K // 2), (0, 0), (0, 0)))
    lines = jnp.stack([x[:, i : i + rows] for i in range(K)], axis=2)
    return jnp.einsum("byijw,ijxw->byxw", lines, bands)


def sum_alone(x, kernel):
    """The shifted products without the condition that keeps them a pass of their own."""
    rows, columns, width = x.shape[1:]
    x = jnp.pad(x, ((0, 0), (K // 2, K // 2), (K // 2, K // 2), (0, 0)))
    return sum(
        x[:, i : i + rows, j : j + columns] * kernel[i, j].reshape(1, 1, 1, width)
        for i in range(K)
        for j in range(K)
    )


WAYS = {
    "XLA's convolution, channels last": convnextv2.grouped_convolution,
    "XLA's convolution, channels first": channels_first,
    "im2col and banded products": banded,
    "shifted products": sum_alone,
    "shifted products, a pass of their own": convnextv2.shifted_sum,
}


def least(run):
    """Processor time of a call, ms."""
    run()
    times = []
    for _ in range(TURNS):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times) * 1e3


def of_torch(x, kernel, last):
    """torch's convolution: (result, ms)."""
    conv = torch.nn.Conv2d(*(x.shape[-1],) * 2, K, padding=K // 2, groups=x.shape[-1], bias=False)
    conv.weight.data = torch.from_numpy(kernel).permute(2, 0, 1)[:, None].contiguous()
    pictures = torch.from_numpy(x).permute(0, 3, 1, 2)
    if last:
        conv = conv.to(memory_format=torch.channels_last)
    else:
        pictures = pictures.contiguous()
    with torch.inference_mode():
        result = conv(pictures).permute(0, 2, 3, 1).numpy()
        return result, least(lambda: conv(pictures))


def normed(way):
    """The way with a LayerNorm behind it."""

    def run(x, kernel):
        ones = jnp.ones(x.shape[-1])
        return layers.layer_norm(way(x, kernel), {"scale": ones, "bias": ones}, 1e-6)

    return run


def main() -> None:
    torch.set_num_threads(1)
    table = {name: [] for name in (*WAYS, "torch, channels first", "torch, channels last")}
    for side, width in SHAPES:
        draw = np.random.default_rng(0).normal
        x = draw(size=(BATCH, side, side, width)).astype(np.float32)
        kernel = draw(size=(K, K, width)).astype(np.float32) / K
        for last in (False, True):
            expected, ms = of_torch(x, kernel, last)
            table[f"torch, channels {'last' if last else 'first'}"].append(f"{ms:.1f}")
        inputs = jnp.asarray(x), jnp.asarray(kernel)
        for name, way in WAYS.items():
            alone, both = jax.jit(way), jax.jit(normed(way))
            np.testing.assert_allclose(alone(*inputs), expected, atol=1e-4)
            ms = [least(lambda f=f, x=inputs: f(*x).block_until_ready()) for f in (alone, both)]
            table[name].append(f"{ms[0]:.1f}, {ms[1]:.1f}")
    print(
        "| alone, with the norm behind it | "
        + " | ".join(f"{s} x {s} x {w}" for s, w in SHAPES)
        + " |"
    )
    print("|---" * (len(SHAPES) + 1) + "|")
    for name, row in table.items():
        print(f"| {name} | " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
