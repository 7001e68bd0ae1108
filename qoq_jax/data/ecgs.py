"""ECGs alone, for self-supervised pretraining and its probe: folders -> recordings -> shuffled
batches (Grain).

A folder is either a data set with {split}.jsonl, of which the ECGs are taken, or any tree of ECG
files (WFDB headers, .npz, DICOM, HDF5 with a description), which then have no labels. The global
batch is a function of (recordings, seed, batch size, batch number) only; a process reads its
contiguous share of each batch.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np

from qoq_jax.base import progress, storage
from qoq_jax.base.errors import DataError
from qoq_jax.data import index_build, media, paths, readers, sources
from qoq_jax.data.pipeline import Reading, count_ecg_lengths
from qoq_jax.data.readers import ecg_arrays
from qoq_jax.data.resumable import ResumableBatches, own_share

SUFFIXES = (".hea", ".npz", ".dcm")  # of a WFDB record only the header is listed
ARCHIVES = (".h5", ".hdf5")  # listed when a JSON file beside it says what it holds
_PART = re.compile(r"(.+)_(?:layout|\d{4})\.hea")  # of a WFDB record of several segments


@dataclasses.dataclass(frozen=True)
class Recording:
    """One ECG file.

    Attributes:
      path: of the file.
      patient: who it is, "" when unknown.
      labels: its diagnoses; () when it has none.
      vocabulary: the diagnoses that it could have had; () when unlabelled.
      root: data folder that links of the files beside it may not leave; "" = its own folder.
      from_row: its path was written in a row, so that it may not lead out of the root itself. In a
        tree without rows the user's own links may.
    """

    path: str
    patient: str = ""
    labels: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] = ()
    root: str = ""
    from_row: bool = False


def find(folder: str | os.PathLike, split: str) -> list[Recording]:
    """The ECGs of a folder, in fixed order.

    Args:
      folder: with {split}.jsonl, or a tree of ECG files, all of which are "train".
      split: train, validation or test.

    Returns:
      Recordings; [] when the folder has row files but none of this split, or is a tree and the
      split is not "train".

    Raises:
      DataError: no such folder, a broken row file, or no ECG where there should be one.
    """
    root = folder if storage.is_url(folder) else str(pathlib.Path(folder))
    if not storage.is_dir(root):
        raise DataError("no such folder", where=str(folder), hint="name a folder of ECGs")
    if sources.has_rows(root):
        if not sources.find(root, split):
            return []
        return [
            Recording(
                os.path.join(root, path),
                row.patient,
                tuple(row.answers),
                tuple(row.labels),
                root=root,
                from_row=True,
            )
            for row in sources.load(root, split)
            for path in row.time_series
        ]
    if split != "train":
        return []
    # Sorted at every level: the order of a directory is the file system's own.
    found = []
    for parent, names in storage.walk(root):
        for name in names:
            path = os.path.join(parent, name)
            part = _PART.fullmatch(name)
            if name.lower().endswith(SUFFIXES) and not (part and f"{part[1]}_layout.hea" in names):
                found.append(Recording(path, root=root))
            elif name.lower().endswith(ARCHIVES):
                found += [Recording(member, root=root) for member in _members(path, root)]
    if not found:
        raise DataError(
            "has no ECG files",
            where=str(folder),
            hint="it needs WFDB (.hea), .npz or .dcm files, described HDF5, or train.jsonl",
        )
    return found


class EcgBatches(ResumableBatches):
    """Endless shuffled batches, float32 [B / processes, 8, 2500] in mV at 250 Hz; exactly
    resumable.

    Args:
      recordings: at least `batch` of them.
      batch: ECGs of the global batch.
      seed: of the shuffle; each epoch is shuffled anew.
      length: of recordings under 10 s, as `readers.read_ecg` says.
      reading: a file that cannot be read is raised ("raise"), or its successor in the list is read
        twice and it is counted in `quarantined` ("skip"). An ECG in the cache takes 80 KB.

    Attributes:
      fingerprint: of the recordings, their sizes, the seed and the size of a batch.
      quarantined: path -> reason, of the files left out so far.
      ecg_lengths: path -> what was done to a recording that is not 10 s long, since this process
        began.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        *,
        batch: int,
        seed: int,
        length: readers.EcgLength = "refuse",
        reading: Reading | None = None,
    ) -> None:
        reading = reading or Reading(threads=2)
        if len(recordings) < batch:
            raise DataError(
                f"{len(recordings)} ECGs do not fill a batch of {batch}",
                hint="use a smaller batch or more ECGs",
            )
        own = own_share(batch, reading, "ECGs")
        names = _names(recordings)
        fingerprint = hashlib.sha256(
            json.dumps([names, seed, batch] + ([] if length == "refuse" else [length])).encode()
        ).hexdigest()
        self.ecg_lengths: dict[str, str] = {}
        read = functools.partial(_read, length=length)
        read = functools.cache(read) if reading.cache else read
        order = grain.MapDataset.range(len(recordings)).shuffle(seed=seed).repeat().batch(batch)
        made = order.map(
            functools.partial(
                _make,
                recordings=recordings,
                read=read,
                own=own,
                strict=reading.on_error == "raise",
            )
        )
        iterator = made.to_iter_dataset(
            grain.ReadOptions(num_threads=reading.threads, prefetch_buffer_size=2 * reading.threads)
        )
        super().__init__(iter(iterator), fingerprint, len(recordings), reading, "ECGs")

    @progress.phase("input")
    def __next__(self) -> np.ndarray:
        batch, bad, lengths = next(self._iterator)
        self.ecg_lengths |= lengths
        self.quarantine(bad)
        return batch

    def count_ecg_lengths(self) -> dict[str, int]:
        """Recordings that were cut or repeated, since this process began."""
        return count_ecg_lengths(self.ecg_lengths)


def read_all(recordings: Sequence[Recording], length: readers.EcgLength = "refuse") -> np.ndarray:
    """float32 [n, 8, 2500]: all of them, for the probe; a bad file raises its DataError."""
    read = [_read(recording, length)[0] for recording in recordings]
    for signal in read:
        if isinstance(signal, DataError):
            raise signal
    return np.stack(read)


def _members(path: str, root: str) -> list[str]:
    """The recordings of an HDF5 file that is described by a JSON file beside it."""
    with media.opened(root) as folder:
        file = pathlib.Path(folder, os.path.relpath(path, root))
        if not ecg_arrays.has_facts(file):
            return []
        count = ecg_arrays.count(file, folder)
    return [path] if count is None else [f"{path}#{i}" for i in range(count)]


def fingerprint(recordings: Sequence[Recording]) -> str:
    """SHA-256 of paths, patients, labels and sizes of files."""
    return hashlib.sha256(json.dumps(_names(recordings)).encode()).hexdigest()


def _names(recordings: Sequence[Recording]) -> list[dict[str, Any]]:
    return [
        {
            "path": _short(recording.path),
            "patient": recording.patient,
            "labels": recording.labels,
            "vocabulary": recording.vocabulary,
            "bytes": size,
        }
        for recording, size in zip(recordings, _sizes(recordings), strict=True)
    ]


def _sizes(recordings: Sequence[Recording]) -> list[int]:
    """Bytes of their files; those of a URL are listed, since a request for each would take long."""
    of = {root: media.sizes(root) for root in {one.root for one in recordings} if root}
    return [
        of[one.root](os.path.relpath(paths.split_member(one.path)[0], one.root))
        if one.root
        else index_build.file_size(one.path)
        for one in recordings
    ]


def _short(path: str) -> str:
    """The last two parts of a path: a data set that was moved as a whole is still the same."""
    return "/".join(pathlib.PurePath(path).parts[-2:])


def _read(recording: Recording, length: readers.EcgLength) -> tuple[np.ndarray | DataError, str]:
    """(ECG or its error as a value, what was done to its length): Grain's iterators lose count when
    a map raises.
    """
    lengths: list[str] = []
    try:
        with media.opened(recording.root) as root:
            path = recording.path
            if root != recording.root:
                path = os.path.join(root, os.path.relpath(path, recording.root))
            if recording.from_row and not paths.is_inside(path, root):
                raise DataError(
                    "leads out of the data folder",
                    where=path,
                    hint="copy the file into the data folder",
                )
            signal = readers.read_ecg(path, root=root or None, length=length, note=lengths.append)
    except DataError as error:
        return error, ""
    return signal, ", ".join(lengths)


def _make(
    numbers: np.ndarray,
    recordings: Sequence[Recording],
    read: Callable[[Recording], tuple[np.ndarray | DataError, str]],
    own: slice,
    strict: bool,
) -> tuple[np.ndarray, dict[str, DataError], dict[str, str]]:
    """The recordings of these numbers [B] that are `own`, the errors of those that could not be
    read, and what was done to those that are not 10 s long.
    """
    signals, bad, lengths = [], {}, {}
    for number in np.asarray(numbers)[own]:
        for step in range(len(recordings)):
            recording = recordings[(int(number) + step) % len(recordings)]
            signal, length = read(recording)
            if not isinstance(signal, DataError):
                signals.append(signal)
                if length:
                    lengths[recording.path] = length
                break
            bad[recording.path] = signal
            if strict:
                return np.zeros(0, np.float32), bad, lengths
        else:
            break  # none can be read: `bad` says so
    return np.stack(signals) if signals else np.zeros(0, np.float32), bad, lengths
