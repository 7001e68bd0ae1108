"""Volumes as the field writes them: backgrounds of NaN, scaling, extensions, types and spaces."""

import gzip

import nibabel
import numpy as np
import pytest

from qoq_jax.base.errors import DataError
from qoq_jax.data import readers
from qoq_jax.data.readers import grey, nifti
from tests.helpers.metaimage import make_metaimage

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # voxels are (left, posterior, superior)
BODY = np.random.default_rng(0).integers(1, 900, (5, 6, 7)).astype(np.int16)  # [S, P, L]


def write(path, body, **header):
    """NIfTI of [S, P, L, ...]."""
    image = nibabel.Nifti1Image(body.transpose(2, 1, 0, *range(3, body.ndim)), LPS)
    for name, value in header.items():
        image.header[name] = value
    image.to_filename(path)
    return path


# ------------------------------------------------------------------------------------------- NIfTI


def test_nan_around_the_body_is_black_and_counts_in_no_statistic(tmp_path):
    body = BODY.astype(np.float32)
    body[:, :2] = np.nan
    path = write(tmp_path / "a.nii.gz", body)
    frames = readers.read_frames(path, 5)[..., 0]
    low, high = np.percentile(BODY[:, 2:], (0.5, 99.5))
    np.testing.assert_array_equal(frames[:, 2:], grey.to_uint8(BODY[:, 2:], low, high))
    assert frames[:, :2].max() == 0


def test_ct_with_padding_around_it_keeps_its_window(tmp_path):
    body = BODY - 1000
    body[:, 0] = -32768
    frames = readers.read_frames(write(tmp_path / "a.nii.gz", body), 5)[..., 0]
    expected = np.clip(np.rint((body.astype(float) + 160) * 255 / 400), 0, 255)
    np.testing.assert_array_equal(frames, expected)


def test_nan_in_a_mask_is_no_region(tmp_path):
    mask = np.full(BODY.shape, np.nan, np.float32)
    mask[0, 1, 2] = 1
    region = readers.read_mask(write(tmp_path / "a.nii.gz", mask), 5)
    assert region.sum() == 1 and region[1, 2]


@pytest.mark.parametrize("values", [np.nan, np.inf])
def test_a_volume_of_no_numbers_is_refused(tmp_path, values):
    path = write(tmp_path / "a.nii.gz", np.full(BODY.shape, values, np.float32))
    with pytest.raises(DataError, match="infinite values or nothing but NaN"):
        readers.read_frames(path)


@pytest.mark.parametrize(("slope", "expected"), [(0.0, 1.0), (2.0, 2.0), (np.nan, 1.0)])
def test_a_slope_of_zero_means_no_scaling(tmp_path, slope, expected):
    path = write(tmp_path / "a.nii", BODY)
    header = bytearray(path.read_bytes())
    header[112:116] = np.float32(slope).tobytes()  # scl_slope
    path.write_bytes(header)
    np.testing.assert_array_equal(nifti.read_volume(path), BODY * expected)


def test_several_volumes_need_a_choice(tmp_path):
    path = write(tmp_path / "a.nii.gz", np.stack([BODY] * 3, axis=-1))
    with pytest.raises(DataError, match=r"holds 3 volumes.*slicer\[\.\.\., 0\]"):
        readers.read_frames(path)


def test_a_fourth_axis_of_one_is_one_volume(tmp_path):
    path = write(tmp_path / "a.nii.gz", BODY[..., None])
    np.testing.assert_array_equal(nifti.read_volume(path), BODY)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_header_extensions_of_any_length(tmp_path, name, kind):
    """As AFNI writes its history; the text is not parsed."""
    image = kind(BODY.transpose(2, 1, 0), LPS)
    text = b'<?xml version="1.0"?><AFNI_attributes>' + b"x" * 5000
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(4, text))
    image.to_filename(tmp_path / name)
    np.testing.assert_array_equal(nifti.read_volume(tmp_path / name), BODY)


@pytest.mark.parametrize("row", [np.nan, np.inf, 0.0])
def test_an_unusable_affine_is_an_error_of_the_file(tmp_path, row):
    path = write(tmp_path / "a.nii", BODY)
    header = bytearray(path.read_bytes())
    header[280:296] = np.full(4, row, np.float32).tobytes()  # srow_x
    path.write_bytes(header)
    for read in (readers.read_frames, readers.read_mask):
        with pytest.raises(DataError, match=r"a\.nii: has an orientation"):
            read(path)


def test_colours_in_nifti_are_named(tmp_path):
    rgb = np.zeros((3, 3, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.Nifti1Image(rgb, LPS).to_filename(tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match="not a grey volume"):
        readers.read_frames(tmp_path / "a.nii.gz")


def test_a_packed_file_of_another_kind_is_not_called_damaged(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(b"NRRD0004\n" + b"\0" * 900))
    with pytest.raises(DataError, match="no NIfTI header: it is an NRRD volume") as caught:
        readers.read_frames(path)
    assert "damaged" not in str(caught.value)


# -------------------------------------------------------------------------------------------- NRRD


def nrrd(path, body, kind="short", space="left-posterior-superior", more=""):
    head = (
        f"NRRD0005\ntype: {kind}\ndimension: 3\nspace: {space}\nsizes: 7 6 5\n"
        f"space directions: (1, 0, 0) (0, 1, 0) (0, 0, 1)\n{more}endian: little\nencoding: raw\n\n"
    )
    path.write_bytes(head.encode() + body.tobytes())
    return path


@pytest.mark.parametrize(
    ("kinds", "code"),
    [
        ("signed char|int8|int8_t", "i1"),
        ("uchar|unsigned char|uint8|uint8_t", "u1"),
        ("short|short int|signed short|signed short int|int16|int16_t", "<i2"),
        ("ushort|unsigned short|unsigned short int|uint16|uint16_t", "<u2"),
        ("int|signed int|int32|int32_t", "<i4"),
        ("uint|unsigned int|uint32|uint32_t", "<u4"),
        (
            "longlong|long long|long long int|signed long long|signed long long int|int64|int64_t",
            "<i8",
        ),
        ("ulonglong|unsigned long long|unsigned long long int|uint64|uint64_t", "<u8"),
        ("float|FLOAT", "<f4"),
        ("double", "<f8"),
    ],
)
def test_all_type_names_of_nrrd(tmp_path, kinds, code):
    """The names of the format's definition, section 5.2."""
    body = (BODY % 100).astype(code)
    for kind in kinds.split("|"):
        np.testing.assert_array_equal(
            nifti.read_volume(nrrd(tmp_path / "a.nrrd", body, kind)), body, kind
        )


def test_scanner_space_of_nrrd(tmp_path):
    path = nrrd(tmp_path / "a.nrrd", BODY, space="scanner-xyz")
    np.testing.assert_array_equal(nifti.read_volume(path), BODY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "block"}, "no number"),
        ({"space": "3D-right-handed"}, "does not say where the patient's left"),
        ({"more": "byte skip: 4\n"}, "bytes to skip"),
        ({"more": "line skip: 1\n"}, "bytes to skip"),
    ],
)
def test_what_is_not_read_of_nrrd_is_named(tmp_path, change, message):
    path = nrrd(tmp_path / "a.nrrd", BODY, **change)
    with pytest.raises(DataError, match=message) as caught:
        readers.read_frames(path)
    assert "damaged" not in str(caught.value)


def test_directions_that_are_not_numbers(tmp_path):
    path = nrrd(tmp_path / "a.nrrd", BODY)
    path.write_bytes(path.read_bytes().replace(b"(1, 0, 0)", b"(nan,0,0)"))
    with pytest.raises(DataError, match="orientation"):
        readers.read_frames(path)


# --------------------------------------------------------------------------------------- MetaImage


def metaimage_of(path, **options):
    """MetaImage of BODY, whose voxels are (left, posterior, superior)."""
    return make_metaimage(path, options.pop("values", BODY).transpose(2, 1, 0), **options)


@pytest.mark.parametrize("name", ["a.mhd", "a.mha"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", ["<i2", ">i2"])
def test_metaimage_gives_the_values_of_the_same_nifti(tmp_path, name, packed, order):
    path = metaimage_of(tmp_path / name, values=BODY.astype(order), packed=packed)
    expected = nifti.read_volume(write(tmp_path / "a.nii.gz", BODY))
    np.testing.assert_array_equal(nifti.read_volume(path), expected)
    np.testing.assert_array_equal(
        readers.read_frames(path, 3), readers.read_frames(tmp_path / "a.nii.gz", 3)
    )


def test_metaimage_is_turned_by_its_directions(tmp_path):
    # i runs to the head, j to the right, k to the front
    path = make_metaimage(
        tmp_path / "a.mhd",
        np.ascontiguousarray(BODY[:, ::-1, ::-1].transpose(0, 2, 1)),
        TransformMatrix="0 0 1 -1 0 0 0 -1 0",
        ElementSpacing="2.5 0.7 0.7",
    )
    np.testing.assert_array_equal(nifti.read_volume(path), BODY)


def test_a_mask_as_metaimage(tmp_path):
    mask = np.zeros(BODY.shape, np.uint8)
    mask[0, 1, 2] = 7
    region = readers.read_mask(metaimage_of(tmp_path / "a.mhd", values=mask), 5)
    assert region.sum() == 1 and region[1, 2]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"NDims": 2}, "not a grey volume of three axes"),
        ({"NDims": None}, "damaged or cut short"),
        ({"ElementNumberOfChannels": 3}, "not a grey volume of three axes"),
        ({"ElementType": "MET_STRING"}, "a type that is no number"),
        ({"BinaryData": False}, "as text"),
        ({"ElementDataFile": "LIST"}, "in several files"),
        ({"ElementDataFile": "a%03d.raw 1 5 1"}, "in several files"),
        ({"ElementDataFile": "../a.raw"}, "unsafe file"),
        ({"ElementDataFile": "other.raw"}, "no such file"),
        ({"DimSize": "7 6"}, "not a grey volume"),
        ({"DimSize": "7 6 0"}, "not a grey volume"),
        ({"DimSize": "7 6 6"}, "the file holds at most 420"),
        ({"DimSize": "70000 60000 6000"}, "over the limit"),
        ({"DimSize": "7 6 6", "packed": True}, "cannot be read as the voxels"),
        ({"TransformMatrix": "1 0 0 0 1"}, "damaged or cut short"),
        ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "has no volume"),
        ({"ElementSpacing": "nan 1 1"}, "not finite"),
        ({"Offset": "nan 1 1"}, "not finite"),
        ({"Offset": "1 1"}, "damaged or cut short"),
    ],
)
def test_a_metaimage_that_cannot_be_read_says_why(tmp_path, options, said):
    path = metaimage_of(tmp_path / "a.mhd", **options)
    with pytest.raises(DataError, match=said) as raised:
        readers.read_frames(path)
    assert str(tmp_path) in raised.value.where


def test_the_comment_of_a_metaimage_is_in_no_error(tmp_path):
    path = metaimage_of(tmp_path / "a.mhd", Comment="Jane Doe", ElementType="Jane Doe")
    with pytest.raises(DataError) as raised:
        readers.read_frames(path)
    assert "Jane" not in str(raised.value)
