"""Tiny configurations and batches that the model tests share."""

from __future__ import annotations

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from qoq_jax import hf
from qoq_jax.models import spec, vlm
from qoq_jax.models.logprobs import token_logprobs
from qoq_jax.models.sizes import DecoderConfig, EcgConfig, VisionConfig, VlmConfig

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"

# The tiny model of make_hf_fixtures.py, with a small ECG encoder beside it.
TINY = VlmConfig(
    decoder=DecoderConfig(
        vocab_size=128,
        width=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        mlp_dim=96,
        mrope_section=(2, 3, 3),
    ),
    vision=VisionConfig(
        width=32,
        depth=4,
        num_heads=2,
        mlp_dim=48,
        window=16,
        full_attention_blocks=(1, 3),
        max_frame_patches=64,
        patch_size=4,
    ),
    ecg=EcgConfig(
        width=16, depth=1, num_heads=2, predictor_width=16, predictor_depth=1, predictor_heads=2
    ),
    image_token_id=120,
    video_token_id=121,
    vision_start_id=122,
    vision_end_id=123,
    ecg_token_id=124,
    pad_id=110,
    eos_ids=(111, 110),
    compute_dtype="float32",
    remat="none",
)


@functools.cache
def golden() -> dict[str, np.ndarray]:
    """Inputs and outputs of the Hugging Face model; see make_hf_fixtures.py."""
    with np.load(GOLDEN / "qwen_tiny.npz") as arrays:
        return dict(arrays)


@functools.cache
def hf_params() -> dict:
    """The Hugging Face weights through the spec table, float32; the ECG part, which they lack, is
    random.
    """
    specs = {
        name: part for name, part in vlm.param_specs(TINY).items() if name in ("decoder", "vision")
    }
    tensors = {
        name.removeprefix("weight:"): array.astype(np.float32)
        for name, array in golden().items()
        if name.startswith("weight:")
    }
    params = spec.flatten(random_params()) | spec.flatten(hf.from_tensors(specs, tensors))
    return jax.tree.map(jnp.asarray, spec.unflatten(params))


@functools.cache
def random_params() -> dict:
    """Random weights of TINY: biases and norms are drawn too, so that a test notices when one is
    ignored.
    """
    specs = spec.flatten(vlm.param_specs(TINY))
    rng = np.random.default_rng(0)
    params = {}
    for path, s in specs.items():
        std = s.init if isinstance(s.init, float) else 0.1
        noise = rng.normal(size=s.shape, scale=std).astype(np.float32)
        params[path] = jnp.asarray(noise + 1 if s.init == "ones" else noise)
    return spec.unflatten(params)


def batch(
    rows: int = 8, tokens: int = 24, *, media_rows: int | None = None, seed: int = 0
) -> dict[str, np.ndarray]:
    """One prompt a row: an image (6 vision tokens), an ECG (its 50 tokens cut to 4), text, then
    padding.
    """
    rng = np.random.default_rng(seed)
    media_rows = media_rows or rows
    each = rows // media_rows
    lengths = rng.integers(tokens // 2, tokens + 1, rows)
    index = np.arange(tokens)
    valid = index[None] < lengths[:, None]
    ids = np.where(valid, rng.integers(0, 100, (rows, tokens)), TINY.pad_id)
    media_index = np.full((rows, tokens), -1)
    for row in range(rows):
        slot = row % each
        media_index[row, 1:7] = slot * 6 + np.arange(6)
        media_index[row, 7:11] = each * 6 + slot * 50 + np.arange(4)
    positions = np.broadcast_to(index, (rows, 3, tokens)) + rng.integers(0, 2, (rows, 3, tokens))
    unit_hw = np.stack(np.meshgrid([0, 1], [0, 1], indexing="ij"), -1).reshape(4, 2)
    starts = np.array(
        [[0, 0], [0, 2], [2, 0], [2, 2], [0, 4], [2, 4]]
    )  # units of a 4x6 image, two 4x4/4x2 windows
    hw = (starts[:, None] + unit_hw[None]).reshape(24, 2)
    frames = np.repeat(np.arange(1, each + 1), 24)
    windows = np.concatenate([image * 6 + np.repeat(np.arange(1, 7), 4) for image in range(each)])
    return dict(
        tokens=ids.astype(np.int32),
        positions=positions.astype(np.int32),
        segment_ids=valid.astype(np.int32),
        branch_ids=np.zeros((rows, tokens), np.int32),
        media_index=media_index.astype(np.int32),
        patches=rng.integers(0, 256, (media_rows, 24 * each, 96)).astype(np.uint8),
        patch_hw=np.tile(hw, (media_rows, each, 1)).astype(np.int32),
        patch_frame=np.tile(frames, (media_rows, 1)).astype(np.int32),
        patch_window=np.tile(windows, (media_rows, 1)).astype(np.int32),
        ecg=rng.normal(size=(media_rows, each, 8, 2500)).astype(np.float32),
    )


def text_batch(tokens, positions=None, segment_ids=None, branch_ids=None) -> dict[str, np.ndarray]:
    """A batch without media from [B,T] tokens."""
    tokens = np.asarray(tokens, np.int32)
    rows, length = tokens.shape
    if positions is None:
        positions = np.broadcast_to(np.arange(length), (rows, 3, length))
    return dict(
        tokens=tokens,
        positions=np.asarray(positions, np.int32),
        segment_ids=np.ones((rows, length), np.int32)
        if segment_ids is None
        else np.asarray(segment_ids, np.int32),
        branch_ids=np.zeros((rows, length), np.int32)
        if branch_ids is None
        else np.asarray(branch_ids, np.int32),
        media_index=np.full((rows, length), -1, np.int32),
        patches=np.zeros((rows, 0, 96), np.uint8),
        patch_hw=np.zeros((rows, 0, 2), np.int32),
        patch_frame=np.zeros((rows, 0), np.int32),
        patch_window=np.zeros((rows, 0), np.int32),
        ecg=np.zeros((rows, 0, 8, 2500), np.float32),
    )


def loss_and_scores(params, inputs):
    """A scalar that every weight contributes to, and (logprob, entropy) of the next tokens."""
    hidden = vlm.hidden(params, TINY, inputs)
    targets = jnp.roll(inputs["tokens"], -1, axis=1)
    logprob, entropy = token_logprobs(params["decoder"], hidden, targets, scores=500)
    return (logprob * inputs["segment_ids"]).sum() + 0.1 * entropy.sum(), (logprob, entropy)


@functools.cache
def one_device_result():
    """((loss, scores), gradients) of `shared_batch()` on one device, once for all tests."""
    return jax.jit(jax.value_and_grad(loss_and_scores, has_aux=True))(
        random_params(), shared_batch()
    )


def shared_batch() -> dict[str, np.ndarray]:
    return batch(8, media_rows=4)
