"""What a run changes in its rows before they become samples: subsets of them, and edits of each.

Subsets are computed on columns of the index; edits run on a row when it is parsed.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from qoq_jax.data import answer_format as answers
from qoq_jax.data import rows as schema


@dataclasses.dataclass(frozen=True)
class HideDiagnosis:
    """The row with a random diagnosis in the place of the gold one, for a warm start that must not
    learn diagnoses.

    The warm start then teaches the answer format, the boxes and the words of the findings, as
    reports without a coded diagnosis would; what they mean is left to RL. Labels that assert a
    finding are replaced by other such labels, so that the answer still fits its boxes; labels that
    deny one ("Normal") say no more than the empty list of boxes and stay.
    """

    seed: int

    def __call__(self, row: schema.Row) -> schema.Row:
        asserting = [label for label in row.labels if not answers.denies_finding(label)]
        return _with_labels_of(asserting, row, np.random.default_rng([self.seed, *row.id.encode()]))


@dataclasses.dataclass(frozen=True)
class NoisyLabels:
    """The row with a random diagnosis in the place of the gold one, in a share of the rows: what a
    program reads out of reports that were written for another purpose.

    The random labels are as many as the gold ones, and may be the gold ones. Where a picture is
    pointed at they are drawn from the labels that assert a finding, so that boxes and answer still
    fit; a row with an ECG has no boxes, and all of its labels are drawn from.
    """

    seed: int
    share: float

    def __call__(self, row: schema.Row) -> schema.Row:
        rng = np.random.default_rng([self.seed, 2, *row.id.encode()])
        if rng.random() >= self.share:
            return row
        drawn_from = [
            label for label in row.labels if row.time_series or not answers.denies_finding(label)
        ]
        return _with_labels_of(drawn_from, row, rng)


def _with_labels_of(labels: list[str], row: schema.Row, rng: np.random.Generator) -> schema.Row:
    """The row with those of its gold labels that are among `labels` replaced by random ones of
    them, no two alike.
    """
    gold = [label for label in row.answers if label in labels]
    drawn = dict(zip(gold, rng.permutation(labels)))  # there are no more gold than labels
    renamed = [str(drawn.get(label, label)) for label in row.answers]
    return dataclasses.replace(
        row,
        answer=", ".join(renamed),
        bbox_labels=tuple(str(drawn.get(label, label)) for label in row.bbox_labels),
    )


@dataclasses.dataclass(frozen=True)
class ShrinkBoxes:
    """The row with each edge of its boxes moved inward by U(0, share) of the side, for a warm start
    that knows where, not how far.

    As annotators who point at a finding without tracing it; its extent is left to RL, which is paid
    by the gold box or mask.
    """

    share: float
    seed: int

    def __call__(self, row: schema.Row) -> schema.Row:
        rng = np.random.default_rng([self.seed, 1, *row.id.encode()])

        def shrink(box: tuple[float, ...]) -> tuple[float, float, float, float]:
            (x1, y1, x2, y2), (left, top, right, bottom) = box, rng.uniform(0, self.share, 4)
            width, height = x2 - x1, y2 - y1
            return x1 + left * width, y1 + top * height, x2 - right * width, y2 - bottom * height

        return dataclasses.replace(row, bbox=tuple(map(shrink, row.bbox)))


def limited(total: int, count: int, seed: int) -> np.ndarray:
    """Places of a fixed random subset of `count` of `total` rows, in order."""
    return np.sort(np.random.default_rng(seed).permutation(total)[:count])


def per_domain(domains: np.ndarray, count: int) -> np.ndarray:
    """Places of the first `count` rows of each domain, in order.

    Args:
      domains: small int [N], the domain of each row.
    """
    kept = [np.flatnonzero(domains == domain)[:count] for domain in np.unique(domains)]
    return np.sort(np.concatenate(kept)) if kept else np.zeros(0, np.int64)
