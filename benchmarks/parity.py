"""Parity with Hugging Face: max |difference| by case and stage, tiny random Qwen2.5-VL and
Qwen3-VL, float32; then gradients, greedy tokens, the way back, and ECG-JEPA against reference
numbers.

    python benchmarks/parity.py

Needs pip install -e '.[parity]', or '.[benchmarks]': torch.

The model goes through a directory: transformers saves it, qoq_jax.hf loads it. The same prompts
then run through both programs. tests/parity/test_hf_models.py asserts the same numbers.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

import qoq_jax
from qoq_jax import hf
from qoq_jax.data import images, packing, positions
from qoq_jax.data.sample import ECG_SHAPE, VISION
from qoq_jax.hf import ecg as ecg_files
from qoq_jax.hf import names as keys
from qoq_jax.hf import safetensors as files
from qoq_jax.models import spec, vlm
from qoq_jax.models.encoders import ecg
from qoq_jax.models.encoders.ecg_jepa import jepa_loss
from qoq_jax.models.logprobs import token_logprobs
from qoq_jax.models.sizes import Qwen3VisionConfig, VlmConfig
from qoq_jax.models.vision import qwen3 as qwen3_vision
from qoq_jax.models.vision import qwen25 as vision
from qoq_jax.sampling.model import Model

TOLERANCE, ECG_TOLERANCE = 1e-4, 1e-5
VOCAB, IMAGE, VIDEO, VISION_START, VISION_END, EOS, PAD = 128, 120, 121, 122, 123, 111, 110
STAGES = ("positions", "vision tower", "merger", "deepstack", "hidden", "logits")
FAMILIES = ("Qwen2.5-VL", "Qwen3-VL")

# A prompt is a list of parts: a number of text tokens, or (kind, grid of patches). Windows are 4 x
# 4 patches.
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


def tiny_model(
    family: str = FAMILIES[0], seed: int = 0, tied: bool = False, nano: VlmConfig | None = None
) -> PreTrainedModel:
    """A random model: norms and biases are drawn too, so that ignoring one shows. nano: whose
    vocabulary and token ids it has.
    """
    vocabulary, (image, video, start, end, eos, pad) = (
        VOCAB,
        (IMAGE, VIDEO, VISION_START, VISION_END, EOS, PAD),
    )
    if nano is not None:
        vocabulary, eos, pad = nano.decoder.vocab_size, nano.eos_ids[0], nano.pad_id
        image, video, start, end = (
            nano.image_token_id,
            nano.video_token_id,
            nano.vision_start_id,
            nano.vision_end_id,
        )
    text = dict(
        vocab_size=vocabulary,
        intermediate_size=96,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-6,
        max_position_embeddings=512,
        bos_token_id=pad,
        eos_token_id=eos,
        pad_token_id=pad,
    )
    tower = dict(depth=4, hidden_size=32, intermediate_size=48, num_heads=2)
    ids = dict(
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=tied,
        attn_implementation="eager",
    )
    torch.manual_seed(seed)
    if family == "Qwen3-VL":  # heads wider than width / heads, as in the published 2b and 32b
        text |= dict(
            hidden_size=48,
            num_hidden_layers=3,
            head_dim=16,
            rope_parameters=dict(
                rope_type="default", rope_theta=5e6, mrope_section=[4, 2, 2], mrope_interleaved=True
            ),
        )
        tower |= dict(
            out_hidden_size=48, num_position_embeddings=36, deepstack_visual_indexes=[0, 2]
        )
        model = Qwen3VLForConditionalGeneration(
            Qwen3VLConfig(text_config=text, vision_config=tower, **ids)
        )
    else:
        text |= dict(
            hidden_size=64,
            num_hidden_layers=2,
            rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=[2, 3, 3]),
        )
        tower |= dict(
            out_hidden_size=64, window_size=56, fullatt_block_indexes=[1, 3], tokens_per_second=2
        )
        model = Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=text, vision_config=tower, **ids)
        )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn_like(weight) * (
                weight.shape[-1] ** -0.5 if weight.ndim > 1 else 0.1
            )
            norm = name.endswith("weight") and ("norm" in name or "ln_q" in name)
            weight.copy_(1 + noise if norm else noise)
    return model.eval().float()


def is_qwen3(cfg: VlmConfig) -> bool:
    return isinstance(cfg.vision, Qwen3VisionConfig)


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


def make_prompt(parts, rng: np.random.Generator, cfg: VlmConfig) -> Prompt:
    """Random tokens and pixels; images come before videos, as in `patches`.

    Qwen3-VL has text before each step of a video.
    """
    ids: list[int] = []
    grids: dict[str, list[tuple[int, int, int]]] = {"image": [], "video": []}
    for part in parts:
        if isinstance(part, int):
            ids += rng.integers(0, PAD, part).tolist()
            continue
        kind, grid = part
        grids[kind].append(grid)
        steps = is_qwen3(cfg) and kind == "video"
        for _, h, w in (
            positions.single_steps([grid]) if steps else [(1, grid[0] * grid[1], grid[2])]
        ):
            ids += rng.integers(0, PAD, 2 * steps).tolist()
            ids += [VISION_START, *[IMAGE if kind == "image" else VIDEO] * (h * w // 4), VISION_END]
    count = sum(int(np.prod(grid)) for kind in grids.values() for grid in kind)
    return Prompt(
        np.array(ids, np.int32),
        rng.integers(0, 256, (count, cfg.vision.patch_dim)).astype(np.uint8),
        grids,
    )


def sample(prompt: Prompt, cfg: VlmConfig) -> dict:
    """The prompt as data/sample.py makes samples."""
    order, patch_hw, patch_frame, patch_window = images.window_order(
        prompt.all_grids, window=cfg.vision.window, patch=cfg.vision.patch_size
    )
    video_grids = (
        positions.single_steps(prompt.grids["video"]) if is_qwen3(cfg) else prompt.grids["video"]
    )
    rope = positions.rope_positions(
        prompt.ids,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_grids=prompt.grids["image"],
        video_grids=video_grids,
        second_per_grid=[1.5] * len(video_grids),
    )
    index = np.full(prompt.ids.shape, -1)
    index[prompt.kinds > 0] = np.argsort(order)
    return {
        "input_ids": prompt.ids,
        "prompt_length": len(prompt.ids),
        "positions": rope,
        "media_index": index,
        "media_kind": np.where(prompt.kinds > 0, VISION, 0),
        "patches": prompt.patches.reshape(-1, 4, prompt.patches.shape[1])[order].reshape(
            prompt.patches.shape
        ),
        "patch_hw": patch_hw,
        "patch_frame": patch_frame,
        "patch_window": patch_window,
        "ecg": np.zeros((0, *ECG_SHAPE), np.float32),
        "meta": None,
    }


def our_batch(prompts: list[Prompt], cfg: VlmConfig, packed: bool, left: bool = False):
    """(device batch of a shape that all cases share, where each prompt stands: row and first
    token).
    """
    budget = packing.Budget(
        rows=2,
        tokens=64,
        media_rows=1,
        patches=192,
        ecgs=0,
        pad_id=PAD,
        max_per_row=8 if packed else 1,
        patch_dim=cfg.vision.patch_dim,
    )
    batch, placed = packing.pack([sample(prompt, cfg) for prompt in prompts], budget)
    used, places = [0, 0], []
    for prompt, place in zip(prompts, placed):
        places.append((place.row, used[place.row]))
        used[place.row] += len(prompt.ids)
    if left:
        for row, _ in places:
            shift = budget.tokens - used[row]
            for name in ("tokens", "segment_ids", "media_index", "positions"):
                batch[name][row] = np.roll(batch[name][row], shift, axis=-1)
        places = [(row, start + budget.tokens - used[row]) for row, start in places]
    return {name: array for name, array in batch.items() if name != "loss_mask"}, places


@functools.partial(jax.jit, static_argnums=1)
def forward(params, cfg, batch):
    """(features [R,P,W], tokens [R,P/4,D], DeepStack features [J,R,P/4,D] or None, hidden [B,T,D],
    logits [B,T,V]).
    """
    inputs = [batch[name] for name in ("patches", "patch_hw", "patch_frame", "patch_window")]
    if is_qwen3(cfg):
        features, _ = qwen3_vision.tower(params["vision"], cfg, *inputs[:3])
    else:
        features = vision.tower(params["vision"], cfg, *inputs)
    hidden = vlm.hidden(params, cfg, batch)
    return (
        features,
        *vlm.vision_tower(cfg).tokens(params["vision"], cfg, batch),
        hidden,
        vlm.unembed(params, hidden),
    )


def torch_inputs(
    prompts: list[Prompt], cfg: VlmConfig, left: bool = False
) -> dict[str, torch.Tensor]:
    """Inputs of the Hugging Face model, padded to the longest prompt."""
    longest = max(len(prompt.ids) for prompt in prompts)

    def pad(x: np.ndarray, value: int) -> np.ndarray:
        width = (longest - len(x), 0) if left else (0, longest - len(x))
        return np.pad(x, width, constant_values=value)

    ids = np.stack([pad(prompt.ids, PAD) for prompt in prompts]).astype(np.int64)
    inputs = {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(
            np.stack([pad(np.ones(len(p.ids), np.int64), 0) for p in prompts])
        ),
        "mm_token_type_ids": torch.tensor(np.stack([pad(p.kinds, 0) for p in prompts])),
    }
    for kind, pixels in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        grids = [grid for prompt in prompts for grid in prompt.grids[kind]]
        if grids:
            inputs[f"{kind}_grid_thw"] = torch.tensor(grids)
            inputs[pixels] = torch.cat([part(prompt, kind, cfg) for prompt in prompts])
    if "video_grid_thw" in inputs and not is_qwen3(cfg):
        inputs["second_per_grid_ts"] = torch.tensor([1.5] * len(inputs["video_grid_thw"]))
    return inputs


def part(prompt: Prompt, kind: str, cfg: VlmConfig) -> torch.Tensor:
    """Normalised patches of the images or of the videos of a prompt."""
    still = sum(int(np.prod(grid)) for grid in prompt.grids["image"])
    patches = prompt.patches[:still] if kind == "image" else prompt.patches[still:]
    per_channel = patches.shape[1] // 3
    mean, std = (
        np.repeat(np.array(x, np.float32), per_channel)
        for x in (cfg.vision.pixel_mean, cfg.vision.pixel_std)
    )
    return torch.tensor((patches / np.float32(255) - mean) / std)


@torch.no_grad()
def torch_forward(model, prompts: list[Prompt], cfg: VlmConfig, left: bool = False):
    """[(positions [3,T], features, tokens, DeepStack features, hidden [T,D], logits [T,V])] by
    prompt, without the padding.
    """
    inputs = torch_inputs(prompts, cfg, left)
    rope = {
        name: inputs.get(name)
        for name in ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
    }
    place, _ = model.model.get_rope_index(
        inputs["input_ids"],
        inputs["mm_token_type_ids"],
        attention_mask=inputs["attention_mask"],
        **rope,
    )
    out = model(**inputs, position_ids=place, output_hidden_states=True)
    results = []
    for row, prompt in enumerate(prompts):
        real = inputs["attention_mask"][row].bool()
        features = tokens = deep = torch.zeros(0)
        if prompt.all_grids:
            pixels = torch.cat([part(prompt, "image", cfg), part(prompt, "video", cfg)])
            tower = model.model.visual(pixels, grid_thw=torch.tensor(prompt.all_grids))
            features, tokens = tower.last_hidden_state, tower.pooler_output
            deep = torch.stack(tower.deepstack_features) if is_qwen3(cfg) else deep
        results.append(
            [
                x.numpy()
                for x in (
                    place[:, row, real],
                    features,
                    tokens,
                    deep,
                    out.hidden_states[-1][row, real],
                    out.logits[row, real],
                )
            ]
        )
    return results


def compare(name: str, model, cfg, params) -> dict[str, float]:
    """{stage: max |ours - theirs|} of a case; stages that the case lacks are left out."""
    rng = np.random.default_rng(list(PROMPTS).index(name))
    prompts, left = (
        [make_prompt(parts, rng, cfg) for parts in PROMPTS[name]],
        name == "left padding",
    )
    batch, places = our_batch(prompts, cfg, packed=name == "packed rows", left=left)
    features, tokens, deep, hidden, logits = jax.device_get(forward(params, cfg, batch))
    # Packed prompts share a row here and have a call of their own there.
    groups = [[prompt] for prompt in prompts] if name == "packed rows" else [prompts]
    theirs = [result for group in groups for result in torch_forward(model, group, cfg, left)]
    found: dict[str, float] = {}
    patch = 0
    for prompt, (row, start), result in zip(prompts, places, theirs):
        at, count = slice(start, start + len(prompt.ids)), len(prompt.patches)
        index = batch["media_index"][row, at]
        at_vision = index[index >= 0]
        ours = (
            batch["positions"][row, :, at],
            features[0, patch : patch + count],
            tokens[0, at_vision],
            None if deep is None else deep[:, 0, at_vision],
            hidden[row, at],
            logits[row, at],
        )
        patch += count
        for stage, mine, reference in zip(STAGES, ours, result):
            if reference.size:
                found[stage] = max(found.get(stage, 0.0), float(np.abs(mine - reference).max()))
    return found


def gradients(model, cfg, params) -> dict[str, float]:
    """{weight: |ours - theirs| / |theirs| (Frobenius)} of the gradient of the mean log-prob of the
    next tokens.
    """
    prompt = make_prompt(PROMPTS["two images of different sizes"][0], np.random.default_rng(0), cfg)
    batch, [(row, start)] = our_batch([prompt], cfg, packed=False)
    count = len(prompt.ids) - 1

    @jax.jit
    @jax.grad
    def ours(params):
        scores, _ = token_logprobs(
            params["decoder"],
            vlm.hidden(params, cfg, batch),
            jnp.roll(batch["tokens"], -1, axis=1),
            scores=1 << 16,
        )
        return scores[row, start : start + count].mean()

    mine = spec.flatten(ours(params))
    model.zero_grad()
    inputs = torch_inputs([prompt], cfg)
    scores = torch.log_softmax(model(**inputs).logits[0, :-1], -1)
    scores.gather(1, inputs["input_ids"][0, 1:, None]).mean().backward()
    theirs = {
        keys.canonical(name): weight.grad.numpy() for name, weight in model.named_parameters()
    }
    model.zero_grad()
    reference = spec.flatten(hf.from_tensors(vlm.param_specs(cfg), theirs))
    assert mine.keys() == reference.keys()
    return {
        path: float(
            jnp.linalg.norm((mine[path] - reference[path]).ravel())
            / jnp.linalg.norm(reference[path].ravel())
        )
        for path in mine
    }


def loud_model(family: str) -> PreTrainedModel:
    """A tiny model for `greedy`: without an end token, to compare all of them, and with weights
    twice as large, to vary them.
    """
    model = tiny_model(family)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2 if weight.ndim > 1 else 1)
    for config in (model.config, model.config.text_config, model.generation_config):
        config.eos_token_id = None
    return model


@torch.no_grad()
def greedy(theirs: PreTrainedModel, ours: Model, count: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """(their, our) greedy tokens int [4, count] of one batch: prompts of different lengths with
    different images, one with two.
    """
    rng = np.random.default_rng(0)
    batch = []
    for words, grids in zip(
        (5, 9, 3, 12), ([(1, 8, 8)], [(1, 4, 10)], [(1, 10, 6), (1, 4, 4)], [(1, 6, 12)])
    ):
        ids = rng.integers(0, 100, 4).tolist()
        for grid in grids:
            ids += [
                VISION_START,
                *[IMAGE] * (int(np.prod(grid)) // 4),
                VISION_END,
                *rng.integers(0, 100, words),
            ]
        size = sum(int(np.prod(grid)) for grid in grids)
        batch.append(
            {
                "input_ids": np.array(ids),
                "grid_thw": np.array(grids),
                "patches": rng.normal(size=(size, ours.cfg.vision.patch_dim)).astype(np.float32),
            }
        )
    longest = max(len(prompt["input_ids"]) for prompt in batch)
    ids, mask = np.full((4, longest), PAD), np.zeros((4, longest), int)
    for row, prompt in enumerate(batch):  # transformers pads on the left
        ids[row, longest - len(prompt["input_ids"]) :] = prompt["input_ids"]
        mask[row, longest - len(prompt["input_ids"]) :] = 1
    out = theirs.generate(
        input_ids=torch.tensor(ids),
        attention_mask=torch.tensor(mask),
        mm_token_type_ids=torch.tensor((ids == IMAGE) * 1),
        pixel_values=torch.tensor(np.concatenate([prompt["patches"] for prompt in batch])),
        image_grid_thw=torch.tensor(np.concatenate([prompt["grid_thw"] for prompt in batch])),
        do_sample=False,
        max_new_tokens=count,
        suppress_tokens=[IMAGE, VIDEO],
    )[:, longest:].numpy()
    return out, np.stack([answers[0].token_ids for answers in ours.generate(batch, count)])


def ecg_jepa() -> dict[str, float]:
    """{output: max |ours - reference|} of ECG-JEPA, with the reference numbers in tests/golden."""
    golden = pathlib.Path(__file__).parents[1] / "tests" / "golden"
    params, cfg = ecg_files.load(str(golden / "ecg_jepa_small.safetensors"), num_heads=4)
    with np.load(golden / "ecg_jepa_small_io.npz") as io:
        total, count = jax.jit(jepa_loss, static_argnums=2)(
            params, params["encoder"], cfg, io["ecg"], io["mask"]
        )
        ours = {
            "tokens": jax.jit(ecg.tokens, static_argnums=1)(params, cfg, io["ecg"]),
            "jepa_loss": total / count,
        }
        return {name: float(np.abs(value - io[name]).max()) for name, value in ours.items()}


def loaded(model, directory: str):
    """(cfg, params) of a torch model, through a directory that transformers writes."""
    model.save_pretrained(directory)
    cfg, params = hf.load(directory)
    return dataclasses.replace(cfg, remat="none"), params


def main() -> int:
    torch.set_num_threads(1)
    worst, notes = 0.0, []
    print("| model | case | " + " | ".join(STAGES) + " |")
    print("|---" * (len(STAGES) + 2) + "|")
    for family in FAMILIES:
        model = tiny_model(family)
        with tempfile.TemporaryDirectory() as directory:
            cfg, params = loaded(model, directory)
            hf.save(f"{directory}/back", *hf.load(directory), directory)
            before, after = (
                files.open_directory(place) for place in (directory, f"{directory}/back")
            )
            unequal = sum(
                name not in after or not np.array_equal(one.map(), after[name].map())
                for name, one in before.items()
            )
            (loud := loud_model(family)).save_pretrained(f"{directory}/loud")
            tokens, ours = greedy(loud, qoq_jax.load(f"{directory}/loud", dtype="float32"))
        notes += [
            f"{family}, read and written again: {unequal} of {len(before)} tensors differ",
            f"{family}, greedy tokens of 4 prompts with different images: "
            f"{(tokens != ours).sum()} of {tokens.size} differ",
        ]
        worst = max(worst, float(unequal > 0 or (tokens != ours).any()))
        for name in PROMPTS:
            found = compare(name, model, cfg, params)
            worst = max(worst, *found.values())
            columns = " | ".join(
                f"{found[stage]:.1e}" if stage in found else "" for stage in STAGES
            )
            print(f"| {family} | {name} | {columns} |", flush=True)
        relative = gradients(model, cfg, params)
        worst = max(worst, *relative.values())
        notes.append(
            f"{family}, gradient of the mean log-prob, relative: {max(relative.values()):.1e} "
            f"({max(relative, key=relative.__getitem__)})"
        )
    for name, difference in ecg_jepa().items():
        notes.append(
            f"ECG-JEPA, {name}: {difference:.1e} from the reference, allowed {ECG_TOLERANCE:.0e}"
        )
        worst = max(worst, float(difference > ECG_TOLERANCE))
    print("", *notes, f"largest of all: {worst:.1e}, allowed {TOLERANCE:.0e}", sep="\n")
    return int(not worst <= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
