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
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from qoq_jax.base import progress
from qoq_jax.base.errors import DataError
from qoq_jax.data.index import Rows
from qoq_jax.data.meta import SampleMeta
from qoq_jax.data.packing import Budget, Placed
from qoq_jax.data.pipeline import BatchIterator
from qoq_jax.evaluation import calibration, likelihood, metrics, runner
from qoq_jax.evaluation.row_files import RowFiles
from qoq_jax.parallel import hosts
from qoq_jax.rewards import score as rewards
from qoq_jax.sampling.sampler import PackedBatch, make_sampler
from qoq_jax.sampling.schedule import Settings

Batch: TypeAlias = tuple[dict[str, np.ndarray], list[Placed]]


class Asked(Protocol):
    """The questions of an evaluation: `SplitRows`, or tasks.asked.Questions.

    Attributes:
      ids: source -> the ids of its questions, in order.
      budget: the shape of a batch.
    """

    @property
    def ids(self) -> Mapping[str, Sequence[str]]: ...

    @property
    def budget(self) -> Budget: ...

    def fingerprint(self) -> dict[str, str]:
        """Source -> a text that changes when its questions do."""

    def batches(self, places: Mapping[str, np.ndarray]) -> Iterator[Batch]:
        """(batch, placed samples) of this process: one pass over the questions of each source at
        these places, in order. All processes must ask for it, and get as many batches.
        """

    def record(self, text: str, meta: SampleMeta) -> dict:
        """The record of a response."""

    def content(self, records: list[dict], several: bool) -> dict[str, Any]:
        """What is written beside "records"; several: responses to each question."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What is to be evaluated.

    Attributes:
      asked: the questions.
      settings: how to sample; `rows` of it is a multiple of its samples and the devices.
      seed: of the draws; 0 and of no account when greedy.
      scores: the likelihood of each label too, where labels are asked for.
    """

    asked: Asked
    settings: Settings
    seed: int = 0
    scores: bool = False

    def without(self, done: set[tuple[str, str]]) -> dict[str, np.ndarray]:
        """Source -> the places of its questions that are not among these (source, id)."""
        return {
            source: np.array([i for i, name in enumerate(ids) if (source, name) not in done], int)
            for source, ids in self.asked.ids.items()
        }


class Run(runner.Evaluable, Protocol):
    """A run with its data; train.setup.Setup has it."""

    def one_pass(self, rows: Mapping[str, Rows]) -> BatchIterator:
        """One pass over rows of the run's sources."""


class SplitRows:
    """Rows of a run's own sources.

    Args:
      rows: source -> its rows.
    """

    def __init__(self, run: Run, rows: Mapping[str, Rows]):
        self._run, self._rows = run, rows
        self.ids = {source: tuple(row.id for row in found) for source, found in rows.items()}

    @property
    def budget(self) -> Budget:
        return self._run.evaluation_budget()

    def fingerprint(self) -> dict[str, str]:
        return {source: rows.fingerprint for source, rows in self._rows.items()}

    def batches(self, places: Mapping[str, np.ndarray]) -> Iterator[Batch]:
        data = self._run.one_pass({name: self._rows[name].take(at) for name, at in places.items()})
        yield from data
        for quarantined in self._run.share.join("skipped", data.quarantined):
            self._run.remember_quarantined(quarantined)

    def record(self, text: str, meta: SampleMeta) -> dict:
        return metrics.record(text, meta, rewards.score(text, meta, self._run.config.rl.reward))

    def content(self, records: list[dict], several: bool) -> dict[str, Any]:
        """{"summary", "calibration"} as `runner.evaluate` has them. Several responses to a row are
        no independent rows, so there are no intervals then.
        """
        sure = calibration.summarize(records)
        summary = metrics.summarize(records, **({"draws": 0} if several else {}))
        return {"summary": summary} | ({"calibration": sure} if sure else {})


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


def evaluate(model: runner.OnDevices, params: Any, work: Work, files: RowFiles) -> Speed:
    """Answers the rows that are not answered yet; process 0 then writes the whole evaluation.

    All processes must call it, within `jax.set_mesh` of the model's mesh.

    Raises:
      DataError: rows are left that could not be made, and data.on_error is not "skip".
    """
    began = time.monotonic()
    samples = range(work.settings.num_samples)
    hosts.barrier("row files")
    found = files.read()
    answered = {(source, name) for source, name, _ in found}
    done = {row for row in answered if all((*row, sample) in found for sample in samples)}
    rows, tokens = _answer(model, params, work, work.without(done), files)
    if work.scores:
        hosts.barrier("row files")
        found = files.read()
        for sample in samples:
            _score(model, params, work, sample, found, files)
    hosts.barrier("row files")
    seconds = time.monotonic() - began
    if hosts.is_main():
        files.finish(_content(work, files))
    return Speed(rows, tokens, seconds)


@progress.phase("evaluation")
def _answer(
    model: runner.OnDevices,
    params: Any,
    work: Work,
    left: Mapping[str, np.ndarray],
    files: RowFiles,
) -> tuple[int, int]:
    """Writes the records of this process; (rows, tokens) of all processes."""
    if not any(map(len, left.values())):
        return 0, 0
    asked, share, settings = work.asked, model.share, work.settings
    metas: dict[int, Any] = {}  # number of the prompt -> of this process's prompts
    names: list[int] = []  # of all prompts

    def batches() -> Iterator[PackedBatch]:
        for batch, prompts, at in runner.numbered(asked.batches(left), share):
            metas.update((number, placed.meta) for number, placed in prompts)
            mine = [row_name(placed.meta.source, placed.meta.id) for _, placed in prompts]
            names.extend(name for part in share.join("names", mine) for name in part)
            yield model.put(batch), at

    def key_of(prompt: int, sample: int) -> np.ndarray:
        return response_key(work.seed, names[prompt], sample)

    sampler, tokens = make_sampler(model.model, settings, model.mesh), 0
    for response in sampler.through_slots(params, batches(), model.banned, key_of):
        tokens += response.length
        if response.prompt in metas:
            text = model.tokenizer.decode(response.token_ids)
            files.add(asked.record(text, metas[response.prompt]), response.sample)
    return len(names), tokens


def _score(
    model: runner.OnDevices,
    params: Any,
    work: Work,
    sample: int,
    found: Mapping[tuple[str, str, int], dict],
    files: RowFiles,
) -> None:
    """Adds the likelihood of each label to the records of this process that have none."""
    # Options of a question, "A. CT", are no labels that a model boxes.
    ready = {
        (source, name): r
        for (source, name, g), r in found.items()
        if g == sample and len(r["vocabulary"]) > 1 and r.get("kind", "labels") == "labels"
    }
    texts = {row: r["text"] for row, r in ready.items() if "scores" not in r}
    every = {(source, name) for source, ids in work.asked.ids.items() for name in ids}
    if not texts:
        return
    # One shape for all, whatever rows come together and whatever is left after a kill.
    asked = ((r["text"], r["vocabulary"]) for r in ready.values())
    shape = likelihood.shape_of(asked, model.tokenizer)
    data = work.asked.batches(work.without(every - texts.keys()))
    batches = (
        (batch, [placed for _, placed in prompts])
        for batch, prompts, _ in runner.numbered(data, model.share)
    )
    for part in likelihood.scored(model, params, batches, texts, shape):
        for (source, name), chances in part.items():
            files.add({"source": source, "id": name, "scores": chances}, sample)


def _content(work: Work, files: RowFiles) -> dict[str, Any]:
    """The evaluation with its records in the order of the rows, each with its "sample"."""
    found, samples = files.read(), work.settings.num_samples
    records = [
        found[source, name, sample]
        for source, ids in work.asked.ids.items()
        for name in ids
        for sample in range(samples)
        if (source, name, sample) in found
    ]
    if len(records) != len(found):
        raise DataError(
            f"{len(found) - len(records)} responses are to rows that are not asked for",
            hint="delete the folder of this evaluation",
        )
    return work.asked.content(records, samples > 1) | {"records": records}


# --------------------------------------------------------------------------------------------- keys


def row_name(source: str, row_id: str) -> int:
    """64 bits that stand for a row."""
    return int.from_bytes(hashlib.sha256(f"{source}\n{row_id}".encode()).digest()[:8], "big")


@functools.lru_cache(1 << 16)
def response_key(seed: int, name: int, sample: int) -> np.ndarray:
    """Key data uint32 [2] of a response; see the head of this file."""
    digest = hashlib.sha256(f"{seed}/{name}/{sample}".encode()).digest()
    return np.frombuffer(digest[:8], ">u4").astype(np.uint32)
