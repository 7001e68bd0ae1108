"""Scores of a data set as CLIMB reports them (arXiv 2503.07667): AUROC, sensitivity, specificity.

Each is one label against the rest, then the mean over the labels that the samples both have and
lack; a domain is the mean of its sets, and the overall score the mean of all sets. A sample of
exclusive labels is called by its likeliest one; of others by each label that is likelier than its
share of the training samples, which for true probabilities is where sensitivity + specificity is
largest.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.evaluation.metrics import BOOTSTRAP_DRAWS, auroc, interval, one_vs_rest
from qoq_jax.transfer.sets import LabelledSet

NAMES = ("auroc", "sensitivity", "specificity")


def check(one: LabelledSet, split: str = "test") -> None:
    """Raises DataError where `of_set` of that split would: before hours of training are spent."""
    if not sided(one.splits[split].gold).any():
        raise DataError(
            f"no label is both present and absent in the {split} split",
            where=one.name,
            hint="leave the set out, or evaluate on more samples",
        )


def sided(gold: np.ndarray) -> np.ndarray:
    """Bool [K]: whether some samples have a label, and some have not; gold bool [n, K]."""
    return gold.any(axis=0) & ~gold.all(axis=0)


def probabilities(one: LabelledSet, own_logits: np.ndarray) -> np.ndarray:
    """float64 [n, K] from the logits of a set's own labels: a softmax over them where they exclude
    each other, else a sigmoid each.
    """
    z = own_logits.astype(np.float64)
    if not one.exclusive:
        return np.exp(-np.logaddexp(0, -z))
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


def of_set(
    one: LabelledSet,
    own_logits: np.ndarray,
    split: str = "test",
    draws: int = BOOTSTRAP_DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Scores of a set from logits [n, K] of its own labels.

    Returns:
      {"domain", "count", "auroc", "auroc_interval", "sensitivity", "specificity", "per_label":
      {label: the same}}. The interval is 95 % of a bootstrap that draws patients; [] of one
      patient, of whom there are no others to draw.

    Raises:
      DataError: no label is both present and absent.
    """
    check(one, split)
    gold = one.splits[split].gold
    score = probabilities(one, own_logits)
    called = score > one.splits["train"].gold.mean(axis=0)[None]
    if one.exclusive:
        called = np.arange(len(one.labels))[None] == score.argmax(axis=1)[:, None]
    per_label: dict[str, dict[str, float]] = {}
    for k in np.flatnonzero(sided(gold)):
        g, c = gold[:, k], called[:, k]
        counts = ((g & c).sum(), (~g & c).sum(), (g & ~c).sum(), (~g & ~c).sum())
        found = one_vs_rest(*map(int, counts))
        per_label[one.labels[k]] = {
            "auroc": auroc(score[:, k], g),
            "sensitivity": found["recall"],
            "specificity": found["specificity"],
        }
    drawn = _bootstrap(one, score, split, draws, seed)
    means = {name: float(np.mean([of[name] for of in per_label.values()])) for name in NAMES}
    return {
        "domain": one.domain,
        "count": len(gold),
        **means,
        "auroc_interval": interval(drawn),
        "per_label": per_label,
    }


def together(sets: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """{"sets", "domains": {domain: means over its sets}, and the means over all sets}."""
    domains: dict[str, list[dict[str, Any]]] = {}
    for found in sets.values():
        domains.setdefault(found["domain"], []).append(found)

    def mean(of: list[dict[str, Any]]) -> dict[str, float]:
        return {name: float(np.mean([found[name] for found in of])) for name in NAMES}

    return {
        "sets": dict(sets),
        "domains": {domain: mean(of) for domain, of in domains.items()},
        **mean(list(sets.values())),
    }


def weighted_auroc(score: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[draws]: AUROC where each sample counts `weights` [draws, n] times; NaN for a draw that has
    samples of one side alone.

    P(score of a positive > of a negative) + P(equal) / 2, as metrics.auroc.
    """
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    order = np.argsort(place, kind="stable")
    first = np.cumsum(counts) - counts  # where each score begins in that order

    def by_score(mask: np.ndarray) -> np.ndarray:
        return np.add.reduceat((weights * mask)[:, order], first, axis=1)

    ups, downs = by_score(positive), by_score(~positive)
    below = np.cumsum(downs, axis=1) - downs
    total = ups.sum(axis=1) * downs.sum(axis=1)
    wins = (ups * (below + downs / 2)).sum(axis=1)
    return np.where(total > 0, wins / np.where(total > 0, total, 1), np.nan)


def _bootstrap(
    one: LabelledSet, score: np.ndarray, split: str, draws: int, seed: int
) -> np.ndarray:
    """[draws] of the macro AUROC over resampled patients; a sample without one is its own. A label
    that a draw does not both have and lack is left out of that draw's mean.
    """
    part = one.splits[split]
    alone = part.patients == 0
    groups = np.where(alone, np.arange(len(part), dtype=np.uint64), part.patients)
    _, person = np.unique(np.stack([alone, groups]), axis=1, return_inverse=True)
    person = person.ravel()
    rng = np.random.default_rng([seed, zlib.crc32(one.name.encode())])
    people = person.max() + 1
    if people == 1:
        return np.zeros(0)
    chosen = rng.multinomial(people, np.full(people, 1 / people), size=draws)
    weights = chosen[:, person].astype(np.float64)
    areas = np.array(
        [
            weighted_auroc(score[:, k], part.gold[:, k], weights)
            for k in np.flatnonzero(sided(part.gold))
        ]
    )
    seen = ~np.isnan(areas)
    count = seen.sum(axis=0)
    return np.where(seen, areas, 0).sum(axis=0)[count > 0] / count[count > 0]
