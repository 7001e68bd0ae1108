"""Fits a fusion on the features of frozen encoders: all seeds in one program.

What encoders say of a patient is computed once, so a fusion is small and its whole training, epochs
and validation, is one scan. Of each seed the weights of the epoch and the learning rate with the
lowest validation loss are kept: a linear head and a transformer need different ones.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from qoq_jax.base.fields import NotNegative, Positive
from qoq_jax.evaluation.metrics import auroc
from qoq_jax.models import fusion, spec
from qoq_jax.models.fusion import FusionConfig, Modality

Patients = Mapping[str, Modality]


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """How a fusion is learned."""

    epochs: Positive[int] = 60
    batch: Positive[int] = 64  # admissions
    # of AdamW, to 0 by a cosine; the best by validation is kept
    rates: tuple[float, ...] = (1e-3, 1e-2)
    weight_decay: NotNegative[float] = 0.05


class Rows(NamedTuple):
    """Numbers of the admissions that are learned from, and of those that choose the epoch."""

    train: np.ndarray
    validation: np.ndarray


def fit(
    cfg: FusionConfig,
    how: FitConfig,
    patients: Patients,
    labels: np.ndarray,
    rows: Rows,
    seeds: Sequence[int],
) -> dict[str, np.ndarray]:
    """Log-probabilities of all admissions by fusions that differ in their seed.

    Args:
      patients: features of all admissions; no gradient reaches an encoder.
      labels: int32 [n].
      rows: the admissions that are learned from, and those that choose.
      seeds: of initial weights and of the order of the admissions.

    Returns:
      {"fused": float32 [seeds, n, c]}; of "late" also those of each modality's own head, by name,
      which say nothing where an admission lacks it.
    """
    run = _program(cfg, how, len(rows.train))
    keys = jax.vmap(jax.random.key)(np.asarray(seeds))
    rates = np.asarray(how.rates, np.float32)
    params, losses = run(keys, rates, dict(patients), labels, rows.train, rows.validation)
    best = np.asarray(losses).argmin(axis=1)
    params = jax.tree.map(lambda x: x[np.arange(len(seeds)), best], params)
    if cfg.method != "late":
        return {"fused": np.asarray(_scores(cfg)(params, dict(patients)))}
    heads = {name: np.asarray(x) for name, x in _scores(cfg)(params, dict(patients)).items()}
    present = {name: np.asarray(one.present) for name, one in patients.items()}
    fused = []
    for n in range(len(seeds)):
        mine = {name: head[n] for name, head in heads.items()}
        weights = head_weights(mine, present, labels, rows.validation)
        fused.append(np.asarray(fusion.late_fusion(mine, present, weights)))
    return heads | {"fused": np.stack(fused)}


def head_weights(
    heads: Mapping[str, np.ndarray],
    present: Mapping[str, np.ndarray],
    labels: np.ndarray,
    validation: np.ndarray,
) -> dict[str, float]:
    """How much the head of each modality counts in late fusion: by how far its macro AUROC on
    validation admissions is above chance, 0 for one that is not; equal ones where none is.

    Args:
      heads: log-probabilities [n, c]. present: bool [n]. labels: int32 [n].
      validation: numbers of the validation admissions.
    """
    found = {}
    for name, head in heads.items():
        rows = validation[present[name][validation]]
        score = macro_auroc(head[rows], labels[rows])
        found[name] = max((score or 0.5) - 0.5, 0.0)
    return found if any(found.values()) else dict.fromkeys(found, 1.0)


def macro_auroc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Mean one-vs-rest AUROC over the classes that have positives and negatives; for two classes
    that of the second. scores [n, c], labels [n].
    """
    classes = range(scores.shape[1]) if scores.shape[1] > 2 else (1,)
    parts = [auroc(scores[:, k], labels == k) for k in classes]
    found = [part for part in parts if part is not None]
    return float(np.mean(found)) if found else None


@functools.lru_cache(maxsize=32)
def _program(cfg: FusionConfig, how: FitConfig, count: int) -> Any:
    """Compiled (keys [seeds], rates, patients, labels, train, validation) -> weights and validation
    losses, stacked by seed and rate.
    """
    batch = min(how.batch, count)
    steps = count // batch  # in an epoch; which admissions are left out changes with the epoch
    optimizer = optax.adamw(
        optax.cosine_decay_schedule(1.0, how.epochs * steps), weight_decay=how.weight_decay
    )

    def mean_loss(params: Any, patients: Any, labels: jax.Array, rows: jax.Array) -> jax.Array:
        mine = jax.tree.map(lambda x: x[rows], patients)
        total, number = fusion.loss(params, cfg, mine, labels[rows], jnp.ones(rows.shape))
        return total / jnp.maximum(number, 1)

    def one(
        key: jax.Array,
        rate: jax.Array,
        patients: Any,
        labels: jax.Array,
        train: jax.Array,
        validation: jax.Array,
    ) -> Any:
        start, order = jax.random.split(key)
        params = spec.init_params(fusion.param_specs(cfg), start)

        def step(carry: Any, rows: jax.Array) -> Any:
            params, state = carry
            gradient = jax.grad(mean_loss)(params, patients, labels, rows)
            updates, state = optimizer.update(gradient, state, params)
            updates = jax.tree.map(lambda x: rate * x, updates)
            return (optax.apply_updates(params, updates), state), None

        def epoch(carry: Any, key: jax.Array) -> Any:
            trained, best, lowest = carry
            rows = jax.random.permutation(key, train)[: steps * batch].reshape(steps, batch)
            trained, _ = jax.lax.scan(step, trained, rows)
            loss = mean_loss(trained[0], patients, labels, validation)
            better = loss < lowest
            best = jax.tree.map(lambda new, old: jnp.where(better, new, old), trained[0], best)
            return (trained, best, jnp.minimum(loss, lowest)), None

        first = ((params, optimizer.init(params)), params, jnp.inf)
        (_, best, loss), _ = jax.lax.scan(epoch, first, jax.random.split(order, how.epochs))
        return best, loss

    by_rate = jax.vmap(one, in_axes=(None, 0, None, None, None, None))
    return jax.jit(jax.vmap(by_rate, in_axes=(0, None, None, None, None, None)))


@functools.lru_cache(maxsize=32)
def _scores(cfg: FusionConfig) -> Any:
    """Compiled (stacked weights, patients) -> log-probabilities [seeds, n, c], by head for late."""

    def one(params: Any, patients: Any) -> Any:
        if cfg.method == "late":
            heads = fusion.late_logits(params, patients)
            return {name: jax.nn.log_softmax(head) for name, head in heads.items()}
        return jax.nn.log_softmax(fusion.logits(params, cfg, patients))

    return jax.jit(jax.vmap(one, in_axes=(0, None)))
