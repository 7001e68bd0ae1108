"""Parity with Hugging Face: prints max |difference| by case and stage on a tiny random Qwen2.5-VL, float32.

    python benchmarks/parity.py        # needs torch: pip install -e '.[parity]'

The model goes through a directory: transformers saves it, qoq_jax.models.hf loads it. The same prompts then run
through both programs. tests/parity/test_hf_models.py asserts the same numbers.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from qoq_jax.data import images, packing, positions
from qoq_jax.data.transforms import ECG_SHAPE, VISION
from qoq_jax.models import hf, spec, variants, vision, vlm
from qoq_jax.models.hf import keys

TOLERANCE = 1e-4
VOCAB, IMAGE, VIDEO, VISION_START, VISION_END, EOS, PAD = 128, 120, 121, 122, 123, 111, 110
STAGES = ("positions", "vision tower", "merger", "hidden", "logits")

# A prompt is a list of parts: a number of text tokens, or (kind, grid of patches). Windows are 4 x 4 patches.
PROMPTS = {
    "text only": [[9]],
    "one image": [[3, ("image", (1, 8, 8)), 5]],
    "two images of different sizes": [[2, ("image", (1, 8, 4)), 3, ("image", (1, 4, 6)), 4]],
    "image that crosses windows unevenly": [[2, ("image", (1, 10, 6)), 6]],
    "video": [[4, ("video", (3, 6, 4)), 5]],
    "image and video": [[1, ("image", (1, 4, 4)), 2, ("video", (2, 4, 6)), 3]],
    "right padding": [[3, ("image", (1, 6, 6)), 20], [7]],
    "left padding": [[3, ("image", (1, 6, 6)), 20], [7, ("image", (1, 2, 4)), 2]],
    "packed rows": [[3, ("image", (1, 6, 6)), 5], [8], [2, ("image", (1, 4, 8)), 4]],
}


def tiny_model(seed: int = 0, tied: bool = False) -> Qwen2_5_VLForConditionalGeneration:
    """A random model: norms and biases are drawn too, so that ignoring one shows."""
    config = Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, rms_norm_eps=1e-6, max_position_embeddings=512, bos_token_id=PAD, eos_token_id=EOS,
            pad_token_id=PAD, rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=[2, 3, 3]),
        ),
        vision_config=dict(
            depth=4, hidden_size=32, intermediate_size=48, num_heads=2, window_size=56, fullatt_block_indexes=[1, 3],
            out_hidden_size=64, tokens_per_second=2,
        ),
        image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=VISION_START, vision_end_token_id=VISION_END,
        tie_word_embeddings=tied, attn_implementation="eager",
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config).eval().float()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn_like(weight) * (weight.shape[-1] ** -0.5 if weight.ndim > 1 else 0.1)
            weight.copy_(1 + noise if "norm" in name or "ln_q" in name else noise)
    return model


@dataclasses.dataclass
class Prompt:
    """One prompt in the order of Hugging Face: ids [T], flat uint8 patches, and grids by kind."""

    ids: np.ndarray
    patches: np.ndarray
    grids: dict[str, list[tuple[int, int, int]]]

    @property
    def all_grids(self) -> list[tuple[int, int, int]]:
        return self.grids["image"] + self.grids["video"]

    @property
    def kinds(self) -> np.ndarray:
        """0 text, 1 image, 2 video, as transformers' mm_token_type_ids."""
        return (self.ids == IMAGE) * 1 + (self.ids == VIDEO) * 2


def make_prompt(parts, rng: np.random.Generator) -> Prompt:
    """Random tokens and pixels; images come before videos, as in `patches`."""
    ids: list[int] = []
    grids: dict[str, list[tuple[int, int, int]]] = {"image": [], "video": []}
    for part in parts:
        if isinstance(part, int):
            ids += rng.integers(0, PAD, part).tolist()
            continue
        kind, grid = part
        grids[kind].append(grid)
        ids += [VISION_START, *[IMAGE if kind == "image" else VIDEO] * (int(np.prod(grid)) // 4), VISION_END]
    count = sum(int(np.prod(grid)) for kind in grids.values() for grid in kind)
    return Prompt(np.array(ids, np.int32), rng.integers(0, 256, (count, 3 * 2 * 14 * 14)).astype(np.uint8), grids)


def sample(prompt: Prompt) -> dict:
    """The prompt as data/transforms.py makes samples."""
    order, patch_hw, patch_frame, patch_window = images.window_order(prompt.all_grids, window=56)
    rope = positions.rope_positions(
        prompt.ids, image_token_id=IMAGE, video_token_id=VIDEO, image_grids=prompt.grids["image"],
        video_grids=prompt.grids["video"], second_per_grid=[1.5] * len(prompt.grids["video"]))
    index = np.full(prompt.ids.shape, -1)
    index[prompt.kinds > 0] = np.argsort(order)
    return {
        "input_ids": prompt.ids, "prompt_length": len(prompt.ids), "positions": rope, "media_index": index,
        "media_kind": np.where(prompt.kinds > 0, VISION, 0),
        "patches": prompt.patches.reshape(-1, 4, prompt.patches.shape[1])[order].reshape(prompt.patches.shape),
        "patch_hw": patch_hw, "patch_frame": patch_frame, "patch_window": patch_window,
        "ecg": np.zeros((0, *ECG_SHAPE), np.float32), "meta": None,
    }  # fmt: skip


def our_batch(prompts: list[Prompt], packed: bool, left: bool = False):
    """(device batch of a shape that all cases share, where each prompt stands: row and first token)."""
    budget = packing.Budget(rows=2, tokens=64, media_rows=1, patches=192, ecgs=0, pad_id=PAD, max_per_row=8 if packed else 1)
    batch, placed = packing.pack([sample(prompt) for prompt in prompts], budget)
    used, places = [0, 0], []
    for prompt, place in zip(prompts, placed):
        places.append((place.row, used[place.row]))
        used[place.row] += len(prompt.ids)
    if left:
        for row, start in places:
            shift = budget.tokens - used[row]
            for name in ("tokens", "segment_ids", "media_index", "positions"):
                batch[name][row] = np.roll(batch[name][row], shift, axis=-1)
        places = [(row, start + budget.tokens - used[row]) for row, start in places]
    return {name: array for name, array in batch.items() if name != "loss_mask"}, places


@functools.partial(jax.jit, static_argnums=1)
def forward(params, cfg, batch):
    """(features [R,P,W], tokens [R,P/4,D], hidden [B,T,D], logits [B,T,V])."""
    features = vision.tower(params["vision"], cfg, *(batch[n] for n in ("patches", "patch_hw", "patch_frame", "patch_window")))
    hidden = vlm.hidden(params, cfg, batch)
    return (features, vision.merge(params["vision"]["merger"], cfg.vision, features), hidden,
            vlm.unembed(params, cfg, hidden))


def torch_inputs(prompts: list[Prompt], left: bool = False) -> dict[str, torch.Tensor]:
    """Inputs of the Hugging Face model, padded to the longest prompt."""
    longest = max(len(prompt.ids) for prompt in prompts)
    pad = lambda x, value: np.pad(x, (longest - len(x), 0) if left else (0, longest - len(x)), constant_values=value)
    ids = np.stack([pad(prompt.ids, PAD) for prompt in prompts]).astype(np.int64)
    inputs = {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(np.stack([pad(np.ones(len(p.ids), np.int64), 0) for p in prompts])),
        "mm_token_type_ids": torch.tensor(np.stack([pad(p.kinds, 0) for p in prompts])),
    }
    for kind, pixels in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        grids = [grid for prompt in prompts for grid in prompt.grids[kind]]
        if grids:
            inputs[f"{kind}_grid_thw"] = torch.tensor(grids)
            inputs[pixels] = torch.cat([part(prompt, kind) for prompt in prompts])
    if "video_grid_thw" in inputs:
        inputs["second_per_grid_ts"] = torch.tensor([1.5] * len(inputs["video_grid_thw"]))
    return inputs


def part(prompt: Prompt, kind: str) -> torch.Tensor:
    """Normalised patches of the images or of the videos of a prompt."""
    still = sum(int(np.prod(grid)) for grid in prompt.grids["image"])
    patches = prompt.patches[:still] if kind == "image" else prompt.patches[still:]
    per_channel = patches.shape[1] // 3
    mean, std = (np.repeat(np.array(x, np.float32), per_channel) for x in (variants.CLIP_MEAN, variants.CLIP_STD))
    return torch.tensor((patches / np.float32(255) - mean) / std)


@torch.no_grad()
def torch_forward(model, prompts: list[Prompt], left: bool = False):
    """[(positions [3,T], features, tokens, hidden [T,D], logits [T,V])] by prompt, without the padding."""
    inputs = torch_inputs(prompts, left)
    rope = {name: inputs.get(name) for name in ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")}
    place, _ = model.model.get_rope_index(inputs["input_ids"], inputs["mm_token_type_ids"],
                                          attention_mask=inputs["attention_mask"], **rope)
    out = model(**inputs, position_ids=place, output_hidden_states=True)
    results = []
    for row, prompt in enumerate(prompts):
        real = inputs["attention_mask"][row].bool()
        features = tokens = torch.zeros(0)
        if prompt.all_grids:
            pixels = torch.cat([part(prompt, "image"), part(prompt, "video")])
            tower = model.model.visual(pixels, grid_thw=torch.tensor(prompt.all_grids))
            features, tokens = tower.last_hidden_state, tower.pooler_output
        results.append([x.numpy() for x in (place[:, row, real], features, tokens, out.hidden_states[-1][row, real],
                                            out.logits[row, real])])
    return results


def compare(name: str, model, cfg, params) -> dict[str, float]:
    """{stage: max |ours - theirs|} of a case; stages that the case lacks are left out."""
    rng = np.random.default_rng(list(PROMPTS).index(name))
    prompts, left = [make_prompt(parts, rng) for parts in PROMPTS[name]], name == "left padding"
    batch, places = our_batch(prompts, packed=name == "packed rows", left=left)
    features, tokens, hidden, logits = map(np.asarray, forward(params, cfg, batch))
    # Packed prompts share a row here and have a call of their own there.
    groups = [[prompt] for prompt in prompts] if name == "packed rows" else [prompts]
    theirs = [result for group in groups for result in torch_forward(model, group, left)]
    found: dict[str, float] = {}
    patch = 0
    for prompt, (row, start), result in zip(prompts, places, theirs):
        at, count = slice(start, start + len(prompt.ids)), len(prompt.patches)
        index = batch["media_index"][row, at]
        ours = (batch["positions"][row, :, at], features[0, patch : patch + count], tokens[0, index[index >= 0]],
                hidden[row, at], logits[row, at])
        patch += count
        for stage, mine, reference in zip(STAGES, ours, result):
            if reference.size:
                found[stage] = max(found.get(stage, 0.0), float(np.abs(mine - reference).max()))
    return found


def gradients(model, cfg, params) -> dict[str, float]:
    """{weight: |ours - theirs| / |theirs| (Frobenius)} of the gradient of the mean log-prob of the next tokens."""
    prompt = make_prompt(PROMPTS["two images of different sizes"][0], np.random.default_rng(0))
    batch, [(row, start)] = our_batch([prompt], packed=False)
    count = len(prompt.ids) - 1

    @jax.jit
    @jax.grad
    def ours(params):
        scores, _ = vlm.token_logprobs(params, cfg, vlm.hidden(params, cfg, batch), jnp.roll(batch["tokens"], -1, axis=1), chunk=32)
        return scores[row, start : start + count].mean()

    mine = spec.flatten(ours(params))
    model.zero_grad()
    inputs = torch_inputs([prompt])
    scores = torch.log_softmax(model(**inputs).logits[0, :-1], -1)
    scores.gather(1, inputs["input_ids"][0, 1:, None]).mean().backward()
    theirs = {keys.canonical(name): weight.grad.numpy() for name, weight in model.named_parameters()}
    model.zero_grad()
    reference = spec.flatten(hf.from_tensors(vlm.param_specs(cfg), theirs))
    assert mine.keys() == reference.keys()
    return {path: float(jnp.linalg.norm((mine[path] - reference[path]).ravel()) / jnp.linalg.norm(reference[path].ravel()))
            for path in mine}


def main() -> int:
    torch.set_num_threads(1)
    model = tiny_model()
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        cfg, params = hf.load(directory)
    cfg = dataclasses.replace(cfg, remat="none")
    print("| case | " + " | ".join(STAGES) + " |")
    print("|---" * (len(STAGES) + 1) + "|")
    worst = 0.0
    for name in PROMPTS:
        found = compare(name, model, cfg, params)
        worst = max(worst, *found.values())
        print(f"| {name} | " + " | ".join(f"{found[stage]:.1e}" if stage in found else "" for stage in STAGES) + " |", flush=True)
    relative = gradients(model, cfg, params)
    worst = max(worst, *relative.values())
    print(f"\ngradient of the mean log-prob, relative: {max(relative.values()):.1e} ({max(relative, key=relative.__getitem__)})")
    print(f"largest of all: {worst:.1e}, allowed {TOLERANCE:.0e}")
    return int(not worst <= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
