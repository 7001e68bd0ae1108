"""Records of arrays to the batches of fixed shape that encoders read (models/encoders/encoder.py).

A function a kind; each takes records and the sizes of the batch, and returns NumPy arrays whose
padded places are False in a mask and 0 in the values. Sizes are arguments, since a batch of another
shape is another program to compile: `bucket` chooses among a few.

    channels [B,C], steps T of a signal, nodes N, features F, genes: as in encoder.py
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np

from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.climb.arrays import montage
from qoq_jax.climb.arrays.record import Record

Batch = dict[str, np.ndarray]


def bucket(length: int, sizes: Sequence[int]) -> int:
    """The smallest size that holds `length`.

    Raises:
      DataError: none does.
    """
    holding = [size for size in sizes if size >= length]
    if not holding:
        raise DataError(f"{length} is longer than {max(sizes)}, the largest size of a batch")
    return min(holding)


def targets(records: Sequence[Record], vocabulary: Sequence[str]) -> np.ndarray:
    """float32 [B, label]: 1 for each label that a record has, else 0.

    Raises:
      DataError: a record has no label, or one that the vocabulary does not have.
    """
    place = {label: i for i, label in enumerate(vocabulary)}
    found = np.zeros((len(records), len(vocabulary)), np.float32)
    for row, record in zip(found, records, strict=True):
        if not record.labels or not set(record.labels) <= set(place):
            raise DataError(f"has the labels {record.labels}", where=record.id)
        row[[place[label] for label in record.labels]] = 1
    return found


# --------------------------------------------------------------------------------------------- EEG


def eeg(records: Sequence[Record], wanted: Sequence[str], samples: int) -> Batch:
    """signal float32 [B,C,samples] in microvolts, channel_valid bool [B,C].

    Args:
      wanted: channels as for `montage.choose`: BIPOLAR for BIOT, ELECTRODES for LaBraM. One that
        the record does not have, and cannot make, is not valid.
      samples: a longer record is cut at its end.

    Raises:
      DataError: a record is shorter, or has none of the channels.
    """
    signal = np.zeros((len(records), len(wanted), samples), np.float32)
    valid = np.zeros((len(records), len(wanted)), bool)
    for b, record in enumerate(records):
        array, names = record.arrays["signal"], record.names["channel"]
        if array.shape[1] < samples:
            raise DataError(f"has {array.shape[1]} samples, not {samples}", where=record.id)
        have = set(names)
        there = [name in have or ("-" in name and set(name.split("-")) <= have) for name in wanted]
        if not any(there):
            raise DataError(f"has none of the channels {', '.join(wanted)}"[:120], where=record.id)
        valid[b] = there
        chosen = [name for name, found in zip(wanted, there, strict=True) if found]
        signal[b, valid[b]] = montage.choose(array, names, chosen)[:, :samples]
    return {"signal": signal, "channel_valid": valid}


# ------------------------------------------------------------------------------------------- graphs


def graph(records: Sequence[Record], nodes: int, features: int, view: int = 0) -> Batch:
    """nodes float32 [B,N,F], node_valid bool [B,N], adjacency float32 [B,N,N] without self-loops.

    Of a connectome the features of a region are its row of the adjacency (the connection profile of
    BrainGB, arXiv 2204.07054), and regions that are not `present` are not valid. Of a graph with
    edges they are those of its nodes, and the weight of every edge is 1.

    Args:
      nodes, features: N and F, at least those of every record; features are padded with 0.
      view: of a connectome with several networks (PPMI), which.

    Raises:
      DataError: a record is larger, has no such view, or is no graph.
    """
    count = len(records)
    x = np.zeros((count, nodes, features), np.float32)
    valid = np.zeros((count, nodes), bool)
    adjacency = np.zeros((count, nodes, nodes), np.float32)
    for b, record in enumerate(records):
        own, present, edges = _graph(record, view)
        n, f = own.shape
        if n > nodes or f > features:
            what = f"has {n} nodes of {f} features, the batch {nodes} of {features}"
            raise DataError(what, where=record.id)
        x[b, :n, :f] = np.where(present[:, None], own, 0)
        valid[b, :n] = present
        adjacency[b, :n, :n] = np.where(present & present[:, None], edges, 0)
    return {"nodes": x, "node_valid": valid, "adjacency": adjacency}


def _graph(record: Record, view: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(features [n,f], present [n], adjacency [n,n] with 0 on the diagonal)."""
    arrays = record.arrays
    if "adjacency" in arrays:
        edges = arrays["adjacency"]
        views = edges if edges.ndim == 3 else edges[None]
        if not 0 <= view < len(views):
            raise DataError(f"has {len(views)} networks, no number {view}", where=record.id)
        edges = np.array(views[view])
        np.fill_diagonal(edges, 0)
        return edges, arrays["present"], edges
    if not {"nodes", "edges"} <= set(arrays):
        raise DataError(f"has the arrays {sorted(arrays)} and is no graph", where=record.id)
    own = arrays["nodes"]
    edges = np.zeros((len(own), len(own)), np.float32)
    edges[arrays["edges"][1], arrays["edges"][0]] = 1  # what is at the end hears the start
    np.fill_diagonal(edges, 0)
    return own, np.ones(len(own), bool), edges


# ------------------------------------------------------------------------- standardised by channels


@dataclasses.dataclass(frozen=True)
class Standard:
    """Mean and standard deviation of each channel or gene, of the training split.

    Attributes:
      names: of the channels, () where records do not name them.
      mean, std: float32 [channel]; std is 1 where a channel never changes.
    """

    names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, tables: Iterable[np.ndarray], names: Sequence[str] = ()) -> Self:
        """Of tables [row, channel] that are read once; what is not a number is left out.

        Raises:
          DataError: there is no table.
        """
        # Sums about the first table's mean: float64 then holds the variance of any offset.
        count = total = square = offset = None
        for table in tables:
            table = np.asarray(table, np.float64)
            there = np.isfinite(table)
            if offset is None:
                known = np.maximum(there.sum(axis=0), 1)
                offset = np.where(there, table, 0).sum(axis=0) / known
                count, total, square = (np.zeros(table.shape[1]) for _ in range(3))
            centred = np.where(there, table - offset, 0)
            count += there.sum(axis=0)
            total += centred.sum(axis=0)
            square += np.square(centred).sum(axis=0)
        if offset is None:
            raise DataError("there is no record to standardise by")
        count = np.maximum(count, 1)
        variance = np.maximum(square / count - np.square(total / count), 0)
        std = np.where(variance > 0, np.sqrt(variance), 1)
        mean = offset + total / count
        return cls(tuple(names), mean.astype(np.float32), std.astype(np.float32))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """(values - mean) / std over the last axis, float32."""
        return ((values - self.mean) / self.std).astype(np.float32)


def windows(record: Record, steps: int, hop: int) -> list[tuple[int, int]]:
    """(start, stop) of the windows of a motion record, which are at most `steps` long.

    They start `hop` apart and cover the record: a last one, which may be shorter, has what is left.
    """
    if not 0 < hop <= steps:
        raise ConfigError(f"windows of {steps} steps every {hop}", hint="use 1 to the length")
    length = len(record.arrays["motion"])
    starts = range(0, max(length - steps, 0) + hop, hop)
    return [(start, min(start + steps, length)) for start in starts]


def motion(cuts: Sequence[tuple[Record, tuple[int, int]]], steps: int, standard: Standard) -> Batch:
    """signal float32 [B,T,C], standardised by channel; step_valid bool [B,T].

    Args:
      cuts: records with the start and stop of a window of `windows`.
      steps: T.
      standard: `Standard.of` the motion of training records.
    """
    signal = np.zeros((len(cuts), steps, len(standard.mean)), np.float32)
    valid = np.zeros((len(cuts), steps), bool)
    for b, (record, (start, stop)) in enumerate(cuts):
        if stop - start > steps:
            raise DataError(f"has {stop - start} steps, the batch {steps}", where=record.id)
        signal[b, : stop - start] = standard(record.arrays["motion"][start:stop])
        valid[b, : stop - start] = True
    return {"signal": signal, "step_valid": valid}


def expression(records: Sequence[Record], standard: Standard, genes: int) -> Batch:
    """values float32 [B, genes], standardised; value_valid bool [B, genes].

    Args:
      records: of one vocabulary of probes or genes, with values [probe] (GEO).
      standard: `Standard.of` their values as tables [1, probe], with the names of the probes.
      genes: size of the batch, at least the number of names.

    Raises:
      DataError: a record has other probes than the standard names.
      ConfigError: there are more names than `genes`.
    """
    count = len(standard.names)
    if count > genes:
        raise ConfigError(
            f"{count} genes do not fit {genes}", hint="choose fewer, or a larger size"
        )
    values = np.zeros((len(records), genes), np.float32)
    valid = np.zeros((len(records), genes), bool)
    for b, record in enumerate(records):
        place = {name: i for i, name in enumerate(record.names["probe"])}
        if not set(standard.names) <= set(place):
            raise DataError("lacks probes of the standard", where=record.id)
        found = record.arrays["values"][[place[name] for name in standard.names]]
        valid[b, :count] = np.isfinite(found)
        values[b, :count] = np.where(np.isfinite(found), standard(found), 0)
    return {"values": values, "value_valid": valid}


def most_varying(standard: Standard, genes: int) -> Standard:
    """The standard of the genes that vary most; in their old order."""
    kept = np.sort(np.argsort(-standard.std, kind="stable")[:genes])
    names = tuple(standard.names[i] for i in kept)
    return Standard(names, standard.mean[kept], standard.std[kept])
