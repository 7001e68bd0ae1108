"""`qoq_jax.load` on a directory as transformers leaves it, both families: prompts and pictures in,
logits out, and back again.
"""

from __future__ import annotations

import pathlib
import shutil

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

import qoq_jax
from benchmarks import parity
from qoq_jax.cli import main as cli
from qoq_jax.data import chat, images, tokenizer
from qoq_jax.hf import template
from qoq_jax.models import sizes as variants

pytestmark = pytest.mark.parity

NANO = variants.get("nano")  # whose tokenizer the models of these tests have
LIMITS = {"shortest_edge": 56 * 56, "longest_edge": 150 * 150}
SECONDS = (0.25, 1.25)  # of the two steps of 4 frames at 2 frames per second
# (question, sizes of pictures in pixels, frames of a clip and their size in merged patches)
MEDIA = {
    "text only": ("What is a lung?", [], None),
    "one image": ("What is it?", [(70, 101)], None),
    "two images of different sizes": ("Is <image> older than <image>?", [(60, 61), (90, 64)], None),
    "image that crosses windows unevenly": ("And this?", [(140, 85)], None),
    "video": ("What moves?", [], (4, 2, 4)),
    "image and video": ("First <video>, then <image>.", [(64, 64)], (4, 2, 2)),
}


@pytest.fixture(scope="module", params=parity.FAMILIES)
def theirs(request):
    torch.set_num_threads(2)
    return parity.tiny_model(request.param, nano=NANO)


@pytest.fixture(scope="module")
def processor(theirs):
    qwen3 = theirs.config.model_type == "qwen3_vl"
    statistics = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3) if qwen3 else {}
    return Qwen2VLImageProcessorPil(patch_size=16 if qwen3 else 14, size=LIMITS, **statistics)


@pytest.fixture(scope="module")
def directory(theirs, processor, tmp_path_factory):
    path = tmp_path_factory.mktemp("theirs")
    theirs.save_pretrained(path)
    processor.save_pretrained(path)
    shutil.copyfile(tokenizer.NANO_PATH, path / "tokenizer.json")
    (path / template.TOKENIZER_CONFIG).write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}'
    )
    (path / template.JINJA).write_text(
        template.write("" if theirs.config.model_type == "qwen3_vl" else chat.SYSTEM)
    )
    return path


@pytest.fixture(scope="module")
def ours(directory):
    return qoq_jax.load(directory, dtype="float32")


def media(case: str, patch: int):
    """(question, uint8 pictures, uint8 frames [4, h, w, 3] or None) of a case; `patch`: side of a
    patch in pixels.
    """
    rng = np.random.default_rng(list(MEDIA).index(case))
    question, pictures, clip = MEDIA[case]

    def draw(*shape):
        return rng.integers(0, 256, (*shape, 3)).astype(np.uint8)

    pixels = None if clip is None else draw(clip[0], *(2 * patch * side for side in clip[1:]))
    return question, [draw(*size) for size in pictures], pixels


def samples(cases, processor) -> list[dict]:
    made = []
    for case in cases:
        question, pictures, clip = media(case, processor.patch_size)
        made.append(
            {
                "prompt": question,
                "images": [Image.fromarray(pixels) for pixels in pictures],
                "videos": clip,
            }
        )
    return made


def reference(
    case: str, directory: pathlib.Path, processor, qwen3: bool
) -> dict[str, torch.Tensor]:
    """What transformers' processor gives its model.

    (Its video part needs torchvision, so patches of clips are cut here.)
    """
    question, pictures, clip = media(case, processor.patch_size)
    content, rest = [], question
    for mark in ("image", "video"):  # media without a place come first
        if f"<{mark}>" not in question:
            content += [{"type": mark}] * (len(pictures) if mark == "image" else clip is not None)
    while rest:
        places = [(at, mark) for mark in ("image", "video") if (at := rest.find(f"<{mark}>")) >= 0]
        at, mark = min(places, default=(len(rest), ""))
        content += [{"type": "text", "text": rest[:at]}] * bool(at) + [{"type": mark}] * bool(mark)
        rest = rest[at + len(mark) + 2 :]
    words = transformers.AutoTokenizer.from_pretrained(directory)
    text = words.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    inputs: dict = {}
    if pictures:
        inputs |= processor([Image.fromarray(pixels) for pixels in pictures], return_tensors="np")
        for grid in inputs["image_grid_thw"]:
            text = text.replace("<|image_pad|>", "<|pad|>" * (int(grid.prod()) // 4), 1)
        text = text.replace("<|pad|>", "<|image_pad|>")
    if clip is not None:
        patches, grid = images.patchify(clip, patch=processor.patch_size)
        mean, std = (
            np.repeat(np.array(x, np.float32), patches.shape[1] // 3)
            for x in (processor.image_mean, processor.image_std)
        )
        inputs |= {
            "pixel_values_videos": (patches / np.float32(255) - mean) / std,
            "video_grid_thw": np.array([grid]),
        }
        step = "<|vision_start|>" + "<|video_pad|>" * (grid[1] * grid[2] // 4) + "<|vision_end|>"
        whole = (
            "".join(f"<{seconds:.1f} seconds>{step}" for seconds in SECONDS)
            if qwen3
            else step.replace("<|video_pad|>", "<|video_pad|>" * grid[0])
        )
        text = text.replace("<|vision_start|><|video_pad|><|vision_end|>", whole)
        inputs |= {} if qwen3 else {"second_per_grid_ts": np.array([1.0])}
    ids = np.array(words(text, add_special_tokens=False)["input_ids"])
    kinds = (ids == NANO.image_token_id) * 1 + (ids == NANO.video_token_id) * 2
    return {
        name: torch.tensor(np.asarray(array))
        for name, array in (
            inputs
            | {
                "input_ids": ids[None],
                "attention_mask": np.ones_like(ids)[None],
                "mm_token_type_ids": kinds[None],
            }
        ).items()
    }


@torch.no_grad()
def test_prompts_and_pictures_give_the_logits_of_transformers(theirs, processor, directory, ours):
    qwen3 = theirs.config.model_type == "qwen3_vl"
    found = ours.logits(samples(MEDIA, processor))
    for case, prepared, logits in zip(MEDIA, ours.prepare(samples(MEDIA, processor)), found):
        inputs = reference(case, directory, processor, qwen3)
        np.testing.assert_array_equal(prepared["input_ids"], inputs["input_ids"][0], err_msg=case)
        expected = theirs(**inputs).logits[0].numpy()
        assert logits.shape == expected.shape and np.abs(expected).max() > 1
        np.testing.assert_allclose(logits, expected, atol=parity.TOLERANCE, rtol=0, err_msg=case)


def test_processed_samples_give_the_same_logits(theirs, processor, directory, ours):
    """The arrays of transformers' processor as they are."""
    case = "two images of different sizes"
    inputs = reference(case, directory, processor, theirs.config.model_type == "qwen3_vl")
    given = {
        "input_ids": inputs["input_ids"][0].numpy(),
        "patches": inputs["pixel_values"].numpy(),
        "grid_thw": inputs["image_grid_thw"].numpy(),
    }
    np.testing.assert_allclose(
        ours.logits([given])[0],
        ours.logits(samples([case], processor))[0],
        atol=parity.TOLERANCE,
        rtol=0,
    )


@torch.no_grad()
def test_the_export_is_the_same_model_to_both_programs(
    theirs, processor, directory, ours, tmp_path
):
    """Logits to the bit, here and there; tokenizer, template, image processor and generation config
    as before.
    """
    dest = tmp_path / "back"
    assert cli.main(["convert", str(directory), str(dest)]) == 0
    again, cases = (
        qoq_jax.load(dest, dtype="float32"),
        ["text only", "two images of different sizes"],
    )
    assert again.cfg == ours.cfg and again.process == ours.process
    for a, b in zip(
        ours.logits(samples(cases, processor)), again.logits(samples(cases, processor))
    ):
        np.testing.assert_array_equal(a, b)
    loaded = transformers.AutoModelForImageTextToText.from_pretrained(
        dest, dtype="float32", attn_implementation="eager"
    ).eval()
    copied = transformers.AutoImageProcessor.from_pretrained(dest, backend="pil")
    for case in cases:
        one, other = (
            reference(case, folder, using, theirs.config.model_type == "qwen3_vl")
            for folder, using in ((directory, processor), (dest, copied))
        )
        assert one.keys() == other.keys() and all(
            torch.equal(one[name], other[name]) for name in one
        )
        assert torch.equal(loaded(**other).logits, theirs(**one).logits)
    assert loaded.generation_config.to_diff_dict() == theirs.generation_config.to_diff_dict()
