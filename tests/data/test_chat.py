"""The prompt template and the answer format."""

from __future__ import annotations

import pytest

from qoq_jax.base.errors import DataError
from qoq_jax.data import chat
from qoq_jax.data.tokenizer import Special

VISION = "<|vision_start|><|image_pad|><|vision_end|>"
VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"


def test_template_is_qwens():
    want = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{VISION}Why?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert chat.prompt_text("<image>Why?", images=1) == want
    assert chat.prompt_text("Why?", images=1) == want
    assert (
        chat.prompt_text("a", system="") == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    )


def test_media_replace_placeholders_in_order_and_others_come_first():
    got = chat.prompt_text("x <video> y <image> z <image>", images=2, videos=1, ecgs=1, system="")
    assert f"user\n<|time_series_pad|>x {VIDEO} y {VISION} z {VISION}<|im_end|>" in got


def test_each_medium_takes_its_own_count_of_pads():
    parts = chat.prompt_parts("<image> and <image>", images=[2, 3], ecgs=[4])
    assert [
        parts.count(p) for p in ("<|image_pad|>", "<|time_series_pad|>", "<|vision_start|>")
    ] == [5, 4, 2]
    assert all(isinstance(p, Special) for p in parts if p.startswith("<|"))


@pytest.mark.parametrize("text, images", [("<image>", 2), ("<image><image>", 1), ("<image>", 0)])
def test_placeholder_count_must_match(text, images):
    with pytest.raises(DataError, match="<image>"):
        chat.prompt_text(text, images=images)


def test_answer_format():
    assert chat.answer_text(["A", "B"], [(1.2, 2.6, 30, 40)], ["A"], "Because.") == (
        '```json\n[{"bbox_2d": [1, 3, 30, 40], "label": '
        '"A"}]\n```\n<think>Because.</think>\n\\boxed{A, B}'
    )
    assert chat.answer_text(["N"]) == "```json\n[]\n```\n<think></think>\n\\boxed{N}"


@pytest.mark.parametrize(
    "box, want", [((55.7, 0, 56, 1), "[55, 0, 56, 1]"), ((3.1, 3.1, 3.2, 3.3), "[3, 3, 4, 4]")]
)
def test_rounded_boxes_keep_an_area_inside_the_frame(box, want):
    assert want in chat.answer_text(["A"], [box], ["A"], frame_sizes=[(56, 56)])


@pytest.mark.parametrize(
    "labels, reasoning", [(["a{"], ""), (["a"], "x</think>"), (["a"], "\\boxed{b}")]
)
def test_texts_that_break_the_format_are_refused(labels, reasoning):
    with pytest.raises(DataError):
        chat.answer_text(labels, reasoning=reasoning)


def test_answer_only_is_the_diagnosis_alone():
    assert (
        chat.answer_text(["A", "B"], [(1, 2, 30, 40)], ["A"], "Because.", answer_only=True)
        == "\\boxed{A, B}"
    )


def test_a_box_on_another_picture_than_the_first_says_which():
    boxes = [(1, 2, 3, 4), (5, 6, 7, 8)]
    text = chat.answer_text(["A"], boxes, ["A", "A"], box_images=[0, 2])
    assert '{"bbox_2d": [1, 2, 3, 4], "label": "A"}, ' in text
    assert '{"bbox_2d": [5, 6, 7, 8], "label": "A", "image": 2}' in text


def test_boxes_relative_to_the_sides_are_written_in_thousandths():
    text = chat.answer_text(
        ["A"], [(24, 16, 48, 64)], ["A"], frame_sizes=[(96, 64)], coordinates="relative_1000"
    )
    assert '"bbox_2d": [250, 250, 500, 1000]' in text
