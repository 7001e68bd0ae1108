"""Prepared samples as padded batches of few shapes: little is compiled, little is wasted."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from qoq_jax.data.packing import Budget, GroupPacker, empty_batch
from qoq_jax.models.sizes import VlmConfig

Shape = tuple[int, int, int]  # tokens, patches, ECGs of a batch row

# most of one prefill, so that its activations stay small
PREFILL_TOKENS, PREFILL_PATCHES = 1 << 15, 1 << 14
# The same on a CPU, whose products are no faster of more rows, and whose system has to find and to
# zero the pages of the activations in every call: docs/performance.md.
CPU_TOKENS, CPU_PATCHES = 1 << 12, 1 << 11


def bucket(size: int, least: int = 16) -> int:
    """The next of 16, 20, 24, 28, 32, 40, ..., 128, 144, 160, ...: few shapes are compiled, and
    little is wasted.

    At most a quarter below 128, where a compilation costs more than the padding ever does, then at
    most an eighth.
    """
    if size <= least:
        return least
    step = max(1 << (size - 1).bit_length() - (3 if size <= 128 else 4), least // 4)
    return -(-size // step) * step


def shape_of(sample: Mapping[str, Any]) -> Shape:
    """(tokens, patches, ecgs) of the rounded shape that holds a sample."""
    patches = len(sample["patches"])
    return (
        bucket(len(sample["input_ids"])),
        bucket(patches, 64) if patches else 0,
        len(sample["ecg"]),
    )


def make_batch(
    samples: Sequence[Mapping[str, Any]], shape: Shape, rows: int, cfg: VlmConfig
) -> dict[str, np.ndarray]:
    """One prompt per row, each with its own media row, padded to `rows` rows.

    Floats when one sample has normalised patches.
    """
    tokens, patches, ecgs = shape
    budget = Budget(
        rows=rows,
        tokens=tokens,
        media_rows=rows,
        patches=patches,
        ecgs=ecgs,
        max_per_row=1,
        ecg_tokens=cfg.ecg_tokens,
        pad_id=cfg.pad_id,
        patch_dim=cfg.vision.patch_dim,
    )
    batch = empty_batch(budget)
    floats = any(sample["patches"].dtype != np.uint8 for sample in samples)
    batch["patches"] = batch["patches"].astype(np.float32 if floats else np.uint8)
    for row, sample in enumerate(samples):
        packed = sample
        if floats and sample["patches"].dtype == np.uint8:
            per_channel = cfg.vision.patch_dim // 3
            mean, std = (
                np.repeat(np.array(x, np.float32), per_channel)
                for x in (cfg.vision.pixel_mean, cfg.vision.pixel_std)
            )
            packed = dict(sample, patches=(sample["patches"] / np.float32(255) - mean) / std)
        packer = GroupPacker(budget)
        packer.add(packed)
        packer.write(batch, row)
    del batch["loss_mask"]
    return batch


def by_shape(
    indices: Iterable[int], samples: Sequence[Mapping[str, Any]]
) -> list[tuple[Shape, list[int]]]:
    """[(shape, indices of that shape in order)]."""
    groups = collections.defaultdict(list)
    for i in indices:
        groups[shape_of(samples[i])].append(i)
    return list(groups.items())


def parts(
    group: list[int], shape: Shape, shards: int, most: int = 1 << 30, platform: str = ""
) -> Iterator[tuple[list[int], int]]:
    """Cuts a group into prefills of bounded size, for a platform as jax.default_backend() names it;
    yields (indices, rows of the batch: a power of 2 times the shards).
    """
    tokens, patches = PREFILL_TOKENS, PREFILL_PATCHES
    if platform == "cpu":
        tokens, patches = CPU_TOKENS, CPU_PATCHES
    room = max(min(tokens // shape[0], patches // max(shape[1], 1), most), 1)
    room = shards * (1 << (max(room // shards, 1).bit_length() - 1))
    for first in range(0, len(group), room):
        part = group[first : first + room]
        rows = shards
        while rows < len(part):
            rows *= 2
        yield part, rows
