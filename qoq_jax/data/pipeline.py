"""Rows to batches with Grain: shuffled, mixed by domain, sharded over processes, exactly resumable.

The global batch is a function of (rows, seed, config, batch number) only. Media row r of it draws
from stream r, which is every R-th element of one infinite shuffled sequence (R media rows); process
p of n owns media rows p·R/n ... (p+1)·R/n - 1. So 1, 2 or 4 processes make the same global batches,
and a run resumes on another number of processes (`merge_states`).

    rows ─ shuffle per epoch ─ mix domains ─ every R-th ─ read and process (threads) ─ pack ─ batch

A sample that cannot be made is a DataError ("raise"), or is left out, named and counted ("skip").
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.data import packing, readers
from qoq_jax.data import rows as schema
from qoq_jax.data import sample as transforms
from qoq_jax.data import sources as row_files
from qoq_jax.data.answer_format import PIXELS
from qoq_jax.data.packing import Budget, GroupPacker, Placed
from qoq_jax.data.sample import ProcessConfig
from qoq_jax.data.tokenizer import Tokenizer

Batch = dict[str, np.ndarray]
WINDOW = (
    # elements of a stream shuffled after mixing, or each stream would lock to a phase of the
    # mixture
    256
)


@dataclasses.dataclass(frozen=True)
class Source:
    """A named data set: rows, and the folder that their media paths are relative to."""

    name: str
    root: str | os.PathLike
    rows: Sequence[schema.Row]


@dataclasses.dataclass(frozen=True)
class Bad:
    """Stands in the stream for a sample that could not be made."""

    key: str  # "source/row id"
    error: DataError


class _Nothing:
    """Fills the last evaluation batch."""


class _Stream:
    """One media row's samples, with one sample of look-ahead that is not part of the state."""

    def __init__(self, iterator: grain.DatasetIterator):
        self._iterator = iterator
        self._ahead: Any = None
        self.state = iterator.get_state()  # before the first element that no batch holds

    def fill(self, group: GroupPacker, reject: Callable[[Bad], None], exactly: int | None) -> None:
        """Adds samples until one does not fit; with `exactly`, takes that many, which must all fit."""
        taken = 0
        while exactly is None or taken < exactly:
            if self._ahead is None:
                try:
                    self._ahead = next(self._iterator)
                except StopIteration:
                    return
            if isinstance(self._ahead, Bad):
                reject(self._ahead)
            elif not isinstance(self._ahead, _Nothing) and not group.add(self._ahead):
                if exactly is None:
                    return
                raise DataError(
                    f"the media of {exactly} samples overflow a media row",
                    where=f"row {self._ahead['meta'].id!r}",
                    hint="raise data.max_patches or data.mean_ecgs",
                )
            self._ahead, taken = None, taken + 1
            self.state = self._iterator.get_state()

    def restore(self, state: dict[str, Any]) -> None:
        self._iterator.set_state(state)
        self._ahead, self.state = None, state


class BatchIterator(grain.DatasetIterator):
    """Iterates (batch, placed samples) of this process's media rows; `make_iterator` makes one.

    Text and media rows of the batch, and `Placed.row`, count from 0 in this process.

    Attributes:
      quarantined: "source/row id" -> reason, of every sample left out so far in this process.
      batches: batches emitted since the start of the run.
      ecg_lengths: "source/row id" -> what was done to its ECG that is not 10 s long, of the batches
        since this process began.
    """

    def __init__(
        self,
        streams: Mapping[int, grain.DatasetIterator],
        budget: Budget,
        fingerprint: str,
        *,
        on_error: str,
        max_quarantined: int,
        exactly: int | None,
    ):
        super().__init__(tuple(streams.values()))
        self._streams = {index: _Stream(iterator) for index, iterator in streams.items()}
        self._budget, self._fingerprint = budget, fingerprint
        self._on_error, self._max_quarantined, self._exactly = on_error, max_quarantined, exactly
        self.quarantined: dict[str, str] = {}
        self.ecg_lengths: dict[str, str] = {}
        self.batches = 0

    def __next__(self) -> tuple[Batch, list[Placed]]:
        self._assert_not_closed()
        before = self.get_state()
        groups = [GroupPacker(self._budget) for _ in self._streams]
        try:
            for stream, group in zip(self._streams.values(), groups):
                stream.fill(group, self._reject, self._exactly)
        except DataError:
            self.set_state(before)  # the state never stands in the middle of a batch
            raise
        ended = all(
            stream.state == before["streams"][str(index)] for index, stream in self._streams.items()
        )
        if ended or (self._exactly is None and not any(groups)):
            raise StopIteration
        self.batches += 1
        batch, placed = packing.write_groups(groups, self._budget)
        for meta in (sample.meta for sample in placed):
            if meta.ecg_lengths:
                self.ecg_lengths[f"{meta.source}/{meta.id}"] = ", ".join(meta.ecg_lengths)
        return batch, placed

    def count_ecg_lengths(self) -> dict[str, int]:
        """Rows with an ECG that was cut or repeated, since this process began."""
        return {
            "ecgs_cut": sum(readers.CUT in text for text in self.ecg_lengths.values()),
            "ecgs_repeated": sum(readers.REPEATED in text for text in self.ecg_lengths.values()),
        }

    def _reject(self, bad: Bad) -> None:
        if self._on_error == "raise":
            raise bad.error
        self.quarantined[bad.key] = str(bad.error)
        if len(self.quarantined) > self._max_quarantined:
            raise DataError(
                f"{len(self.quarantined)} samples could not be made, the limit is "
                f"{self._max_quarantined}; "
                f"the last: {bad.error}",
                where=bad.key,
                hint="correct the data, or raise data.max_bad_fraction",
            )

    def get_state(self) -> dict[str, Any]:
        """JSON-able state of this process: the next batch after `set_state` equals the next batch
        now.
        """
        return {
            "fingerprint": self._fingerprint,
            "batches": self.batches,
            "streams": {str(index): dict(stream.state) for index, stream in self._streams.items()},
            "quarantined": dict(self.quarantined),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues from a state of this process, or from the merged states of any number of
        processes.

        Raises:
          DataError: the state belongs to other rows, another seed or another config, or lacks a
            stream.
        """
        if state["fingerprint"] != self._fingerprint:
            raise DataError(
                "the saved data state belongs to other rows, another seed or another data config",
                hint="resume with the data and config of the run, or start a new run",
            )
        missing = [index for index in self._streams if str(index) not in state["streams"]]
        if missing:
            raise DataError(
                f"the saved data state has no stream {missing[0]}",
                hint="merge the states of all processes of the run",
            )
        for index, stream in self._streams.items():
            stream.restore(dict(state["streams"][str(index)]))
        self.batches = int(state["batches"])
        self.quarantined = dict(state["quarantined"])

    def __str__(self) -> str:
        return f"BatchIterator(streams={list(self._streams)})"


def merge_states(states: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One state out of those of all processes at the same batch, to resume on any number of
    processes.
    """
    states = list(states)
    merged = {**states[0], "streams": {}, "quarantined": {}}
    for state in states:
        if (state["fingerprint"], state["batches"]) != (merged["fingerprint"], merged["batches"]):
            raise DataError(
                "the data states are of different runs or batches",
                hint="use the states of one checkpoint",
            )
        merged["streams"].update(state["streams"])
        merged["quarantined"].update(state["quarantined"])
    return merged


def make_iterator(
    sources: Sequence[Source],
    tokenizer: Tokenizer,
    cfg: ProcessConfig,
    budget: Budget,
    *,
    seed: int,
    with_answer: bool,
    weights_by_domain: Mapping[str, float] | None = None,
    epochs: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    on_error: str = "raise",
    max_bad: float = 0.01,
    threads: int = 1,
    prefetch: int = 4,
    cache: bool = False,
) -> BatchIterator:
    """Shuffled batches, without end unless `epochs` is given.

    Args:
      budget: of the global batch; this process gets its share of the rows.
      seed: of the shuffle; each epoch is shuffled anew.
      weights_by_domain: share of each domain in the stream, for all domains that occur (0 leaves
        one out). None: each row once an epoch.
      epochs: end after so many passes. Only for one process (packing makes the number of batches
        differ between streams, and no process may stop before the others) and without weights.
      on_error: "raise" or "skip"; at most max_bad of the rows (at least one) may be skipped by a
        process.
      cache: keep processed samples in memory, for data sets of some thousand small samples.
      threads, prefetch: of each media row of this process; 0 threads reads in the caller's thread.
    """
    pairs = _pairs(sources)
    if epochs is not None and (process_count > 1 or weights_by_domain):
        raise ConfigError(
            "epochs needs one process and no domain weights", hint="count steps instead"
        )
    rows = grain.MapDataset.source(pairs)
    if weights_by_domain is None:
        mixed = rows.shuffle(seed=_seed(seed, "rows")).repeat(epochs)
    else:
        mixed = _mix(sources, pairs, weights_by_domain, seed, WINDOW * budget.media_rows)
    make = _maker(sources, tokenizer, cfg, budget, with_answer, cache)
    streams = {
        r: mixed[r :: budget.media_rows].map(make) if len(mixed) > r else grain.MapDataset.range(0)
        for r in _own(budget, process_index, process_count)
    }
    weights = dict(weights_by_domain or {})
    options = {
        "kind": "train",
        "seed": seed,
        "weights": weights,
        "epochs": epochs,
        "with_answer": with_answer,
    }
    return _iterator(
        streams, sources, tokenizer, cfg, budget, options, process_count=process_count, on_error=on_error,
        max_bad=max_bad, threads=threads, prefetch=prefetch, exactly=None,
    )  # fmt: skip


def make_eval_iterator(
    sources: Sequence[Source],
    tokenizer: Tokenizer,
    cfg: ProcessConfig,
    budget: Budget,
    *,
    with_answer: bool = False,
    process_index: int = 0,
    process_count: int = 1,
    on_error: str = "raise",
    max_bad: float = 0.01,
    threads: int = 1,
    prefetch: int = 4,
) -> BatchIterator:
    """Every row once, in order: batch k holds rows k·B to (k+1)·B - 1, one a text row; the last is
    padded.

    All processes get the same number of batches. A media row must have room for the media of its
    text rows.
    """
    pairs = _pairs(sources)
    budget = dataclasses.replace(budget, max_per_row=1)
    group = budget.rows_per_media_row
    total = -(-len(pairs) // budget.rows) * group
    make = _maker(sources, tokenizer, cfg, budget, with_answer)

    def stream(media_row: int) -> grain.MapDataset:
        def element(i: int) -> Any:
            row = i // group * budget.rows + media_row * group + i % group
            return make(pairs[row]) if row < len(pairs) else _Nothing()

        return grain.MapDataset.range(total).map(element)

    streams = {r: stream(r) for r in _own(budget, process_index, process_count)}
    options = {"kind": "eval", "with_answer": with_answer}
    return _iterator(
        streams, sources, tokenizer, cfg, budget, options, process_count=process_count, on_error=on_error,
        max_bad=max_bad, threads=threads, prefetch=prefetch, exactly=group,
    )  # fmt: skip


def _pairs(sources: Sequence[Source]) -> list[tuple[int, int]]:
    """(source, row) numbers of all rows."""
    pairs = [(s, r) for s, source in enumerate(sources) for r in range(len(source.rows))]
    if not pairs:
        raise DataError("there are no rows", hint="check the data set's path and split")
    if len({source.name for source in sources}) != len(sources):
        raise ConfigError("two data sources share a name", hint="name each source once")
    return pairs


def _mix(
    sources: Sequence[Source],
    pairs: Sequence[tuple[int, int]],
    weights: Mapping[str, float],
    seed: int,
    window: int,
) -> grain.MapDataset:
    """An endless sequence with each domain at its weight's share, shuffled anew each epoch."""
    by_domain: dict[str, list[tuple[int, int]]] = {}
    for source, row in pairs:
        by_domain.setdefault(sources[source].rows[row].domain, []).append((source, row))
    unknown, unweighted = (
        sorted(set(weights) - set(by_domain)),
        sorted(set(by_domain) - set(weights)),
    )
    if unknown or unweighted:
        raise ConfigError(
            f"weights_by_domain: {unknown[0]!r} has no rows"
            if unknown
            else f"weights_by_domain: no weight for {unweighted[0]!r}",
            hint=f"give a weight to each of {', '.join(sorted(by_domain))}",
        )
    if not all(np.isfinite(w) and w >= 0 for w in weights.values()) or not any(weights.values()):
        raise ConfigError(
            f"weights_by_domain: {dict(weights)}", hint="use numbers of at least 0, not all 0"
        )
    used = sorted(domain for domain, weight in weights.items() if weight > 0)
    parts = [
        grain.MapDataset.source(by_domain[domain]).shuffle(seed=_seed(seed, domain)).repeat()
        for domain in used
    ]
    mixed = grain.MapDataset.mix(parts, weights=[weights[domain] for domain in used])
    return grain.experimental.WindowShuffleMapDataset(
        mixed, window_size=window, seed=_seed(seed, "window")
    )


def _seed(seed: int, name: str) -> int:
    """A seed below 2³² for each use."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "little")


def _maker(
    sources: Sequence[Source],
    tokenizer: Tokenizer,
    cfg: ProcessConfig,
    budget: Budget,
    with_answer: bool,
    cache: bool = False,
) -> Callable[[tuple[int, int]], dict[str, Any] | Bad]:
    """(source, row) -> sample, or Bad. Errors are values: Grain's iterators lose count when a map
    raises.
    """
    tokenizer.check(cfg.token_ids())
    if cfg.ecg_tokens != budget.ecg_tokens:
        raise ConfigError(
            f"ecg_tokens is {cfg.ecg_tokens} in the model and {budget.ecg_tokens} in the budget"
        )

    def make(pair: tuple[int, int]) -> dict[str, Any] | Bad:
        source, row = sources[pair[0]], sources[pair[0]].rows[pair[1]]
        try:
            sample = transforms.process(row, source.root, tokenizer, cfg, with_answer)
            packing.check_fits(sample, budget)
            # The name of the data set, not what its row says: ids are unique in a file, so (source,
            # id) names a row of a run.
            return sample | {"meta": dataclasses.replace(sample["meta"], source=source.name)}
        except DataError as error:
            named = DataError(error.what, where=f"{source.name}: {error.where}", hint=error.hint)
            return Bad(f"{source.name}/{row.id}", named)

    return functools.cache(make) if cache else make


def _own(budget: Budget, process_index: int, process_count: int) -> range:
    """The media rows of a process: a contiguous block."""
    if budget.media_rows % process_count or not 0 <= process_index < process_count:
        raise ConfigError(
            f"{budget.media_rows} media rows for process {process_index} of {process_count}",
            hint="make data.media_rows a multiple of the number of processes",
        )
    share = budget.media_rows // process_count
    return range(process_index * share, (process_index + 1) * share)


def _iterator(
    streams: Mapping[int, grain.MapDataset],
    sources: Sequence[Source],
    tokenizer: Tokenizer,
    cfg: ProcessConfig,
    budget: Budget,
    options: dict[str, Any],
    *,
    process_count: int,
    on_error: str,
    max_bad: float,
    threads: int,
    prefetch: int,
    exactly: int | None,
) -> BatchIterator:
    if on_error not in ("raise", "skip"):
        raise ConfigError(f"on_error={on_error!r}", hint="use 'raise' or 'skip'")
    if not 0 <= max_bad < 1:
        raise ConfigError(
            f"max_bad={max_bad}", hint="use a fraction of the rows, at least 0 and below 1"
        )
    read = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=max(prefetch, threads) if threads else 0
    )
    local = dataclasses.replace(
        budget, rows=budget.rows // process_count, media_rows=budget.media_rows // process_count
    )
    return BatchIterator(
        {index: iter(stream.to_iter_dataset(read)) for index, stream in streams.items()},
        local,
        fingerprint(sources, tokenizer, cfg, budget, options),
        on_error=on_error,
        max_quarantined=max(1, int(max_bad * sum(len(source.rows) for source in sources))),
        exactly=exactly,
    )


def fingerprint(
    sources: Sequence[Source],
    tokenizer: Tokenizer,
    cfg: ProcessConfig,
    budget: Budget,
    options: Mapping[str, Any],
) -> str:
    """SHA-256 of all that decides a batch: rows in order and the sizes of their media, tokenizer
    and config.
    """
    digest = hashlib.sha256()
    process = dataclasses.asdict(cfg)
    if process["ecg_length"] == ProcessConfig.ecg_length:
        del process["ecg_length"]  # runs from before this field go on
    if cfg.box_coordinates == PIXELS:
        del process["box_coordinates"]  # the field came later, and older runs wrote pixels
    settings = [
        process,
        dataclasses.asdict(budget),
        dict(options),
        tokenizer.fingerprint,
    ]
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for source in sources:
        digest.update(
            json.dumps(
                [source.name, len(source.rows), row_files.fingerprint(source.rows, source.root)]
            ).encode()
        )
    return digest.hexdigest()
