"""A model of a few thousand weights and batches for it: the shapes that all tests of this folder
share.
"""

from __future__ import annotations

import dataclasses
import zlib

import jax.numpy as jnp
import numpy as np

from qoq_jax.models import sizes as variants


def tiny_model() -> variants.VlmConfig:
    """The nano model, smaller: two decoder layers, one group of vision blocks, one ECG layer; its
    token ids are nano's.
    """
    nano = variants.get("nano")
    return dataclasses.replace(
        nano,
        decoder=dataclasses.replace(
            nano.decoder,
            width=32,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            head_dim=8,
            mlp_dim=48,
            mrope_section=(2, 1, 1),
        ),
        vision=dataclasses.replace(
            nano.vision, width=32, depth=2, num_heads=4, mlp_dim=48, full_attention_blocks=(1,)
        ),
        ecg=dataclasses.replace(nano.ecg, width=16, depth=1, num_heads=2, predictor_width=8),
        ecg_tokens=1,
    )


def prompt_batch(cfg: variants.VlmConfig, rows: int, tokens: int = 12, seed: int = 0) -> dict:
    """One prompt a row, each with its own media row: an image of 4 x 4 patches and an ECG."""
    rng = np.random.default_rng(seed)
    length = rng.integers(8, tokens + 1, rows)
    index = np.arange(tokens)
    media = np.where((index >= 1) & (index <= 4), index - 1, np.where(index == 5, 4, -1))
    batch = dict(
        tokens=rng.integers(1, 900, (rows, tokens)).astype(np.int32),
        positions=np.broadcast_to(index, (rows, 3, tokens)).astype(np.int32),
        segment_ids=(index < length[:, None]).astype(np.int32),
        branch_ids=np.zeros((rows, tokens), np.int32),
        media_index=np.broadcast_to(media, (rows, tokens)).astype(np.int32),
        loss_mask=((index >= 6) & (index < length[:, None])).astype(np.float32),
        patches=rng.integers(0, 256, (rows, 16, 1176)).astype(np.uint8),
        patch_hw=np.broadcast_to(np.stack(np.divmod(np.arange(16), 4), -1), (rows, 16, 2)).astype(
            np.int32
        ),
        patch_frame=np.ones((rows, 16), np.int32),
        patch_window=np.ones((rows, 16), np.int32),
        ecg=rng.normal(0, 0.3, (rows, 1, 8, 2500)).astype(np.float32),
    )
    return {name: jnp.asarray(value) for name, value in batch.items()}


def pseudo_reward(text, meta) -> float:
    """A reward that any text has, answers of one question differ in, and 20 steps can raise: for
    runs from random weights.
    """
    return (zlib.crc32(f"{meta.id}{text}".encode()) % 100) / 200 + 0.5 * min(
        text.count("e") / 8, 1.0
    )


def rare_reward(text, meta) -> float:
    """1 for a quarter of all texts, else 0: many groups have no variance."""
    return float(zlib.crc32(f"{meta.id}{text}".encode()) % 4 == 0)


def rising_reward(text, meta) -> float:
    """1 for every answer: groups without variance."""
    return 1.0
