"""Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2): groups whose responses all earn the same
teach nothing; further prompts are sampled until the batch is full of groups that do, or a limit of
batches is reached.

Everything here is on the host and of fixed shape: the groups that stay keep their media row, and
further ones are packed beside them into the places that are free.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from qoq_jax.data.packing import MERGE_UNIT, Budget, GroupPacker, Placed, write_groups
from qoq_jax.data.sample import ECG, TEXT, VISION
from qoq_jax.parallel import hosts
from qoq_jax.sampling.rollout import Rollout
from qoq_jax.train import domains
from qoq_jax.train.groups import HostGroups

Batch = dict[str, np.ndarray]
Drawn = tuple[HostGroups, Any, Rollout]  # groups with their rewards; on the device, the rest


@dataclasses.dataclass
class Group:
    """One prompt, its media, its responses and their rewards, all on the host.

    Attributes:
      sample: what data/packing.py packs.
      placed: where it stood.
      responses: tokens, mask, logprobs, each [G, S].
      rewards: name of the term -> float32 [G].
    """

    sample: dict[str, Any]
    placed: Placed
    responses: tuple[np.ndarray, ...]
    rewards: dict[str, np.ndarray]

    @property
    def informative(self) -> bool:
        """Whether its responses differ in reward."""
        total = self.rewards["total"]
        return bool(total.max() - total.min() > 1e-6)


class Refill:
    """Collects informative groups, media row by media row.

    Attributes:
      seen, informative: groups so far.

    Args:
      budget: of the rollout batch; one prompt per text row.
    """

    def __init__(self, budget: Budget):
        self._budget = budget
        self._packers = [GroupPacker(budget) for _ in range(budget.media_rows)]
        self._kept: list[list[Group]] = [[] for _ in self._packers]
        self.seen = self.informative = 0

    @property
    def full(self) -> bool:
        """Whether every text row is taken."""
        return sum(map(len, self._kept)) >= self._budget.rows

    def add(self, groups: list[Group]) -> None:
        """Takes what is informative and fits, in order: in its own media row if there is room, else
        in another.
        """
        self.seen += len(groups)
        for group in groups:
            if not group.informative:
                continue
            self.informative += 1
            own = group.placed.row // self._budget.rows_per_media_row
            for media_row in [own, *(r for r in range(len(self._packers)) if r != own)]:
                if self._packers[media_row].add(group.sample):
                    self._kept[media_row].append(group)
                    break

    def batch(self) -> tuple[Batch, list[Placed], list[Group]]:
        """The batch of all groups taken, where they stand in it, themselves in the same order."""
        batch, placed = write_groups(self._packers, self._budget)
        return batch, placed, [group for kept in self._kept for group in kept]


def informative_groups(
    first: Drawn, draw_again: Callable[[int], Drawn], budget: Budget, limit: int
) -> tuple[HostGroups, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A rollout batch of informative groups alone, out of a first one and further ones.

    Args:
      first: the batch that was sampled.
      draw_again: samples the n-th further batch (from 1).
      budget: of a batch.
      limit: of further batches.

    Returns:
      (the groups, (tokens, mask, log-probabilities of the responses, each [Q, G, S])); places that
      stay free are empty rows.
    """
    refill, (host, _, responses) = Refill(budget), first
    refill.add(_groups(host, responses, budget))
    lost, labels, count = host.lost, [host.labels], 0
    while not refill.full and count < limit:
        count += 1
        host, _, responses = draw_again(count)
        lost += host.lost
        labels.append(host.labels)
        refill.add(_groups(host, responses, budget))
    prompts, placed, kept = refill.batch()
    q, g, s = responses.tokens.shape
    tokens = np.full((q, g, s), budget.pad_id, np.int32)
    mask, logprobs = np.zeros((2, q, g, s), np.float32)
    for place, group in zip(placed, kept, strict=True):
        tokens[place.row], mask[place.row], logprobs[place.row] = group.responses
    terms = {
        name: np.stack([group.rewards[name] for group in kept])
        if kept
        else np.zeros((0, g), np.float32)
        for name in host.terms
    }
    facts = {
        "dapo/refills": float(count),
        "dapo/questions_sampled": float(refill.seen),
        "dapo/informative": refill.informative / max(refill.seen, 1),
    }
    informative = HostGroups(
        prompts,
        placed,
        terms,
        mask.sum(axis=(1, 2)),
        lost,
        domains.add_labels(labels),
        facts=facts,
    )
    return informative, (tokens, mask, logprobs)


def _groups(host: HostGroups, responses: Rollout, budget: Budget) -> list[Group]:
    """The groups of a batch one by one, read to the host."""
    arrays = hosts.gather((responses.tokens, responses.mask, responses.logprobs))
    return [
        Group(
            unpack(host.prompts, placed, budget),
            placed,
            tuple(x[placed.row] for x in arrays),
            {name: value[i] for name, value in host.terms.items()},
        )
        for i, placed in enumerate(host.samples)
    ]


def unpack(batch: Batch, placed: Placed, budget: Budget) -> dict[str, Any]:
    """The sample that was packed alone into a text row: the inverse of data/packing.py for one
    prompt.
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
