"""Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2): groups whose responses all earn the same
teach nothing; further prompts are sampled until the batch is full of groups that do, or a limit of
batches is reached.

Everything here is on the host and of fixed shape: the groups that stay keep their media row, and
further ones are packed beside them into the places that are free.

Of several processes each samples the prompts of its own media rows. All know the sizes of all
groups, decide alike where each goes, and send on those alone that go to a media row of another
process. So the batch does not depend on their number.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from qoq_jax.data.meta import SampleMeta
from qoq_jax.data.packing import Budget, GroupPacker, Placed, write_groups
from qoq_jax.data.unpacking import unpack
from qoq_jax.parallel import hosts
from qoq_jax.sampling.rollout import Rollout
from qoq_jax.train.groups import HostGroups
from qoq_jax.train.setup import Setup

Batch = dict[str, np.ndarray]
Drawn = tuple[HostGroups, Any, Rollout]  # groups with their rewards; on the device, the rest


@dataclasses.dataclass(frozen=True)
class Size:
    """What decides where a group goes.

    Attributes:
      part: the share (parallel/hosts.py) that sampled it. number: of it among those of this share.
      row: its text row in the whole batch.
      tokens, patches, ecgs: of its prompt.
      informative: whether its responses differ in reward.
    """

    part: int
    number: int
    row: int
    tokens: int
    patches: int
    ecgs: int
    informative: bool

    def stand_in(self) -> dict[str, range]:
        """As a sample for GroupPacker.add, which asks for lengths alone."""
        return {
            "input_ids": range(self.tokens),
            "patches": range(self.patches),
            "ecg": range(self.ecgs),
        }


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
    """Chooses informative groups, media row by media row.

    Attributes:
      seen, informative: groups so far.
      kept: those that each media row has taken, in order.

    Args:
      budget: of the rollout batch; one prompt per text row.
    """

    def __init__(self, budget: Budget):
        self._budget = budget
        self._packers = [GroupPacker(budget) for _ in range(budget.media_rows)]
        self.kept: list[list[Size]] = [[] for _ in self._packers]
        self.seen = self.informative = 0

    @property
    def full(self) -> bool:
        """Whether every text row is taken."""
        return sum(map(len, self.kept)) >= self._budget.rows

    def add(self, groups: list[Size]) -> None:
        """Takes what is informative and fits, in order: in its own media row if there is room, else
        in another.
        """
        self.seen += len(groups)
        for group in groups:
            if not group.informative:
                continue
            self.informative += 1
            own = group.row // self._budget.rows_per_media_row
            for media_row in [own, *(r for r in range(len(self._packers)) if r != own)]:
                if self._packers[media_row].add(group.stand_in()):
                    self.kept[media_row].append(group)
                    break


def assemble(
    refill: Refill, groups: list[Group], budget: Budget, share: hosts.Share
) -> tuple[Batch, list[Placed], list[Group]]:
    """This share's part of the batch of all groups taken, where they stand in it, themselves in
    the same order. All processes must call it.

    Args:
      groups: all that this share has sampled, by number.
      budget: of the whole batch.
    """
    part = budget.part(share.count)
    first, end = (i * part.media_rows for i in (share.index, share.index + 1))
    leaving = {
        f"{size.part} {size.number}": groups[size.number]
        for media_row, kept in enumerate(refill.kept)
        for size in kept
        if size.part == share.index and not first <= media_row < end
    }
    arriving: dict[str, Any] = {}
    if share.count > 1:
        for sent in share.join("moved", {key: to_json(group) for key, group in leaving.items()}):
            arriving |= sent

    def get(size: Size) -> Group:
        if size.part == share.index:
            return groups[size.number]
        return from_json(arriving[f"{size.part} {size.number}"])

    taken = [[get(size) for size in kept] for kept in refill.kept[first:end]]
    packers = [GroupPacker(part) for _ in taken]
    for packer, of_row in zip(packers, taken):
        for group in of_row:
            packer.add(group.sample)
    batch, placed = write_groups(packers, part)
    return batch, placed, [group for of_row in taken for group in of_row]


def informative_groups(
    first: Drawn,
    draw_again: Callable[[int], Drawn],
    budget: Budget,
    limit: int,
    setup: Setup,
) -> tuple[HostGroups, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A rollout batch of informative groups alone, out of a first one and further ones.

    Args:
      first: the batch that was sampled.
      draw_again: samples the n-th further batch (from 1).
      budget: of the batch of all processes.
      limit: of further batches.
      setup: of the run.

    Returns:
      (this process's groups, (tokens, mask, log-probabilities of their responses, each [Q, G, S]));
      places that stay free are empty rows.
    """
    share, refill, groups = setup.share, Refill(budget), []
    lost, labels, count, drawn = 0, [], 0, first
    while True:
        host, _, responses = drawn
        lost += host.lost
        labels += host.labels
        new = _groups(
            host, setup.own((responses.tokens, responses.mask, responses.logprobs)), budget
        )
        refill.add(sizes(new, len(groups), budget, share))
        groups += new
        if refill.full or count == limit:
            break
        count += 1
        drawn = draw_again(count)
    prompts, placed, kept = assemble(refill, groups, budget, share)
    q, (_, g, s) = len(prompts["tokens"]), responses.tokens.shape
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
        labels,
        facts=facts,
    )
    return informative, (tokens, mask, logprobs)


def sizes(groups: list[Group], before: int, budget: Budget, share: hosts.Share) -> list[Size]:
    """Those of the groups of all shares, in the order of their rows.

    Args:
      groups: of one batch, of this share.
      before: groups that this share has sampled before.
    """
    first = share.index * budget.part(share.count).rows
    mine = [
        (
            share.index,
            before + i,
            first + group.placed.row,
            len(group.sample["input_ids"]),
            len(group.sample["patches"]),
            len(group.sample["ecg"]),
            group.informative,
        )
        for i, group in enumerate(groups)
    ]
    return [Size(*size) for part in share.join("sizes", mine) for size in part]


def _groups(host: HostGroups, arrays: tuple[np.ndarray, ...], budget: Budget) -> list[Group]:
    """The groups of a batch one by one; arrays: of the responses, each [Q, G, S]."""
    return [
        Group(
            unpack(host.prompts, placed, budget),
            placed,
            tuple(x[placed.row] for x in arrays),
            {name: value[i] for name, value in host.terms.items()},
        )
        for i, placed in enumerate(host.samples)
    ]


def to_json(group: Group) -> dict[str, Any]:
    """A group for another process; of its meta what a sampled and scored group still needs."""
    meta = group.placed.meta
    arrays = {name: x for name, x in group.sample.items() if isinstance(x, np.ndarray)}
    return {
        "meta": {"id": meta.id, "dataset": meta.dataset, "domain": meta.domain}
        | {"source": meta.source},
        "row": group.placed.row,
        "sample": {name: _to_text(x) for name, x in arrays.items()},
        "prompt_length": group.sample["prompt_length"],
        "responses": [_to_text(x) for x in group.responses],
        "rewards": {name: _to_text(x) for name, x in group.rewards.items()},
    }


def from_json(found: dict[str, Any]) -> Group:
    """The inverse of `to_json`, without labels and regions, which were for the reward."""
    meta = SampleMeta(
        **found["meta"],
        labels=(),
        vocabulary=(),
        boxes=(),
        box_labels=(),
        box_images=(),
        mask=None,
        frame_sizes=(),
        row=None,
    )
    sample = {name: _from_text(x) for name, x in found["sample"].items()}
    return Group(
        sample | {"meta": meta, "prompt_length": found["prompt_length"]},
        Placed(meta, found["row"], 1),
        tuple(map(_from_text, found["responses"])),
        {name: _from_text(x) for name, x in found["rewards"].items()},
    )


def _to_text(x: np.ndarray) -> list[Any]:
    return [str(x.dtype), list(x.shape), base64.b64encode(x.tobytes()).decode()]


def _from_text(found: list[Any]) -> np.ndarray:
    dtype, shape, content = found
    return np.frombuffer(base64.b64decode(content), dtype).reshape(shape)
