"""WFDB records, as PhysioNet distributes ECGs, by the manual pages header(5) and signal(5).

A record is a text header (.hea) and signal files beside it: one or several (PTB: .dat and .xyz), of
any uncompressed format, interleaved, from a byte offset on (the .mat files of the Challenge of
2020). A multi-segment record is a header that lists other records, one after the other.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
from collections.abc import Iterator

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data import media
from qoq_jax.data.readers import files, leads
from qoq_jax.data.readers.recording import (
    MAX_RATE,
    MIN_RATE,
    WINDOW_SECONDS,
    Recording,
    millivolts,
)
from qoq_jax.data.readers.wfdb_formats import DIFFERENCES, FORMATS

SIGNAL_SUFFIXES = (".dat", ".mat", ".xyz")

_MAX_HEADER_BYTES = 1 << 20
_FORMAT = re.compile(r"(\d{1,4})(?:x(\d{1,4}))?(?::(\d{1,9}))?(?:\+(\d{1,9}))?")
_GAIN = re.compile(r"([-+0-9.eE]{1,32})(?:\((-?\d{1,9})\))?(?:/(\S{1,32}))?")
_DEFAULT_RATE, _DEFAULT_GAIN = 250.0, 200.0
_MAX_UNITS = 1 << 32  # ADC units; converters have at most 32 bits
_GAP = "~"


@dataclasses.dataclass(frozen=True)
class _Signal:
    """A signal line of a header; `form` and `gain` as they are written."""

    file: str
    form: str
    gain: str
    adc_zero: int
    initial: int
    name: str

    def layout(self) -> tuple[int, int, int, int]:
        """(format, samples per frame, skew in frames, byte offset of the file)."""
        found = _FORMAT.fullmatch(self.form)
        if not found:
            raise ValueError("not a signal format")
        return int(found[1]), int(found[2] or 1), int(found[3] or 0), int(found[4] or 0)

    def scale(self, where: str) -> tuple[float, int]:
        """(ADC units per mV, ADC value of 0 mV)."""
        found = _GAIN.fullmatch(self.gain)
        if not found:
            raise ValueError("not a gain")
        per = millivolts(found[3] or "mV")
        if per is None:
            raise DataError(
                "has a lead in a unit that is not V, mV, uV or nV",
                where=where,
                hint="convert it to .npz with the signal in mV",
            )
        baseline = int(found[2]) if found[2] else self.adc_zero
        return (float(found[1]) or _DEFAULT_GAIN) / per, baseline  # a gain of 0 is not known


@dataclasses.dataclass(frozen=True)
class _Header:
    path: pathlib.Path
    rate: float  # frames per second
    frames: int  # 0: not said
    signals: tuple[_Signal, ...]
    segments: tuple[tuple[str, int], ...]  # (record, frames)


def find_header(path: files.Path) -> pathlib.Path | None:
    """The header of a record that is named as `wfdb.rdrecord` takes it (without extension) or by
    its signal file; None when there is none.
    """
    path = pathlib.Path(path)
    if path.suffix.lower() == ".hea":
        return path
    names = [path.name + ".hea"] if not media.fetched(path).exists() else []
    if path.suffix.lower() in SIGNAL_SUFFIXES:
        names.append(path.with_suffix(".hea").name)
    found = (media.fetched(path.with_name(name)) for name in names)
    return next((one for one in found if one.is_file()), None)


def read_record(path: files.Path, root: files.Path | None = None) -> Recording:
    """The signals of a record that are standard leads by their names; others are not read.

    Args:
      path: the record, its header or its signal file.
      root: folder that links of the signal files may not leave; None: the folder of the header.

    Raises:
      DataError: a file is missing, cut short or leads out of the root, or the record has what is
        not supported (compressed formats, leads of different rates).
    """
    header = find_header(path)
    if header is None:
        raise DataError(
            "no WFDB header (.hea) beside it",
            where=str(path),
            hint="keep the header and the signal files of a record together",
        )
    if header != pathlib.Path(path):
        files.beside(pathlib.Path(path), header.name, root)
    head = _read_header(files.check_file(header))
    signal, rate, names, frames = _read(head, root, segmented=False)
    return Recording(signal, rate, names, frames / head.rate)


def record_files(header: pathlib.Path, root: files.Path | None = None) -> list[pathlib.Path]:
    """The files that `read_record` opens: the header, and the signal files of standard leads; of a
    record of several segments the headers and signals of those that the first 10 s lie in.

    Raises:
      DataError: a header is damaged, or a file is missing or leads out of the root.
    """
    head = _read_header(files.check_file(header))
    parts = [head]
    for name, _, _ in _segments_read(head):
        parts.append(_read_header(files.beside(header, f"{name}.hea", root)))
    found = []
    for part in parts:
        wanted = (signal.file for signal in part.signals if leads.standard_name(signal.name))
        found += [part.path]
        found += [files.beside(part.path, file, root) for file in dict.fromkeys(wanted)]
    return found


def _read(
    head: _Header, root: files.Path | None, segmented: bool
) -> tuple[np.ndarray, float, list[str], int]:
    """(signal [leads, n], rate, names, frames of the whole record)."""
    if head.segments and segmented:
        raise DataError(
            "is a segment that has segments itself", where=str(head.path), hint="drop the record"
        )
    return _read_segments(head, root) if head.segments else _read_signals(head, root)


def _read_header(path: pathlib.Path) -> _Header:
    with files.decoding(path, "a WFDB header"):
        text = path.read_bytes()[:_MAX_HEADER_BYTES].decode("utf-8", "replace")
        # comments hold age, sex and codes: not read
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        first = lines[0].split()
        _, *segments = first[0].split("/")
        count = int(first[1])
        rate = float(re.split(r"[/(]", first[2])[0]) if len(first) > 2 else _DEFAULT_RATE
        frames = int(first[3]) if len(first) > 3 else 0
        below = int(segments[0]) if segments else count
        if not 0 < count <= 64 or not 0 < below <= 100_000 or len(lines) <= below or frames < 0:
            raise ValueError("lines are missing")
        if not MIN_RATE / 10 <= rate <= MAX_RATE:
            raise DataError(
                f"has {rate:g} frames per second",
                where=str(path),
                hint=f"an ECG has {MIN_RATE} to {MAX_RATE:,} samples per second",
            )
        rows = [line.split(None, 8) for line in lines[1 : below + 1]]
        if segments:
            return _Header(path, rate, frames, (), tuple((row[0], int(row[1])) for row in rows))
        signals = []
        for row in rows:
            full = row + ["", "", "", "0", "0", "0", "0", "0", ""][len(row) :]
            zero, initial = int(full[4]), int(full[5])
            if max(abs(zero), abs(initial)) >= _MAX_UNITS:
                raise ValueError("no converter has such values")
            signals.append(_Signal(full[0], full[1], full[2] or "0", zero, initial, full[8]))
        return _Header(path, rate, frames, tuple(signals), ())


def _read_signals(
    head: _Header, root: files.Path | None
) -> tuple[np.ndarray, float, list[str], int]:
    """The standard leads of a record without segments."""
    wanted = [s for s in head.signals if leads.standard_name(s.name)]
    if not wanted:
        return np.zeros((0, 0), np.float32), head.rate, [], head.frames
    with files.decoding(head.path, "a WFDB header"):
        rates = {signal.layout()[1] for signal in wanted}
    if len(rates) > 1:
        raise DataError(
            "has leads of different sampling rates",
            where=str(head.path),
            hint="convert it to .npz, all leads at one rate",
        )
    parts, frames = {}, head.frames
    for file in dict.fromkeys(signal.file for signal in wanted):
        found, frames = _read_file(head, file, frames, root)
        parts.update(found)
    order = sorted(parts)
    length = min(len(parts[i]) for i in order)
    signal = np.stack([parts[i][:length] for i in order])
    return signal, head.rate * rates.pop(), [head.signals[i].name for i in order], frames


def _read_file(
    head: _Header, file: str, frames: int, root: files.Path | None
) -> tuple[dict[int, np.ndarray], int]:
    """(number of a standard lead -> float32 [n] in mV, frames of the record) of one signal file;
    NaN where a sample is missing.
    """
    where = str(head.path)
    inside = [i for i, signal in enumerate(head.signals) if signal.file == file]
    with files.decoding(head.path, "a WFDB header"):
        layouts = {i: head.signals[i].layout() for i in inside}
        scales = {
            i: head.signals[i].scale(where)
            for i in inside
            if leads.standard_name(head.signals[i].name)
        }
    kinds = {layout[0] for layout in layouts.values()}
    if len(kinds) > 1 or not kinds <= FORMATS.keys():
        shown = ", ".join(map(str, sorted(kinds)))
        raise DataError(
            f"has signals of format {shown} in one file; supported are "
            + ", ".join(map(str, FORMATS)),
            where=where,
            hint="rewrite it with format 16 (xform of the WFDB tools, or wfdb.wrsamp)",
        )
    (kind,) = kinds
    form, offset = FORMATS[kind], layouts[inside[0]][3]
    per_frame = sum(layout[1] for layout in layouts.values())
    path = files.beside(head.path, file, root)
    held = form.samples_in(max(path.stat().st_size - offset, 0)) // per_frame
    if not 0 < (frames := frames or held) <= held:
        raise DataError(
            f"says {frames} frames, and {file} holds {held}: it is cut short",
            where=where,
            hint="fetch the record again or drop its row",
        )
    with files.decoding(path, "a WFDB signal file"):
        window = min(frames, math.ceil(WINDOW_SECONDS * head.rate))
        skew = max(layout[2] for layout in layouts.values())
        read = min(frames, window + skew)
        files.check_declared(4 * read * per_frame, 4 * held * per_frame, path, False)
        data = np.fromfile(path, np.uint8, form.bytes_for(read * per_frame), offset=offset)
        samples = form.read(data, read * per_frame).reshape(read, per_frame)
        out, start = {}, 0
        for i in inside:
            _, width, skew, _ = layouts[i]
            if i in scales:
                values = samples[:, start : start + width].reshape(-1)
                if kind == DIFFERENCES:
                    values = head.signals[i].initial + np.cumsum(values)
                values = values[skew * width : (skew + window) * width]
                gain, baseline = scales[i]
                out[i] = np.full(window * width, np.nan, np.float32)
                out[i][: values.size] = (values - np.int64(baseline)) / gain
                out[i][: values.size][values == form.missing] = np.nan
            start += width
    return out, frames


def _total_and_window(head: _Header) -> tuple[int, int]:
    """(frames of a record of several segments, frames of it that are read)."""
    total = sum(frames for _, frames in head.segments)
    return total, min(total, math.ceil(WINDOW_SECONDS * head.rate))


def _segments_read(head: _Header) -> Iterator[tuple[str, int, int]]:
    """(record, frames, first frame) of the segments that the start of a record lies in."""
    _, window = _total_and_window(head)
    start = 0
    for name, frames in head.segments:
        if start >= window:
            return
        if frames and name != _GAP:
            yield name, frames, start
        start += frames


def _read_segments(
    head: _Header, root: files.Path | None
) -> tuple[np.ndarray, float, list[str], int]:
    """The start of a record of several segments, NaN in gaps and where a segment lacks a lead.

    All segments have the same signals, or the first one has 0 frames and only says which signals
    the others may have (variable layout).
    """
    total, window = _total_and_window(head)
    rows: dict[tuple[str, int], np.ndarray] = {}
    rate = head.rate
    for name, frames, start in _segments_read(head):
        segment = _read_header(files.beside(head.path, f"{name}.hea", root))
        signal, rate, names, held = _read(segment, root, segmented=True)
        if segment.rate != head.rate or held < frames:
            raise DataError(
                "has another rate or length than its record says",
                where=str(segment.path),
                hint="fetch the record again",
            )
        width = round(rate / head.rate)
        for i, lead in enumerate(names):
            key = (lead, names[:i].count(lead))
            row = rows.setdefault(key, np.full(window * width, np.nan, np.float32))
            if row.size != window * width:
                raise DataError(
                    "has segments of different sampling rates",
                    where=str(head.path),
                    hint="convert it to .npz at one rate",
                )
            part = signal[i, : min(frames * width, row.size - start * width)]
            row[start * width : start * width + part.size] = part
    signal = np.stack(list(rows.values())) if rows else np.zeros((0, 0), np.float32)
    return signal, rate, [name for name, _ in rows], total
