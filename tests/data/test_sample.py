"""Rows become samples: tokens, media order, regions, and every rule that a row can break."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.rows import (
    LABELS,
    MODEL,
    TOKENIZER,
    config,
    row,
    write_ecg,
    write_image,
    write_mask,
    write_video,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.data import chat, images, readers
from qoq_jax.data import sample as transforms
from qoq_jax.models import sizes as variants
from qoq_jax.rewards import score as rewards

CFG = config()


def process(root, cfg=CFG, with_answer=False, **fields):
    return transforms.process(row(**fields), root, TOKENIZER, cfg, with_answer)


def test_sample_of_two_images_a_video_and_an_ecg(tmp_path):
    pictures = [
        write_image(tmp_path, "a.png", 60, 60),
        write_image(tmp_path, "b.png", 112, 84, seed=1),
    ]
    clip, signal = write_video(tmp_path, "v.npz"), write_ecg(tmp_path, "e.npz")
    # The video stands before the images in the text, after them in the patches.
    sample = process(
        tmp_path,
        images=pictures,
        videos=[clip],
        problem="<video>\n<image> <ecg> <image> Why?",
        **{"time-series": [signal]},
    )
    ids, kind, index = sample["input_ids"], sample["media_kind"], sample["media_index"]
    grids = [(1, 4, 4), (1, 8, 6), (2, 4, 4)]
    assert len(sample["patches"]) == 16 + 48 + 32
    assert TOKENIZER.decode(ids, skip_special=False).startswith(
        "<|im_start|>user\n<|vision_start|><|video_pad|>"
    )
    assert [int((ids == t).sum()) for t in CFG.token_ids().values()] == [4 + 12, 8, 50]
    np.testing.assert_array_equal(index[kind == transforms.TEXT], -1)
    np.testing.assert_array_equal(index[kind == transforms.ECG], np.arange(50))
    # Each vision token points at the unit that Hugging Face order would give it.
    stacks = [readers.read_image(tmp_path / p)[None] for p in pictures] + [
        readers.read_frames(tmp_path / clip)
    ]
    resized = [
        np.stack([images.resize(f, h * 14, w * 14) for f in s])
        for s, (_, h, w) in zip(stacks, grids)
    ]
    flat = np.concatenate([images.patchify(s)[0] for s in resized]).reshape(-1, 4, 1176)
    in_text_order = np.concatenate([flat[16:], flat[:16]])
    np.testing.assert_array_equal(
        sample["patches"].reshape(-1, 4, 1176)[index[kind == transforms.VISION]], in_text_order
    )
    assert sample["patch_frame"].max() == 4 and sample["positions"].shape == (3, len(ids))
    np.testing.assert_array_equal(sample["ecg"], readers.read_ecg(tmp_path / signal)[None])


def test_sample_for_qwen3_vl(tmp_path):
    """Patches of 16 x 16 in Hugging Face order; each step of the clip stands alone, after its time
    in words.
    """
    cfg = dataclasses.replace(CFG, patch=16, window=0, timestamps=True, frame_max_pixels=64 * 64)
    fields = {
        "images": [write_image(tmp_path, "a.png", 96, 64)],
        "videos": [write_video(tmp_path, "v.npz")],
    }
    sample = process(tmp_path, cfg=cfg, **fields)
    ids, kind = sample["input_ids"], sample["media_kind"]
    media = [
        f"<|vision_start|>{pad}<|vision_end|>" for pad in ("<|image_pad|>" * 6, "<|video_pad|>" * 4)
    ]
    assert (
        f"user\n{media[0]}<0.2 seconds>{media[1]}<1.2 seconds>{media[1]}What"
        in TOKENIZER.decode(ids, skip_special=False)
    )
    assert sample["patches"].shape == (24 + 32, 3 * 2 * 16 * 16)
    image = images.patchify(readers.read_image(tmp_path / "a.png")[None], patch=16)[0]
    np.testing.assert_array_equal(sample["patches"][:24], image)
    np.testing.assert_array_equal(sample["media_index"][kind == transforms.VISION], np.arange(14))
    np.testing.assert_array_equal(sample["patch_frame"], np.repeat([1, 2, 3], [24, 16, 16]))
    np.testing.assert_array_equal(sample["patch_window"], sample["patch_frame"])
    time = sample["positions"][0][ids == cfg.video_token_id].reshape(2, 4)
    assert (time == time[:, :1]).all() and time[1, 0] > time[0, 0] + 2


def test_answer_is_appended_and_prompt_is_unchanged(tmp_path):
    fields = {"images": [write_image(tmp_path, "a.png", 112, 112)], "bbox": [10, 20, 30, 41]}
    prompt, full = process(tmp_path, **fields), process(tmp_path, with_answer=True, **fields)
    length = full["prompt_length"]
    assert length == prompt["prompt_length"] == len(prompt["input_ids"])
    np.testing.assert_array_equal(full["input_ids"][:length], prompt["input_ids"])
    np.testing.assert_array_equal(full["positions"][:, :length], prompt["positions"])
    want = chat.answer_text(
        ["Pneumonia"], [(10, 20, 30, 41)], ["Pneumonia"], "The image shows a dense opacity."
    )
    assert TOKENIZER.decode(full["input_ids"][length:], skip_special=False) == want + "<|im_end|>"


def test_meta(tmp_path):
    sample = process(
        tmp_path,
        images=[write_image(tmp_path, "a.png", 224, 112)],
        bbox=[0, 112, 112, 224],
        source="real",
    )
    meta = sample["meta"]
    assert (meta.id, meta.domain, meta.labels, meta.vocabulary) == (
        "a",
        "chest_xray",
        ("Pneumonia",),
        LABELS,
    )
    assert meta.frame_size == (56, 140) and meta.boxes == ((0.0, 70.0, 56.0, 140.0),)
    assert (meta.box_labels, meta.mask, meta.source) == (("Pneumonia",), None, "real")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_box_and_painted_mask_move_together(data):
    height, width = data.draw(st.integers(30, 400)), data.draw(st.integers(30, 400))
    h, w = images.smart_resize(height, width, min_pixels=CFG.min_pixels, max_pixels=CFG.max_pixels)
    # At least one resized pixel wide and high, so that the region is visible there.
    x1 = data.draw(st.integers(0, width - 1 - -(-width // w)))
    y1 = data.draw(st.integers(0, height - 1 - -(-height // h)))
    x2 = data.draw(st.integers(x1 + 1 + -(-width // w), width))
    y2 = data.draw(st.integers(y1 + 1 + -(-height // h), height))
    mask = np.zeros((height, width), bool)
    mask[y1:y2, x1:x2] = True
    small = images.resize_mask(mask, h, w)
    columns, rows = np.flatnonzero(small.any(axis=0)), np.flatnonzero(small.any(axis=1))
    painted = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    box = np.array([x1 * w / width, y1 * h / height, x2 * w / width, y2 * h / height])
    assert np.abs(painted - box).max() <= 1


def test_a_box_lies_in_the_frame_of_its_own_image(tmp_path):
    pictures = [write_image(tmp_path, "a.png", 56, 56), write_image(tmp_path, "b.png", 112, 224)]
    boxes = {"bbox": [[0, 0, 28, 28], [0, 0, 112, 56]], "bbox_images": [0, 1]}
    meta = process(tmp_path, images=pictures, **boxes)["meta"]
    (w, h), scale = meta.frame_sizes[1], np.array(meta.frame_sizes) / [[56, 56], [224, 112]]
    assert meta.box_images == (0, 1) and (w, h) != meta.frame_size
    np.testing.assert_allclose(meta.boxes[1], [0, 0, 112 * scale[1, 0], 56 * scale[1, 1]])
    with pytest.raises(DataError, match="leaves the image of 56 x 56"):
        process(tmp_path, images=pictures, bbox=[[0, 0, 112, 56]])


def test_mask_gives_the_box_when_the_row_has_none(tmp_path):
    mask = np.zeros((112, 112), bool)
    mask[20:40, 60:100] = True
    sample = process(
        tmp_path,
        images=[write_image(tmp_path, "a.png", 112, 112)],
        segmentation_path=write_mask(tmp_path, "m.png", mask),
    )
    assert sample["meta"].boxes == ((60.0, 20.0, 100.0, 40.0),)
    np.testing.assert_array_equal(sample["meta"].mask, mask)


@pytest.mark.parametrize("field", ["bbox", "segmentation_path"])
def test_regions_must_match_the_image(tmp_path, field):
    mask = write_mask(tmp_path, "m.png", np.ones((50, 60), bool))
    region = {"bbox": [0, 0, 70, 50], "segmentation_path": mask}[field]
    with pytest.raises(DataError, match=f"'a', {field}.*hint") as error:
        process(tmp_path, images=[write_image(tmp_path, "a.png", 60, 60)], **{field: region})
    assert "60 x 60" in str(error.value)


@pytest.mark.parametrize(
    "over, with_answer, message",
    [
        ({"max_prompt_tokens": 20}, False, "problem.*prompt takes .* limit is 20"),
        ({"max_response_tokens": 10}, True, "answer.*answer takes .* limit is 10"),
    ],
)
def test_nothing_is_truncated(tmp_path, over, with_answer, message):
    with pytest.raises(DataError, match=message):
        process(
            tmp_path,
            cfg=config(**over),
            with_answer=with_answer,
            images=[write_image(tmp_path, "a.png", 112, 112)],
        )


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda s: s * 1000, "mV"),
        (lambda s: s * 0, "zero throughout"),
        (lambda s: s[:, :100], "shape"),
        (lambda s: np.where(np.arange(2500) == 7, np.nan, s), "NaN"),
    ],
)
def test_ecg_that_cannot_be_one_is_refused(tmp_path, monkeypatch, make, message):
    good = readers.read_ecg(tmp_path / write_ecg(tmp_path, "e.npz"))
    monkeypatch.setattr(readers, "read_ecg", lambda path, **options: make(good).astype(np.float32))
    with pytest.raises(DataError, match=f"'a', time-series.*{message}"):
        process(tmp_path, domain="ecg", **{"time-series": ["e.npz"]})


def test_unreadable_media_name_row_field_and_file(tmp_path):
    with pytest.raises(DataError, match="row 'a', images.*gone.png"):
        process(tmp_path, images=["gone.png"])
    (tmp_path / "bad.png").write_bytes(b"\x89PNG not really")
    with pytest.raises(DataError, match="row 'a', images.*bad.png"):
        process(tmp_path, images=["bad.png"])


def test_a_sliver_does_not_exceed_the_pixel_budget(tmp_path):
    with pytest.raises(DataError, match="does not fit in 12544 pixels"):
        process(tmp_path, images=[write_image(tmp_path, "a.png", 10, 1990)])


def test_answer_must_be_a_label(tmp_path):
    wrong = dataclasses.replace(row(), answer="Influenza")
    with pytest.raises(DataError, match="row 'a', answer.*Influenza"):
        transforms.process(wrong, tmp_path, TOKENIZER, CFG)


def test_placeholders_must_match_media(tmp_path):
    wrong = dataclasses.replace(
        row(), problem="<image><image>", images=(write_image(tmp_path, "a.png", 60, 60),)
    )
    with pytest.raises(DataError, match="row 'a', problem.*2 <image> for 1 media"):
        transforms.process(wrong, tmp_path, TOKENIZER, CFG)


def test_text_that_breaks_the_answer_format_names_the_row(tmp_path):
    with pytest.raises(DataError, match="row 'a': reasoning.*</think>"):
        process(
            tmp_path,
            with_answer=True,
            reasoning="done</think>",
            images=[write_image(tmp_path, "a.png", 60, 60)],
        )


def test_images_larger_than_the_model_takes_are_a_config_error():
    with pytest.raises(ConfigError, match="the model takes 12544"):
        config(max_pixels=20_000)


def test_config_of_a_model_matches_its_tokenizer():
    TOKENIZER.check(CFG.token_ids())
    assert (CFG.window, CFG.ecg_tokens) == (MODEL.vision.window, MODEL.ecg_tokens)
    assert (CFG.patch_dim, CFG.timestamps) == (1176, False)
    qwen3 = transforms.ProcessConfig.for_model(variants.get("qwen3-8b"))
    assert (qwen3.window, qwen3.patch_dim, qwen3.timestamps) == (0, 1536, True)


def test_a_model_without_an_ecg_encoder_needs_no_ecg_token_and_takes_no_ecg(tmp_path):
    plain = transforms.ProcessConfig.for_model(dataclasses.replace(variants.get("3b"), ecg=None))
    assert plain.token_ids() == {"<|image_pad|>": 151655, "<|video_pad|>": 151656}
    cfg = dataclasses.replace(CFG, ecg_token_id=None)
    sample = process(tmp_path, cfg, images=[write_image(tmp_path, "a.png", 60, 60)])
    assert (sample["media_kind"] != transforms.ECG).all() and len(sample["ecg"]) == 0
    with pytest.raises(DataError, match="row 'a', time-series.*the model has no ECG encoder"):
        process(tmp_path, cfg, **{"time-series": [write_ecg(tmp_path, "e.npz")]})


def test_making_samples_needs_no_jax():
    """Data workers must start fast and must not touch an accelerator."""
    code = "import sys, qoq_jax.data.packing, qoq_jax.data.sample; sys.exit('jax' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False
        ).returncode
        == 0
    )


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_boxes_are_scored_in_the_frame_that_the_model_sees(tmp_path_factory, data):
    """IoU in the resized frame equals IoU in the original one, whatever the resize; a box in other
    pixels does not pass.
    """
    width, height = data.draw(st.integers(30, 400)), data.draw(st.integers(30, 400))

    def box():
        x, y = data.draw(st.integers(0, width - 20)), data.draw(st.integers(0, height - 20))
        return (x, y, data.draw(st.integers(x + 10, width)), data.draw(st.integers(y + 10, height)))

    gold, other = box(), box()
    root = tmp_path_factory.getbasetemp()
    meta = process(
        root, images=[write_image(root, f"{width}x{height}.png", height, width)], bbox=list(gold)
    )["meta"]
    w, h = meta.frame_size
    assert (w % 28, h % 28) == (0, 0) and meta.mask is None

    def iou(written):
        text = (
            f'```json\n[{{"bbox_2d": {list(written)}, "label": '
            f'"Pneumonia"}}]\n```\n<think>x</think>\n\\boxed{{Pneumonia}}'
        )
        return rewards.score(text, meta).iou

    def to_frame(box):
        scale = (w / width, h / height, w / width, h / height)
        return tuple(x * s for x, s in zip(box, scale, strict=True))

    def area(box):
        return (box[2] - box[0]) * (box[3] - box[1])

    inside = max(min(gold[2], other[2]) - max(gold[0], other[0]), 0) * max(
        min(gold[3], other[3]) - max(gold[1], other[1]), 0
    )
    assert iou(to_frame(gold)) == pytest.approx(1, abs=1e-6)
    assert iou(to_frame(other)) == pytest.approx(
        inside / (area(gold) + area(other) - inside), abs=1e-6
    )
    if (w, h) != (width, height):
        assert iou(gold) < 1
