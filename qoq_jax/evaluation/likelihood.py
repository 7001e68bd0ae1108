"""How likely a model finds each allowed label: all labels of a question in one pass that shares its
prompt.

A response ends in \\boxed{LABEL}. What is scored is that place: the model's own response up to its
last "\\boxed{" (reasoning and boxes included, as it wrote them; "\\boxed{" alone where it wrote
none) is given, and each label, with the closing brace, is one branch behind it. The probabilities
of a question's labels are made to sum to one. This is the ranking of choices by likelihood of
lm-evaluation-harness (arXiv 2405.14782, section 3.1), conditioned on the reasoning; a question
that allows several labels is treated alike, so its probabilities are those of the first label.

Letters: Q text rows, T prompt positions, H positions of what the model wrote, G labels, S positions
of a label.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from qoq_jax.data.answer_format import BOXED
from qoq_jax.data.meta import SampleMeta
from qoq_jax.data.packing import Placed
from qoq_jax.data.tokenizer import Tokenizer
from qoq_jax.sampling.rollout import make_scorer

CLOSE = "}"
_ROOM = 32  # H and S are multiples of this and of 8, and G a power of two, so that little compiles


@dataclasses.dataclass(frozen=True)
class Choices:
    """One question's labels as token ids.

    Attributes:
      given: ids behind the prompt that all labels share.
      branches: ids of each label behind them, at least one each.
    """

    given: tuple[int, ...]
    branches: tuple[tuple[int, ...], ...]


def choices(text: str, labels: Sequence[str], tokenizer: Tokenizer) -> Choices:
    """The labels behind a response up to its last "\\boxed{".

    Token ids are those of the whole text with each label, so that a label's first letters may share
    a token with what is before it.
    """
    head = text[: text.rfind(BOXED)] if BOXED in text else ""
    ids = [tuple(tokenizer.encode(f"{head}{BOXED}{label}{CLOSE}")) for label in labels]
    shared = 0
    while len({one[shared : shared + 1] for one in ids}) == 1 and shared < min(map(len, ids)) - 1:
        shared += 1
    return Choices(ids[0][:shared], tuple(one[shared:] for one in ids))


def scores(
    setup: Any,
    params: Any,
    batches: Iterator[tuple[dict, Sequence[Placed]]],
    responses: Mapping[tuple[str, str], str],
) -> dict[tuple[str, str], dict[str, float]]:
    """All rows of `scored` together."""
    found = {}
    for part in scored(setup, params, batches, responses):
        found |= part
    return found


def scored(
    setup: Any,
    params: Any,
    batches: Iterator[tuple[dict, Sequence[Placed]]],
    responses: Mapping[tuple[str, str], str],
    shape: tuple[int, int, int] | None = None,
) -> Iterator[dict[tuple[str, str], dict[str, float]]]:
    """{(source, id) of a row: {label: probability}} of this process's rows that list labels, batch
    by batch.

    All processes must call it, to its end.

    Args:
      setup: runner.Evaluable.
      params: model parameters on the mesh.
      batches: of prompts, one per text row, each with its samples.
      responses: (source, id) -> response, of this process's rows; others are passed over.
      shape: (H, G, S) of every batch, the same on all processes; None = what each batch needs.
        Other shapes are other programs, which round in other places.
    """
    scorer = make_scorer(setup.model, 1.0)
    for batch, samples in batches:
        asked = {}
        for placed in samples:
            key = (placed.meta.source, placed.meta.id)
            if key in responses and (labels := _labels(placed.meta)):
                made = choices(responses[key], labels, setup.tokenizer)
                asked[placed.row] = (key, labels, made)
        rows = {row: made for row, (_, _, made) in asked.items()}
        if shape is None:
            given, count, length = _rounded(np.max(setup.share.join("likelihood", _most(rows)), 0))
        else:
            given, count, length = shape
        if not count:
            continue
        tokens, mask = _branches(rows, len(batch["tokens"]), count, length, setup.model.pad_id)
        prompts = _with_given(batch, rows, given)
        logprobs = scorer(params, *setup.put((prompts, tokens, mask)))
        sums = setup.own(logprobs).sum(axis=-1)
        yield {
            key: dict(zip(labels, _normalised(sums[row, : len(labels)]), strict=True))
            for row, (key, labels, _) in asked.items()
        }


def _labels(meta: SampleMeta) -> tuple[str, ...]:
    return meta.vocabulary if len(meta.vocabulary) > 1 else ()


def shape_of(
    asked: Iterable[tuple[str, Sequence[str]]], tokenizer: Tokenizer
) -> tuple[int, int, int]:
    """(H, G, S) that hold all of these (response, labels), for `scored`."""
    rows = {i: choices(text, labels, tokenizer) for i, (text, labels) in enumerate(asked)}
    return _rounded(_most(rows))


def _most(rows: Mapping[int, Choices]) -> list[int]:
    """The largest H, G and S of some rows, 0 when there are none."""
    return [
        max((len(made.given) for made in rows.values()), default=0),
        max((len(made.branches) for made in rows.values()), default=0),
        max((len(ids) for made in rows.values() for ids in made.branches), default=0),
    ]


def _rounded(most: Sequence[int]) -> tuple[int, int, int]:
    """(H, G, S) that hold so many; (0, 0, 0) without labels."""
    given, count, length = map(int, most)
    if not count:
        return 0, 0, 0
    return -(-given // _ROOM) * _ROOM, 1 << (count - 1).bit_length(), -(-length // 8) * 8


def _branches(
    rows: Mapping[int, Choices], size: int, count: int, length: int, pad: int
) -> tuple[np.ndarray, np.ndarray]:
    """(int32 [Q, G, S], float32 [Q, G, S]): ids of the labels, and 1 where one is."""
    tokens = np.full((size, count, length), pad, np.int32)
    mask = np.zeros(tokens.shape, np.float32)
    for row, made in rows.items():
        for branch, ids in enumerate(made.branches):
            tokens[row, branch, : len(ids)] = ids
            mask[row, branch, : len(ids)] = 1
    return tokens, mask


def _with_given(
    batch: Mapping[str, np.ndarray], rows: Mapping[int, Choices], room: int
) -> dict[str, np.ndarray]:
    """The batch with T + H positions, each prompt followed by what the model wrote."""
    fill = {"positions": 0, "media_index": -1, "tokens": 0, "segment_ids": 0, "branch_ids": 0}
    wide = dict(batch) | {
        name: np.pad(
            batch[name], [(0, 0)] * (batch[name].ndim - 1) + [(0, room)], constant_values=value
        )
        for name, value in (fill | {"loss_mask": 0}).items()
    }
    for row, made in rows.items():
        end = int((batch["segment_ids"][row] > 0).sum())
        at = slice(end, end + len(made.given))
        # Behind the largest position on all three axes, as a response that is sampled.
        position = batch["positions"][row, :, :end].max() + 1 + np.arange(len(made.given))
        wide["tokens"][row, at] = made.given
        wide["positions"][row, :, at] = position
        wide["segment_ids"][row, at] = batch["segment_ids"][row, end - 1]
    return wide


def _normalised(logprobs: np.ndarray) -> list[float]:
    """Probabilities that sum to one."""
    shares = np.exp(logprobs.astype(np.float64) - logprobs.max())
    return [float(share) for share in shares / shares.sum()]
