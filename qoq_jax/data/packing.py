"""Packing: samples of any size into device batches of one fixed shape, so that nothing recompiles.

Axis letters: B text rows, T tokens per row, R media rows, P patches per media row, M = P/4 vision
tokens, E ECGs per media row. Text row b reads media row b // (B // R); a sample goes into one text
row, and its media into that row's media row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.data.meta import SampleMeta
from qoq_jax.data.sample import ECG, ECG_SHAPE, VISION

MERGE_UNIT = 4  # patches that become one vision token


@dataclasses.dataclass(frozen=True)
class Budget:
    """The shape of a batch.

    Attributes:
      rows: B. tokens: T. media_rows: R, divides B. patches: P, a multiple of 4. ecgs: E. P and E
        may be 0.
      max_per_row: most samples in a text row; 1 for prompts that a sampler continues.
      ecg_tokens: tokens per ECG.
      pad_id: token of unused places.
      patch_dim: values in one flat patch (Qwen2.5-VL 1176, Qwen3-VL 1536).
    """

    rows: int
    tokens: int
    media_rows: int
    patches: int
    ecgs: int
    pad_id: int
    max_per_row: int = 64
    ecg_tokens: int = 50
    patch_dim: int = 3 * 2 * 14 * 14

    def __post_init__(self):
        for name in ("rows", "tokens", "media_rows", "max_per_row", "ecg_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"budget: {name}={getattr(self, name)}", hint="use 1 or more")
        if self.rows % self.media_rows:
            raise ConfigError(
                f"budget: {self.rows} rows do not divide into {self.media_rows} media rows",
                hint="make rows a multiple",
            )
        if self.patches < 0 or self.patches % MERGE_UNIT or self.ecgs < 0:
            raise ConfigError(
                f"budget: patches={self.patches}, ecgs={self.ecgs}",
                hint=f"patches must be a multiple of {MERGE_UNIT}",
            )

    def part(self, count: int) -> Budget:
        """That of one of `count` equal parts of the batch."""
        return dataclasses.replace(
            self, rows=self.rows // count, media_rows=self.media_rows // count
        )

    @property
    def rows_per_media_row(self) -> int:
        return self.rows // self.media_rows


@dataclasses.dataclass(frozen=True)
class Placed:
    """Where a sample stands in a batch: text row `row`, segment id `segment` (1, 2, ...) in it."""

    meta: SampleMeta
    row: int
    segment: int


class GroupPacker:
    """Fills one media row and its text rows, first fit, in the order in which samples come.

    Taking samples in order and stopping at the first that does not fit wastes a little room, and
    makes the stream of batches a function of the stream of samples alone, which is what exact
    resume needs.
    """

    def __init__(self, budget: Budget):
        self.budget = budget
        rows = budget.rows_per_media_row
        self._used = [0] * rows
        self._samples: list[list[Mapping[str, Any]]] = [[] for _ in range(rows)]
        self._order: list[tuple[Mapping[str, Any], int, int]] = []  # sample, row, segment
        self._patches = self._ecgs = 0

    def __len__(self) -> int:
        return len(self._order)

    def add(self, sample: Mapping[str, Any]) -> bool:
        """Takes a sample when it fits; says whether it did."""
        patches, ecgs, tokens = len(sample["patches"]), len(sample["ecg"]), len(sample["input_ids"])
        if self._patches + patches > self.budget.patches or self._ecgs + ecgs > self.budget.ecgs:
            return False
        for row, samples in enumerate(self._samples):
            if (
                len(samples) < self.budget.max_per_row
                and self._used[row] + tokens <= self.budget.tokens
            ):
                samples.append(sample)
                self._order.append((sample, row, len(samples)))
                self._used[row] += tokens
                self._patches += patches
                self._ecgs += ecgs
                return True
        return False

    def write(self, batch: dict[str, np.ndarray], media_row: int) -> list[Placed]:
        """Copies the samples into an `empty_batch` at a media row and its text rows."""
        first = media_row * self.budget.rows_per_media_row
        vision_tokens = self.budget.patches // MERGE_UNIT
        start = [0] * len(self._samples)
        patch = ecg = frame = window = 0
        placed = []
        for sample, row, segment in self._order:
            tokens, patches, prompt = (
                len(sample["input_ids"]),
                len(sample["patches"]),
                sample["prompt_length"],
            )
            b, at = first + row, slice(start[row], start[row] + tokens)
            kind, index = sample["media_kind"], sample["media_index"]
            batch["tokens"][b, at] = sample["input_ids"]
            batch["positions"][b, :, at] = sample["positions"]
            batch["segment_ids"][b, at] = segment
            answer = np.arange(tokens) >= prompt
            batch["branch_ids"][b, at] = answer
            batch["loss_mask"][b, at] = answer
            batch["media_index"][b, at] = np.select(
                [kind == VISION, kind == ECG],
                [index + patch // MERGE_UNIT, index + vision_tokens + ecg * self.budget.ecg_tokens],
                default=-1,
            )
            room = slice(patch, patch + patches)
            batch["patches"][media_row, room] = sample["patches"]
            batch["patch_hw"][media_row, room] = sample["patch_hw"]
            batch["patch_frame"][media_row, room] = sample["patch_frame"] + frame
            batch["patch_window"][media_row, room] = sample["patch_window"] + window
            batch["ecg"][media_row, ecg : ecg + len(sample["ecg"])] = sample["ecg"]
            start[row] += tokens
            patch += patches
            ecg += len(sample["ecg"])
            if patches:
                frame, window = (
                    frame + int(sample["patch_frame"][-1]),
                    window + int(sample["patch_window"][-1]),
                )
            placed.append(Placed(sample["meta"], b, segment))
        return placed


def empty_batch(budget: Budget) -> dict[str, np.ndarray]:
    """A batch of padding:

    tokens int32 [B, T]; positions int32 [B, 3, T]; segment_ids int32 [B, T], 0 padding, s the s-th
    sample of the row; branch_ids int32 [B, T], 0 prompt, 1 response; media_index int32 [B, T], -1
    text, else a place in the media row's table of M vision tokens followed by E * ecg_tokens ECG
    tokens; loss_mask float32 [B, T], 1 on response tokens; patches uint8 [R, P, patch_dim];
    patch_hw int32 [R, P, 2]; patch_frame, patch_window int32 [R, P], 0 padding; ecg float32
    [R, E, 8, 2500].
    """
    b, t, r, p = budget.rows, budget.tokens, budget.media_rows, budget.patches
    return {
        "tokens": np.full((b, t), budget.pad_id, np.int32),
        "positions": np.zeros((b, 3, t), np.int32),
        "segment_ids": np.zeros((b, t), np.int32),
        "branch_ids": np.zeros((b, t), np.int32),
        "media_index": np.full((b, t), -1, np.int32),
        "loss_mask": np.zeros((b, t), np.float32),
        "patches": np.zeros((r, p, budget.patch_dim), np.uint8),
        "patch_hw": np.zeros((r, p, 2), np.int32),
        "patch_frame": np.zeros((r, p), np.int32),
        "patch_window": np.zeros((r, p), np.int32),
        "ecg": np.zeros((r, budget.ecgs, *ECG_SHAPE), np.float32),
    }


def check_fits(sample: Mapping[str, Any], budget: Budget) -> None:
    """Raises DataError when a sample does not even fit into an empty batch."""
    pixels = "raise data.max_patches, or lower data.max_pixels and data.frame_max_pixels"
    for what, array, have, hint in (
        ("tokens", "input_ids", budget.tokens, "raise sft.tokens, or leave the row out"),
        ("patches", "patches", budget.patches, pixels),
        ("ecgs", "ecg", budget.ecgs, "raise data.mean_ecgs"),
    ):
        need = len(sample[array])
        if need > have:
            raise DataError(
                f"the sample needs {need} {what}, a whole batch row has {have}",
                where=f"row {sample['meta'].id!r}",
                hint=hint,
            )


def pack(
    samples: Sequence[Mapping[str, Any]], budget: Budget
) -> tuple[dict[str, np.ndarray], list[Placed]]:
    """Packs all samples into one batch, filling media row after media row.

    Raises:
      DataError: a sample is larger than an empty batch, or the samples together are.
    """
    groups = [GroupPacker(budget) for _ in range(budget.media_rows)]
    current = 0
    for number, sample in enumerate(samples):
        check_fits(sample, budget)
        while not groups[current].add(sample):
            current += 1
            if current == len(groups):
                raise DataError(
                    f"{number} of {len(samples)} samples fill the batch",
                    where=f"row {sample['meta'].id!r}",
                    hint="raise the budget's rows, tokens or patches",
                )
    return write_groups(groups, budget)


def write_groups(
    groups: Iterable[GroupPacker], budget: Budget
) -> tuple[dict[str, np.ndarray], list[Placed]]:
    """One batch from one packer a media row."""
    batch = empty_batch(budget)
    placed = [
        place for media_row, group in enumerate(groups) for place in group.write(batch, media_row)
    ]
    return batch, placed
