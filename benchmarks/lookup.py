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


def measured(
    model: Model, rows: int, tokens: int, temperature: float, drafts: int, turns: int
) -> tuple[float, float, int]:
    """(seconds by the clock, seconds of the processor: medians; steps) of one call."""
    prompts = [{"prompt": f"Question {i}: what is the finding?"} for i in range(rows)]
    times = []
    for _ in range(turns + 1):  # the first compiles
        before, start, began = model._engine.steps, time.perf_counter(), time.process_time()
        model.generate(prompts, tokens, temperature=temperature, lookup=drafts, rows=0)
        times.append((time.perf_counter() - start, time.process_time() - began))
        steps = model._engine.steps - before
    clock, processor = np.median(times[1:], axis=0)
    return float(clock), float(processor), steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="+", default=(1, 8))
    options, model = parser.parse_args(), make_model()
    print("ms are of a token of all rows; kept of drafted: of the row that takes most steps")
    print("rows  kind        drafts  steps  kept   ms  ratio  ms of the processor  ratio")
    for rows in options.rows:
        for kind, temperature in (("repeating", 0.0), ("random", 1.0)):
            plain = None
            for drafts in (0, 2, 4, 8):
                *times, steps = measured(
                    model, rows, options.tokens, temperature, drafts, options.turns
                )
                clock, processor = (1000 * x / options.tokens for x in times)
                plain = plain or (clock, processor)
                kept = (options.tokens / steps - 1) / drafts if drafts else 0.0
                print(
                    f"{rows:4}  {kind:10}  {drafts:6}  {steps:5}  {kept:4.0%}  {clock:6.1f}"
                    f"  {plain[0] / clock:5.2f}  {processor:6.1f}  {plain[1] / processor:5.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
