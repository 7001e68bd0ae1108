"""Trains encoders of EEG, graphs and motion on the made-up sets of arrays, from random weights.

    qoq data arrays eeg-mini data/eeg-mini              # and connectome-mini, gait-mini
    python benchmarks/signal_encoders.py data gcn gat graph_transformer motion biot_small

For each encoder a linear head on its pooled vector, AdamW, the training split; printed are accuracy
and macro AUROC on the test split, whose patients the training does not have, and the seconds.
"""

from __future__ import annotations

import argparse
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from qoq_jax.climb.arrays import batches, montage
from qoq_jax.climb.arrays.source import ArraySource
from qoq_jax.evaluation.metrics import auroc
from qoq_jax.models import spec
from qoq_jax.models.encoders import labram, registry
from qoq_jax.models.encoders.encoder import Encoder

SETS = {"eeg": "eeg-mini", "graph": "connectome-mini", "motion": "gait-mini"}
STEPS, HOP = 256, 256  # of a window of motion, 4.4 s


def split(encoder: Encoder, folder: pathlib.Path, name: str) -> tuple[dict, np.ndarray, list[str]]:
    """(a batch of the whole split, its targets, the vocabulary)."""
    source = ArraySource(folder, name)
    records, vocabulary = [source[i] for i in range(len(source))], source.report["labels"]
    if encoder.kind == "motion":
        training = ArraySource(folder, "train")
        moves = (training[i].arrays["motion"] for i in range(len(training)))
        standard = batches.Standard.of(moves)
        cuts = [(one, pair) for one in records for pair in batches.windows(one, STEPS, HOP)]
        inputs, records = batches.motion(cuts, STEPS, standard), [one for one, _ in cuts]
    elif encoder.kind == "graph":
        size = records[0].arrays["adjacency"].shape[-1]
        inputs = batches.graph(records, batches.bucket(size, (96, 200, 360)), encoder.cfg.features)
    else:
        wanted = tuple(labram.ROWS) if encoder.name.startswith("labram") else montage.BIPOLAR
        inputs = batches.eeg(records, wanted, 2000)
    return inputs, batches.targets(records, vocabulary), vocabulary


def train(
    encoder: Encoder, inputs: dict, targets: np.ndarray, arguments: argparse.Namespace
) -> dict:
    """The weights behind the last step, of the encoder and of the head."""
    rng = np.random.default_rng(arguments.seed)
    head = np.zeros((encoder.width + 1, targets.shape[1]), np.float32)
    params = {
        "encoder": spec.init_params(
            encoder.param_specs(encoder.cfg), jax.random.key(arguments.seed)
        ),
        "head": jnp.asarray(head),
    }
    count, size = len(targets), arguments.batch
    steps = arguments.epochs * (count // size)
    schedule = optax.warmup_cosine_decay_schedule(0, arguments.rate, steps // 10, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))

    def loss(params: dict, inputs: dict, targets: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy(scores(params, encoder, inputs), targets).mean()

    @jax.jit
    def step(params: dict, state: optax.OptState, inputs: dict, targets: jax.Array) -> tuple:
        gradient = jax.grad(loss)(params, inputs, targets)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(arguments.epochs):
        order = rng.permutation(count)
        for start in range(0, count - size + 1, size):
            rows = order[start : start + size]
            part = {name: array[rows] for name, array in inputs.items()}
            params, state = step(params, state, part, targets[rows])
    return params


def scores(params: dict, encoder: Encoder, inputs: dict) -> jax.Array:
    """[B, label]."""
    vector = encoder.pooled(params["encoder"], encoder.cfg, inputs)
    return vector @ params["head"][:-1] + params["head"][-1:]


def main() -> None:
    """Trains and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("encoders", nargs="+")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for name in arguments.encoders:
        encoder, started = registry.get(name), time.perf_counter()
        folder = arguments.data / SETS[encoder.kind]
        inputs, targets, vocabulary = split(encoder, folder, "train")
        params = train(encoder, inputs, targets, arguments)
        inputs, gold, _ = split(encoder, folder, "test")
        run = jax.jit(lambda params, inputs, encoder=encoder: scores(params, encoder, inputs))
        found = np.asarray(run(params, inputs))
        accuracy = (found.argmax(axis=1) == gold.argmax(axis=1)).mean()
        areas = [auroc(found[:, k], gold[:, k] > 0) for k in range(len(vocabulary))]
        area = np.mean([one for one in areas if one is not None])
        seconds = time.perf_counter() - started
        print(f"{name:18} accuracy {accuracy:.3f}  AUROC {area:.3f}  {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
