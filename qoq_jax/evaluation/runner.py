"""Evaluation of parameters on a split: greedy answers, their rewards and metrics."""

from __future__ import annotations

import jax
import numpy as np

from qoq_jax.evaluation import metrics
from qoq_jax.parallel import hosts
from qoq_jax.rewards import score as rewards
from qoq_jax.train import step as steps


def evaluate(setup, params, split: str) -> dict:
    """Answers every row of the split greedily.

    Args:
      setup: train.setup.Setup.
      params: model parameters on the setup's mesh.
      split: "validation" or "test".

    Returns:
      {"split", "summary": metrics.summarize(records), "records"}.
    """
    records = answer(setup, params, split, setup.config.eval.limit_per_domain)
    return {"split": split, "summary": metrics.summarize(records), "records": records}


def answer(setup, params, split: str, limit: int) -> list[dict]:
    """The records of greedy answers to at most `limit` rows a domain of each source (0 = all)."""
    cfg = setup.config
    sampler = steps.make_sampler(setup.model, 1, cfg.data.max_response_tokens, 0.0, 1.0)
    banned, key = setup.banned, jax.random.key(0)
    data = setup.evaluation_iterator(split, limit)
    records = []
    for batch, samples in data:
        answers = sampler(params, setup.put(batch), key, banned)
        tokens, mask = hosts.gather((answers.tokens[:, 0], answers.mask[:, 0]))
        for placed in samples:
            length = int(mask[placed.row].sum())
            text = setup.tokenizer.decode(tokens[placed.row, :length])
            records.append(
                metrics.record(text, placed.meta, rewards.score(text, placed.meta, cfg.rl.reward))
            )
    setup.remember_quarantined(data.quarantined)
    return records


def macro_f1(records: list[dict]) -> float:
    """Mean over domains of the mean over their data sets, as in `metrics.summarize`, without its
    intervals.
    """
    by_domain: dict[str, dict[str, list[dict]]] = {}
    for record in records:
        by_domain.setdefault(record["domain"], {}).setdefault(record["dataset"], []).append(record)
    return float(
        np.mean(
            [
                np.mean([metrics.dataset_metrics(rows)["macro_f1"] for rows in sets.values()])
                for sets in by_domain.values()
            ]
        )
    )


def headline(summary: dict) -> str:
    """One line of a summary."""
    parts = []
    for source, group in summary["sources"].items():
        overall = group["overall"]
        iou = f", IoU {overall['iou']:.3f}" if "iou" in overall else ""
        parts.append(
            f"{source} ({group['count']} rows): macro-F1 {overall['macro_f1']:.3f}{iou}, "
            f"format {overall['format']:.3f}"
        )
    return "; ".join(parts)
