"""The reward of a response: accuracy, IoU, format, length, coherence, each in [0, 1], and their
weighted mean.

    r = (w_accuracy accuracy + w_iou IoU + w_format format + ...) / (sum of the weights of the terms
    that a sample has)

`paper` (arXiv 2506.00711, section 3.3; the default): weights 0.6 / 0.2 / 0.2 / 0.
  accuracy  F1 between the sets of predicted and gold labels; case and spacing do not matter.
            Without a \\boxed{} it is 0.
  IoU       |box ∩ region| / |box ∪ region| of the best of the response's boxes; the region is the
            mask, or the gold box that fits best. A sample without a gold region has no such term:
            the other weights are renormalised. Against a mask even the tightest box stays below 1.
  format    1 when the response is whole (fenced JSON list, then <think>, then \\boxed{}, no more)
            and its boxes fit its answer (`boxes_fit_answer`), else 0. It judges form: it can be 1
            beside a wrong diagnosis.
`released` (the published code): weights 0.5 / 0.3 / 0.1 / 0.1, mean instead of best IoU, masks
  painted with the box's last row and column, a missing region counted as IoU 0, a graded JSON
  score, and length = characters / 1000, 1 above 600.
Both can have two more terms, off by default:
  coherence across views, for volumes and videos: the frames show one body from one side, so boxes
            of one label, one per frame, should lie in one place: mean IoU of all pairs of boxes
            with the same label; 1 without such a pair.
  custom    a function of the user (rewards/custom.py).

Pure numpy on host text, about a tenth of a millisecond per response.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from qoq_jax.base.errors import ConfigError
from qoq_jax.data import answer_format as answers
from qoq_jax.data.meta import SampleMeta
from qoq_jax.rewards import custom

PRESETS = {
    "paper": dict(accuracy=0.6, iou=0.2, format=0.2, length=0.0, iou_over="best"),
    "released": dict(accuracy=0.5, iou=0.3, format=0.1, length=0.1, iou_over="mean"),
}
TERMS = ("total", "accuracy", "iou", "format", "length", "coherence", "custom")
IOU_OVER = ("best", "mean", "hungarian")


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """Weights and rules. `RewardConfig.of("released")` gives a preset whole; the default is the
    paper's.

    preset: the rules of each term, "paper" or "released". In a config, weights and iou_over that
      still have the paper's values become the preset's.
    accuracy, iou, format, length, coherence: weights; they are divided by their sum over the terms
      that a sample has.
    iou_over: how several boxes become one IoU: "best", "mean" over the response's boxes, or
      "hungarian": one-to-one matching with the gold boxes, its sum divided by the larger number of
      boxes.
    custom: "package.module:function", see rewards/custom.py; "" = none. custom_weight: its weight.
    answer_only: the response is \\boxed{} alone, without boxes and reasoning: the format asks for
      that, and IoU has no term. The warm start teaches the same form.
    """

    preset: str = "paper"
    accuracy: float = 0.6
    iou: float = 0.2
    format: float = 0.2
    length: float = 0.0
    iou_over: str = "best"
    coherence: float = 0.0
    custom: str = ""
    custom_weight: float = 1.0
    answer_only: bool = False

    def __post_init__(self):
        if self.preset not in PRESETS:
            raise ConfigError(
                f"unknown reward preset {self.preset!r}", hint=f"use one of {', '.join(PRESETS)}"
            )
        if self.iou_over not in IOU_OVER:
            raise ConfigError(
                f"unknown iou_over {self.iou_over!r}", hint=f"use one of {', '.join(IOU_OVER)}"
            )
        if self.answer_only and self.preset != "paper":
            raise ConfigError("answer_only belongs to the preset paper")
        weights = (
            self.accuracy,
            self.iou,
            self.format,
            self.length,
            self.coherence,
            self.custom_weight,
        )
        always = (
            self.accuracy + self.format + self.length + (self.custom_weight if self.custom else 0.0)
        )
        if not all(np.isfinite(w) and w >= 0 for w in weights) or always <= 0:
            raise ConfigError(
                f"reward weights {weights} must be finite, not negative, and not all zero "
                "beside IoU and coherence",
                hint="give accuracy, format or length a weight: samples without a region have "
                "no other",
            )

    @classmethod
    def of(cls, preset: str, **changes: Any) -> RewardConfig:
        """The preset with some fields changed."""
        return cls(preset=preset, **{**PRESETS.get(preset, {}), **changes})


@dataclasses.dataclass(frozen=True)
class Reward:
    """One response's reward and what it was made of.

    `iou` is None where the sample has no gold region, `coherence` where it has no frames; these and
    `length` and `custom` also where they have no weight.
    """

    total: float
    accuracy: float
    iou: float | None
    format: float
    length: float | None
    predicted: tuple[str, ...] = ()
    answer: answers.Answer = dataclasses.field(default_factory=answers.Answer)
    coherence: float | None = None
    custom: float | None = None

    def parts(self) -> dict[str, float]:
        """The numbers alone, for logs and records; without what is None."""
        parts = {name: getattr(self, name) for name in TERMS}
        return {name: value for name, value in parts.items() if value is not None}


def score(text: str, meta: SampleMeta, cfg: RewardConfig = RewardConfig()) -> Reward:
    """The reward of one response.

    Args:
      text: the response, decoded without special tokens.
      meta: a SampleMeta; its labels, vocabulary, boxes, box_labels, box_images, mask, frame_sizes
        and box_coordinates are read. Boxes and mask are in pixels of the resized pictures.
      cfg: weights and rules.
    """
    answer = answers.in_pixels(answers.parse(text), meta.frame_sizes, meta.box_coordinates)
    region = gold_region(meta)
    if cfg.preset == "released":
        predicted = released_labels(answer.boxed)
        accuracy = set_f1(predicted, released_labels(", ".join(meta.labels)))
        form = released_format(text)
        boxes = released_boxes(text)
        iou = 0.0 if region is None else region_iou(boxes, region, cfg.iou_over, inclusive=True)
    else:
        predicted = answers.boxed_labels(answer.boxed, meta.vocabulary)
        accuracy = set_f1(map(answers.fold, predicted), map(answers.fold, meta.labels))
        region = None if cfg.answer_only else region
        form = float(
            answers.is_boxed_alone(text)
            if cfg.answer_only
            else answer.whole and boxes_fit_answer(answer, predicted, meta, region is not None)
        )
        boxes = answer.boxes
        same = same_picture(answer, region, meta)
        iou = None if region is None else region_iou(boxes, region, cfg.iou_over, same=same)
    length = (1.0 if len(text) > 600 else len(text) / 1000) if cfg.length else None
    coherence = view_coherence(answer) if cfg.coherence and meta.row.videos else None
    own = custom.call(cfg.custom, text, meta) if cfg.custom else None
    weighted = (
        (cfg.accuracy, accuracy),
        (cfg.iou, iou),
        (cfg.format, form),
        (cfg.length, length),
        (cfg.coherence, coherence),
        (cfg.custom_weight, own),
    )
    present = [(weight, value) for weight, value in weighted if value is not None]
    # Rounding may carry a perfect response a digit past 1.
    total = min(
        sum(weight * value for weight, value in present) / sum(weight for weight, _ in present), 1.0
    )
    return Reward(
        total,
        accuracy,
        None if region is None else iou,
        form,
        length,
        predicted,
        answer,
        coherence,
        own,
    )


def score_batch(
    texts: Sequence[str], metas: Sequence[SampleMeta], cfg: RewardConfig = RewardConfig()
) -> list[Reward]:
    """`score` for each (text, meta); repeat a meta for each of its rollouts."""
    return [score(text, meta, cfg) for text, meta in zip(texts, metas, strict=True)]


def stack(rewards: Sequence[Reward]) -> dict[str, np.ndarray]:
    """float32 [N] of each term; NaN where it is None (use np.nanmean)."""
    columns = {name: [getattr(r, name) for r in rewards] for name in TERMS}
    return {
        name: np.array([np.nan if v is None else v for v in column], np.float32)
        for name, column in columns.items()
    }


# ------------------------------------------------------------------------------ accuracy and format


def set_f1(predicted: Iterable[str], gold: Iterable[str]) -> float:
    """2 |P ∩ G| / (|P| + |G|); 0 when nothing was predicted."""
    predicted, gold = set(predicted), set(gold)
    return 2 * len(predicted & gold) / (len(predicted) + len(gold)) if predicted else 0.0


def boxes_fit_answer(
    answer: answers.Answer, predicted: Sequence[str], meta: SampleMeta, region: bool
) -> bool:
    """Whether a whole response points at what it says ("a box for every predicted label", made
    exact).

    In this order:
      1. Every box lies on a picture that is there. So without pictures (an ECG alone) the list is
         empty.
      2. Only labels that deny a finding ("Normal", "No DR"): the list is empty. Samples are exempt
         whose own gold answer is such a label beside a region (an annotated organ).
      3. No gold region: any list, so the empty one too. Corpora seldom say whether "no box" means
         "nothing to see" or "nobody drew it".
      4. Gold region: every predicted label that asserts a finding has a box of that name, unless it
         is right and has no gold box of its own. Where gold boxes carry other names ("lesion") or
         there is only a mask: at least one box.

    A response can obey 1-4 without knowing the diagnosis, and the gold answer always does.
    """
    if any(picture >= len(meta.frame_sizes) for picture in answer.box_images):
        return False
    fold = answers.fold
    finds = {fold(label) for label in predicted if not answers.denies_finding(label)}
    if not finds:
        organ = region and all(map(answers.denies_finding, meta.labels))
        return organ or not answer.boxes
    if not region:
        return True
    gold_names, names, gold = (
        set(map(fold, v)) for v in (meta.box_labels, answer.box_labels, meta.labels)
    )
    if not gold_names & (gold | set(map(fold, meta.vocabulary))):
        return bool(answer.boxes)
    return finds - (gold - gold_names) <= names


# ---------------------------------------------------------------------------------------------- IoU


def view_coherence(answer: answers.Answer) -> float:
    """Mean IoU over all pairs of boxes with the same label, 1 when there is none; see the head of
    this file.
    """
    folded = map(answers.fold, answer.box_labels)
    names, ious = list(zip(folded, answer.box_images, strict=True)), []
    for name in set(names):
        boxes = [box for box, other in zip(answer.boxes, names) if other == name]
        first, second = np.triu_indices(len(boxes), k=1)
        ious.extend(box_ious(boxes, boxes)[first, second])
    return float(np.mean(ious)) if ious else 1.0


def gold_region(meta: SampleMeta) -> np.ndarray | tuple[answers.Box, ...] | None:
    """The sample's mask when it has one that is not empty, else its gold boxes, else None."""
    if meta.mask is not None and meta.mask.any():
        return meta.mask
    return tuple(meta.boxes) or None


def same_picture(
    answer: answers.Answer, region: np.ndarray | Sequence[answers.Box] | None, meta: SampleMeta
) -> np.ndarray:
    """bool [N, M]: whether a box of the response and a gold box (or the mask) share a picture."""
    gold = (0,) if region is None or isinstance(region, np.ndarray) else meta.box_images
    return np.equal.outer(np.array(answer.box_images, int), np.array(gold, int))


def region_iou(
    boxes: Sequence[answers.Box],
    region: np.ndarray | Sequence[answers.Box],
    over: str = "best",
    inclusive: bool = False,
    same: np.ndarray | None = None,
) -> float:
    """IoU of the response's boxes with the gold region, in [0, 1].

    Args:
      boxes: (x1, y1, x2, y2), pixels of the resized frame.
      region: a mask bool [h, w] or gold boxes, from `gold_region`.
      over: "best", "mean" or "hungarian" (see RewardConfig).
      inclusive: paint box corners onto a mask inclusively, and clip first, as the released code
        does.
      same: from `same_picture`; None = all are on one picture.
    """
    if not boxes:
        return 0.0
    ious = (
        mask_ious(boxes, region, inclusive)[:, None]
        if isinstance(region, np.ndarray)
        else box_ious(boxes, region)
    )
    if same is not None:
        ious = ious * same
    if over == "hungarian":
        # slow to import; only this option needs it
        from scipy.optimize import linear_sum_assignment

        return float(ious[linear_sum_assignment(-ious)].sum() / max(ious.shape))
    best_gold = ious.max(axis=1)
    return float(best_gold.max() if over == "best" else best_gold.mean())


def box_ious(boxes: Sequence[answers.Box], gold: Sequence[answers.Box]) -> np.ndarray:
    """IoU of each box with each gold box, [N, M]."""
    # [N,1,4], [1,M,4]
    a, b = np.asarray(boxes, np.float64)[:, None], np.asarray(gold, np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    overlap = np.prod(np.maximum(sides, 0), axis=-1)
    union = (
        np.prod(a[..., 2:] - a[..., :2], axis=-1)
        + np.prod(b[..., 2:] - b[..., :2], axis=-1)
        - overlap
    )
    return overlap / np.maximum(union, 1e-9)


def mask_ious(
    boxes: Sequence[answers.Box], mask: np.ndarray, inclusive: bool = False
) -> np.ndarray:
    """IoU of each box with a mask bool [h, w], [N].

    A box covers the pixels x1 <= x < x2, y1 <= y < y2 after rounding; what lies outside of the
    frame still counts in its area, so a huge box earns nothing. `inclusive`: corners are truncated
    and clipped into the frame, and the last row and column are painted too.
    """
    height, width = mask.shape
    area = np.count_nonzero(mask)
    ious = np.zeros(len(boxes))
    for i, box in enumerate(boxes):
        if inclusive:
            x1, x2 = (min(max(int(v), 0), width - 1) for v in (box[0], box[2]))
            y1, y2 = (min(max(int(v), 0), height - 1) for v in (box[1], box[3]))
            if x1 >= x2 or y1 >= y2:
                continue
            x2, y2 = x2 + 1, y2 + 1
        else:
            x1, y1, x2, y2 = (round(v) for v in box)
        inside = np.count_nonzero(mask[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)])
        ious[i] = inside / max((x2 - x1) * (y2 - y1) + area - inside, 1)
    return ious


# ------------------------------------------------------------------------ the released code's rules


def released_labels(text: str | None) -> tuple[str, ...]:
    """Splits at the first of these separators that occurs anywhere, and only at that one."""
    if text is None:
        return ()
    text = text.replace("\\boxed{", "").replace("}", "")
    separator = next((s for s in (", ", " and ", " & ", ",", "&") if s in text), None)
    return tuple(part.strip() for part in (text.split(separator) if separator else [text]))


def released_boxes(text: str) -> tuple[answers.Box, ...]:
    """Boxes of the first fenced block that is JSON; failing that, that is JSON once its quotes are
    doubled.

    A malformed box stays in the list as an empty one, which pulls the mean IoU down.
    """
    blocks = answers.fenced_blocks(text) if len(text) <= answers.MAX_TEXT else []
    doubled = [block.replace("'", '"') for block in blocks]
    items = next((v for v in map(answers.load_json, blocks + doubled) if v is not None), None)
    if isinstance(items, dict):
        items = [items] if "bbox_2d" in items else items.get("objects_of_interest")
    items = items if isinstance(items, list) else []
    written = [item["bbox_2d"] for item in items if isinstance(item, dict) and "bbox_2d" in item]
    return tuple(
        answers.valid_box(box) or (0.0, 0.0, 0.0, 0.0) for box in written[: answers.MAX_BOXES]
    )


def released_format(text: str) -> float:
    """0.2 fence + 0.1 "```json" + 0.2 JSON (0.1 with doubled quotes) + 0.1 list + 0.4 share of full
    items.
    """
    points = 0.2 * (answers.FENCE in text) + 0.1 * ("```json" in text)
    if len(text) > answers.MAX_TEXT:
        return points
    lines = text.splitlines()
    fences = (i for i, line in enumerate(lines) if line == "```json" or line.strip() == "```")
    start = next(fences, None)
    block = text if start is None else "\n".join(lines[start + 1 :]).split(answers.FENCE)[0]
    items = answers.load_json(block)
    points += 0.2 * (items is not None)
    if items is None:
        items = answers.load_json(block.replace("'", '"'))
        points += 0.1 * (items is not None)
    if not isinstance(items, list):
        return points
    full = sum(
        isinstance(i, dict) and "label" in i and answers.valid_box(i.get("bbox_2d")) is not None
        for i in items
    )
    return points + 0.1 + (0.4 * full / len(items) if items else 0.0)
