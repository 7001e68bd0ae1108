"""DICOM pixels and waveforms through an allow-list of tags.

Everything else in the header (names, dates, institutions, free text) is never parsed into a value,
so it cannot leak. Frames are decoded by Pillow, by pydicom itself (RLE) and by the packages of the
extra `dicom`; grey levels are made by readers.dicom_grey.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data.readers import dicom_grey, files, grey, kinds
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
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "Modality",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
    "PixelData",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)
# Of the items of the sequences above; the others (dates, comments of a frame) are dropped unread.
_NESTED_TAGS = (
    "PixelValueTransformationSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "FrameVOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    "LUTDescriptor",
    "LUTData",
    "PlanePositionSequence",
    "ImagePositionPatient",
)
_NEEDED = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
)
_PHOTOMETRIC = {  # samples a pixel
    "MONOCHROME1": 1,
    "MONOCHROME2": 1,
    "PALETTE COLOR": 1,
    "RGB": 3,
    "YBR_FULL": 3,
    "YBR_FULL_422": 3,
    "YBR_ICT": 3,
    "YBR_RCT": 3,
}
# Pillow first: the same file must give the same pixels whether the extra is installed or not.
# Never gdcm, which pydicom would choose first: a damaged JPEG ends the whole process there.
_DECODERS = ("pillow", "pylibjpeg", "pyjpegls", "pydicom")
_MAX_FRAMES = 20_000
_SUFFIXES = (".dcm", ".dicom", ".dic", ".ima")


def is_dicom(path: files.Path) -> bool:
    """True for a file with the DICOM preamble, a DICOM extension, or a bare data set."""
    if files.suffix(path) in _SUFFIXES:
        return True
    with open(path, "rb") as file:
        head = file.read(kinds.HEAD_BYTES)
    return head[128:132] == b"DICM" or _is_bare(head)


def _is_bare(head: bytes) -> bool:
    """True for the first bytes of a file without preamble.

    Its first element is of group 2 or 8 and has a type (two capital letters) behind its tag; in
    implicit encoding it has a short even length, and the next element is of the same group.
    """
    for group, byte_order in ((head[:2], "little"), (head[1::-1], "big")):
        if group not in (b"\x02\x00", b"\x08\x00") or len(head) < 8:
            continue
        element = int.from_bytes(head[2:4], byte_order)
        length = int.from_bytes(head[4:8], "little")
        explicit = head[4:6].isalpha() and head[4:6].isupper()
        implicit = length % 2 == 0 and head[8 + length : 10 + length] == group
        if element <= 0x0100 and (explicit or (byte_order == "little" and implicit)):
            return True
    return False


def load(path: files.Path, tags: Sequence[str]) -> dicom_grey.Dataset:
    """The dataset with these tags only (plus what the file format itself needs).

    Raises:
      DataError: no DICOM file, or one that does not say how its pixels are compressed.
    """
    pydicom = files.need("pydicom", None, path, "reading DICOM")
    # Warnings and log lines of pydicom may quote values; ours are errors without values.
    warnings.filterwarnings("ignore", module="pydicom")
    pydicom.config.logger.disabled = True
    with open(path, "rb") as file:
        head = file.read(kinds.HEAD_BYTES)
    bare = head[128:132] != b"DICM"
    if bare and not _is_bare(head):
        found = kinds.of_bytes(head)
        raise DataError(
            f"is {found[0]}, not DICOM" if found else "is not DICOM: it has no header of DICOM",
            where=str(path),
            hint=found[1] if found and found[1] else "check what the file is",
        )
    with files.decoding(path, "DICOM", ("a DICOM file",)):
        if not bare:
            _check_deflated(path)
        dataset = pydicom.dcmread(path, specific_tags=list(tags), force=bare)
        _give_transfer_syntax(dataset, path)
        if tags is _PIXEL_TAGS:
            _drop_others(dataset, {pydicom.tag.Tag(name) for name in _NESTED_TAGS}, top=True)
        return dataset


def _check_deflated(path: files.Path) -> None:
    """Refuses a deflated data set that inflates past the limits, before pydicom inflates it."""
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    with open(path, "rb") as file:
        # preamble, "DICM" and the element that holds the length: 128 + 4 + 12 bytes
        file.seek(144 + int(meta.FileMetaInformationGroupLength))
        held = file.read()
    inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while held and not inflate.eof:
        size += len(inflate.decompress(held, 1 << 24))
        held = inflate.unconsumed_tail
        files.check_declared(size, size, path, False)


def _give_transfer_syntax(dataset: dicom_grey.Dataset, path: files.Path) -> None:
    """Sets the transfer syntax of a file without the header that names it, where it is plain."""
    from pydicom import uid

    if "TransferSyntaxUID" in dataset.file_meta or "PixelData" not in dataset:
        return
    implicit, little = dataset.original_encoding
    if dataset["PixelData"].is_undefined_length:
        raise DataError(
            "has compressed pixels and no header that says how they are compressed",
            where=str(path),
            hint="export it again as a DICOM file with its file meta information",
        )
    if implicit:
        dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian
    else:
        dataset.file_meta.TransferSyntaxUID = (
            uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
        )


def _drop_others(dataset: dicom_grey.Dataset, allowed: set[int], top: bool) -> None:
    """Drops, unread, what the items of sequences hold besides the allowed tags."""
    from pydicom.datadict import dictionary_VR

    for tag in list(dataset.keys()):
        if not top and tag not in allowed:
            del dataset[tag]
        elif dictionary_VR(tag) == "SQ":
            for item in dataset[tag].value:
                _drop_others(item, allowed, top=False)


def read_frames(
    path: files.Path,
    indices: Callable[[int], Sequence[int]] | None = None,
    single: bool = False,
) -> np.ndarray:
    """Frames as uint8 [n, h, w, 3]; grey levels by readers.dicom_grey, colours as RGB.

    Args:
      path: a DICOM file with pixel data.
      indices: function from the number of frames to the frames wanted; None = all.
      single: refuse files of several frames.

    Raises:
      DataError: no pixel data, several frames where one is wanted, damaged, over the limits, or of
        a compression or colour model that is not read (both are named).
    """
    path = files.check_file(path)
    dataset = load(path, _PIXEL_TAGS)
    with files.decoding(path, "DICOM pixel data", ("a DICOM file",)):
        count = _check_header(dataset, path, single)
        wanted = list(range(count)) if indices is None else [int(i) for i in indices(count)]
        shown = sorted(set(wanted))
        _check_size(dataset, count, len(shown), path)
        decoders = _decoders(dataset, path)
        stack, padding = _stored(dataset, shown, decoders, path)
        if str(dataset.PhotometricInterpretation) == "PALETTE COLOR":
            colours = dicom_grey.palette_to_rgb(stack, dataset, path)
        elif stack.ndim == 4:
            top = 2 ** int(dataset.BitsStored) - 1
            colours = stack if stack.dtype == np.uint8 else grey.to_uint8(stack, 0, top)
        else:
            levels = dicom_grey.to_grey(stack, padding, dataset, shown, path)
            colours = grey.grey_to_rgb(levels)
        return colours[np.searchsorted(shown, wanted)]


def read_mask(path: files.Path) -> np.ndarray:
    """bool [n, h, w]: the frames of a DICOM mask or of a segmentation object, nonzero = region.

    The segments of a SEG are joined, so it gives one frame. One of several slices is refused: it
    may leave out slices without a region, so its frames cannot be counted off against an image's.
    """
    path = files.check_file(path)
    dataset = load(path, _PIXEL_TAGS)
    with files.decoding(path, "a DICOM mask", ("a DICOM file",)):
        count = _check_header(dataset, path, single=False)
        _check_size(dataset, count, count, path)
        stack, _ = _stored(dataset, list(range(count)), _decoders(dataset, path), path)
        region = stack.any(axis=-1) if stack.ndim == 4 else stack != 0
        if str(dataset.get("Modality", "")) != "SEG" or count == 1:
            return region
        groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
        places = {
            tuple(round(float(v), 3) for v in group.PlanePositionSequence[0].ImagePositionPatient)
            for group in groups
            if group.get("PlanePositionSequence")
        }
        if len(places) != 1:
            raise DataError(
                f"is a segmentation object of {count} frames in several slices",
                where=str(path),
                hint="write it as .nii.gz beside its volume, or as .npz with the frames of its "
                "image",
            )
        return region.any(axis=0, keepdims=True)


def _check_header(dataset: dicom_grey.Dataset, path: files.Path, single: bool) -> int:
    """The number of frames, once the header is one of a picture that is read."""
    if "PixelData" not in dataset:
        raise DataError(
            "has no pixel data", where=str(path), hint="use the image object of the study"
        )
    if missing := [name for name in _NEEDED if dataset.get(name) in (None, "")]:
        raise DataError(
            "has pixel data and no " + ", ".join(missing),
            where=str(path),
            hint="export it again: the pixels cannot be laid out without it",
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
    if not 0 < count <= _MAX_FRAMES or not 0 < pixels <= files.MAX_PIXELS:
        raise DataError(
            f"declares {count} frames of {dataset.Columns}x{dataset.Rows}",
            where=str(path),
            hint=f"at most {_MAX_FRAMES:,} frames of {files.MAX_PIXELS:,} pixels are read",
        )
    photometric = str(dataset.PhotometricInterpretation)
    if _PHOTOMETRIC.get(photometric) != channels:
        raise DataError(
            f"has {channels} values a pixel in a colour model that is not read",
            where=str(path),
            hint="read are " + ", ".join(_PHOTOMETRIC),
        )
    return count


def _check_size(dataset: dicom_grey.Dataset, count: int, wanted: int, path: files.Path) -> None:
    """Refuses a file that holds less than it declares, and frames over the memory limit."""
    from pydicom.pixels.utils import get_expected_length

    if not dataset.file_meta.TransferSyntaxUID.is_compressed:
        files.check_declared(get_expected_length(dataset), len(dataset.PixelData), path, False)
    one = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel)
    one *= max(1, int(dataset.BitsAllocated) // 8)
    files.check_declared(one * wanted, files.MAX_ARRAY_BYTES, path, False)


def _decoders(dataset: dicom_grey.Dataset, path: files.Path) -> list[str]:
    """The installed decoders for the compression of this file, the preferred one first.

    Raises:
      DataError: naming the compression and what to install.
    """
    from pydicom import pixels

    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_transfer_syntax or syntax.is_private:
        raise DataError(
            "is compressed in a maker's own way",
            where=str(path),
            hint="export it again in a transfer syntax of the standard",
        )
    if not syntax.is_compressed:
        return [""]
    try:
        decoder = pixels.get_decoder(syntax)
    except NotImplementedError:
        raise DataError(
            f"is compressed as {syntax.name}, which is not read",
            where=str(path),
            hint="export its frames as .mp4 or .npz",
        ) from None
    available = [name for name in _DECODERS if name in decoder.available_plugins]
    if not available:
        raise DataError(
            f"is compressed as {syntax.name}, for which no decoder is installed",
            where=str(path),
            hint=_install(syntax.name),
        )
    return available


def _install(compression: str) -> str:
    """What brings a decoder for a compression, by its name in the standard."""
    if compression.startswith(("JPEG Lossless", "JPEG Extended")):
        return "pip install pylibjpeg pylibjpeg-libjpeg (its licence is GPL-3)"
    return 'pip install "qoq_jax[dicom]"'


def _stored(
    dataset: dicom_grey.Dataset, indices: Sequence[int], decoders: Sequence[str], path: files.Path
) -> tuple[np.ndarray, np.ndarray | None]:
    """(stored values [n, h, w] or RGB [n, h, w, 3], padding bool [n, h, w] or None)."""
    padding = None
    if str(dataset.PhotometricInterpretation).startswith("MONOCHROME"):
        padding = dicom_grey.padding_range(dataset)
    signed, bits = int(dataset.get("PixelRepresentation", 0)), int(dataset.BitsStored)
    room = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    # Padding may be outside the stored bits (63536 around 12-bit values): it has to be found before
    # the unused bits are cut off.
    unused = padding is not None and not room[0] <= padding[0] <= padding[1] <= room[1]
    frames = [_decode(dataset, index, decoders, path, not unused) for index in indices]
    stack = np.stack(frames)
    if padding is None:
        return stack, None
    outside = (stack >= padding[0]) & (stack <= padding[1])
    if unused:
        shift = stack.dtype.itemsize * 8 - bits
        stack = (stack << shift) >> shift
    return stack, outside


def _decode(
    dataset: dicom_grey.Dataset,
    index: int,
    decoders: Sequence[str],
    path: files.Path,
    correct: bool,
) -> np.ndarray:
    """One frame, [h, w] or [h, w, 3] in RGB, by the first decoder that can.

    `correct`: cut off the bits that the stored values do not use.
    """
    from pydicom import pixels

    for decoder in decoders:
        try:
            return pixels.pixel_array(
                dataset, index=index, decoding_plugin=decoder, correct_unused_bits=correct
            )
        except Exception:
            # any exception: decoders raise what they like; the last one goes on as it is
            if decoder == decoders[-1] and (not decoder or decoder == "pydicom"):
                raise
    compression = dataset.file_meta.TransferSyntaxUID.name
    raise DataError(
        f"frame {index}, compressed as {compression}, is not decoded by {' or '.join(decoders)}",
        where=str(path),
        hint=_install(compression) + ", or drop the file if it is damaged",
    )


def read_waveform(path: files.Path) -> tuple[np.ndarray, float, list[str]]:
    """The longest waveform group: (signal float32 [leads, n] in mV, sampling rate in Hz, lead
    names).
    """
    path = files.check_file(path)
    dataset = load(path, ("WaveformSequence",))
    with files.decoding(path, "a DICOM waveform", ("a DICOM file",)):
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
