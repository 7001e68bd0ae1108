"""Pictures per second of the vision encoders, beside timm in the same run.

    python benchmarks/encoders.py --names convnextv2_atto convnextv2_tiny vit_small
    python benchmarks/encoders.py --turns 0 --batch 1 --size 256 --names swinv2_tiny

The second only compares. Random weights of the published size, float32, a batch of 8 at 224 x 224;
both with --threads threads, in turns, the best of --turns each. timm runs with channels first and
with channels last, and the faster of the two is its figure. Processor time is what to read where
other jobs share the machine (with --threads 1: waiting threads of OpenMP count as work). The
weights are read from a file that timm wrote, and the pooled vectors are compared before anything is
timed; differences are shares of the largest value.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import tempfile
import time

TIMM = {
    "convnextv2": "convnextv2_{}",
    "vit": "vit_{}_patch16_224",
    "dinov2": "vit_{}_patch14_dinov2",
    "swinv2": "swinv2_{}_window8_256",
    "eva02": "eva02_{}_patch14_224",
}
TOLERANCE = 1e-4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--names", nargs="+", default=["convnextv2_atto", "vit_small"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])

    import jax
    import torch

    torch.set_num_threads(args.threads)
    print(
        f"jax {jax.__version__}, torch {torch.__version__}, {args.threads} threads, "
        f"{args.batch} x {args.size} x {args.size}"
    )
    if args.turns:
        rates = "jax {:.0f}, torch {:.0f}".format(*products())
        print(f"products of 2048 x 2048, GFLOP per processor second: {rates}")
        print(
            "| encoder | qoq_jax, ms | timm, ms | ratio "
            "| processor time, ms | timm, ms | ratio | difference |"
        )
        print("|---" * 8 + "|")
    worst = 0.0
    for name in args.names:
        (wall, cpu), (their_wall, their_cpu), difference = compare(name, args)
        worst = max(worst, difference)
        if not args.turns:
            print(f"{name}: {difference:.1e}", flush=True)
            continue
        print(
            f"| {name} | {wall * 1e3:.0f} | {their_wall * 1e3:.0f} | {their_wall / wall:.2f} "
            f"| {cpu * 1e3:.0f} | {their_cpu * 1e3:.0f} | {their_cpu / cpu:.2f} "
            f"| {difference:.1e} |",
            flush=True,
        )
    return int(not worst <= TOLERANCE)


def products() -> tuple[float, float]:
    """Best rates of a product of two matrices of 2048 x 2048 in jax and in torch, GFLOP per
    processor second: what any float32 encoder is bound by.
    """
    import jax
    import jax.numpy as jnp
    import torch

    side = 2048
    ours, theirs = jnp.ones((side, side)), torch.ones(side, side)
    multiply = jax.jit(jnp.matmul)
    rates = []
    for run in (lambda: multiply(ours, ours).block_until_ready(), lambda: theirs @ theirs):
        run()
        seconds = []
        for _ in range(7):
            start = time.process_time()
            run()
            seconds.append(time.process_time() - start)
        rates.append(2 * side**3 / min(seconds) / 1e9)
    return rates[0], rates[1]


def compare(name: str, args: argparse.Namespace) -> tuple:
    """((seconds, processor seconds) of ours, of timm, largest difference of the pooled vectors)."""
    import dataclasses

    import jax
    import jax.numpy as jnp
    import numpy as np
    import torch
    from safetensors.torch import save_file

    from benchmarks.timm_models import loud, timm
    from qoq_jax.hf import encoders
    from qoq_jax.models.encoders import image, registry

    batch, size = args.batch, args.size
    encoder = registry.get(name)
    family, _, which = name.partition("_")
    sized = {} if family == "convnextv2" else {"img_size": size}
    model = loud(timm().create_model(TIMM[family].format(which), num_classes=0, **sized))
    cfg = dataclasses.replace(encoder.cfg, image_size=size)
    encoder = dataclasses.replace(encoder, cfg=cfg)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.safetensors"
        save_file({key: x.contiguous() for key, x in model.state_dict().items()}, path)
        params = image.inference_params(encoder, encoders.load(encoder, path))
    pixels = np.random.default_rng(0).normal(size=(batch, 1, size, size, 3)).astype(np.float32)
    inputs = {"pixels": jnp.asarray(pixels), "slice_valid": jnp.ones((batch, 1), bool)}
    pictures = torch.from_numpy(pixels[:, 0]).permute(0, 3, 1, 2)
    pooled = jax.jit(encoder.pooled, static_argnums=1)

    def ours():
        return np.asarray(pooled(params, cfg, inputs))

    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    pictures_last = pictures.contiguous(memory_format=torch.channels_last)
    pictures = pictures.contiguous()

    def theirs():
        with torch.inference_mode():
            return model(pictures).numpy()

    def theirs_last():
        with torch.inference_mode():
            return last(pictures_last).numpy()

    expected = theirs()
    difference = float(np.abs(ours() - expected).max() / np.abs(expected).max())
    best = {run: [float("inf")] * 2 for run in (ours, theirs, theirs_last)}
    for _ in range(args.turns):
        for run, least in best.items():
            start = time.perf_counter(), time.process_time()
            run()
            end = time.perf_counter(), time.process_time()
            best[run] = [min(a, c - b) for a, b, c in zip(least, start, end, strict=True)]
    least = [min(pair) for pair in zip(best[theirs], best[theirs_last], strict=True)]
    return best[ours], least, difference


if __name__ == "__main__":
    sys.exit(main())
