"""Labelled sets to batches with Grain: sets mixed by temperature, exactly resumable.

The global batch is a function of (sets, seed, batch size, temperature, batch number) only; a
process reads its contiguous share of each. A batch holds samples of sets of one form, so that none
is padded to another's shape; forms take turns at their share of the samples.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from qoq_jax.base import progress
from qoq_jax.base.errors import DataError
from qoq_jax.data import pipeline
from qoq_jax.data.pipeline import Reading
from qoq_jax.data.resumable import ResumableBatches, own_share
from qoq_jax.transfer import sets as sets_lib
from qoq_jax.transfer.sets import Inputs, LabelledSet, Split, Vocabulary

Batch = dict[str, Any]
WINDOW = 16  # batches that are shuffled after forms were mixed


def shares(counts: Mapping[str, int], temperature: float) -> dict[str, float]:
    """The share of each set in the stream: p_k = n_k^(1/T) / Σ_j n_j^(1/T) (Arivazhagan et al.,
    arXiv 1907.05019, section 4.2).
    """
    powers = {name: float(n) ** (1 / temperature) for name, n in counts.items()}
    return {name: power / sum(powers.values()) for name, power in powers.items()}


def labels_of(one: LabelledSet, vocabulary: Vocabulary, gold: np.ndarray) -> dict[str, np.ndarray]:
    """The label arrays of samples of one set, from its gold labels bool [B, K].

    Returns:
      gold float32 [B, V]; own bool [B, V], the columns of the set's own labels; exclusive bool [B].
    """
    columns, rows = vocabulary.columns(one), len(gold)
    wide = np.zeros((rows, len(vocabulary)), np.float32)
    own = np.zeros((rows, len(vocabulary)), bool)
    wide[:, columns], own[:, columns] = gold, True
    return {"gold": wide, "own": own, "exclusive": np.full(rows, one.exclusive)}


class Batches(ResumableBatches):
    """Endless batches of this process's share of the rows.

    A batch is {"inputs": arrays of the encoder's kind, "gold" float32 [B, V], "own" bool [B, V],
    "exclusive" bool [B], "weight" float32 [B]}; the weight is 0 where a sample could not be read.

    Args:
      sets: whose training samples are read; at least one.
      batch: samples of the global batch.
      seed: of the order.
      temperature: see `shares`.
      reading: a bad sample is raised ("raise"), or is left out and counted ("skip").

    Attributes:
      fingerprint: of all that decides a batch.
      quarantined: sample -> reason, of those left out so far.
      ecg_lengths: of the hooks of the loop; always empty.
    """

    def __init__(
        self,
        sets: Sequence[LabelledSet],
        vocabulary: Vocabulary,
        *,
        batch: int,
        seed: int,
        temperature: float,
        reading: Reading,
    ):
        self._own = own_share(batch, reading, "samples")
        self._sets, self._vocabulary = sets, vocabulary
        self.counts = sets_lib.train_counts(sets)
        facts = [sets_lib.fingerprint(sets), vocabulary.classes, batch, seed, temperature]
        fingerprint = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        self.ecg_lengths: dict[str, str] = {}
        order = _order(sets, shares(self.counts, temperature), batch, seed)
        iterator = order.map(self._make).to_iter_dataset(
            grain.ReadOptions(num_threads=reading.threads, prefetch_buffer_size=2 * reading.threads)
        )
        samples = sum(self.counts.values())
        super().__init__(iter(iterator), fingerprint, samples, reading, "samples")

    @progress.phase("input")
    def __next__(self) -> Batch:
        batch, bad = next(self._iterator)
        self.quarantine(bad)
        return batch

    def _make(self, places: np.ndarray) -> tuple[Batch, dict[str, DataError]]:
        """places int [B, 2]: (set, sample)."""
        mine = [(self._sets[k], int(i)) for k, i in places[self._own]]
        read = [_read(one.splits["train"], i) for one, i in mine]
        bad = {
            one.splits["train"].names(i): found
            for (one, i), found in zip(mine, read, strict=True)
            if isinstance(found, DataError)
        }
        if len(bad) == len(read):  # no shape to fill; more than any limit allows
            raise next(iter(bad.values()))
        rows = [
            labels_of(one, self._vocabulary, one.splits["train"].gold[i : i + 1]) for one, i in mine
        ]
        labels = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        return batch_of(read, labels), bad


def batch_of(read: Sequence[Inputs | DataError | None], labels: dict[str, np.ndarray]) -> Batch:
    """A batch of samples that were read; what is none has zeros and the weight 0."""
    whole = next(found for found in read if isinstance(found, dict))
    filled = [
        found if isinstance(found, dict) else {k: np.zeros_like(v) for k, v in whole.items()}
        for found in read
    ]
    weight = np.array([isinstance(found, dict) for found in read], np.float32)
    inputs = {name: np.stack([found[name] for found in filled]) for name in whole}
    return {"inputs": inputs, "weight": weight, **labels}


def _read(split: Split, number: int) -> Inputs | DataError:
    """Errors are values: Grain's iterators lose count when a map raises."""
    try:
        return split.read(number)
    except DataError as error:
        return error


def _order(
    sets: Sequence[LabelledSet], weights: Mapping[str, float], batch: int, seed: int
) -> grain.MapDataset:
    """An endless sequence of batches of places, int [B, 2]."""
    parts: dict[str, grain.MapDataset] = {}
    of_form: dict[str, float] = {}
    for form in sorted({one.form for one in sets}):
        mine = {
            one.name: grain.MapDataset.source(_Places(k, len(one.splits["train"])))
            for k, one in enumerate(sets)
            if one.form == form
        }
        name = "form" + "x".join(map(str, form))
        mixed = pipeline.mix(mine, weights, seed, pipeline.WINDOW)
        parts[name] = mixed.batch(batch)
        of_form[name] = sum(weights[one] for one in mine)
    names = sorted(parts)
    together = grain.MapDataset.mix([parts[n] for n in names], weights=[of_form[n] for n in names])
    return grain.experimental.WindowShuffleMapDataset(together, window_size=WINDOW, seed=seed)


class _Places(Sequence[np.ndarray]):
    """(set, sample) of the training samples of a set."""

    def __init__(self, number: int, count: int):
        self._number, self._count = number, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: int) -> np.ndarray:
        if not 0 <= place < self._count:
            raise IndexError(place)
        return np.array([self._number, place])

    def __repr__(self) -> str:
        return f"{self._count} samples"


# ------------------------------------------------------------------------------------------- once


def in_order(
    split: Split, batch: int, reading: Reading, numbers: Sequence[int] | None = None
) -> Iterator[tuple[Inputs, int]]:
    """Samples of a split once, in order: (arrays of this process's share of each batch, samples of
    the whole batch); the last batch is filled up with zeros.

    Args:
      numbers: of the samples; None = all.

    Raises:
      DataError: a sample cannot be read; what is evaluated is not left out.
    """
    numbers = range(len(split)) if numbers is None else numbers
    share = batch // reading.process_count
    first_own = reading.process_index * share
    with concurrent.futures.ThreadPoolExecutor(max(reading.threads, 1)) as pool:
        for first in range(0, len(numbers), batch):
            here = numbers[first : first + batch]
            mine = list(here[first_own : first_own + share])
            # A share that is all padding still needs the shapes of a sample.
            read = list(pool.map(split.read, mine or [here[0]]))
            padded = [*read[: len(mine)], *[None] * (share - len(mine))]
            whole = {name: np.zeros_like(array) for name, array in read[0].items()}
            filled = [whole if one is None else one for one in padded]
            yield {n: np.stack([one[n] for one in filled]) for n in whole}, len(here)
