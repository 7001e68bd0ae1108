"""From media and records to the arrays of one sample, for each kind of encoder (models/encoders/
encoder.py): what a set's `read` is made of.

To add a kind: its reader of rows or of records here.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.climb.arrays import batches as arrays
from qoq_jax.climb.arrays.record import Record
from qoq_jax.climb.arrays.source import ArraySource
from qoq_jax.data import images, media, readers
from qoq_jax.data import rows as schema
from qoq_jax.data.sample import check_ecg, read_medium
from qoq_jax.models.encoders.encoder import Encoder
from qoq_jax.transfer.config import TransferDataConfig
from qoq_jax.transfer.sets import Inputs, LabelledSet, of_arrays, of_rows

ECG_FORM = (8, 2500)  # leads, and steps of 10 s at 250 Hz
MOTION_STEPS = 512  # of a stretch of inertial sensors: 8.5 s at the 60 Hz of HuGaDB


def find(
    encoder: Encoder, cfg: TransferDataConfig, roots: dict[str, str]
) -> dict[str, LabelledSet]:
    """The data sets of an encoder's kind, by name, in the order of the folders.

    Args:
      roots: source -> folder of rows.

    Raises:
      ConfigError: nothing reads that kind.
      DataError: there is no such set, or something is wrong with one.
    """
    found: dict[str, LabelledSet] = {}
    if encoder.kind == "image":
        found = of_rows(roots, _image_form(cfg.frames), _image_reader(encoder))
    elif encoder.kind == "ecg":
        found = of_rows(roots, _ecg_form, _ecg_reader(cfg.ecg_length))
    elif encoder.kind not in RECORDS:
        raise ConfigError(
            f"encoder {encoder.name}: nothing here reads records of kind {encoder.kind}",
            hint=f"kinds: image, {', '.join(RECORDS)}",
        )
    if encoder.kind in RECORDS:
        domain, prepare = RECORDS[encoder.kind]
        for folder in cfg.arrays:
            one = of_arrays(folder, domain, functools.partial(prepare, encoder))
            if one.name in found:
                raise DataError(
                    "is in two folders", where=f"data.arrays: {one.name}", hint="keep one"
                )
            found[one.name] = one
    if not found:
        raise DataError(
            f"there is no data set of kind {encoder.kind}",
            hint="set data.mini_rows, data.extra or data.arrays",
        )
    return {name: _cached(one) for name, one in found.items()} if cfg.cache else found


def _cached(one: LabelledSet) -> LabelledSet:
    """The set, each sample of which is read once."""
    splits = {
        name: dataclasses.replace(split, read=functools.cache(split.read))
        for name, split in one.splits.items()
    }
    return dataclasses.replace(one, splits=splits)


# ----------------------------------------------------------------------------------------- images


def _image_form(frames: int) -> Callable[[schema.Row], tuple[int, ...] | None]:
    """(slices,) of a row of pictures alone: 1 for one picture, `frames` for more than that."""

    def form_of(row: schema.Row) -> tuple[int, ...] | None:
        if row.time_series or not (row.images or row.videos):
            return None
        return (1,) if len(row.images) == 1 and not row.videos else (frames,)

    return form_of


def _image_reader(encoder: Encoder) -> Callable[[schema.Row, str, tuple[int, ...]], Inputs]:
    size = int(encoder.cfg.image_size)

    def read(row: schema.Row, root: str, form: tuple[int, ...]) -> Inputs:
        """pixels uint8 [Z,y,x,3], slice_valid bool [Z]; pictures are resized to a square."""
        (slices,), where, stack = form, f"row {row.id!r}", []
        with media.opened(root) as folder:
            for path in row.images:
                stack.append(read_medium(readers.read_image, folder, path, where))
            for path in row.videos:
                stack += list(read_medium(readers.read_frames, folder, path, where, slices))
        if len(stack) > slices:
            stack = [stack[i] for i in readers.frame_indices(len(stack), slices)]
        pixels = np.zeros((slices, size, size, 3), np.uint8)
        for i, picture in enumerate(stack):
            pixels[i] = images.resize(picture, size, size)
        return {"pixels": pixels, "slice_valid": np.arange(slices) < len(stack)}

    return read


# ------------------------------------------------------------------------------------------- ECGs


def _ecg_form(row: schema.Row) -> tuple[int, ...] | None:
    """(8, 2500) of a row of one ECG alone."""
    alone = len(row.time_series) == 1 and not (row.images or row.videos)
    return ECG_FORM if alone else None


def _ecg_reader(
    length: readers.EcgLength,
) -> Callable[[schema.Row, str, tuple[int, ...]], Inputs]:
    def read(row: schema.Row, root: str, form: tuple[int, ...]) -> Inputs:
        """signal float32 [8, 2500] in mV."""
        del form
        where = f"row {row.id!r}"
        with media.opened(root) as folder:
            reader = functools.partial(readers.read_ecg, root=folder, length=length)
            signal = read_medium(reader, folder, row.time_series[0], where)
        return {"signal": check_ecg(signal, where)}

    return read


# ---------------------------------------------------------------------------------------- records


def _eeg(
    encoder: Encoder, source: ArraySource
) -> tuple[tuple[int, ...], Callable[[Record], Inputs]]:
    """The channels that the encoder was made for, over the length of the set's records."""
    wanted = encoder.cfg.electrodes
    forms = source.report["arrays"]
    if "signal" not in forms:
        raise ConfigError(
            f"{source.report['dataset']} has no EEG",
            where=source.folder,
            hint="name folders of EEG in data.arrays",
        )
    samples = int(forms["signal"]["axes"][-1])

    def read(record: Record) -> Inputs:
        return _first(arrays.eeg([record], wanted, samples))

    return (len(wanted), samples), read


def _ecg_of_records(
    encoder: Encoder, source: ArraySource
) -> tuple[tuple[int, ...], Callable[[Record], Inputs]]:
    """The eight leads over 10 s, as rows have them."""
    del encoder
    if "ecg" not in source.report["arrays"]:
        raise ConfigError(
            f"{source.report['dataset']} has no ECGs",
            where=source.folder,
            hint="name folders of ECGs in data.arrays",
        )

    def read(record: Record) -> Inputs:
        return {"signal": check_ecg(record.arrays["ecg"], record.id)}

    return ECG_FORM, read


def _graph(
    encoder: Encoder, source: ArraySource
) -> tuple[tuple[int, ...], Callable[[Record], Inputs]]:
    """A connectome with as many nodes as the set has regions, and the encoder's features."""
    forms = source.report["arrays"]
    if "adjacency" not in forms:
        raise ConfigError(
            f"{source.report['dataset']} has no graphs of one number of nodes",
            where=source.folder,
            hint="name folders of connectomes (ABIDE, PPMI, ABCD) in data.arrays",
        )
    nodes, features = int(forms["adjacency"]["axes"][-1]), int(encoder.cfg.features)

    def read(record: Record) -> Inputs:
        return _first(arrays.graph([record], nodes, features))

    return (nodes, features), read


def _motion(
    encoder: Encoder, source: ArraySource
) -> tuple[tuple[int, ...], Callable[[Record], Inputs]]:
    """The middle of a stretch of one activity, standardised by the training records."""
    channels = encoder.cfg.channels
    if source[0].arrays.get("motion", np.zeros((0, 0))).shape[1] != channels:
        raise ConfigError(
            f"{source.report['dataset']} has no motion of {channels} channels",
            where=source.folder,
            hint="name folders of inertial sensors (HuGaDB) in data.arrays",
        )
    standard = arrays.Standard.of(record.arrays["motion"] for record in _each(source))

    def read(record: Record) -> Inputs:
        start = max(len(record.arrays["motion"]) - MOTION_STEPS, 0) // 2
        stop = min(start + MOTION_STEPS, len(record.arrays["motion"]))
        return _first(arrays.motion([(record, (start, stop))], MOTION_STEPS, standard))

    return (MOTION_STEPS, channels), read


def _expression(
    encoder: Encoder, source: ArraySource
) -> tuple[tuple[int, ...], Callable[[Record], Inputs]]:
    """The probes that vary most over the training records, as many as the encoder takes."""
    if "values" not in source.report["arrays"]:
        raise ConfigError(
            f"{source.report['dataset']} has no values of probes",
            where=source.folder,
            hint="name folders of GEO in data.arrays",
        )
    genes, names = encoder.cfg.genes, source[0].names.get("probe", ())
    if any(record.names.get("probe") != names for record in _each(source)):
        raise ConfigError(
            f"{source.report['dataset']} has records of several platforms",
            where=source.folder,
            hint="keep the files of one platform (GPL)",
        )
    whole = arrays.Standard.of((record.arrays["values"][None] for record in _each(source)), names)
    standard = arrays.most_varying(whole, genes)

    def read(record: Record) -> Inputs:
        return _first(arrays.expression([record], standard, genes))

    return (genes,), read


def _each(source: ArraySource) -> Iterator[Record]:
    """The records, one after the other: they need not fit into memory."""
    return (source[number] for number in range(len(source)))


def _first(batch: Inputs) -> Inputs:
    """The one sample of a batch."""
    return {name: array[0] for name, array in batch.items()}


# kind -> (domain of a set that the catalogue does not have, what makes its reader)
RECORDS: dict[str, tuple[str, Callable[..., Any]]] = {
    "ecg": ("ecg", _ecg_of_records),
    "eeg": ("eeg", _eeg),
    "graph": ("brain_network", _graph),
    "motion": ("gait", _motion),
    "expression": ("genomics", _expression),
}
