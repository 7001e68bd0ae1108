"""Evaluation of parameters on a split: greedy responses, their rewards and metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import jax
import numpy as np

from qoq_jax.base import progress
from qoq_jax.data.pipeline import BatchIterator
from qoq_jax.data.tokenizer import Tokenizer
from qoq_jax.evaluation import few, metrics
from qoq_jax.models.sizes import VlmConfig
from qoq_jax.parallel import preemption
from qoq_jax.rewards import score as rewards
from qoq_jax.sampling.sampler import PackedBatch, make_sampler
from qoq_jax.sampling.schedule import Settings


class Evaluable(Protocol):
    """What an evaluation needs of a run; train.setup.Setup has it.

    Attributes:
      config: with the sections data, eval and rl.reward. model: VlmConfig. mesh: of the parameters.
      banned: bool [V], tokens that are never sampled.
    """

    config: Any
    model: VlmConfig
    tokenizer: Tokenizer
    mesh: jax.sharding.Mesh

    @property
    def banned(self) -> jax.Array: ...

    def put(self, batch: Any) -> Any:
        """A host batch on the mesh."""

    def evaluation_iterator(self, split: str, limit: int) -> BatchIterator:
        """One pass over a split, `limit` rows per domain of each source."""

    def remember_quarantined(self, found: dict[str, str]) -> None:
        """Takes the samples that were skipped."""


def evaluate(setup: Evaluable, params: Any, split: str) -> dict:
    """Answers every row of the split greedily.

    Args:
      params: model parameters on the mesh.
      split: "validation" or "test".

    Returns:
      {"split", "summary": metrics.summarize(records), "records"}, and with real samples "real":
      few.summarize of their records.
    """
    records = answer(setup, params, split, setup.config.eval.limit_per_domain)
    real = [r for r in records if r["source"] == "real"]
    return {
        "split": split,
        "summary": metrics.summarize(records),
        **({"real": few.summarize(real)} if real else {}),
        "records": records,
    }


@progress.phase("evaluation")
def answer(setup: Evaluable, params: Any, split: str, limit: int) -> list[dict]:
    """Records of greedy responses to at most `limit` rows per domain of each source (0 = all)."""
    cfg = setup.config
    settings = Settings(cfg.data.max_response_tokens, rows=cfg.eval.rows)
    sampler = make_sampler(setup.model, settings, setup.mesh)
    data = setup.evaluation_iterator(split, limit)
    metas = []  # in the order of the prompts

    def batches() -> Iterator[PackedBatch]:
        for batch, samples in data:
            preemption.poll(within_loop=False)
            metas.extend(placed.meta for placed in samples)
            yield setup.put(batch), [placed.row for placed in samples]

    records = {}
    for response in sampler.greedy(params, batches(), setup.banned):
        meta, text = metas[response.prompt], setup.tokenizer.decode(response.token_ids)
        records[response.prompt] = metrics.record(
            text, meta, rewards.score(text, meta, cfg.rl.reward)
        )
    setup.remember_quarantined(data.quarantined)
    return [records[i] for i in range(len(metas))]


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
