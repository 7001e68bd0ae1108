"""Writes tests/golden/qwen_tiny.npz: a tiny random Qwen2.5-VL of Hugging Face, its inputs and its
outputs.

Needs torch and transformers, which the test suite does not:  python
                                                              tests/models/make_hf_fixtures.py
Weights are rounded to float16 (the file is half as large) before the model runs in float32. Tensor
names are those of the published checkpoints. Positions and window order come from transformers' own
functions.
"""

from __future__ import annotations

import pathlib

import numpy as np
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as hf

OUT = pathlib.Path(__file__).parents[1] / "golden" / "qwen_tiny.npz"
IMAGE, VIDEO, VISION_START, VISION_END = 120, 121, 122, 123
# temporal steps, rows, columns of patches
GRIDS = {"image": [[1, 6, 10], [1, 4, 6]], "video": [[2, 4, 4]]}
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def tiny_config() -> Qwen2_5_VLConfig:
    return Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=128,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            rms_norm_eps=1e-6,
            max_position_embeddings=512,
            rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=[2, 3, 3]),
        ),
        vision_config=dict(
            depth=4,
            hidden_size=32,
            intermediate_size=48,
            num_heads=2,
            patch_size=4,
            window_size=16,
            fullatt_block_indexes=[1, 3],
            out_hidden_size=64,
            tokens_per_second=2,
        ),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )


def randomise(model) -> dict[str, torch.Tensor]:
    """Gives a model random weights that float16 holds exactly; returns its tensors under the hub's
    names.
    """
    for name, weight in model.named_parameters():
        noise = torch.randn_like(weight) * (weight.shape[-1] ** -0.5 if weight.ndim > 1 else 0.1)
        scale = ("norm" in name or "ln_q" in name) and name.endswith("weight")
        weight.copy_((1 + noise if scale else noise).half().float())
    return {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): tensor
        for name, tensor in model.state_dict().items()
    }


@torch.no_grad()
def main():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    config = tiny_config()
    model = Qwen2_5_VLForConditionalGeneration(config).eval().float()
    published = randomise(model)
    arrays = {
        f"weight:{name}": tensor.numpy().astype(np.float16) for name, tensor in published.items()
    }

    # Two images and a two-step video in one packed sequence.
    vision = config.vision_config
    grids = torch.tensor(GRIDS["image"] + GRIDS["video"])
    counts = grids.prod(-1).tolist()
    patch_dim = 3 * vision.temporal_patch_size * vision.patch_size**2
    patches = rng.integers(0, 256, (sum(counts), patch_dim)).astype(np.uint8)
    per_channel = patch_dim // 3
    pixels = (patches / np.float32(255) - np.repeat(MEAN, per_channel)) / np.repeat(
        STD, per_channel
    )
    pixels = torch.tensor(pixels, dtype=torch.float32)
    units, window_starts = hf.get_vision_window_index(
        grids, spatial_merge_size=2, window_size=vision.window_size, patch_size=vision.patch_size
    )
    units, order = units.numpy(), (units[:, None] * 4 + torch.arange(4)[None]).reshape(-1).numpy()
    position = hf.get_vision_position_ids(grids, 2).numpy()
    # image, image, and the two steps of the video
    frames = np.repeat(np.arange(1, 5), [60, 24, 16, 16])
    arrays |= dict(
        patches=patches[order],
        patch_hw=position[order].astype(np.int32),
        patch_frame=frames[order].astype(np.int32),
        patch_window=np.repeat(np.arange(1, len(window_starts)), np.diff(window_starts)).astype(
            np.int32
        ),
    )
    assert np.array_equal(arrays["patch_frame"], frames), "window order must keep frames contiguous"
    tower = model.model.visual(pixels, grid_thw=grids)
    arrays["vision_features"] = tower.last_hidden_state.numpy()
    arrays["vision_tokens"] = tower.pooler_output.numpy()[units]  # window order

    # The decoder alone, with positions that differ on the three axes.
    embeddings = rng.normal(size=(2, 12, 64)).astype(np.float32)
    positions = np.sort(rng.integers(0, 40, (3, 2, 12)), axis=-1).astype(np.int32)
    out = model.model.language_model(
        inputs_embeds=torch.tensor(embeddings),
        position_ids=torch.tensor(positions).long(),
        use_cache=False,
    )
    arrays |= dict(
        embeddings=embeddings,
        positions=positions.swapaxes(0, 1),
        hidden=out.last_hidden_state.numpy(),
    )

    arrays |= prompt_arrays(model, pixels, units, rng)
    np.savez_compressed(OUT, **arrays)
    print(f"{OUT.name}: {OUT.stat().st_size / 1024:.0f} KiB")


def prompt_arrays(model, pixels, units, rng):
    """Arrays of a whole prompt: tokens, positions, where its media stand, and logits."""

    # Text, an image, text, a video, text, an image, text.
    def text(n):
        return rng.integers(0, 110, n).tolist()

    def media(token, n):
        return [VISION_START, *[token] * n, VISION_END]

    ids = (
        text(4) + media(IMAGE, 15) + text(3) + media(VIDEO, 8) + text(2) + media(IMAGE, 6) + text(5)
    )
    ids = np.array([ids])
    kinds = (ids == IMAGE) * 1 + (ids == VIDEO) * 2
    grid = dict(
        image_grid_thw=torch.tensor(GRIDS["image"]), video_grid_thw=torch.tensor(GRIDS["video"])
    )
    prompt_positions, _ = model.model.get_rope_index(
        torch.tensor(ids), torch.tensor(kinds), second_per_grid_ts=torch.tensor([2.0]), **grid
    )
    out = model(
        input_ids=torch.tensor(ids),
        position_ids=prompt_positions,
        pixel_values=pixels[:84],
        pixel_values_videos=pixels[84:],
        **grid,
    )
    media_index = np.full(ids.shape, -1)
    media_index[ids == IMAGE] = np.argsort(units)[:21]
    media_index[ids == VIDEO] = np.argsort(units)[21:]
    return dict(
        tokens=ids.astype(np.int32),
        prompt_positions=prompt_positions.numpy().swapaxes(0, 1).astype(np.int32),
        media_index=media_index.astype(np.int32),
        logits=out.logits.numpy(),
    )


if __name__ == "__main__":
    main()
