"""Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2): questions whose answers all earned the
same teach nothing; further prompts are sampled until the batch is full of questions that do, or a
limit of batches is reached.

Everything here is on the host and of fixed shape: the questions that stay keep their media row, and
further ones are packed
beside them into the places that are free.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from qoq_jax.data.packing import MERGE_UNIT, Budget, GroupPacker, Placed, write_groups
from qoq_jax.data.sample import ECG, TEXT, VISION

Batch = dict[str, np.ndarray]


@dataclasses.dataclass
class Answered:
    """One question, its media, its answers and their rewards, all on the host.

    sample: what data/packing.py packs. placed: where it stood. answers: tokens, mask, logprobs,
    each [G, S].
    rewards: name of the term -> float32 [G].
    """

    sample: dict[str, Any]
    placed: Placed
    answers: tuple[np.ndarray, ...]
    rewards: dict[str, np.ndarray]

    @property
    def informative(self) -> bool:
        """Whether its answers differ in reward."""
        total = self.rewards["total"]
        return bool(total.max() - total.min() > 1e-6)


class Refill:
    """Collects informative questions, media row by media row.

    Args:
      budget: of the rollout batch; one question a text row.
    """

    def __init__(self, budget: Budget):
        self._budget = budget
        self._groups = [GroupPacker(budget) for _ in range(budget.media_rows)]
        self._kept: list[list[Answered]] = [[] for _ in self._groups]
        self.seen = self.informative = 0

    @property
    def full(self) -> bool:
        return sum(map(len, self._kept)) >= self._budget.rows

    def add(self, answered: list[Answered]) -> None:
        """Takes what is informative and fits, in order: in its own media row if there is room, else
        in another.
        """
        self.seen += len(answered)
        for item in answered:
            if not item.informative:
                continue
            self.informative += 1
            own = item.placed.row // self._budget.rows_per_media_row
            for media_row in [own, *(r for r in range(len(self._groups)) if r != own)]:
                if self._groups[media_row].add(item.sample):
                    self._kept[media_row].append(item)
                    break

    def batch(self) -> tuple[Batch, list[Placed], list[Answered]]:
        """The batch of all questions taken, where they stand in it, and themselves in the same
        order.
        """
        batch, placed = write_groups(self._groups, self._budget)
        return batch, placed, [item for kept in self._kept for item in kept]


def unpack(batch: Batch, placed: Placed, budget: Budget) -> dict[str, Any]:
    """The sample that was packed alone into a text row: the inverse of data/packing.py for one
    question.
    """
    b, r = placed.row, placed.row // budget.rows_per_media_row
    length = int((batch["segment_ids"][b] > 0).sum())
    index, vision = batch["media_index"][b, :length], budget.patches // MERGE_UNIT
    is_vision, is_ecg = (index >= 0) & (index < vision), index >= vision
    patches = _span(index[is_vision], MERGE_UNIT)
    ecgs = _span((index[is_ecg] - vision) // budget.ecg_tokens, 1)
    first_frame = batch["patch_frame"][r, patches][:1].sum() - 1
    first_window = batch["patch_window"][r, patches][:1].sum() - 1
    offset = np.where(
        is_vision, patches.start // MERGE_UNIT, vision + ecgs.start * budget.ecg_tokens
    )
    return {
        "meta": placed.meta,
        "input_ids": batch["tokens"][b, :length],
        "positions": batch["positions"][b, :, :length],
        "prompt_length": length,
        "media_kind": np.select([is_vision, is_ecg], [VISION, ECG], TEXT),
        "media_index": np.where(index >= 0, index - offset, -1),
        "patches": batch["patches"][r, patches],
        "patch_hw": batch["patch_hw"][r, patches],
        "patch_frame": batch["patch_frame"][r, patches] - first_frame,
        "patch_window": batch["patch_window"][r, patches] - first_window,
        "ecg": batch["ecg"][r, ecgs],
    }


def _span(index: np.ndarray, unit: int) -> slice:
    """The places from the first to the last of `index`, each of `unit` entries; empty for none."""
    return (
        slice(int(index.min()) * unit, (int(index.max()) + 1) * unit) if index.size else slice(0, 0)
    )
