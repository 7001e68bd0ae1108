"""Qwen3-VL on torch, tiny and random: the trainer's sampler token for token, and the image
processor. Logits: test_hf_models.py.
"""

from __future__ import annotations

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from qoq_jax import hf
from qoq_jax.data import images, packing, positions
from qoq_jax.models import sizes as variants
from qoq_jax.models import spec, vlm
from qoq_jax.sampling import rollout
from qoq_jax.sampling.schedule import Settings

pytestmark = pytest.mark.parity

IMAGE, VIDEO, START, END, PAD = 120, 121, 122, 123, 110
CFG = variants.VlmConfig(
    decoder=variants.DecoderConfig(
        vocab_size=128,
        width=48,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        mlp_dim=96,
        tied_embeddings=True,
        mrope_section=(4, 2, 2),
        rope_theta=5e6,
        qkv_bias=False,
        qk_norm=True,
        mrope_interleaved=True,
    ),
    vision=variants.Qwen3VisionConfig(
        width=32,
        depth=4,
        num_heads=2,
        mlp_dim=48,
        patch_size=4,
        position_grid=6,
        deepstack_blocks=(0, 2),
        max_frame_patches=64,
    ),
    ecg=variants.EcgConfig(
        width=16, depth=1, num_heads=2, predictor_width=16, predictor_depth=1, predictor_heads=2
    ),
    image_token_id=IMAGE,
    video_token_id=VIDEO,
    vision_start_id=START,
    vision_end_id=END,
    ecg_token_id=124,
    pad_id=PAD,
    eos_ids=(-1,),
    compute_dtype="float32",
    remat="none",
)
SPECS = {name: part for name, part in vlm.param_specs(CFG).items() if name in ("decoder", "vision")}
# One shape for every case, so that one compilation serves them all.
BUDGET = packing.Budget(
    rows=4, tokens=96, media_rows=1, patches=256, ecgs=0, pad_id=PAD, patch_dim=96
)


@functools.cache
def hugging_face() -> Qwen3VLForConditionalGeneration:
    decoder, vision = CFG.decoder, CFG.vision
    config = Qwen3VLConfig(
        text_config=dict(
            vocab_size=decoder.vocab_size,
            hidden_size=decoder.width,
            intermediate_size=decoder.mlp_dim,
            num_hidden_layers=decoder.num_layers,
            num_attention_heads=decoder.num_heads,
            num_key_value_heads=decoder.num_kv_heads,
            head_dim=decoder.head_dim,
            max_position_embeddings=512,
            rope_parameters=dict(
                rope_type="default",
                rope_theta=decoder.rope_theta,
                mrope_section=list(decoder.mrope_section),
                mrope_interleaved=True,
            ),
            tie_word_embeddings=True,
        ),
        vision_config=dict(
            depth=vision.depth,
            hidden_size=vision.width,
            intermediate_size=vision.mlp_dim,
            num_heads=vision.num_heads,
            patch_size=vision.patch_size,
            num_position_embeddings=vision.position_grid**2,
            deepstack_visual_indexes=list(vision.deepstack_blocks),
            out_hidden_size=decoder.width,
        ),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    torch.manual_seed(1)
    model = Qwen3VLForConditionalGeneration(config).eval().float()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn_like(weight) * (
                weight.shape[-1] ** -0.5 if weight.ndim > 1 else 0.1
            )
            weight.copy_(1 + noise if "norm" in name and name.endswith("weight") else noise)
    return model


def ours(name: str) -> str:
    """The name of a torch tensor in the table of weights."""
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


@functools.cache
def params() -> dict:
    tensors = {
        ours(name): weight.detach().numpy() for name, weight in hugging_face().named_parameters()
    }
    ecg = {name: part for name, part in vlm.param_specs(CFG).items() if name not in SPECS}
    return jax.tree.map(jnp.asarray, hf.from_tensors(SPECS, tensors)) | spec.init_params(
        ecg, jax.random.key(0)
    )


class Prompt:
    """Text, media of the given grids with text around each (and before each step of a video), and
    pixels for them.
    """

    def __init__(self, image_grids=(), video_grids=(), text=6, seed=0):
        rng = np.random.default_rng(seed)
        self.images, self.videos = list(image_grids), list(video_grids)

        def words(n):
            return rng.integers(0, 100, n).tolist()

        ids = words(text)
        for token, grids in ((IMAGE, self.images), (VIDEO, positions.single_steps(self.videos))):
            for _, h, w in grids:
                ids += [START, *[token] * (h * w // 4), END, *words(2)]
        self.ids = np.array(ids + words(text), np.int32)
        frames = [
            rng.integers(0, 256, (2 * t, 4 * h, 4 * w, 3), np.uint8)
            for t, h, w in self.images + self.videos
        ]
        cut = [images.patchify(stack, patch=4)[0] for stack in frames]
        self.patches = np.concatenate(cut) if cut else np.zeros((0, 96), np.uint8)

    def sample(self) -> dict:
        """As data/sample.py makes it from a row."""
        order, hw, frame, window = images.window_order(self.images + self.videos, window=0, patch=4)
        np.testing.assert_array_equal(order, np.arange(len(order)))
        vision = (self.ids == IMAGE) | (self.ids == VIDEO)
        steps = positions.single_steps(self.videos)
        rope = positions.rope_positions(
            self.ids,
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            image_grids=self.images,
            video_grids=steps,
            second_per_grid=[1.0] * len(steps),
        )
        return dict(
            input_ids=self.ids,
            prompt_length=len(self.ids),
            positions=rope,
            media_kind=vision.astype(np.int8),
            media_index=np.where(vision, np.cumsum(vision) - 1, -1).astype(np.int32),
            patches=self.patches,
            patch_hw=hw,
            patch_frame=frame,
            patch_window=window,
            ecg=np.zeros((0, 8, 2500), np.float32),
            meta=types.SimpleNamespace(id="prompt"),
        )


def torch_inputs(prompts: list[Prompt]) -> dict[str, torch.Tensor]:
    """A batch for the torch model, padded on the left as its generation needs it."""
    longest = max(len(p.ids) for p in prompts)
    ids, mask = (
        np.full((len(prompts), longest), PAD, np.int64),
        np.zeros((len(prompts), longest), np.int64),
    )
    for row, p in enumerate(prompts):
        ids[row, longest - len(p.ids) :], mask[row, longest - len(p.ids) :] = p.ids, 1
    inputs = dict(
        input_ids=ids,
        attention_mask=mask,
        mm_token_type_ids=(ids == IMAGE) * 1 + (ids == VIDEO) * 2,
    )
    sizes = [sum(t * h * w for t, h, w in p.images) for p in prompts]
    for key, grid, stack in (
        (
            "pixel_values",
            "image_grid_thw",
            [(p.images, p.patches[:n]) for p, n in zip(prompts, sizes)],
        ),
        (
            "pixel_values_videos",
            "video_grid_thw",
            [(p.videos, p.patches[n:]) for p, n in zip(prompts, sizes)],
        ),
    ):
        if any(grids for grids, _ in stack):
            pixels = np.concatenate([patches for _, patches in stack])
            inputs[key] = (pixels / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
            inputs[grid] = np.array([g for grids, _ in stack for g in grids])
    return {name: torch.tensor(array) for name, array in inputs.items()}


ONE, TWO = [(1, 6, 10)], [(1, 6, 10), (1, 4, 6)]


@pytest.mark.slow
def test_greedy_generation_is_token_exact():
    """64 tokens of four prompts with different images, through the cache on both sides."""
    prompts = [
        Prompt(ONE, seed=4),
        Prompt([(1, 4, 6)], seed=5),
        Prompt(TWO, seed=6),
        Prompt((), [(2, 4, 4)], seed=7),
    ]
    with torch.no_grad():
        want = hugging_face().generate(
            **torch_inputs(prompts),
            max_new_tokens=64,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=PAD,
        )[:, -64:]
    batch, _ = packing.pack(
        [p.sample() for p in prompts], dataclasses.replace(BUDGET, max_per_row=1)
    )
    sample = jax.jit(functools.partial(rollout.sample, settings=Settings(64)), static_argnums=1)
    got = sample(params(), CFG, batch, jax.random.key(0), jnp.zeros(CFG.decoder.vocab_size, bool))
    np.testing.assert_array_equal(got.tokens[:, 0], want)


def test_image_processor_with_the_settings_of_qwen3_vl():
    picture = np.random.default_rng(0).integers(0, 256, (70, 101, 3), np.uint8)
    processor = Qwen2VLImageProcessorPil(
        patch_size=16,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        size={"shortest_edge": 32 * 32, "longest_edge": 80 * 80},
    )
    want = processor(picture, return_tensors="np")
    h, w = images.smart_resize(70, 101, factor=32, min_pixels=32 * 32, max_pixels=80 * 80)
    patches, grid = images.patchify(images.resize(picture, h, w)[None], patch=16)
    np.testing.assert_array_equal([grid], want["image_grid_thw"])
    np.testing.assert_allclose(patches / 127.5 - 1, want["pixel_values"], atol=1e-6)
