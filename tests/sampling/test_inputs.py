"""Samples that are not as they should be: one named error each, before any compute; `qoq_jax.load`
and `qoq generate`.
"""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers.generation import make_model, samples
from PIL import Image

import qoq_jax
from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.cli import main as cli
from qoq_jax.cli import response
from qoq_jax.data.meta import SampleMeta
from qoq_jax.sampling.model import Generation

ECG = np.random.default_rng(0).normal(0, 0.3, (12, 5000)).astype(np.float32)
LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def done(model):
    """The first sample in its processed form."""
    prepared = model.prepare(samples()[:1])[0]
    return {
        "input_ids": prepared["input_ids"],
        "patches": prepared["patches"],
        "grid_thw": np.array([[1, 4, 4]]),
    }


def with_pads(ids: np.ndarray, pad: int, change: int) -> np.ndarray:
    at = int(np.flatnonzero(ids == pad)[0])
    return np.delete(ids, at) if change < 0 else np.insert(ids, at, pad)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s, m: s | {"input_ids": with_pads(s["input_ids"], m.cfg.image_token_id, 1)},
            "5 image tokens for an image",
        ),
        (
            lambda s, m: s | {"input_ids": with_pads(s["input_ids"], m.cfg.image_token_id, -1)},
            "3 image tokens for an image",
        ),
        (
            lambda s, m: s | {"input_ids": s["input_ids"][s["input_ids"] != m.cfg.image_token_id]},
            "without .* tokens in the prompt",
        ),
        (
            lambda s, m: s | {"patches": s["patches"][:8]},
            "the grids hold 16 patches, patches has 8",
        ),
        (lambda s, m: s | {"grid_thw": np.array([[1, 4, 3]])}, "multiples of 2"),
        (lambda s, m: s | {"patches": s["patches"][:, :100]}, r"patches.*\[N, 1176\]"),
        (lambda s, m: s | {"ecg": np.ones((8, 2500), np.float32)}, "0 ECG tokens for 1 ECGs"),
        (lambda s, m: s | {"input_ids": s["input_ids"] + 10**6}, "the vocabulary has"),
        (lambda s, m: s | {"input_ids": s["input_ids"][None]}, "without a batch axis"),
        (lambda s, m: s | {"input_ids": np.tile(s["input_ids"], 9000)}, "the limit is 32768"),
        (lambda s, m: s | {"image": 1}, "unknown field 'image'"),
        (lambda s, m: {"prompt": "x", "image": "a.png"}, "did you mean 'images'"),
        (
            lambda s, m: {"prompt": "x", "images": "nowhere.png"},
            r"sample 1, images\[0\].*no such file",
        ),
        (
            lambda s, m: {"prompt": "<image> or <image>?", "images": np.zeros((56, 56), np.uint8)},
            "2 <image> for 1",
        ),
        (lambda s, m: {"prompt": "x" * 100_000}, "the limit is 32768"),
        (lambda s, m: {"prompt": "x", "images": np.zeros((56, 56, 3))}, "uint8"),
        (
            lambda s, m: {"prompt": "x", "ecg": ECG[:8]},
            r"sample 1, ecg: signal of shape \(8, 5000\)",
        ),
        (lambda s, m: {"prompt": "x", "ecg": ECG[:8, :2500] * 1000}, "mV"),
        (
            lambda s, m: {
                "prompt": "x",
                "ecg": {"signal": ECG, "fs": 500, "leads": [*LEADS[:11], "X"]},
            },
            "sample 1, ecg: lacks lead V6",
        ),
        (
            lambda s, m: {"prompt": "x", "ecg": {"signal": ECG, "fs": 1000, "leads": LEADS}},
            "is 5.0 s long",
        ),
        (
            lambda s, m: {"prompt": "x", "ecg": {"signal": ECG, "fs": 20, "leads": LEADS}},
            "at 20 Hz",
        ),
        (lambda s, m: {"prompt": "x", "ecg": {"signal": ECG, "leads": LEADS}}, "lacks fs"),
    ],
)
def test_bad_samples_are_named_before_any_compute(model, done, monkeypatch, change, message):
    def compute(*_, **__):
        raise AssertionError("computed before the samples were checked")

    monkeypatch.setattr(model._engine, "logits", compute)
    monkeypatch.setattr(model._engine, "generate", compute)
    for ask in (model.logits, model.generate):
        with pytest.raises(DataError, match=message) as error:
            ask([{"prompt": "fine"}, change(done, model)])
        assert "sample 1" in str(error.value)


def test_the_same_media_in_any_form_are_the_same_sample(model, tmp_path):
    pixels = samples()[0]["images"]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    recording = {"signal": ECG, "fs": 500, "leads": LEADS}
    np.savez(tmp_path / "a.npz", **recording)
    forms = [
        {"images": pixels, "ecg": recording},
        {"images": [Image.fromarray(pixels)], "ecg": [recording]},
        {"images": tmp_path / "a.png", "ecg": str(tmp_path / "a.npz")},
    ]
    first, *others = model.prepare([{"prompt": "What?"} | form for form in forms])
    for other in others:
        for name in ("input_ids", "patches", "positions", "ecg"):
            np.testing.assert_array_equal(first[name], other[name])


def test_normalised_patches_equal_pixels(model, done):
    mean, std = (
        np.repeat(np.array(x), 392)
        for x in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )
    floats = done | {"patches": ((done["patches"] / 255 - mean) / std).astype(np.float32)}
    a, b = model.logits([done, floats])
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_loading_names_what_is_wrong(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'nano'"):
        qoq_jax.load("nanu")
    with pytest.raises(ConfigError, match="float16"):
        qoq_jax.load("nano", dtype="float16")
    with pytest.raises(Exception, match="config.json is missing"):
        qoq_jax.load(tmp_path)


def test_predicted_boxes_are_drawn_on_the_picture_of_the_file(tmp_path, capsys):
    """Boxes are in pixels of the resized frame, here (56, 28); the picture has the file's."""
    text = (
        '```json\n[{"bbox_2d": [7, 7, 21, 21], "label": '
        '"nodule"}]\n```\n<think>x</think>\n\\boxed{Nodule}'
    )
    found = response.result(
        Generation(np.arange(3), text, np.zeros(3, np.float32), "eos"), sample_meta([(56, 28)])
    )
    assert (
        found["boxes"] == [[7, 7, 21, 21]]
        and found["box_labels"] == ["nodule"]
        and found["answer"] == "Nodule"
    )
    response.draw(str(tmp_path / "a.png"), [np.zeros((280, 560, 3), np.uint8)], [(56, 28)], found)
    drawn = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).any(axis=-1)
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    assert drawn.shape == (280, 560) and not drawn[100:180, 100:180].any()
    np.testing.assert_allclose(
        [columns[0], rows[0], columns[-1], rows[-1]], [70, 70, 210, 210], atol=6
    )
    assert "a.png (1 box)" in capsys.readouterr().err


def sample_meta(frame_sizes, coordinates="pixels"):
    empty = dict.fromkeys(("id", "dataset", "domain", "source"), "")
    empty |= dict.fromkeys(("labels", "vocabulary", "boxes", "box_labels", "box_images"), ())
    return SampleMeta(
        **empty, mask=None, frame_sizes=tuple(frame_sizes), row=None, box_coordinates=coordinates
    )


def test_a_picture_of_several_images_shows_each_box_on_its_own(tmp_path):
    images = [np.zeros((56, 56, 3), np.uint8)] * 2
    found = {"boxes": [[14, 14, 42, 42]], "box_images": [1]}
    response.draw(str(tmp_path / "a.png"), images, [(56, 56)] * 2, found)
    drawn = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).any(axis=-1)
    assert drawn.shape == (56, 112) and not drawn[:, :56].any() and drawn[:, 56:].any()


def test_import_is_light():
    code = (
        "import sys, qoq_jax; assert not {'jax', 'numpy', 'transformers'} & "
        "set(sys.modules); assert callable(qoq_jax.load)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_the_command_answers_from_random_weights(tmp_path, capsys):
    Image.fromarray(samples()[0]["images"]).save(tmp_path / "a.png")
    np.savez(tmp_path / "a.npz", signal=ECG, fs=500, leads=LEADS)
    ask = [
        "generate",
        "nano",
        "--image",
        str(tmp_path / "a.png"),
        "--ecg",
        str(tmp_path / "a.npz"),
        "--ask",
        "What is it?",
        "--max-new-tokens",
        "8",
    ]
    assert cli.main([*ask, "--picture", str(tmp_path / "b.png")]) == 0
    shown = capsys.readouterr()
    assert "random weights" in shown.err and (tmp_path / "b.png").stat().st_size > 100
    assert "b.png (no boxes)" in shown.err
    assert cli.main([*ask, "--json", "--picture", str(tmp_path / "c.png")]) == 0
    answer = json.loads(capsys.readouterr().out)["answers"][0]
    assert answer["text"] == shown.out.removesuffix("\n") and 0 < answer["tokens"] <= 8
    for name, message in (
        ("boxes", "unknown type of picture"),
        ("nowhere/b.png", "no such folder"),
    ):
        assert (
            cli.main([*ask, "--picture", str(tmp_path / name)]) == 2
            and message in capsys.readouterr().err
        )
    assert cli.main(["generate", "nano", "--ask", "x", "--ecg", str(tmp_path / "a.png")]) == 1
    assert "ecg" in capsys.readouterr().err
