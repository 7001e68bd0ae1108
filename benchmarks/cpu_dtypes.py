"""Forward pass and decoding on a CPU in float32 and in bfloat16: the model and prompts of
benchmarks/generation.py, seconds of the processor, and how far the logits are apart.

    python benchmarks/cpu_dtypes.py
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import qoq_jax
from benchmarks import generation

DTYPES = ("float32", "bfloat16")


def seconds(call: Callable[[], object], turns: int) -> float:
    """Of the processor; the best of some calls, after one that compiles."""
    call()
    found = []
    for _ in range(turns):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return min(found)


def product_rate(dtype: str, turns: int, size: int = 2048) -> float:
    """GFLOP per processor second of a product of two square matrices."""
    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: jnp.dot(a, a, preferred_element_type=jnp.float32))
    return 2 * size**3 / 1e9 / seconds(lambda: product(a).block_until_ready(), turns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=1)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--new", type=int, default=32, help="tokens per response")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    samples, logits = generation.prompts(options.prompts), {}
    with tempfile.TemporaryDirectory() as folder:
        generation.hf_model().save_pretrained(folder)
        models = {dtype: qoq_jax.load(folder, dtype=dtype) for dtype in DTYPES}
    print("dtype     GFLOP/s of a product  forward, s  a further token of all responses, ms")
    for dtype, model in models.items():
        rate = product_rate(dtype, options.turns)
        logits[dtype] = np.asarray(model.logits(samples)[0], np.float32)
        forward = seconds(lambda model=model: model.logits(samples), options.turns)

        def generate(new: int, model: qoq_jax.Model = model) -> None:
            model.generate(samples, new, temperature=1.0, num_samples=options.samples)

        one, all_ = (seconds(lambda n=n: generate(n), options.turns) for n in (1, options.new))
        each = (all_ - one) / (options.new - 1)
        print(f"{dtype:8}  {rate:20.0f}  {forward:10.2f}  {1000 * each:38.1f}", flush=True)
    one, other = (jax.nn.log_softmax(logits[dtype]) for dtype in DTYPES)
    print(f"largest difference of log-probabilities: {np.abs(one - other).max():.2g}")


if __name__ == "__main__":
    main()
