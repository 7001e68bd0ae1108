"""Pictures, grey levels and the two ways in: a path and an object give equal pixels."""

import zlib

import numpy as np
import pytest
from PIL import Image

from qoq_jax.base.errors import DataError
from qoq_jax.data import readers
from qoq_jax.data.readers import grey, kinds
from qoq_jax.sampling import inputs

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (9, 7, 3), np.uint8)
DEEP = np.linspace(100, 60_000, 63).astype(np.uint16).reshape(9, 7)

# ------------------------------------------------------------------------------------- grey levels


@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("base", [0, 1000])
def test_two_levels_are_black_and_white(kind, base):
    values = np.full((20, 20), base, kind)
    values[5:9] = base + 100
    assert np.unique(grey.window(values)).tolist() == [0, 255]
    assert (grey.window(values) == 255).sum() == 80


def test_a_plateau_with_few_others_is_white():
    values = np.zeros((100, 100), np.uint16)
    values[20:80] = 700
    values[50, :3] = 900
    levels = grey.window(values)
    assert levels[0, 0] == 0 and (levels[20:80] == 255).all()


def test_levels_of_a_narrow_range_far_from_zero():
    """float32 cannot hold one part in 2^24: 16,777,216 + 0..3."""
    values = (2**24 + np.arange(4)).repeat(25).reshape(10, 10)
    levels = grey.to_uint8(values, 2**24, 2**24 + 3)
    assert np.unique(levels).tolist() == [0, 85, 170, 255]


def test_levels_of_tiny_floats():
    values = np.linspace(0, 1e-9, 1000, dtype=np.float32).reshape(20, 50)
    levels = grey.window(values)
    assert levels[0, 0] == 0 and levels[10, 0] in range(120, 136) and levels[-1, -1] == 255


@pytest.mark.parametrize("padding", [-32768, -3024, -2000])
def test_undeclared_padding_leaves_ct_a_ct(padding):
    hounsfield = np.linspace(-1000, 1000, 4096).round().reshape(64, 64)
    values = np.pad(hounsfield, 20, constant_values=padding).astype(np.int16)
    expected = np.pad(np.clip(np.rint((hounsfield + 160) * 255 / 400), 0, 255), 20)
    np.testing.assert_array_equal(grey.window(values), expected)


def test_undeclared_padding_makes_no_ct_of_an_mr():
    tissue = np.linspace(0, 4095, 4096).reshape(64, 64)
    values = np.pad(tissue, 20, constant_values=-2000).astype(np.int16)
    levels = grey.window(values)
    assert levels[0, 0] == 0 and abs(int(levels[20 + 32, 20]) - 128) <= 2


def test_nan_is_black_and_counts_in_no_statistic():
    tissue = np.linspace(100, 900, 4096, dtype=np.float32).reshape(64, 64)
    levels = grey.window(np.pad(tissue, 20, constant_values=np.nan))
    low, high = np.percentile(tissue, (0.5, 99.5))
    np.testing.assert_array_equal(levels[20:-20, 20:-20], grey.to_uint8(tissue, low, high))
    assert levels[:20].max() == 0


# ----------------------------------------------------------------------------------------- formats


def save(path, picture, **options):
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(
        path, **options
    )
    return path


def test_webp_is_read(tmp_path):
    path = save(tmp_path / "a.webp", COLOUR, lossless=True)
    np.testing.assert_array_equal(readers.read_image(path), COLOUR)


def test_cmyk_is_rgb(tmp_path):
    ink = Image.fromarray(COLOUR).convert("CMYK")
    np.testing.assert_array_equal(readers.read_image(save(tmp_path / "a.tif", ink)), COLOUR)
    shown = readers.read_image(save(tmp_path / "a.jpg", Image.new("CMYK", (8, 8)), quality=95))
    assert (shown == 255).all()  # no ink


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_are_not_cut_to_eight(tmp_path, name):
    path = save(tmp_path / name, DEEP)
    np.testing.assert_array_equal(readers.read_image(path)[..., 0], grey.window(DEEP))


def test_sixteen_bit_tiff_whose_zero_is_white(tmp_path):
    path = save(tmp_path / "a.tif", DEEP, tiffinfo={262: 0})
    shown = readers.read_image(path)[..., 0]
    np.testing.assert_array_equal(shown, grey.window(np.uint16(65535) - DEEP))


def test_nan_in_a_float_tiff_is_background_and_no_region(tmp_path):
    values = np.linspace(1, 2, 63, dtype=np.float32).reshape(9, 7)
    values[0] = np.nan
    path = save(tmp_path / "a.tif", values)
    assert readers.read_image(path)[0].max() == 0 and readers.read_image(path).max() == 255
    np.testing.assert_array_equal(readers.read_mask(path), ~np.isnan(values))


@pytest.mark.parametrize("values", [np.full((3, 3), np.nan), np.array([[1.0, np.inf]])])
def test_nothing_measured_or_infinite_is_refused(tmp_path, values):
    path = save(tmp_path / "a.tif", values.astype(np.float32))
    with pytest.raises(DataError, match="infinite values or nothing but NaN"):
        readers.read_image(path)


# ------------------------------------------------------------------------------------ several pages


def test_pages_are_refused_as_an_image_and_frames_as_a_video(tmp_path):
    first, *others = (Image.fromarray(np.full((4, 5), 40 * i, np.uint8)) for i in range(5))
    path = save(tmp_path / "a.tif", first, save_all=True, append_images=others)
    with pytest.raises(DataError, match=r'several pages.*"videos"'):
        readers.read_image(path)
    with pytest.raises(DataError, match="several pages"):
        readers.read_mask(path)
    frames = readers.read_frames(path, 3)
    assert frames.shape == (3, 4, 5, 3) and frames[:, 0, 0, 0].tolist() == [0, 80, 160]


def test_deep_pages_share_their_grey_levels(tmp_path):
    pages = [Image.fromarray(DEEP // n) for n in (1, 2)]
    path = save(tmp_path / "a.tif", pages[0], save_all=True, append_images=pages[1:])
    expected = grey.window(np.stack([DEEP, DEEP // 2]))
    np.testing.assert_array_equal(readers.read_frames(path, 2)[..., 0], expected)


def test_a_thumbnail_is_no_page(tmp_path):
    whole, small = Image.fromarray(COLOUR), Image.fromarray(COLOUR[:3, :3])
    small.encoderinfo = {"tiffinfo": {254: 1}}
    path = save(tmp_path / "a.tif", whole, save_all=True, append_images=[small])
    with Image.open(path) as picture:
        picture.seek(1)
        assert picture.tag_v2[254] == 1
    np.testing.assert_array_equal(readers.read_image(path), COLOUR)


def test_pages_of_several_sizes_are_refused(tmp_path):
    other = Image.fromarray(COLOUR[:4])
    path = save(tmp_path / "a.tif", Image.fromarray(COLOUR), save_all=True, append_images=[other])
    with pytest.raises(DataError, match="several sizes"):
        readers.read_frames(path, 2)


@pytest.mark.parametrize("name", ["a.webp", "a.png"])
def test_an_animation_is_refused(tmp_path, name):
    frames = [Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)]
    path = save(tmp_path / name, frames[0], save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="animated"):
        readers.read_image(path)


# -------------------------------------------------------------------------------------- two ways in


def pictures():
    """Name, options of saving and the picture, one of each kind."""
    exif = Image.Exif()
    exif[0x0112] = 6
    alpha = np.dstack([COLOUR, RNG.integers(0, 256, (9, 7), np.uint8)])
    palette = Image.fromarray(COLOUR).quantize(8)
    return {
        "rgb.png": (Image.fromarray(COLOUR), {}),
        "turned.jpg": (Image.fromarray(COLOUR), {"exif": exif}),
        "turned.tif": (Image.fromarray(COLOUR), {"exif": exif}),
        "turned.webp": (Image.fromarray(COLOUR), {"exif": exif, "lossless": True}),
        "alpha.png": (Image.fromarray(alpha), {}),
        "grey-alpha.png": (Image.fromarray(alpha).convert("LA"), {}),
        "deep.png": (Image.fromarray(DEEP), {}),
        "deep.tif": (Image.fromarray(DEEP), {}),
        "white-is-zero.tif": (Image.fromarray(DEEP), {"tiffinfo": {262: 0}}),
        "float.tif": (Image.fromarray(DEEP.astype(np.float32)), {}),
        "bits.png": (Image.fromarray(COLOUR[..., 0] > 99), {}),
        "palette.png": (palette, {"transparency": 3}),
        "ink.jpg": (Image.fromarray(COLOUR).convert("CMYK"), {}),
    }


@pytest.mark.parametrize("name", list(pictures()))
def test_path_and_pillow_object_give_equal_pixels(tmp_path, name):
    picture, options = pictures()[name]
    path = save(tmp_path / name, picture, **options)
    with Image.open(path) as opened:
        np.testing.assert_array_equal(inputs._image(opened, "a"), inputs._image(path, "a"))


@pytest.mark.parametrize("name", ["rgb.png", "alpha.png", "deep.png", "float.tif", "bits.png"])
def test_path_and_array_give_equal_pixels(tmp_path, name):
    path = save(tmp_path / name, pictures()[name][0])
    array = np.asarray(Image.open(path))
    np.testing.assert_array_equal(inputs._image(array, "a"), inputs._image(path, "a"))


def test_deep_frames_as_array_and_as_file(tmp_path):
    """The levels are those of all pages, though only some are taken."""
    stack = np.stack([DEEP // n for n in (1, 2, 3, 4, 5)])
    pages = [Image.fromarray(page) for page in stack]
    path = save(tmp_path / "a.tif", pages[0], save_all=True, append_images=pages[1:])
    frames = inputs._frames(path, 3, "a")
    np.testing.assert_array_equal(inputs._frames(stack, 3, "a"), frames)
    np.testing.assert_array_equal(frames[..., 0], grey.window(stack)[[0, 2, 4]])


def test_a_pillow_object_of_several_pages_needs_a_choice(tmp_path):
    pages = [Image.fromarray(DEEP), Image.fromarray(DEEP // 2)]
    path = save(tmp_path / "a.tif", pages[0], save_all=True, append_images=pages[1:])
    with Image.open(path) as opened:
        with pytest.raises(DataError, match=r"several pages.*copy\(\)"):
            inputs._image(opened, "a")
        opened.seek(1)
        np.testing.assert_array_equal(inputs._image(opened, "a")[..., 0], grey.window(DEEP // 2))


def test_a_pillow_object_of_a_cut_file_is_an_error(tmp_path):
    path = save(tmp_path / "a.png", RNG.integers(0, 256, (64, 64, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:5000])
    with Image.open(path) as opened, pytest.raises(DataError, match="cannot be loaded"):
        inputs._image(opened, "sample 0")


def test_colours_as_floats_are_refused():
    with pytest.raises(DataError, match=r"float64 \[2, 2, 3\].*colours as uint8"):
        inputs._image(np.zeros((2, 2, 3)), "a")


# ------------------------------------------------------------------------------- what an error says


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"GIF89a" + b"\0" * 40, "GIF"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 40, "HEIC"),
        (b"\0\0\0\x18ftypavif" + b"\0" * 40, "AVIF"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 40, "JPEG 2000"),
        (b"%PDF-1.7" + b"\0" * 40, "PDF"),
        (b"P5\n3 3\n255\n" + b"\0" * 40, "PGM"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 40, "HDF5"),
        (b"<!DOCTYPE html><p>please log in", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\x5c\x01\0\0" + b"\0" * 340 + b"n+1\0" + b"\0" * 40, "NIfTI"),
        (b"no picture at all", "a picture"),
    ],
)
def test_other_kinds_are_named_and_never_called_damaged(tmp_path, content, name):
    for ending in (".png", ".dcm"):
        path = tmp_path / f"a{ending}"
        path.write_bytes(content)
        with pytest.raises(DataError, match=name if ending == ".png" else "DICOM") as caught:
            readers.read_image(path)
        assert name in str(caught.value) or name == "a picture"
        assert "damaged" not in str(caught.value) and caught.value.hint


def test_damage_is_called_damage(tmp_path):
    path = save(tmp_path / "a.png", RNG.integers(0, 256, (64, 64, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match="is a PNG picture that is damaged or cut short"):
        readers.read_image(path)


def test_a_large_picture_is_not_called_damaged(tmp_path):
    path = save(tmp_path / "a.png", COLOUR)
    data = bytearray(path.read_bytes())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.raises(DataError, match="over 100,000,000 pixels"):
        readers.read_image(path)


def test_an_unknown_compression_of_tiff_is_not_called_damaged(tmp_path):
    path = save(tmp_path / "a.tif", COLOUR)
    data = path.read_bytes()
    tag = b"\x03\x01\x03\0\x01\0\0\0"  # compression, one short
    at = data.index(tag) + len(tag)
    path.write_bytes(data[:at] + (33003).to_bytes(2, "little") + data[at + 2 :])
    with pytest.raises(DataError, match="TIFF picture of a kind that Pillow does not read"):
        readers.read_image(path)


def test_an_unread_video_type_is_named(tmp_path):
    path = tmp_path / "a.gif"
    path.write_bytes(b"GIF89a" + b"\0" * 20)
    with pytest.raises(DataError, match=r"unknown type \.gif.*GIF picture"):
        readers.read_frames(path)


def test_kinds_have_one_name_for_one_beginning():
    heads = [(offset, magic) for offset, magic, _, _ in kinds._KINDS]
    assert len(set(heads)) == len(heads)
