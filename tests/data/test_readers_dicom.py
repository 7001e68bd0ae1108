"""DICOM pixels: the grey-scale pipeline against a reading of the standard written here, on a grid;
padding, palettes, enhanced objects, segmentations, files without preamble, compressions."""

import contextlib
import importlib.util
import itertools
import math
import pathlib

import numpy as np
import pydicom
import pytest
from helpers.dicom import SECRET, item, make_dicom, table
from pydicom.data import get_testdata_file
from pydicom.uid import (
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from qoq_jax.base.errors import DataError
from qoq_jax.data import readers
from qoq_jax.data.readers import dicom, files

# ----------------------------------------------------------------------- the grid of the standard

STORED = ((8, np.uint8), (8, np.int8), (12, np.uint16), (12, np.int16), (16, np.uint16))
RESCALES = (None, (1.0, -1024.0), (0.5, 10.0), (-1.0, 100.0))
VOI = ("LINEAR", "LINEAR_EXACT", "SIGMOID", "TABLE", "TABLE of 8 bits")
PADDINGS = (None, "value", "range")


def by_the_standard(x, rescale, voi, centre, width, lut, inverted, padding):
    """One stored value -> grey, as PS3.3 C.11.1, C.11.2 and C.7.5.1.1.2 say; scalars only."""
    if padding is not None and padding[0] <= x <= padding[1]:
        return 0
    slope, intercept = rescale or (1.0, 0.0)
    value = slope * x + intercept
    if voi == "LINEAR":
        if value <= centre - 0.5 - (width - 1) / 2:
            y = 0.0
        elif value > centre - 0.5 + (width - 1) / 2:
            y = 255.0
        else:
            y = ((value - (centre - 0.5)) / (width - 1) + 0.5) * 255
    elif voi == "LINEAR_EXACT":
        if value <= centre - width / 2:
            y = 0.0
        elif value > centre + width / 2:
            y = 255.0
        else:
            y = ((value - centre) / width + 0.5) * 255
    elif voi == "SIGMOID":
        y = 255 / (1 + math.exp(-4 * (value - centre) / width))
    else:
        first, entries, bits = lut
        place = min(max(math.floor(value) - first, 0), len(entries) - 1)
        y = entries[place] / (2**bits - 1) * 255
    grey = int(np.rint(y))
    return 255 - grey if inverted else grey


@pytest.mark.parametrize("voi", VOI)
def test_every_pipeline_is_the_standards(tmp_path, voi):
    """Bits stored x signed x rescale x padding x MONOCHROME1 or 2, for each window and table."""
    seen = 0
    for (bits, kind), rescale, padding, inverted in itertools.product(
        STORED, RESCALES, PADDINGS, (False, True)
    ):
        signed = np.dtype(kind).kind == "i"
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        stored = np.linspace(low, high, 16 * 16).round().astype(kind).reshape(16, 16)
        slope, intercept = rescale or (1.0, 0.0)
        middle = slope * (low + (high - low) * 0.4) + intercept
        centre, width = round(middle, 1), (high - low) * abs(slope) / 3
        fields = {"PhotometricInterpretation": "MONOCHROME1" if inverted else "MONOCHROME2"}
        fields |= {"BitsStored": bits, "HighBit": bits - 1}
        if rescale:
            fields |= {"RescaleSlope": slope, "RescaleIntercept": intercept}
        lut = None
        if voi.startswith("TABLE"):
            depth = 8 if "8" in voi else 10
            first = int(middle) - 60
            lut = (first, np.arange(300) ** 2 % 2**depth, depth)
            fields["VOILUTSequence"] = [table(*lut)]
        else:
            fields |= {"WindowCenter": centre, "WindowWidth": f"{width:.6f}", "VOILUTFunction": voi}
            width = float(f"{width:.6f}")
        ends = None
        if padding:
            ends = (low, low) if padding == "value" else (high - 40, high)
            sort = "SS" if signed else "US"
            elements = [("PixelPaddingValue", sort, ends[0])]
            if padding == "range":
                elements.append(("PixelPaddingRangeLimit", sort, ends[1]))
        path = make_dicom(
            tmp_path / "a.dcm", stored, elements=elements if padding else (), **fields
        )
        expected = [
            by_the_standard(int(x), rescale, voi, centre, width, lut, inverted, ends)
            for x in stored.ravel()
        ]
        case = f"{bits} {kind} {rescale} {padding} {inverted}"
        np.testing.assert_array_equal(readers.read_image(path)[..., 0].ravel(), expected, case)
        seen += 1
    assert seen == 120


# -------------------------------------------------------------------------------- modality and VOI

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)  # 12 bits
TWELVE = {"BitsStored": 12, "HighBit": 11}


def grey(path):
    return readers.read_image(path)[..., 0]


def test_a_voi_table_that_saturates_goes_before_the_window(tmp_path):
    """8-bit entries, 4096 of them: what pydicom's own function wraps at 256."""
    lut = table(0, np.minimum(np.arange(4096) // 2, 255), 8)
    path = make_dicom(
        tmp_path / "a.dcm", RAMP, VOILUTSequence=[lut], WindowCenter=9, WindowWidth=2, **TWELVE
    )
    np.testing.assert_array_equal(grey(path), np.minimum(RAMP // 2, 255))


def test_sigmoid_window(tmp_path):
    path = make_dicom(
        tmp_path / "a.dcm",
        RAMP,
        WindowCenter=2048,
        WindowWidth=512,
        VOILUTFunction="SIGMOID",
        **TWELVE,
    )
    assert grey(path).ravel()[[1536, 2048]].tolist() == [round(255 / (1 + math.exp(4))), 128]


def test_modality_table_of_12_bits(tmp_path):
    lut = table(0, np.arange(4096)[::-1], 12)
    path = make_dicom(
        tmp_path / "a.dcm",
        RAMP,
        ModalityLUTSequence=[lut],
        WindowCenter=2048,
        WindowWidth=4096,
        **TWELVE,
    )
    assert grey(path).ravel()[[0, 4095]].tolist() == [255, 0]


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_tables_and_signed_padding_in_other_encodings(tmp_path, syntax):
    """The type and byte order of a table and of padding follow from the encoding of the file."""
    stored = (RAMP.astype(np.int16) - 2048)[:, :32]
    lut = table(-100, np.arange(200), 8)
    entries = np.arange(200, dtype="<u2" if syntax.is_little_endian else ">u2")
    lut.add_new("LUTData", "OW", entries.tobytes())
    path = make_dicom(
        tmp_path / "a.dcm",
        stored,
        syntax,
        elements=[("PixelPaddingValue", "SS", 50)],
        VOILUTSequence=[lut],
    )
    expected = np.where(stored == 50, 0, np.clip(stored + 100, 0, 199))
    np.testing.assert_array_equal(grey(path), expected)


@pytest.mark.parametrize("fields", [{"VOILUTFunction": "NOSUCH"}, {"RescaleSlope": "777777"}])
def test_what_the_standard_does_not_have_is_refused(tmp_path, fields):
    given = {"WindowCenter": 5, "WindowWidth": 9} | fields
    path = make_dicom(tmp_path / "a.dcm", RAMP, **given)
    path.write_bytes(path.read_bytes().replace(b"777777", b"   inf"))
    with pytest.raises(DataError, match=r"a\.dcm: has a"):
        readers.read_image(path)


@pytest.mark.parametrize("width", [0, -3])
def test_a_window_without_width_is_no_window(tmp_path, width):
    path = make_dicom(tmp_path / "a.dcm", RAMP, WindowCenter=5, WindowWidth=width)
    np.testing.assert_array_equal(grey(path), grey(make_dicom(tmp_path / "b.dcm", RAMP)))


# ------------------------------------------------------------------------------------------ padding


def framed(values, padding):
    """Tissue with a frame of padding around it."""
    return np.pad(values, 24, constant_values=padding)


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize(
    ("modality", "kind", "padding", "sort"),
    [
        ("MG", np.uint16, 65535, "US"),
        ("CR", np.uint16, 63536, "US"),
        ("MR", np.int16, -2000, "SS"),
        ("MR", np.int16, -2000, "US"),  # signed pixels, and the value written unsigned
        ("PT", np.int16, -32768, "SS"),
    ],
)
def test_padding_takes_no_part_and_is_black(tmp_path, modality, kind, padding, sort, photometric):
    """The tissue has the grey levels that it has without padding."""
    values = RAMP.astype(kind)
    whole = framed(values, np.array(padding).astype(kind))
    declared = padding % 65536 if sort == "US" else padding
    kinds = {"Modality": modality, "PhotometricInterpretation": photometric}
    path = make_dicom(
        tmp_path / "a.dcm", whole, elements=[("PixelPaddingValue", sort, declared)], **kinds
    )
    shown = grey(path)
    tissue = shown[24:-24, 24:-24].astype(int)
    assert shown[:24].max() == 0 and shown[-24:].max() == 0
    low, high = np.percentile(values, (0.5, 99.5))
    expected = np.clip(np.rint((values - low) * 255.0 / (high - low)), 0, 255)
    if photometric == "MONOCHROME1":
        expected = 255 - expected
    assert np.abs(tissue - expected).max() <= 1


@pytest.mark.parametrize(
    ("kind", "intercept", "padding", "sort"),
    [
        (np.uint16, -1024, 63536, "US"),
        (np.int16, 0, -32768, "SS"),
        (np.int16, 0, -2000, "SS"),
        (np.int16, -1024, 63536, "US"),
    ],
)
def test_ct_with_padding_keeps_its_window(tmp_path, kind, intercept, padding, sort):
    hounsfield = np.linspace(-1000, 1000, 4096).round().reshape(64, 64)
    stored = framed((hounsfield - intercept).astype(kind), np.array(padding).astype(kind))
    path = make_dicom(
        tmp_path / "a.dcm",
        stored,
        elements=[("PixelPaddingValue", sort, padding)],
        Modality="CT",
        RescaleSlope=1,
        RescaleIntercept=intercept,
    )
    expected = np.clip(np.rint((hounsfield + 160) * 255 / 400), 0, 255)
    np.testing.assert_array_equal(grey(path), framed(expected, 0))


def test_padding_outside_the_stored_bits(tmp_path):
    """63536 is 2096 in 12 bits: tissue of that value stays."""
    stored = framed(RAMP, 63536)
    path = make_dicom(
        tmp_path / "a.dcm",
        stored,
        elements=[("PixelPaddingValue", "US", 63536)],
        WindowCenter=2048,
        WindowWidth=4096,
        **TWELVE,
    )
    shown = grey(path)
    assert shown[0, 0] == 0 and shown[24:-24, 24:-24].ravel()[2096] == 131


def test_all_padding_is_black(tmp_path):
    path = make_dicom(
        tmp_path / "a.dcm",
        np.full((4, 4), 7, np.uint16),
        elements=[("PixelPaddingValue", "US", 7)],
        PhotometricInterpretation="MONOCHROME1",
    )
    assert grey(path).max() == 0


# ---------------------------------------------------------------------------- palettes and colours


def test_palette_of_16_bits():
    """pydicom's example: entries / 257, not clipped."""
    path = get_testdata_file("examples_palette.dcm")
    dataset = pydicom.dcmread(path)
    index = np.frombuffer(dataset.PixelData, np.uint8, dataset.Rows * dataset.Columns)
    red = np.frombuffer(dataset.RedPaletteColorLookupTableData, "<u2")
    shown = readers.read_image(path)
    np.testing.assert_array_equal(shown[..., 0].ravel(), np.rint(red[index] / 257))
    assert (shown == 255).mean() < 0.01


def test_palette_of_8_bits_with_more_than_256_colours(tmp_path):
    """An index over 255 does not wrap."""
    index = np.array([[0, 255, 256, 600, 999]], np.uint16)
    ramp = (np.arange(1000) // 4).astype(np.uint8)
    fields = {}
    for colour in ("Red", "Green", "Blue"):
        fields[f"{colour}PaletteColorLookupTableDescriptor"] = [1000, 0, 8]
        fields[f"{colour}PaletteColorLookupTableData"] = ramp.tobytes()
    path = make_dicom(
        tmp_path / "a.dcm", index, PhotometricInterpretation="PALETTE COLOR", **fields
    )
    np.testing.assert_array_equal(grey(path), ramp[index])


def test_ybr_full_422_native():
    """Two pixels share their colour; compared with the conversion of PS3.3 C.7.6.3.1.2."""
    path = get_testdata_file("SC_ybr_full_422_uncompressed.dcm")
    dataset = pydicom.dcmread(path)
    pairs = np.frombuffer(dataset.PixelData, np.uint8).reshape(-1, 4).astype(float)
    y = pairs[:, :2].ravel()
    blue, red = (np.repeat(pairs[:, i], 2) - 128 for i in (2, 3))
    rgb = np.stack([y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue], -1)
    shown = readers.read_image(path).reshape(-1, 3)
    assert np.abs(shown - np.clip(rgb, 0, 255)).max() <= 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("MR_small.dcm", "MR_small_bigendian.dcm"),
        ("MR_small.dcm", "MR_small_implicit.dcm"),
        ("MR_small.dcm", "MR_small_RLE.dcm"),
        ("MR_small.dcm", "MR_small_jp2klossless.dcm"),
        ("SC_rgb_small_odd.dcm", "SC_rgb_small_odd_big_endian.dcm"),
        ("liver_1frame.dcm", "liver_expb_1frame.dcm"),
    ],
)
def test_the_same_picture_in_two_encodings(one, other):
    np.testing.assert_array_equal(
        *(readers.read_image(get_testdata_file(name)) for name in (one, other))
    )


def test_other_colour_models_are_named(tmp_path):
    path = make_dicom(tmp_path / "a.dcm", RAMP, PhotometricInterpretation="CMYK")
    with pytest.raises(DataError, match=r"colour model.*YBR_FULL_422"):
        readers.read_image(path)


# ----------------------------------------------------------------------- several frames and objects


def enhanced(path, stack, shared, frames, **fields):
    groups = [item(FrameContentSequence=[item(FrameComments=SECRET)]) for _ in frames]
    for group, macros in zip(groups, frames, strict=True):
        for name, value in macros.items():
            setattr(group, name, [value])
    shared = item(**{name: [value] for name, value in shared.items()})
    return make_dicom(
        path,
        stack,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=groups,
        **fields,
    )


def test_enhanced_ct_reads_its_rescale_in_the_shared_group(tmp_path):
    """Water is 102 by the soft-tissue window."""
    stack = np.full((2, 4, 4), 1024, np.uint16)
    rescale = item(RescaleSlope=1, RescaleIntercept=-1024)
    path = enhanced(
        tmp_path / "a.dcm",
        stack,
        {"PixelValueTransformationSequence": rescale},
        [{}, {}],
        Modality="CT",
    )
    assert (readers.read_frames(path, 2) == 102).all()


def test_enhanced_mr_shows_each_frame_by_its_own_window(tmp_path):
    """Also in the order of the frames wanted, where some are repeated."""
    stack = np.full((2, 4, 4), 100, np.uint16)
    window = [
        {"FrameVOILUTSequence": item(WindowCenter=c, WindowWidth=200, VOILUTFunction=f)}
        for c, f in ((100, "LINEAR_EXACT"), (50, "LINEAR_EXACT"))
    ]
    doubled = {"PixelValueTransformationSequence": item(RescaleSlope=2, RescaleIntercept=0)}
    window[1] |= doubled
    path = enhanced(tmp_path / "a.dcm", stack, {}, window, Modality="MR")
    assert readers.read_frames(path, 4)[:, 0, 0, 0].tolist() == [128, 128, 255, 255]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_no_text_of_a_group_or_table_is_kept(tmp_path, syntax):
    path = enhanced(
        tmp_path / "a.dcm",
        np.ones((1, 2, 2), np.uint16),
        {},
        [{}],
        syntax=syntax,
        VOILUTSequence=[table(0, [1], 8)],
    )
    assert path.read_bytes().count(SECRET.encode()) == 5
    assert SECRET not in str(dicom.load(path, dicom._PIXEL_TAGS))


def test_segmentation_of_one_bit():
    path = get_testdata_file("liver_1frame.dcm")
    bits = np.unpackbits(
        np.frombuffer(pydicom.dcmread(path).PixelData, np.uint8), bitorder="little"
    )
    mask = bits[: 512 * 512].reshape(512, 512).astype(bool)
    np.testing.assert_array_equal(readers.read_mask(path), mask)
    np.testing.assert_array_equal(grey(path), mask * 255)
    assert 0 < mask.sum() < mask.size


@pytest.mark.parametrize("slices", [1, 2])
def test_segments_of_one_slice_are_joined_and_several_slices_refused(tmp_path, slices):
    stack = np.zeros((2, 4, 4), np.uint8)
    stack[0, 0, 0] = stack[1, 3, 3] = 1
    places = [
        {"PlanePositionSequence": item(ImagePositionPatient=[0, 0, i * (slices - 1)])}
        for i in range(2)
    ]
    path = enhanced(tmp_path / "a.dcm", stack, {}, places, Modality="SEG")
    if slices == 1:
        np.testing.assert_array_equal(readers.read_mask(path), stack.any(axis=0))
    else:
        with pytest.raises(DataError, match="several slices"):
            readers.read_mask(path)


def test_a_multi_frame_mask_shows_the_frames_of_its_picture(tmp_path):
    stack = np.zeros((13, 4, 4), np.uint8)
    stack[4, 1, 1] = stack[5, 2, 2] = 9  # frame 4 is taken, frame 5 is not
    mask = readers.read_mask(make_dicom(tmp_path / "a.dcm", stack))
    assert mask.sum() == 1 and mask[1, 1]


# -------------------------------------------------------------------------- files and compressions


@pytest.mark.parametrize("name", ["a.dcm", "IM0001"])
@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_file_without_preamble(tmp_path, name, syntax):
    """The encoding is seen from the data set itself."""
    path = make_dicom(tmp_path / "whole.dcm", RAMP, syntax)
    start = 144 + pydicom.dcmread(path).file_meta.FileMetaInformationGroupLength
    bare = tmp_path / name
    bare.write_bytes(path.read_bytes()[start:])
    assert bare.read_bytes()[:2] in (b"\x08\0", b"\0\x08")
    np.testing.assert_array_equal(grey(bare), grey(path))


def test_deflated_file_and_its_bomb(tmp_path, monkeypatch):
    path = make_dicom(tmp_path / "a.dcm", RAMP, DeflatedExplicitVRLittleEndian)
    np.testing.assert_array_equal(grey(path), grey(make_dicom(tmp_path / "b.dcm", RAMP)))
    monkeypatch.setattr(files, "MAX_ARRAY_BYTES", 1000)
    with pytest.raises(DataError, match="over the limit"):
        readers.read_image(path)


def test_a_missing_decoder_is_named(monkeypatch):
    monkeypatch.setattr(dicom, "_DECODERS", ("pillow",))
    with pytest.raises(DataError, match=r"JPEG-LS Lossless.*no decoder.*qoq_jax\[dicom\]"):
        readers.read_image(get_testdata_file("MR_small_jpeg_ls_lossless.dcm"))


def test_jpeg_lossless_is_read_or_its_decoder_named():
    """The one decoder is under GPL-3, so it is the user's to install."""
    path = get_testdata_file("SC_rgb_jpeg_gdcm.dcm")
    if importlib.util.find_spec("libjpeg"):
        assert readers.read_image(path)[0, 0].tolist() == [255, 0, 0]
    else:
        with pytest.raises(DataError, match="JPEG Lossless.*pylibjpeg-libjpeg .its licence"):
            readers.read_image(path)


def test_twelve_bit_jpeg_is_not_called_damaged():
    path = get_testdata_file("JPGExtended.dcm")
    if importlib.util.find_spec("libjpeg"):
        assert readers.read_image(path).max() == 255
    else:
        with pytest.raises(DataError, match="JPEG Extended.*is not decoded by.*pylibjpeg-libjpeg"):
            readers.read_image(path)


@pytest.mark.parametrize(
    "name",
    [
        "SC_rgb_small_odd_jpeg.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_RLE.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
    ],
)
def test_a_damaged_frame_never_ends_the_process(tmp_path, name):
    """Bytes of the compressed frame are changed: a picture or a DataError, nothing else."""
    data = pathlib.Path(get_testdata_file(name)).read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "a.dcm"
    for _ in range(40):
        broken = bytearray(data)
        for place in rng.integers(len(data) - 900, len(data), 4):
            broken[place] = rng.integers(256)
        path.write_bytes(broken)
        with contextlib.suppress(DataError):
            assert readers.read_image(path).dtype == np.uint8


def test_video_in_dicom_is_named(tmp_path):
    path = make_dicom(tmp_path / "a.dcm", RAMP)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = MPEG4HP41
    dataset.PixelData = pydicom.encaps.encapsulate([b"\0" * 8])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    with pytest.raises(DataError, match=r"MPEG-4.*not read"):
        readers.read_image(path)


def test_what_is_missing_is_named():
    with pytest.raises(DataError, match="pixel data and no SamplesPerPixel"):
        readers.read_image(get_testdata_file("nested_priv_SQ.dcm"))
    with pytest.raises(DataError, match="no pixel data"):
        readers.read_image(get_testdata_file("rtstruct.dcm"))
