"""Speculative decoding by n-gram lookup on the CPU: seconds a token with and without, and how many
drafted tokens are kept.

    python benchmarks/lookup.py

A decoder of 70 M random weights. Greedy, it soon repeats itself: nearly all drafts are right, the
best case. At temperature 1 its tokens are nearly random: no draft is right, the price where there
is nothing to look up. A trained model lies between both.
"""

from __future__ import annotations

import argparse
import dataclasses
import time

import jax
import numpy as np

from qoq_jax.data import tokenizer as tokenizer_lib
from qoq_jax.models import sizes, spec, vlm
from qoq_jax.sampling.model import Model, inference_config


def make_model() -> Model:
    """Width 896 and 6 layers as in benchmarks/generation.py, with nano's tokenizer and towers."""
    nano = sizes.get("nano")
    decoder = dataclasses.replace(
        nano.decoder,
        width=896,
        num_layers=6,
        num_heads=14,
        num_kv_heads=2,
        head_dim=64,
        mlp_dim=3072,
        mrope_section=(8, 12, 12),
        tied_embeddings=True,
    )
    cfg = dataclasses.replace(nano, decoder=decoder, eos_ids=())
    cfg = inference_config(cfg, "float32")
    params = jax.jit(lambda: spec.init_params(vlm.param_specs(cfg), jax.random.key(0)))()
    return Model(cfg, params, tokenizer_lib.load("nano"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--turns", type=int, default=3)
    options, model = parser.parse_args(), make_model()
    print("rows  kind        drafts  steps  kept of drafted  ms a token of a row  ratio")
    for rows in (1, 8):
        prompts = [{"prompt": f"Question {i}: what is the finding?"} for i in range(rows)]
        for kind, temperature in (("repeating", 0.0), ("random", 1.0)):
            plain = 0.0
            for drafts in (0, 2, 4, 8):
                seconds = []
                for _ in range(options.turns + 1):  # the first compiles
                    before, start = model._engine.steps, time.perf_counter()
                    model.generate(
                        prompts, options.tokens, temperature=temperature, lookup=drafts, rows=0
                    )
                    seconds.append(time.perf_counter() - start)
                    steps = model._engine.steps - before
                each = float(np.median(seconds[1:])) / options.tokens * 1000
                plain = plain or each
                kept = (options.tokens / steps - 1) / drafts if drafts else 0.0
                print(
                    f"{rows:4}  {kind:10}  {drafts:6}  {steps:5}  {kept:15.0%}  {each:19.2f}"
                    f"  {plain / each:5.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
