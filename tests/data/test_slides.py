"""Regions of whole slides: the pixels of the whole picture, and clear refusals."""

import re
import struct

import numpy as np
import pytest
from helpers import object_store, slides
from helpers.rows import TOKENIZER, config
from PIL import Image

from qoq_jax.base import objects
from qoq_jax.base.errors import DataError
from qoq_jax.data import media, paths, readers
from qoq_jax.data import rows as schema
from qoq_jax.data.readers import parts
from qoq_jax.data.sample import process

PIXELS = slides.picture(150, 200)
REGION = "#x=13,y=40,width=100,height=90"  # 4 x 4 tiles of 32 x 32, none of them whole at the sides


@pytest.fixture
def slide(tmp_path):
    return slides.make_slide(tmp_path / "a.svs", PIXELS)


@pytest.mark.parametrize(
    "options",
    [{}, {"rgb": True}, {"big": True}, {"compression": slides.DEFLATE}],
    ids=["YCbCr", "RGB", "BigTIFF", "deflate"],
)
def test_a_region_has_the_pixels_of_the_whole_level(tmp_path, options):
    path = slides.make_slide(tmp_path / "a.svs", PIXELS, **options)
    with Image.open(path) as picture:  # page 1 is the thumbnail
        for page, level in ((0, 0), (2, 1), (3, 2)):
            picture.seek(page)
            whole = np.asarray(picture.convert("RGB"))
            height, width = (side // 2 for side in whole.shape[:2])
            x, y = width // 3, height // 3
            got = readers.read_image(
                f"{path}#x={x << level},y={y << level},width={width},height={height},level={level}"
            )
            np.testing.assert_array_equal(got, whole[y : y + height, x : x + width])


@pytest.mark.parametrize("big", [False, True])
def test_the_order_of_bytes_does_not_matter(tmp_path, slide, big):
    """Pillow does not read BigTIFF of this order."""
    other = slides.make_slide(tmp_path / "b.svs", PIXELS, order=">", big=big)
    np.testing.assert_array_equal(
        readers.read_image(f"{other}{REGION}"), readers.read_image(f"{slide}{REGION}")
    )


@pytest.mark.parametrize("compression, most", [(slides.RGB_2000, 0), (slides.YCBCR_2000, 3)])
def test_tiles_in_jpeg_2000_are_read(tmp_path, compression, most):
    """Both without loss, but for the rounding of YCbCr."""
    path = slides.make_slide(tmp_path / "a.svs", PIXELS, compression)
    got = readers.read_image(f"{path}{REGION}").astype(int)
    assert np.abs(got - PIXELS[40:130, 13:113]).max() <= most


def test_a_slide_without_colours_is_a_mask(tmp_path):
    classes = np.arange(150 * 200).reshape(150, 200).astype(np.uint8) % 3
    path = slides.make_slide(tmp_path / "mask.tif", classes, slides.DEFLATE)
    np.testing.assert_array_equal(
        readers.read_mask(f"{path}{REGION}"), classes[40:130, 13:113] != 0
    )


def test_the_keys_come_in_any_order_and_the_level_may_be_left_out(slide):
    plain = readers.read_image(f"{slide}#x=1,y=2,width=3,height=4")
    assert plain.shape == (4, 3, 3)
    np.testing.assert_array_equal(
        readers.read_image(f"{slide}#level=0,height=4,width=3,y=2,x=1"), plain
    )


@pytest.mark.parametrize(
    "member, said",
    [
        ("", "is a whole slide"),
        ("#x=0,y=0,width=8", "names no region"),
        ("#x=0,y=0,width=8,height=8,mpp=1", "names no region"),
        ("#x=0,x=0,y=0,width=8,height=8", "names no region"),
        ("#x=-1,y=0,width=8,height=8", "names no region"),
        ("#x=0,y=0,width=0,height=8", "region is empty"),
        ("#x=101,y=0,width=100,height=8", "ends at 201, 8, and level 0 has 200 x 150 pixels"),
        ("#x=100,y=0,width=51,height=8,level=1", "ends at 101, 8, and level 1 has 100 x 75"),
        ("#x=0,y=0,width=8,height=8,level=3", "levels 0 to 2, not 3"),
    ],
)
def test_a_region_that_is_none_is_refused_by_name(slide, member, said):
    with pytest.raises(DataError, match=said) as raised:
        readers.read_image(f"{slide}{member}")
    assert raised.value.where == f"{slide}{member}" and raised.value.hint


def entry(data, tag):
    """Where the first directory has a tag."""
    (entries,) = struct.unpack_from("<H", data, 8)
    places = range(10, 10 + 12 * entries, 12)
    return next(at for at in places if struct.unpack_from("<H", data, at)[0] == tag)


@pytest.mark.parametrize(
    "tag, value, said",
    [
        (259, 34712, "compressed in a way that is not read"),
        (262, 3, "colours that are not read"),
        (284, 2, "another kind than 8 bits"),
        (322, 1 << 30, "tiles of over 100,000,000 pixels"),
        (323, 40, "damaged"),
        (324, 1 << 31, "damaged"),
        (325, 1 << 31, "damaged"),
        (256, 1 << 30, "damaged"),
    ],
)
def test_a_header_that_lies_is_refused(slide, tag, value, said):
    data = bytearray(slide.read_bytes())
    offsets = tag in (324, 325)
    at = struct.unpack_from("<I", data, entry(data, tag) + 8)[0] if offsets else entry(data, tag)
    if offsets:
        struct.pack_into("<I", data, at, value)
    else:
        struct.pack_into("<HII", data, at + 2, 4, 1, value)
    slide.write_bytes(data)
    with pytest.raises(DataError, match=said) as raised:
        readers.read_image(f"{slide}#x=0,y=0,width=8,height=8")
    assert str(slide) in raised.value.where


def test_tiles_that_the_scanner_left_out_are_not_made_up(slide):
    data = bytearray(slide.read_bytes())
    (at,) = struct.unpack_from("<I", data, entry(data, 325) + 8)
    struct.pack_into("<I", data, at + 4 * 8, 0)  # the second of the second row: 7 in a row
    slide.write_bytes(data)
    assert readers.read_image(f"{slide}#x=0,y=0,width=32,height=32").shape == (32, 32, 3)
    with pytest.raises(DataError, match="no pixels in a part of the region"):
        readers.read_image(f"{slide}#x=40,y=40,width=8,height=8")


def test_a_picture_without_tiles_has_no_regions(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="first page has no tiles"):
        readers.read_image(f"{tmp_path}/a.tif{REGION}")


def test_a_slide_may_be_larger_than_what_is_read_whole(slide, monkeypatch):
    monkeypatch.setattr(media, "MAX_FILE_BYTES", 1000)
    assert readers.read_image(f"{slide}{REGION}").shape == (90, 100, 3)


def test_only_svs_and_tiff_have_regions():
    assert paths.split_member("s/a.SVS#x=1,y=2") == ("s/a.SVS", "#x=1,y=2")
    assert paths.split_member("s/a.tiff#level=1,x=1") == ("s/a.tiff", "#level=1,x=1")
    for plain in ("a.png#x=1", "a.svs", "a.tif#1", "b.svs/a.png"):
        assert paths.split_member(plain) == (plain, "")


ROW = {
    "id": "a",
    "domain": "pathology",
    "problem": "Answer with one of: A, B.",
    "answer": "A",
    "labels": ["A", "B"],
    "images": [f"slides/a.svs{REGION}"],
}


def test_a_row_of_a_region_is_a_sample_here_and_at_a_url(tmp_path, monkeypatch):
    """The slide at the URL is fetched once for all of its rows."""
    monkeypatch.setenv("QOQ_CACHE", str(tmp_path / "cache"))
    object_store.empty_memory()
    (tmp_path / "slides").mkdir()
    slides.make_slide(tmp_path / "slides" / "a.svs", PIXELS)
    row = schema.validate_row(ROW, "here")
    assert parts.files_of(row, tmp_path) == ["slides/a.svs"]
    local = process(row, tmp_path, TOKENIZER, config(), with_answer=True)
    fetched, download = [], objects.download
    monkeypatch.setattr(objects, "download", lambda *one: (fetched.append(one[0]), download(*one)))
    url = "memory://bucket/data"
    objects.upload_tree(str(tmp_path / "slides"), f"{url}/slides")
    for _ in range(2):
        remote = process(row, url, TOKENIZER, config(), with_answer=True)
        np.testing.assert_array_equal(local["patches"], remote["patches"])
    assert fetched == [f"{url}/slides/a.svs"]
    missing = schema.validate_row(ROW | {"images": [f"slides/b.svs{REGION}"]}, "here")
    with pytest.raises(DataError, match=re.escape(f"{url}/slides/b.svs: no such file")):
        process(missing, url, TOKENIZER, config(), with_answer=True)
