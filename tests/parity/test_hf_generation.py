"""Greedy generation against transformers' own: token-exact for 64 tokens, a batch of 4 prompts with different images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import qoq_jax
from benchmarks import parity
from benchmarks.parity import IMAGE, VIDEO, VISION_END, VISION_START

GRIDS = ([(1, 8, 8)], [(1, 4, 10)], [(1, 10, 6), (1, 4, 4)], [(1, 6, 12)])
NEW = 64


@pytest.fixture(params=parity.FAMILIES)
def theirs(request):
    """Without an end token, so that all 64 tokens are compared; weights twice as large, so that answers vary."""
    model = parity.tiny_model(request.param)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2 if weight.ndim > 1 else 1)
    for config in (model.config, model.config.text_config, model.generation_config):
        config.eos_token_id = None
    return model


def prompts(patch_dim: int) -> list[dict[str, np.ndarray]]:
    """Processed samples of different lengths, with patches as Hugging Face's image processor gives them."""
    rng = np.random.default_rng(0)
    made = []
    for count, grids in zip((5, 9, 3, 12), GRIDS):
        ids = rng.integers(0, 100, 4).tolist()
        for grid in grids:
            ids += [VISION_START, *[IMAGE] * (int(np.prod(grid)) // 4), VISION_END, *rng.integers(0, 100, count)]
        size = sum(int(np.prod(grid)) for grid in grids)
        made.append({"input_ids": np.array(ids), "grid_thw": np.array(grids),
                     "patches": rng.normal(size=(size, patch_dim)).astype(np.float32)})
    return made


@torch.no_grad()
def test_greedy_generation_equals_transformers_token_for_token(theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    model = qoq_jax.load(tmp_path, dtype="float32")
    batch = prompts(model.cfg.vision.patch_dim)
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
    for row, answers in zip(out, model.generate(batch, NEW)):
        np.testing.assert_array_equal(row, answers[0].token_ids)
