"""One evaluation over all devices of all processes, written row by row.

Rows are cut over the mesh axes data and fsdp; each process makes, decodes and scores the rows that
its devices hold, and appends their records to a file of its own (row_files.py). What fills a batch
up to the number of devices is no prompt and becomes no record.

A response is drawn by a key of its own, the first 64 bits of SHA-256 of (seed, source, id, sample):
neither the rows beside it, nor the mesh, nor an interruption changes it. What is left is rounding:
a row's arithmetic is the same wherever a device has programs of the same shapes. So rows are
counted per device, and all labels are scored in one shape. Even so, programs for another number of
devices round in other places: probabilities of labels differ in their last bits, and so could a
token whose two likeliest words are as near to each other.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from qoq_jax.base import progress
from qoq_jax.base.errors import DataError
from qoq_jax.data.index import Rows
from qoq_jax.data.pipeline import BatchIterator
from qoq_jax.evaluation import calibration, likelihood, metrics, runner
from qoq_jax.evaluation.row_files import RowFiles
from qoq_jax.parallel import hosts
from qoq_jax.rewards import score as rewards
from qoq_jax.sampling.sampler import PackedBatch, make_sampler
from qoq_jax.sampling.schedule import Settings


class Sharded(runner.Evaluable, Protocol):
    """What it needs of a run besides; train.setup.Setup has it."""

    def one_pass(self, rows: Mapping[str, Rows]) -> BatchIterator:
        """One pass over rows of the run's sources."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What is to be evaluated.

    Attributes:
      rows: source -> its rows.
      ids: source -> the ids of these rows, in order.
      settings: how to sample; `rows` of it is a multiple of its samples and the devices.
      seed: of the draws; 0 and of no account when greedy.
      scores: the likelihood of each label too.
    """

    rows: Mapping[str, Rows]
    ids: Mapping[str, tuple[str, ...]]
    settings: Settings
    seed: int = 0
    scores: bool = False

    def without(self, done: set[tuple[str, str]]) -> dict[str, Rows]:
        """The rows that are not among these (source, id)."""
        left = {
            source: np.array([i for i, name in enumerate(ids) if (source, name) not in done], int)
            for source, ids in self.ids.items()
        }
        return {source: self.rows[source].take(places) for source, places in left.items()}


@dataclasses.dataclass(frozen=True)
class Speed:
    """What an evaluation did since its command was started.

    Attributes:
      rows, tokens: answered, and tokens of all their responses, on all devices together.
      seconds: for the responses and their scores, compilation included.
    """

    rows: int
    tokens: int
    seconds: float


def evaluate(setup: Sharded, params: Any, work: Work, files: RowFiles) -> Speed:
    """Answers the rows that are not answered yet; process 0 then writes the whole evaluation.

    All processes must call it, within `jax.set_mesh` of the setup's mesh.

    Raises:
      DataError: rows are left that could not be made, and data.on_error is not "skip".
    """
    began = time.monotonic()
    samples = range(work.settings.num_samples)
    hosts.barrier("row files")
    found = files.read()
    answered = {(source, name) for source, name, _ in found}
    done = {row for row in answered if all((*row, sample) in found for sample in samples)}
    rows, tokens = _answer(setup, params, work, work.without(done), files)
    if work.scores:
        hosts.barrier("row files")
        found = files.read()
        for sample in samples:
            _score(setup, params, work, sample, found, files)
    hosts.barrier("row files")
    seconds = time.monotonic() - began
    if hosts.is_main():
        files.finish(_content(work, files))
    return Speed(rows, tokens, seconds)


@progress.phase("evaluation")
def _answer(
    setup: Sharded, params: Any, work: Work, rows: Mapping[str, Rows], files: RowFiles
) -> tuple[int, int]:
    """Writes the records of this process; (rows, tokens) of all processes."""
    if not any(map(len, rows.values())):
        return 0, 0
    data, share, settings = setup.one_pass(rows), setup.share, work.settings
    metas: dict[int, Any] = {}  # number of the prompt -> of this process's prompts
    names: list[int] = []  # of all prompts

    def batches() -> Iterator[PackedBatch]:
        for batch, prompts, at in runner.numbered(data, share):
            metas.update((number, placed.meta) for number, placed in prompts)
            mine = [row_name(placed.meta.source, placed.meta.id) for _, placed in prompts]
            names.extend(name for part in share.join("names", mine) for name in part)
            yield setup.put(batch), at

    def key_of(prompt: int, sample: int) -> np.ndarray:
        return response_key(work.seed, names[prompt], sample)

    sampler, tokens = make_sampler(setup.model, settings, setup.mesh), 0
    for response in sampler.through_slots(params, batches(), setup.banned, key_of):
        tokens += response.length
        if response.prompt in metas:
            meta, text = metas[response.prompt], setup.tokenizer.decode(response.token_ids)
            reward = rewards.score(text, meta, setup.config.rl.reward)
            files.add(metrics.record(text, meta, reward), response.sample)
    for quarantined in share.join("skipped", data.quarantined):
        setup.remember_quarantined(quarantined)
    return len(names), tokens


def _score(
    setup: Sharded,
    params: Any,
    work: Work,
    sample: int,
    found: Mapping[tuple[str, str, int], dict],
    files: RowFiles,
) -> None:
    """Adds the likelihood of each label to the records of this process that have none."""
    ready = {(source, name): r for (source, name, g), r in found.items() if g == sample}
    texts = {
        row: r["text"] for row, r in ready.items() if "scores" not in r and len(r["vocabulary"]) > 1
    }
    every = {(source, name) for source, ids in work.ids.items() for name in ids}
    if not texts:
        return
    # One shape for all, whatever rows come together and whatever is left after a kill.
    asked = ((r["text"], r["vocabulary"]) for r in ready.values() if len(r["vocabulary"]) > 1)
    shape = likelihood.shape_of(asked, setup.tokenizer)
    data = setup.one_pass(work.without(every - texts.keys()))
    batches = (
        (batch, [placed for _, placed in prompts])
        for batch, prompts, _ in runner.numbered(data, setup.share)
    )
    for part in likelihood.scored(setup, params, batches, texts, shape):
        for (source, name), chances in part.items():
            files.add({"source": source, "id": name, "scores": chances}, sample)


def _content(work: Work, files: RowFiles) -> dict[str, Any]:
    """{"summary", "records", "calibration"} as `runner.evaluate` has them, each record with its
    "sample". Each response counts as a row; several responses to a row are no independent rows, so
    there are no intervals then.
    """
    found, several = files.read(), work.settings.num_samples > 1
    records = [
        found[source, name, sample]
        for source, ids in work.ids.items()
        for name in ids
        for sample in range(work.settings.num_samples)
        if (source, name, sample) in found
    ]
    if len(records) != len(found):
        raise DataError(
            f"{len(found) - len(records)} responses are to rows that are not asked for",
            hint="delete the folder of this evaluation",
        )
    sure = calibration.summarize(records)
    return {
        "summary": metrics.summarize(records, **({"draws": 0} if several else {})),
        "records": records,
        **({"calibration": sure} if sure else {}),
    }


# --------------------------------------------------------------------------------------------- keys


def row_name(source: str, row_id: str) -> int:
    """64 bits that stand for a row."""
    return int.from_bytes(hashlib.sha256(f"{source}\n{row_id}".encode()).digest()[:8], "big")


@functools.lru_cache(1 << 16)
def response_key(seed: int, name: int, sample: int) -> np.ndarray:
    """Key data uint32 [2] of a response; see the head of this file."""
    digest = hashlib.sha256(f"{seed}/{name}/{sample}".encode()).digest()
    return np.frombuffer(digest[:8], ">u4").astype(np.uint32)
