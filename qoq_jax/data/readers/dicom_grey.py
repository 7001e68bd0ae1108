"""The DICOM grey-scale pipeline: stored values -> grey levels 0..255.

    stored > modality LUT or rescale > VOI LUT or window > MONOCHROME1 inverted > padding black

Source: PS3.3 C.11.1 (modality), C.11.2 (VOI), C.7.6.16.2.9 and .10 (the same per frame, in
functional groups), C.7.5.1.1.2 (padding), C.7.6.3.1.5 (palettes). Two things are not the
standard's: CT is shown by one fixed soft-tissue window, so that the same tissue has the same grey
in all patients, and a picture without a window is shown by the percentiles of `grey.window`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data.readers import files, grey

# A pydicom.Dataset and what it holds; pydicom is imported when the first DICOM file is read.
Dataset = Any
Value = Any
Transform = Callable[[np.ndarray], np.ndarray]
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


@dataclasses.dataclass(frozen=True)
class LookupTable:
    """A lookup table of DICOM: value `first` and all below give entry 0, those past its end the
    last.

    entries: int [n]; top: the largest value that an entry can have.
    """

    first: int
    entries: np.ndarray
    top: int

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """[...] numbers -> [...] entries."""
        # Not pydicom's functions: their index is of the type of the entries, so that with 8-bit
        # entries the values from 256 on wrap around, and with 12-bit entries they fail.
        index = np.clip(np.floor(values) - self.first, 0, len(self.entries) - 1)
        return self.entries[index.astype(np.int64)]


@dataclasses.dataclass(frozen=True)
class Frame:
    """How one frame is shown.

    modality: stored values -> e.g. Hounsfield units; voi: those -> 0..255, None = the file does not
    say; intercept: of the rescale; plain: `modality` changes nothing but the offset.
    """

    modality: Transform
    voi: Transform | None
    intercept: float
    plain: bool


def to_grey(
    stack: np.ndarray,
    padding: np.ndarray | None,
    dataset: Dataset,
    indices: Sequence[int],
    path: files.Path,
) -> np.ndarray:
    """Stored values [n, h, w] -> uint8 [n, h, w].

    Args:
      stack: the frames `indices` of the file.
      padding: bool [n, h, w]: pixels that were never measured; None = the file declares none.
      dataset: the header.
      indices: which frames they are; each has its own rescale and window in an enhanced object.
      path: named in errors.
    """
    frames = [read_frame(dataset, index, path) for index in indices]
    values = _modality(stack, frames)
    measured = values if padding is None else values[~padding]
    if not measured.size:
        return np.zeros(stack.shape, np.uint8)
    is_ct = str(dataset.get("Modality", "")) == "CT"
    if is_ct and (min(f.intercept for f in frames) < 0 or grey.is_hounsfield(measured)):
        levels = grey.to_uint8(values, *grey.CT_WINDOW)
    elif all(frame.voi is not None for frame in frames):
        levels = _voi(stack, frames)
    elif stack.dtype == np.uint8 and all(frame.plain for frame in frames):
        bits = int(dataset.BitsStored)
        levels = stack if bits == 8 else grey.to_uint8(stack, 0, 2**bits - 1)
    else:
        levels = grey.window(values, padding=padding)
    if str(dataset.PhotometricInterpretation) == "MONOCHROME1":
        levels = 255 - levels
    return levels if padding is None else np.where(padding, np.uint8(0), levels)


def _modality(stack: np.ndarray, frames: Sequence[Frame]) -> np.ndarray:
    """[n, h, w] stored -> [n, h, w] in the unit of the modality; float32 holds 16 stored bits."""
    real = np.float32 if stack.dtype.itemsize <= 2 else np.float64
    return np.stack(
        [
            _by_value(lambda stored, f=frame: f.modality(stored).astype(real), stored)
            for frame, stored in zip(frames, stack, strict=True)
        ]
    )


def _voi(stack: np.ndarray, frames: Sequence[Frame]) -> np.ndarray:
    """[n, h, w] stored -> uint8 [n, h, w] by the VOI LUT or window of each frame."""

    def show(stored: np.ndarray, frame: Frame) -> np.ndarray:
        return np.clip(np.rint(frame.voi(frame.modality(stored))), 0, 255).astype(np.uint8)

    return np.stack(
        [
            _by_value(lambda stored, f=frame: show(stored, f), stored)
            for frame, stored in zip(frames, stack, strict=True)
        ]
    )


def _by_value(function: Transform, stored: np.ndarray) -> np.ndarray:
    """function(stored), computed once for each value between the lowest and the highest."""
    low, high = int(stored.min()), int(stored.max())
    if high - low >= 2**16:
        return function(stored.astype(np.int64))
    return function(np.arange(low, high + 1))[stored.astype(np.int64) - low]


# ------------------------------------------------------------------------------------- header


def read_frame(dataset: Dataset, index: int, path: files.Path) -> Frame:
    """The transforms of frame `index`: its own group, then the shared one, then the file's.

    Raises:
      DataError: numbers that are not finite, or a window function that the standard does not have.
    """
    from pydicom import pixels
    from pydicom.dataset import Dataset as Header

    item = _macro(dataset, index, "PixelValueTransformationSequence") or dataset
    slope = first_number(item.get("RescaleSlope")) or 1.0
    intercept = first_number(item.get("RescaleIntercept")) or 0.0
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise DataError(
            "has a rescale slope or intercept that is not finite",
            where=str(path),
            hint="drop the file",
        )
    signed = int(dataset.get("PixelRepresentation", 0)) == 1
    table = _table_of(dataset.get("ModalityLUTSequence"), dataset, signed, path)
    if table is not None:
        voi = _read_voi(dataset, index, False, path)
        return Frame(table, voi, intercept=0.0, plain=False)
    header = Header()
    header.add_new("RescaleSlope", "FD", slope)
    header.add_new("RescaleIntercept", "FD", intercept)
    return Frame(
        lambda stored: pixels.apply_modality_lut(stored, header),
        _read_voi(dataset, index, signed or intercept < 0 or slope < 0, path),
        intercept=intercept,
        plain=slope == 1,
    )


def _read_voi(dataset: Dataset, index: int, signed: bool, path: files.Path) -> Transform | None:
    """The first VOI LUT, else the first window, as a function to 0..255; None without either."""
    from pydicom import pixels
    from pydicom.dataset import Dataset as Header

    item = _macro(dataset, index, "FrameVOILUTSequence") or dataset
    table = _table_of(item.get("VOILUTSequence"), dataset, signed, path)
    if table is not None:
        return lambda values: table(values) * (255.0 / table.top)
    centre, width = first_number(item.get("WindowCenter")), first_number(item.get("WindowWidth"))
    if centre is None or width is None:
        return None
    function = str(item.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function not in _FUNCTIONS or not (np.isfinite(centre) and np.isfinite(width)):
        raise DataError(
            "has a window that the standard does not have",
            where=str(path),
            hint="its function must be LINEAR, LINEAR_EXACT or SIGMOID, its numbers finite",
        )
    if width < 1 if function == "LINEAR" else width <= 0:
        return None  # what scanners write for "no window"
    # The standard's output range, ymin to ymax, is that of an unsigned 8-bit picture: 0 to 255.
    header = Header()
    header.PhotometricInterpretation, header.VOILUTFunction = "MONOCHROME2", function
    header.BitsStored, header.PixelRepresentation = 8, 0
    header.add_new("WindowCenter", "FD", centre)
    header.add_new("WindowWidth", "FD", width)
    return lambda values: pixels.apply_windowing(values, header)


def _macro(dataset: Dataset, index: int, name: str) -> Dataset | None:
    """The item of a functional group macro for one frame; None where neither group has it."""
    for keyword, position in (
        ("PerFrameFunctionalGroupsSequence", index),
        ("SharedFunctionalGroupsSequence", 0),
    ):
        groups = dataset.get(keyword)
        if groups and position < len(groups) and (items := groups[position].get(name)):
            return items[0]
    return None


def padding_range(dataset: Dataset) -> tuple[int, int] | None:
    """(lowest, highest) stored value of padding, signed as the pixels are; None = none declared."""
    ends = [dataset.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if ends[0] is None or ends[0] == "":
        return None
    signed = int(dataset.get("PixelRepresentation", 0)) == 1
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    values = []
    for end in ends:
        if end is None or end == "":
            continue
        value = int(first_number(end)) % 2**allocated
        if signed and value >= 2 ** (allocated - 1):
            value -= 2**allocated
        if signed and 2 ** (stored - 1) <= value < 2**stored:
            value -= 2**stored  # written without the sign in the unused bits
        values.append(value)
    return min(values), max(values)


def first_number(value: Value) -> float | None:
    """The first of one or several numbers; None for an absent or empty one."""
    if value is None or value == "":
        return None
    if not isinstance(value, (str, int, float)) and hasattr(value, "__len__"):
        value = value[0] if len(value) else None
    return None if value is None else float(value)


# -------------------------------------------------------------------------------------- tables


def _table_of(
    sequence: Value, dataset: Dataset, signed: bool, path: files.Path
) -> LookupTable | None:
    """The first table of a Modality or VOI LUT Sequence; None where there is none."""
    if not sequence or "LUTDescriptor" not in sequence[0] or "LUTData" not in sequence[0]:
        return None
    item = sequence[0]
    return _table(item.LUTDescriptor, item.LUTData, dataset.original_encoding[1], signed, path)


def _table(
    descriptor: Sequence[int], data: Value, little: bool, signed: bool, path: files.Path
) -> LookupTable:
    """A table from its descriptor (count, first value, bits) and data (bytes, words or one word).

    `signed`: the values that go in may be negative, so a first value from 32768 on is negative.
    """
    count, first, bits = (int(number) for number in descriptor)
    count = count % 2**16 or 2**16
    if signed and first >= 2**15:
        first -= 2**16
    if not isinstance(data, (bytes, bytearray)):
        words = np.atleast_1d(np.asarray(data, np.int64)) % 2**16
        data, little = words.astype("<u2").tobytes(), True
    if len(data) >= 2 * count:
        entries = np.frombuffer(data, "<u2" if little else ">u2", count)
    elif bits <= 8 and len(data) >= count:
        entries = np.frombuffer(data, np.uint8, count)  # two to a word
    else:
        raise DataError(
            f"has a lookup table of {len(data)} bytes that declares {count} entries of {bits} bits",
            where=str(path),
            hint="the file is damaged: fetch it again or drop its row",
        )
    top = 2 ** max(min(max(bits, 1), 16), int(entries.max()).bit_length()) - 1
    return LookupTable(first, entries.astype(np.int64), top)


def palette_to_rgb(stack: np.ndarray, dataset: Dataset, path: files.Path) -> np.ndarray:
    """PALETTE COLOR indices [n, h, w] -> uint8 [n, h, w, 3]; 16-bit entries are divided by 257."""
    if "SegmentedRedPaletteColorLookupTableData" in dataset:
        from pydicom.pixels import apply_color_lut

        colours = apply_color_lut(stack, dataset)[..., :3]
        return grey.to_uint8(colours, 0, np.iinfo(colours.dtype).max)
    signed = int(dataset.get("PixelRepresentation", 0)) == 1
    tables = [
        _table(
            dataset[f"{colour}PaletteColorLookupTableDescriptor"].value,
            dataset[f"{colour}PaletteColorLookupTableData"].value,
            dataset.original_encoding[1],
            signed,
            path,
        )
        for colour in ("Red", "Green", "Blue")
    ]
    # Some writers declare 16 bits and put 8-bit entries in them.
    top = 255 if max(int(table.entries.max()) for table in tables) <= 255 else 65535
    return np.stack([grey.to_uint8(table(stack), 0, top) for table in tables], axis=-1)
