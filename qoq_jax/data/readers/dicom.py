"""DICOM pixels and waveforms through an allow-list of tags.

Everything else in the header (names, dates, institutions, free text) is never parsed into a value,
so it cannot leak. pydicom is an extra; JPEG and JPEG 2000 frames are decoded by Pillow, RLE by
pydicom itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data.readers import files
from qoq_jax.data.readers.leads import standard_name

# What decoding pixels needs, and no more.
_PIXEL_TAGS = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "Modality",
    "WindowCenter",
    "WindowWidth",
    "RescaleSlope",
    "RescaleIntercept",
    "VOILUTFunction",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "PixelData",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)
_MAX_FRAMES = 20_000


def is_dicom(path: files.Path) -> bool:
    """True for a file with the DICOM preamble or a DICOM extension."""
    if files.suffix(path) in (".dcm", ".dicom", ".dic", ".ima"):
        return True
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def load(path: files.Path, tags: Sequence[str]):
    """The dataset with these tags only (plus what the file format itself needs)."""
    pydicom = files.need("pydicom", "samples", path, "reading DICOM")
    # Warnings and log lines of pydicom may quote values; ours are errors without values.
    warnings.filterwarnings("ignore", module="pydicom")
    pydicom.config.logger.disabled = True
    with files.decoding(path, "DICOM"):
        return pydicom.dcmread(path, specific_tags=list(tags))


def read_frames(path: files.Path, indices=None, single: bool = False) -> np.ndarray:
    """Frames as uint8 [n, h, w, 3].

    Grey pixels: rescale slope and intercept, then CT by the fixed soft-tissue window, others by the
    file's
    first VOI window or, without one, percentiles; MONOCHROME1 is inverted so that bone and metal
    are bright.

    Args:
      path: a DICOM file with pixel data.
      indices: function from the number of frames to the frames wanted; None = all.
      single: refuse files of several frames.
    """
    path = files.check_file(path)
    dataset = load(path, _PIXEL_TAGS)
    with files.decoding(path, "DICOM pixel data"):
        if "PixelData" not in dataset:
            raise DataError(
                "has no pixel data", where=str(path), hint="use the image object of the study"
            )
        count = int(dataset.get("NumberOfFrames") or 1)
        channels = int(dataset.SamplesPerPixel)
        pixels = int(dataset.Rows) * int(dataset.Columns)
        if single and count > 1:
            raise DataError(
                f"has {count} frames where one image is expected",
                where=str(path),
                hint='list it under "videos"',
            )
        if (
            not 0 < count <= _MAX_FRAMES
            or not 0 < pixels <= files.MAX_PIXELS
            or channels not in (1, 3)
        ):
            raise DataError(
                f"declares {count} frames of {dataset.Columns}x{dataset.Rows}, {channels} channels",
                where=str(path),
                hint="the file is damaged or hostile; drop it",
            )
        wanted = list(range(count)) if indices is None else [int(i) for i in indices(count)]
        frame_bytes = pixels * channels * max(1, int(dataset.BitsAllocated) // 8)
        syntax = dataset.file_meta.TransferSyntaxUID
        if syntax.is_compressed and not _decoder(syntax).is_available:
            raise DataError(
                f"is compressed as {syntax.name}, for which no decoder is installed",
                where=str(path),
                hint="pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg",
            )
        if not syntax.is_compressed:
            files.check_declared(frame_bytes * count, len(dataset.PixelData), path, False)
        files.check_declared(frame_bytes * len(set(wanted)), files.MAX_ARRAY_BYTES, path, False)
        frames = {i: _frame(dataset, i) for i in sorted(set(wanted))}
        stack = np.stack([frames[i] for i in wanted])
        return _to_rgb(stack, dataset, path)


def _decoder(syntax):
    from pydicom import pixels

    return pixels.get_decoder(syntax)


def _frame(dataset, index: int) -> np.ndarray:
    from pydicom import pixels

    # colour comes out as RGB; RLE, JPEG, JPEG 2000 decoded
    return pixels.pixel_array(dataset, index=index)


def _to_rgb(stack: np.ndarray, dataset, path) -> np.ndarray:
    photometric = str(dataset.PhotometricInterpretation)
    if photometric == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        stack = apply_color_lut(stack, dataset)
    if stack.ndim == 4:
        return (
            stack
            if stack.dtype == np.uint8
            else files.to_uint8(stack, 0, 2 ** int(dataset.BitsStored) - 1)
        )
    slope, intercept = (
        float(dataset.get("RescaleSlope", 1) or 1),
        float(dataset.get("RescaleIntercept", 0) or 0),
    )
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise DataError(
            "has a rescale slope or intercept that is not finite",
            where=str(path),
            hint="drop the file",
        )
    values = stack.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    centre, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if str(dataset.get("Modality", "")) == "CT" and (intercept < 0 or files.is_hounsfield(values)):
        grey = files.to_uint8(values, *files.CT_WINDOW)
    elif centre is not None and width is not None and width >= 1:
        grey = files.to_uint8(values, centre - width / 2, centre + width / 2)
    elif stack.dtype == np.uint8 and slope == 1:
        grey = stack
    else:
        grey = files.window(values)
    if photometric == "MONOCHROME1":
        grey = 255 - grey
    return files.grey_to_rgb(grey)


def _first(value) -> float | None:
    """The first of one or several window values."""
    if value is None or value == "":
        return None
    if not isinstance(value, (str, int, float)) and hasattr(value, "__len__"):
        value = value[0] if len(value) else None
    return None if value is None else float(value)


def read_waveform(path: files.Path) -> tuple[np.ndarray, float, list[str]]:
    """The longest waveform group: (signal float32 [leads, n] in mV, sampling rate in Hz, lead
    names).
    """
    path = files.check_file(path)
    dataset = load(path, ("WaveformSequence",))
    with files.decoding(path, "a DICOM waveform"):
        groups = dataset.get("WaveformSequence") or []
        if not groups:
            raise DataError(
                "has no waveform", where=str(path), hint="use the 12-lead ECG object of the study"
            )
        item = max(range(len(groups)), key=lambda i: int(groups[i].NumberOfWaveformSamples))
        group = groups[item]
        samples, leads = int(group.NumberOfWaveformSamples), int(group.NumberOfWaveformChannels)
        bits = int(group.WaveformBitsAllocated)
        files.check_declared(samples * leads * bits // 8, len(group.WaveformData), path, False)
        signal = np.asarray(dataset.waveform_array(item), np.float32).T
        names, scale = [], []
        for channel in group.ChannelDefinitionSequence:
            source = channel.ChannelSourceSequence[0]
            meaning, code = (str(source.get(key, "")) for key in ("CodeMeaning", "CodeValue"))
            names.append(meaning if standard_name(meaning) else code)
            units = channel.get("ChannelSensitivityUnitsSequence")
            unit = str(units[0].CodeValue) if units else ""
            if unit not in _PER_MILLIVOLT:
                raise DataError(
                    "does not say its unit (V, mV, uV or nV)",
                    where=str(path),
                    hint="convert it to .npz with the signal in mV",
                )
            scale.append(_PER_MILLIVOLT[unit])
        return (
            signal * np.asarray(scale, np.float32)[:, None],
            float(group.SamplingFrequency),
            names,
        )


_PER_MILLIVOLT = {"V": 1e3, "mV": 1.0, "uV": 1e-3, "nV": 1e-6}
