"""Writes tests/golden/qwen3_tiny.npz: a tiny random Qwen3-VL of Hugging Face, its inputs and its
outputs.

Needs torch and transformers, which the test suite does not:  python
                                                              tests/models/make_qwen3_fixtures.py
As make_hf_fixtures.py; the deep features are the outputs of the DeepStack mergers.
"""

from __future__ import annotations

import pathlib

import numpy as np
import torch
from make_hf_fixtures import randomise
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl import modeling_qwen3_vl as hf

OUT = pathlib.Path(__file__).parents[1] / "golden" / "qwen3_tiny.npz"
IMAGE, VIDEO, VISION_START, VISION_END = 120, 121, 122, 123
# temporal steps, rows, columns of patches
GRIDS = {"image": [[1, 6, 10], [1, 4, 6]], "video": [[2, 4, 4]]}


def tiny_config() -> Qwen3VLConfig:
    return Qwen3VLConfig(
        text_config=dict(
            vocab_size=128,
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            rms_norm_eps=1e-6,
            max_position_embeddings=512,
            rope_parameters=dict(
                rope_type="default", rope_theta=5e6, mrope_section=[4, 2, 2], mrope_interleaved=True
            ),
        ),
        vision_config=dict(
            depth=4,
            hidden_size=32,
            intermediate_size=48,
            num_heads=2,
            patch_size=4,
            num_position_embeddings=36,
            deepstack_visual_indexes=[0, 2],
            out_hidden_size=48,
        ),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )


@torch.no_grad()
def main():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    config = tiny_config()
    model = Qwen3VLForConditionalGeneration(config).eval().float()
    published = randomise(model)
    arrays = {
        f"weight:{name}": tensor.numpy().astype(np.float16) for name, tensor in published.items()
    }

    # Two images and a two-step video in one packed sequence.
    vision = config.vision_config
    grids = torch.tensor(GRIDS["image"] + GRIDS["video"])
    counts = grids.prod(-1).tolist()
    patches = rng.integers(
        0, 256, (sum(counts), 3 * vision.temporal_patch_size * vision.patch_size**2)
    ).astype(np.uint8)
    pixels = torch.tensor((patches / np.float32(255) - 0.5) / 0.5, dtype=torch.float32)
    tower = model.model.visual(pixels, grid_thw=grids)
    arrays |= dict(
        patches=patches,
        patch_hw=hf.get_vision_position_ids(grids, 2).numpy().astype(np.int32),
        patch_frame=np.repeat(np.arange(1, 5), [60, 24, 16, 16]).astype(np.int32),
        vision_features=tower.last_hidden_state.numpy(),
        vision_tokens=tower.pooler_output.numpy(),
        deepstack=torch.stack(tower.deepstack_features).numpy(),
    )

    # Text, an image, text, a video (text before each of its two steps), text, an image, text.
    def text(n):
        return rng.integers(0, 110, n).tolist()

    def media(token, n):
        return [VISION_START, *[token] * n, VISION_END]

    ids = (
        text(4)
        + media(IMAGE, 15)
        + text(3)
        + media(VIDEO, 4)
        + text(2)
        + media(VIDEO, 4)
        + text(2)
        + media(IMAGE, 6)
    )
    ids = np.array([ids + text(5)])
    kinds = (ids == IMAGE) * 1 + (ids == VIDEO) * 2
    grid = dict(
        image_grid_thw=torch.tensor(GRIDS["image"]), video_grid_thw=torch.tensor(GRIDS["video"])
    )
    positions, _ = model.model.get_rope_index(torch.tensor(ids), torch.tensor(kinds), **grid)
    out = model(
        input_ids=torch.tensor(ids),
        position_ids=positions,
        pixel_values=pixels[:84],
        pixel_values_videos=pixels[84:],
        **grid,
    )
    media_index = np.full(ids.shape, -1)
    media_index[ids == IMAGE] = np.arange(21)
    media_index[ids == VIDEO] = 21 + np.arange(8)
    arrays |= dict(
        tokens=ids.astype(np.int32),
        prompt_positions=positions.numpy().swapaxes(0, 1).astype(np.int32),
        media_index=media_index.astype(np.int32),
        logits=out.logits.numpy(),
    )
    np.savez_compressed(OUT, **arrays)
    print(f"{OUT.name}: {OUT.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
