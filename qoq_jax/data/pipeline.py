"""Rows to batches with Grain: shuffled, mixed by domain, sharded over processes, exactly resumable.

The global batch is a function of (rows, seed, config, batch number) only. Media row r of it draws
from stream r, which is every R-th element of one infinite shuffled sequence (R media rows); process
p of n owns media rows p·R/n ... (p+1)·R/n - 1. So 1, 2 or 4 processes make the same global batches,
and a run resumes on another number of processes (`merge_states`).

    rows ─ shuffle per epoch ─ mix domains ─ every R-th ─ read and process (threads) ─ pack ─ batch

A sample that cannot be made is a DataError ("raise"), or is left out, named and counted ("skip").
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from qoq_jax.base import progress
from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.data import packing, readers
from qoq_jax.data import rows as schema
from qoq_jax.data import sample as transforms
from qoq_jax.data import sources as row_files
from qoq_jax.data.index import Rows
from qoq_jax.data.packing import Budget, GroupPacker, Placed
from qoq_jax.data.sample import ProcessConfig
from qoq_jax.data.tokenizer import Tokenizer

Batch = dict[str, np.ndarray]
# Elements of a stream shuffled after mixing, or each stream would lock to a phase of the mixture.
WINDOW = 256


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


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """What becomes of bad samples: "raise", or "skip" up to `most` of them."""

    on_error: str
    most: int


class _Nothing:
    """Fills the last evaluation batch."""


class _Stream:
    """One media row's samples, with one sample of look-ahead that is not part of the state."""

    def __init__(self, iterator: grain.DatasetIterator):
        self._iterator = iterator
        self._ahead: Any = None
        self.state = iterator.get_state()  # before the first element that no batch holds

    def fill(self, group: GroupPacker, reject: Callable[[Bad], None], exactly: int | None) -> None:
        """Adds samples until one does not fit; `exactly`: takes that many, which must all fit."""
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
        fingerprint: _Fingerprint,
        tolerance: Tolerance,
        exactly: int | None,
    ):
        super().__init__(tuple(streams.values()))
        self._streams = {index: _Stream(iterator) for index, iterator in streams.items()}
        self._budget, self._fingerprint = budget, fingerprint
        self._tolerance, self._exactly = tolerance, exactly
        self.quarantined: dict[str, str] = {}
        self.ecg_lengths: dict[str, str] = {}
        self.batches = 0

    @progress.phase("input")
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
        return count_ecg_lengths(self.ecg_lengths)

    @property
    def fingerprint(self) -> str:
        """Of all that decides a batch: rows, media, tokenizer and config."""
        return self._fingerprint.value

    def _reject(self, bad: Bad) -> None:
        if self._tolerance.on_error == "raise":
            raise bad.error
        self.quarantined[bad.key] = str(bad.error)
        self.check_limit(self.quarantined)

    def check_limit(self, quarantined: Mapping[str, str]) -> None:
        """Raises DataError when these are more bad samples than a run may skip."""
        if len(quarantined) > self._tolerance.most:
            key, reason = list(quarantined.items())[-1]
            raise DataError(
                f"{len(quarantined)} samples could not be made, the limit is "
                f"{self._tolerance.most}; the last: {reason}",
                where=key,
                hint="correct the data, or raise data.max_bad_fraction",
            )

    def get_state(self) -> dict[str, Any]:
        """JSON-able state of this process: the next batch after `set_state` equals the next batch
        now.
        """
        return {
            "fingerprint": self._fingerprint.value,
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
        if not self._fingerprint.accepts(state["fingerprint"]):
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


def count_ecg_lengths(found: Mapping[str, str]) -> dict[str, int]:
    """{"ecgs_cut", "ecgs_repeated"}: how many of what was done to ECGs that are not 10 s long."""
    return {
        "ecgs_cut": sum(readers.CUT in text for text in found.values()),
        "ecgs_repeated": sum(readers.REPEATED in text for text in found.values()),
    }


def merge_states(states: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One state out of those of all processes at the same batch, to resume on any number of
    processes; of a `BatchIterator`, or of ecgs.EcgBatches, which has no streams of its own.
    """
    states = list(states)
    merged = {**states[0], "quarantined": {}}
    for state in states:
        if any(
            state.get(name) != merged.get(name) for name in ("fingerprint", "batches", "iterator")
        ):
            raise DataError(
                "the data states are of different runs or batches",
                hint="use the states of one checkpoint",
            )
        if "streams" in state:
            merged["streams"] = merged["streams"] | state["streams"]
        merged["quarantined"].update(state["quarantined"])
    return merged


@dataclasses.dataclass(frozen=True)
class Shuffle:
    """The order of training samples; each epoch is shuffled anew.

    Attributes:
      seed: of the shuffle.
      weights_by_domain: share of each domain in the stream, for all domains that occur (0 leaves
        one out). None: each row once per epoch.
      epochs: end after so many passes. Only for one process (packing makes the number of batches
        differ between streams, and no process may stop before the others) and without weights.
    """

    seed: int
    weights_by_domain: Mapping[str, float] | None = None
    epochs: int | None = None


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a process reads its share; none of it changes what a batch holds.

    Attributes:
      process_index, process_count: this process, and how many share the global batch.
      on_error: "raise" or "skip"; at most max_bad of the rows (at least one) may be skipped. A
        process counts its own; see BatchIterator.check_limit for those of all.
      threads, prefetch: of each media row of this process; 0 threads reads in the caller's thread.
      cache: keep processed samples in memory, for data sets of some thousand small samples.
    """

    process_index: int = 0
    process_count: int = 1
    on_error: str = "raise"
    max_bad: float = 0.01
    threads: int = 1
    prefetch: int = 4
    cache: bool = False

    def __post_init__(self):
        if self.on_error not in ("raise", "skip"):
            raise ConfigError(f"on_error={self.on_error!r}", hint="use 'raise' or 'skip'")
        if not 0 <= self.max_bad < 1:
            raise ConfigError(
                f"max_bad={self.max_bad}",
                hint="use a fraction of the rows, at least 0 and below 1",
            )


@dataclasses.dataclass(frozen=True)
class Recipe:
    """From rows to batches: what is read and how it becomes samples of a batch.

    Attributes:
      budget: of the global batch; each process gets its share of the rows.
      with_answer: whether gold answers follow the prompts.
    """

    sources: Sequence[Source]
    tokenizer: Tokenizer
    process: ProcessConfig
    budget: Budget
    with_answer: bool = False

    def __post_init__(self):
        if not sum(len(source.rows) for source in self.sources):
            raise DataError("there are no rows", hint="check the data set's path and split")
        if len({source.name for source in self.sources}) != len(self.sources):
            raise ConfigError("two data sources share a name", hint="name each source once")
        self.tokenizer.check(self.process.token_ids())
        if self.process.ecg_tokens != self.budget.ecg_tokens:
            raise ConfigError(
                f"ecg_tokens is {self.process.ecg_tokens} in the model and "
                f"{self.budget.ecg_tokens} in the budget"
            )

    def make(self, pair: tuple[int, int]) -> dict[str, Any] | Bad:
        """(source, row) -> sample, or Bad. Errors are values: Grain's iterators lose count when a
        map raises.
        """
        source, key = self.sources[pair[0]], f"row {pair[1]}"
        try:
            row = source.rows[pair[1]]
            key = row.id
            sample = transforms.process(
                row, source.root, self.tokenizer, self.process, self.with_answer
            )
            packing.check_fits(sample, self.budget)
            # The name of the data set, not what its row says: ids are unique in a file, so (source,
            # id) names a row of a run.
            return sample | {"meta": dataclasses.replace(sample["meta"], source=source.name)}
        except DataError as error:
            named = DataError(error.what, where=f"{source.name}: {error.where}", hint=error.hint)
            return Bad(f"{source.name}/{key}", named)


def make_iterator(recipe: Recipe, order: Shuffle, reading: Reading | None = None) -> BatchIterator:
    """Shuffled batches, without end unless `order.epochs` is given."""
    reading = reading or Reading()
    budget, weights = recipe.budget, order.weights_by_domain
    if order.epochs is not None and (reading.process_count > 1 or weights):
        raise ConfigError(
            "epochs needs one process and no domain weights", hint="count steps instead"
        )
    if weights is None:
        rows = grain.MapDataset.source(_Pairs(recipe.sources))
        mixed = rows.shuffle(seed=_seed(order.seed, "rows")).repeat(order.epochs)
    else:
        mixed = _mix(recipe.sources, weights, order.seed, WINDOW * budget.media_rows)
    make = functools.cache(recipe.make) if reading.cache else recipe.make
    streams = {
        r: mixed[r :: budget.media_rows].map(make) if len(mixed) > r else grain.MapDataset.range(0)
        for r in _own(budget, reading)
    }
    options = {
        "kind": "train",
        "seed": order.seed,
        "weights": dict(weights or {}),
        "epochs": order.epochs,
        "with_answer": recipe.with_answer,
    }
    return _iterator(streams, recipe, reading, options, exactly=None)


def make_eval_iterator(recipe: Recipe, reading: Reading | None = None) -> BatchIterator:
    """Every row once, in order: batch k holds rows k·B to (k+1)·B - 1, one a text row; the last is
    padded.

    All processes get the same number of batches. A media row must have room for the media of its
    text rows.
    """
    pairs, reading = _Pairs(recipe.sources), reading or Reading()
    recipe = dataclasses.replace(recipe, budget=dataclasses.replace(recipe.budget, max_per_row=1))
    budget, group = recipe.budget, recipe.budget.rows_per_media_row
    total = -(-len(pairs) // budget.rows) * group

    def stream(media_row: int) -> grain.MapDataset:
        def element(i: int) -> Any:
            row = i // group * budget.rows + media_row * group + i % group
            return recipe.make(pairs[row]) if row < len(pairs) else _Nothing()

        return grain.MapDataset.range(total).map(element)

    streams = {r: stream(r) for r in _own(budget, reading)}
    options = {"kind": "eval", "with_answer": recipe.with_answer}
    return _iterator(streams, recipe, reading, options, exactly=group)


class _Pairs(Sequence[tuple[int, int]]):
    """(source, row) numbers of all rows, or of some: at most one array, however many there are.

    Args:
      chosen: int [n], places in the sources one after the other; None = all.
    """

    def __init__(self, sources: Sequence[Source], chosen: np.ndarray | None = None):
        self._ends = list(itertools.accumulate(len(source.rows) for source in sources))
        self._chosen = chosen

    def __len__(self) -> int:
        return self._ends[-1] if self._chosen is None else len(self._chosen)

    def __getitem__(self, number: int) -> tuple[int, int]:
        place = int(number if self._chosen is None else self._chosen[number])
        source = bisect.bisect_right(self._ends, place)
        return source, place - (self._ends[source - 1] if source else 0)

    def __repr__(self) -> str:
        return f"{len(self)} rows"


def _mix(
    sources: Sequence[Source], weights: Mapping[str, float], seed: int, window: int
) -> grain.MapDataset:
    """An endless sequence with each domain at its weight's share, shuffled anew each epoch."""
    domains = np.concatenate([row_files.domain_ids(source.rows) for source in sources])
    present = {schema.DOMAINS[number] for number in np.unique(domains)}
    unknown, unweighted = sorted(set(weights) - present), sorted(present - set(weights))
    if unknown or unweighted:
        raise ConfigError(
            f"weights_by_domain: {unknown[0]!r} has no rows"
            if unknown
            else f"weights_by_domain: no weight for {unweighted[0]!r}",
            hint=f"give a weight to each of {', '.join(sorted(present))}",
        )
    if not all(np.isfinite(w) and w >= 0 for w in weights.values()) or not any(weights.values()):
        raise ConfigError(
            f"weights_by_domain: {dict(weights)}", hint="use numbers of at least 0, not all 0"
        )
    parts = {
        domain: grain.MapDataset.source(
            _Pairs(sources, np.flatnonzero(domains == schema.DOMAINS.index(domain)))
        )
        for domain, weight in weights.items()
        if weight > 0
    }
    return mix(parts, weights, seed, window)


def mix(
    parts: Mapping[str, grain.MapDataset], weights: Mapping[str, float], seed: int, window: int
) -> grain.MapDataset:
    """An endless sequence with each part at its weight's share, shuffled anew each epoch.

    Args:
      parts: name -> its elements, of some weight each.
      window: elements that are shuffled after mixing.
    """
    names = sorted(parts)
    mixed = grain.MapDataset.mix(
        [parts[name].shuffle(seed=_seed(seed, name)).repeat() for name in names],
        weights=[weights[name] for name in names],
    )
    return grain.experimental.WindowShuffleMapDataset(
        mixed, window_size=window, seed=_seed(seed, "window")
    )


def _seed(seed: int, name: str) -> int:
    """A seed below 2³² for each use."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "little")


def _own(budget: Budget, reading: Reading) -> range:
    """The media rows of a process: a contiguous block."""
    index, count = reading.process_index, reading.process_count
    if budget.media_rows % count or not 0 <= index < count:
        raise ConfigError(
            f"{budget.media_rows} media rows for process {index} of {count}",
            hint="make data.media_rows a multiple of the number of processes",
        )
    share = budget.media_rows // count
    return range(index * share, (index + 1) * share)


def _iterator(
    streams: Mapping[int, grain.MapDataset],
    recipe: Recipe,
    reading: Reading,
    options: dict[str, Any],
    exactly: int | None,
) -> BatchIterator:
    threads, count, budget = reading.threads, reading.process_count, recipe.budget
    options_of_grain = grain.ReadOptions(
        num_threads=threads,
        prefetch_buffer_size=max(reading.prefetch, threads) if threads else 0,
    )
    rows = sum(len(source.rows) for source in recipe.sources)
    return BatchIterator(
        {index: iter(s.to_iter_dataset(options_of_grain)) for index, s in streams.items()},
        budget.part(count),
        _Fingerprint(recipe, options),
        Tolerance(reading.on_error, max(1, int(reading.max_bad * rows))),
        exactly,
    )


# Fields of ProcessConfig that came after the first runs; at their default they leave fingerprints
# as they were.
_LATER = ("box_coordinates", "ecg_length")


def _settings(cfg: ProcessConfig) -> dict[str, Any]:
    """The fields that a fingerprint goes by."""
    default = {field.name: field.default for field in dataclasses.fields(cfg)}
    return {
        name: value
        for name, value in dataclasses.asdict(cfg).items()
        if name not in _LATER or value != default[name]
    }


class _Fingerprint:
    """SHA-256 of all that decides a batch: rows in order and the sizes of their media, tokenizer
    and config.

    Lazy rows are not parsed for it: their index knows the fingerprint of the whole file, and it
    goes by that, the chosen rows and the edits ("2:..."). States of before had a hash of each row
    and medium as it was used; such a state is checked by computing that once more.
    """

    def __init__(self, recipe: Recipe, options: Mapping[str, Any]):
        self._recipe, self._options = recipe, dict(options)
        self.value = "2:" + self._digest(
            source.rows.fingerprint
            if isinstance(source.rows, Rows)
            else row_files.fingerprint(source.rows, source.root)
            for source in recipe.sources
        )

    def accepts(self, other: str) -> bool:
        """Whether a saved fingerprint, new or old, is of the same data and config."""
        if other.startswith("2:"):
            return other == self.value
        return other == self._digest(
            row_files.fingerprint(source.rows, source.root) for source in self._recipe.sources
        )

    def _digest(self, of_rows: Iterable[str]) -> str:
        recipe, digest = self._recipe, hashlib.sha256()
        settings = [
            _settings(recipe.process),
            dataclasses.asdict(recipe.budget),
            self._options,
            recipe.tokenizer.fingerprint,
        ]
        digest.update(json.dumps(settings, sort_keys=True).encode())
        for source, found in zip(recipe.sources, of_rows, strict=True):
            digest.update(json.dumps([source.name, len(source.rows), found]).encode())
        return digest.hexdigest()
