"""JPEGs decoded with and without simplejpeg: the same pixels, the same errors."""

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from qoq_jax.base.errors import DataError
from qoq_jax.data import readers
from qoq_jax.data.readers import jpeg


def noise(height: int, width: int) -> Image.Image:
    rng = np.random.default_rng(height)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 11, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float64)
    return Image.fromarray((smooth + rng.normal(0, 9, smooth.shape)).clip(0, 255).astype(np.uint8))


@pytest.fixture
def decoded(monkeypatch):
    """What simplejpeg has decoded."""
    found, decode = [], simplejpeg.decode_jpeg

    def watched(*args, **options):
        found.append(decode(*args, **options))
        return found[-1]

    monkeypatch.setattr(simplejpeg, "decode_jpeg", watched)
    return found


def both(path, monkeypatch) -> tuple[np.ndarray, np.ndarray]:
    """The picture with and without the library."""
    fast = readers.read_image(path)
    with monkeypatch.context() as patch:
        patch.setattr(jpeg, "_simplejpeg", lambda: None)
        return fast, readers.read_image(path)


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 90},
        {"quality": 30, "subsampling": 0},
        {"quality": 75, "subsampling": 1},
        {"quality": 95, "subsampling": 2, "progressive": True},
        {"quality": 85, "optimize": True, "restart_marker_blocks": 3},
        {"quality": 85, "keep_rgb": True},
    ],
)
@pytest.mark.parametrize("size", [(61, 83), (8, 8), (1, 17), (240, 321)])
def test_the_pixels_are_those_of_pillow(options, size, tmp_path, monkeypatch, decoded):
    noise(*size).save(tmp_path / "a.jpg", **options)
    fast, plain = both(tmp_path / "a.jpg", monkeypatch)
    assert np.array_equal(fast, plain) and fast.dtype == np.uint8
    assert len(decoded) == 1 and decoded[0] is fast


@pytest.mark.parametrize("kind", ["turned", "grey", "cmyk", "png"])
def test_what_pillow_decodes_alone(kind, tmp_path, monkeypatch, decoded):
    picture, options = noise(40, 60), {}
    if kind == "turned":
        exif = Image.Exif()
        exif[274] = 6
        options["exif"] = exif
    mode = {"grey": "L", "cmyk": "CMYK"}.get(kind, "RGB")
    path = tmp_path / ("a.png" if kind == "png" else "a.jpg")
    picture.convert(mode).save(path, **options)
    fast, plain = both(path, monkeypatch)
    assert np.array_equal(fast, plain) and not decoded
    assert fast.shape == ((60, 40, 3) if kind == "turned" else (40, 60, 3))


def test_damage_is_told_as_without_it(tmp_path, monkeypatch):
    out = io.BytesIO()
    noise(120, 160).save(out, "JPEG", quality=90)
    whole, rng, differ = out.getvalue(), np.random.default_rng(1), 0
    path = tmp_path / "a.jpg"
    for number in range(60):
        content = bytearray(whole)
        if number % 2:
            del content[int(rng.integers(200, len(content))) :]
        else:
            content[int(rng.integers(2, len(content)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        results = []
        for library in (jpeg._simplejpeg(), None):
            monkeypatch.setattr(jpeg, "_simplejpeg", lambda library=library: library)
            try:
                results.append(readers.read_image(path))
            except DataError as error:
                results.append(str(error))
        monkeypatch.undo()
        assert type(results[0]) is type(results[1])
        assert (
            np.array_equal(*results)
            if isinstance(results[0], np.ndarray)
            else (results[0] == results[1])
        )
        differ += isinstance(results[0], str)
    assert differ > 20
