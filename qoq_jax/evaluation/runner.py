"""Evaluation of parameters on a split: greedy responses, their rewards and metrics."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any, Protocol, TypeAlias

import jax
import numpy as np

from qoq_jax.base import progress, terminal
from qoq_jax.data.packing import Budget, Placed
from qoq_jax.data.pipeline import BatchIterator
from qoq_jax.data.tokenizer import Tokenizer
from qoq_jax.data.unpacking import unpack
from qoq_jax.evaluation import calibration, fairness, few, likelihood, metrics
from qoq_jax.models.sizes import VlmConfig
from qoq_jax.parallel import hosts, preemption
from qoq_jax.parallel.hosts import Share
from qoq_jax.rewards import score as rewards
from qoq_jax.sampling import vllm
from qoq_jax.sampling.sampler import PackedBatch, make_sampler
from qoq_jax.sampling.schedule import Response, Settings

Samples: TypeAlias = list[tuple[int, Placed]]  # those of a batch, with their numbers


class OnDevices(Protocol):
    """A model on a mesh; train.setup.Setup is one.

    Attributes:
      model: VlmConfig. mesh: of the parameters.
      banned: bool [V], tokens that are never sampled. share: the rows of this process.
    """

    model: VlmConfig
    tokenizer: Tokenizer
    mesh: jax.sharding.Mesh
    share: Share

    @property
    def banned(self) -> jax.Array: ...

    def put(self, batch: Any) -> Any:
        """A host batch on the mesh."""

    def own(self, tree: Any) -> Any:
        """Its inverse: this process's rows as numpy arrays."""


class Evaluable(OnDevices, Protocol):
    """What an evaluation needs of a run; train.setup.Setup has it.

    Attributes:
      config: with the sections data, eval, rollout and rl.reward, and the workdir.
    """

    config: Any

    def evaluation_iterator(self, split: str, limit: int) -> BatchIterator:
        """One pass over a split, `limit` rows per domain of each source."""

    def evaluation_rows(self, split: str, limit: int) -> Mapping[str, Sized]:
        """Those rows, by source."""

    def evaluation_budget(self) -> Budget:
        """The shape of its batches."""

    def remember_quarantined(self, found: dict[str, str]) -> None:
        """Takes the samples that were skipped."""


def evaluate(setup: Evaluable, params: Any, split: str) -> dict:
    """Answers every row of the split greedily.

    Args:
      params: model parameters on the mesh.
      split: "validation" or "test".

    Returns:
      {"split", "summary": metrics.summarize(records), "records"}; with real samples "real":
      few.summarize of their records; with eval.scores "calibration": calibration.summarize of all;
      with attributes of rows "fairness": fairness.summarize of all.
      Of several processes only process 0 gets them; {} elsewhere.
    """
    cfg = setup.config.eval
    records = answer(setup, params, split, cfg.limit_per_domain, cfg.scores)
    if records is None:
        return {}
    real = [r for r in records if r["source"] == "real"]
    sure, groups = calibration.summarize(records), fairness.summarize(records)
    return {
        "split": split,
        "summary": metrics.summarize(records),
        **({"real": few.summarize(real)} if real else {}),
        **({"calibration": sure} if sure else {}),
        **({"fairness": groups} if groups else {}),
        "records": records,
    }


@progress.phase("evaluation")
def answer(
    setup: Evaluable, params: Any, split: str, limit: int, scores: bool = False
) -> list[dict] | None:
    """Records of greedy responses to at most `limit` rows per domain of each source (0 = all), in
    the order of the rows.

    scores: with the likelihood of each label (likelihood.py).

    Each process scores the responses to its own rows; process 0 gets all records, the others None.
    """
    cfg = setup.config
    settings = Settings(cfg.data.max_response_tokens, rows=cfg.eval.rows)
    server = vllm.of_config(cfg, setup.model, setup.tokenizer)
    data, share = setup.evaluation_iterator(split, limit), setup.share
    metas: dict[int, Any] = {}  # number of the prompt -> of this process's prompts

    def remembered() -> Iterator[tuple[dict, Samples, list[int]]]:
        for batch, samples, rows in numbered(data, share):
            metas.update((number, placed.meta) for number, placed in samples)
            yield batch, samples, rows

    def batches() -> Iterator[PackedBatch]:
        for batch, _, rows in remembered():
            yield setup.put(batch), rows

    def from_server(server: vllm.Server) -> Iterator[Response]:
        with contextlib.closing(server):
            server.load(params)
            budget = setup.evaluation_budget()
            for batch, samples, _ in remembered():
                unpacked = [unpack(batch, placed, budget) for _, placed in samples]
                for (response,) in server.ask(unpacked, settings, seed=0):
                    number, _ = samples[response.prompt]
                    yield dataclasses.replace(response, prompt=number)

    if server is not None:
        responses = from_server(server)
    else:
        sampler = make_sampler(setup.model, settings, setup.mesh)
        responses = sampler.greedy(params, batches(), setup.banned)
    records = {}
    for response in _watched(responses, setup.evaluation_rows(split, limit), split):
        if response.prompt in metas:
            meta, text = metas[response.prompt], setup.tokenizer.decode(response.token_ids)
            records[response.prompt] = metrics.record(
                text, meta, rewards.score(text, meta, cfg.rl.reward)
            )
    if scores:
        # The second pass may skip other samples than the first, so rows go by name.
        rows = {(record["source"], record["id"]): record for record in records.values()}
        again = numbered(setup.evaluation_iterator(split, limit), share)
        texts = {key: record["text"] for key, record in rows.items()}
        prompts = ((batch, [placed for _, placed in samples]) for batch, samples, _ in again)
        for key, found in likelihood.scores(setup, params, prompts, texts).items():
            rows[key]["scores"] = found
    for quarantined in share.join("skipped", data.quarantined):
        setup.remember_quarantined(quarantined)
    # Rows of a later batch come after all rows of this one: joined by number, not by part.
    parts = share.to_main("records", sorted(records.items()))
    if parts is None:
        return None
    return [record for _, record in sorted((pair for part in parts for pair in part), key=_number)]


def _watched(
    responses: Iterable[Response], rows: Mapping[str, Sized], split: str
) -> Iterator[Response]:
    """The responses, with a bar on the main process's terminal."""
    if not hosts.is_main():
        yield from responses
        return
    with terminal.Bar(f"answering the {split} split", sum(map(len, rows.values()))) as bar:
        for done, response in enumerate(responses, 1):
            yield response
            bar.update(done)


def numbered(
    data: Iterable[tuple[dict, list[Placed]]], share: Share
) -> Iterator[tuple[dict, Samples, list[int]]]:
    """Batches of this process, its samples with their numbers, and the rows of all processes that
    hold a prompt: prompts are numbered as if one process had read them.
    """
    count = 0
    for batch, samples in data:
        preemption.poll(within_loop=False)
        size = len(batch["tokens"])
        parts = share.join("prompts", [placed.row for placed in samples])
        first = count + sum(map(len, parts[: share.index]))
        count += sum(map(len, parts))
        rows = [i * size + row for i, of_it in enumerate(parts) for row in of_it]
        yield batch, list(enumerate(samples, first)), rows


def _number(pair: tuple[int, dict]) -> int:
    return pair[0]


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
        iou += f", AUROC {overall['auroc']:.3f}" if "auroc" in overall else ""
        parts.append(
            f"{source} ({group['count']} rows): macro-F1 {overall['macro_f1']:.3f}{iou}, "
            f"format {overall['format']:.3f}"
        )
    return "; ".join(parts)
