"""Greedy generation against transformers' own: token-exact for 64 tokens, a batch of 4 prompts with different images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

import qoq_jax

IMAGE, VIDEO, VISION_START, VISION_END = 120, 121, 122, 123
GRIDS = ([(1, 8, 8)], [(1, 4, 10)], [(1, 10, 6), (1, 4, 4)], [(1, 6, 12)])
NEW = 64


@pytest.fixture(scope="module")
def theirs():
    config = Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=512, bos_token_id=None, eos_token_id=None, pad_token_id=110,
            rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=[2, 3, 3]),
        ),
        vision_config=dict(
            depth=4, hidden_size=32, intermediate_size=48, num_heads=2, window_size=56, fullatt_block_indexes=[1, 3],
            out_hidden_size=64, tokens_per_second=2,
        ),
        image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=VISION_START, vision_end_token_id=VISION_END,
        tie_word_embeddings=False, attn_implementation="eager",
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config).eval().float()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn_like(weight) * (2 * weight.shape[-1] ** -0.5 if weight.ndim > 1 else 0.1)
            weight.copy_(1 + noise if "norm" in name or "ln_q" in name else noise)
    return model


def prompts() -> list[dict[str, np.ndarray]]:
    """Processed samples of different lengths, with patches as Hugging Face's image processor gives them."""
    rng = np.random.default_rng(0)
    made = []
    for count, grids in zip((5, 9, 3, 12), GRIDS):
        ids = rng.integers(0, 100, 4).tolist()
        for grid in grids:
            ids += [VISION_START, *[IMAGE] * (int(np.prod(grid)) // 4), VISION_END, *rng.integers(0, 100, count)]
        size = sum(int(np.prod(grid)) for grid in grids)
        made.append({"input_ids": np.array(ids), "grid_thw": np.array(grids),
                     "patches": rng.normal(size=(size, 1176)).astype(np.float32)})
    return made


@torch.no_grad()
def test_greedy_generation_equals_transformers_token_for_token(theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    batch = prompts()
    longest = max(len(prompt["input_ids"]) for prompt in batch)
    ids = np.full((4, longest), 110)
    mask = np.zeros((4, longest), int)
    for row, prompt in enumerate(batch):  # transformers pads on the left
        ids[row, longest - len(prompt["input_ids"]) :] = prompt["input_ids"]
        mask[row, longest - len(prompt["input_ids"]) :] = 1
    out = theirs.generate(
        input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask), mm_token_type_ids=torch.tensor((ids == IMAGE) * 1),
        pixel_values=torch.tensor(np.concatenate([prompt["patches"] for prompt in batch])),
        image_grid_thw=torch.tensor(np.concatenate([prompt["grid_thw"] for prompt in batch])),
        do_sample=False, max_new_tokens=NEW, suppress_tokens=[IMAGE, VIDEO],
    )[:, longest:].numpy()  # fmt: skip
    assert out.shape == (4, NEW) and len({tuple(row) for row in out}) == 4 and min(len(set(row)) for row in out) > 3
    model = qoq_jax.load(tmp_path, dtype="float32")
    for row, answers in zip(out, model.generate(batch, NEW)):
        np.testing.assert_array_equal(row, answers[0].token_ids)
