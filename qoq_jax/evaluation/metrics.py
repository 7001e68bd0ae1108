"""Evaluation metrics, from records to numbers, each under its own name.

A record is one evaluated response as a JSON-able dict (`record` makes it):
  id, dataset, domain, source   strings; source is the data set folder of the run, and (source, id)
                                identifies a row
  patient                       whose it is, "" when unknown; absent in records of older runs
  labels, vocabulary, predicted lists of labels
  text                          the response
  boxes, gold_boxes             lists of [x1, y1, x2, y2], pixels of the resized frame
  box_images, gold_box_images   the picture of each box, 0 = the first
  frame_size, frame_sizes       [w, h] of the first picture or None, and of all pictures
  iou                           IoU with the gold region, or None where there is none
  reward                        {"total", "accuracy", "format", ...}
  attributes                    {"sex": ..., ...} of the row (data/attributes.py); absent without
  scores                        optional {label: probability or log-probability}; needed for AUROC
                                only

Averages go up in steps: labels -> data set -> domain -> overall, each step an unweighted mean, so
that a rare domain counts as much as a common one (CLIMB, arXiv 2503.07667). Means over labels take
the labels that occur in the data set's gold answers. Names:
  label_accuracy     mean over labels of one-vs-rest (TP + TN) / n. The paper calls it "balanced
                     accuracy". It flatters: an unreadable response on K balanced classes scores 1 -
                     1/K.
  exact_match        share of rows whose predicted set equals the gold set.
  balanced_accuracy  mean recall over labels: the usual meaning of the words.
  macro_f1, precision, recall, specificity   one-vs-rest, 0/0 = 0.
  auroc              one-vs-rest, from `scores`; absent without them.
  iou, iou_over_half mean IoU and share of IoU > 0.5, over rows with a gold region; absent without
                     such rows.
  format, unparseable, reward   means over rows: format reward, share without a readable label,
                                total reward.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data.answer_format import fold
from qoq_jax.data.meta import SampleMeta
from qoq_jax.rewards.score import Reward, released_labels

OTHER = "other"  # the confusion matrix column of answers outside of the vocabulary, or none at all
BOOTSTRAP_DRAWS = 1000
_DRAWS_AT_ONCE = 100  # bounds memory: draws x rows of one data set


def record(
    text: str, meta: SampleMeta, reward: Reward, scores: dict[str, float] | None = None
) -> dict:
    """The record of one response; `meta` is its SampleMeta, `reward` what rewards.score gave for
    it.
    """
    gold_boxes = [list(map(float, box)) for box in meta.boxes]
    if not gold_boxes and meta.mask is not None and meta.mask.any():
        rows, columns = (np.flatnonzero(meta.mask.any(axis=axis)) for axis in (1, 0))
        gold_boxes = [
            [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]
        ]
    made = dict(
        id=meta.id,
        dataset=meta.dataset,
        domain=meta.domain,
        source=meta.source,
        patient=meta.row.patient if meta.row is not None else "",
        labels=list(meta.labels),
        vocabulary=list(meta.vocabulary),
        predicted=list(reward.predicted),
        text=text,
        boxes=[list(box) for box in reward.answer.boxes],
        box_labels=list(reward.answer.box_labels),
        box_images=list(reward.answer.box_images),
        gold_boxes=gold_boxes,
        gold_box_images=list(meta.box_images),
        frame_size=list(map(int, meta.frame_size)) if meta.frame_size is not None else None,
        frame_sizes=[list(map(int, size)) for size in meta.frame_sizes],
        iou=reward.iou,
        reward=reward.parts(),
    )
    if meta.row is not None and meta.row.attributes:
        made["attributes"] = dict(meta.row.attributes)
    return made | ({"scores": scores} if scores else {})


def summarize(records: Sequence[dict], draws: int = BOOTSTRAP_DRAWS, seed: int = 0) -> dict:
    """{"all": group, "sources": {source: group}}, so that real samples stand apart from synthetic
    ones.

    A group is {"count", "overall": metrics, "domains": {domain: metrics}, "datasets":
    {"domain/dataset": metrics}}. Metrics are flat dicts with "count" (rows); data sets also have
    "per_label" and "confusion"; overall and domains also have "macro_f1_interval": [low, high], a
    95 % bootstrap interval.
    """
    if not records:
        raise DataError("no records to summarize", hint="evaluate at least one row")
    by_source = _group(records, "source")
    return {
        "all": summarize_group(records, draws, seed),
        "sources": {
            source: summarize_group(rows, draws, seed) for source, rows in by_source.items()
        },
    }


def summarize_group(records: Sequence[dict], draws: int = BOOTSTRAP_DRAWS, seed: int = 0) -> dict:
    """Metrics of data sets, domains and overall; see `summarize`."""
    datasets, domains = {}, {}
    for domain, in_domain in _group(records, "domain").items():
        members = {
            name: dataset_metrics(rows) for name, rows in _group(in_domain, "dataset").items()
        }
        domains[domain] = _mean_of(list(members.values()))
        datasets |= {f"{domain}/{name}": metrics for name, metrics in members.items()}
    overall = _mean_of(list(domains.values()))
    drawn = bootstrap_macro_f1(records, draws, seed)
    for domain, f1 in drawn.items():
        (overall if domain == "" else domains[domain])["macro_f1_interval"] = interval(f1)
    return {"count": len(records), "overall": overall, "domains": domains, "datasets": datasets}


def dataset_metrics(records: Sequence[dict]) -> dict:
    """All metrics of one data set's rows (at least one)."""
    labels, gold, predicted = indicators(records)
    per_label = {}
    for k, label in enumerate(labels):
        g, p = gold[:, k], predicted[:, k]
        one = one_vs_rest(
            int((g & p).sum()), int((~g & p).sum()), int((g & ~p).sum()), int((~g & ~p).sum())
        )
        scores = [r.get("scores", {}).get(label) for r in records]
        if (
            all(s is not None for s in scores)
            and (area := auroc(np.array(scores, float), g)) is not None
        ):
            one["auroc"] = area
        per_label[label] = one
    names = ("precision", "recall", "specificity", "f1", "accuracy", "auroc")
    mean = {
        n: float(np.mean(v)) for n in names if (v := [m[n] for m in per_label.values() if n in m])
    }
    metrics = {
        "count": len(records),
        "macro_f1": mean["f1"],
        "exact_match": float(np.mean([is_exact(r) for r in records])),
        "balanced_accuracy": mean["recall"],
        "label_accuracy": mean["accuracy"],
        **{n: mean[n] for n in ("precision", "recall", "specificity", "auroc") if n in mean},
        "unparseable": float(np.mean([not _readable(r) for r in records])),
    }
    for name, key in (("format", "format"), ("reward", "total")):
        if values := [r["reward"][key] for r in records if key in (r.get("reward") or {})]:
            metrics[name] = float(np.mean(values))
    if ious := [r["iou"] for r in records if r.get("iou") is not None]:
        metrics |= {
            "iou": float(np.mean(ious)),
            "iou_over_half": float(np.mean(np.array(ious) > 0.5)),
            "iou_count": len(ious),
        }
    columns, matrix = confusion(records)
    return metrics | {
        "per_label": per_label,
        "confusion": {"labels": columns, "matrix": matrix.tolist()},
    }


def is_exact(r: dict) -> bool:
    """Whether the predicted set of labels is the gold one."""
    return _folded(r["predicted"]) == _folded(r["labels"])


def one_vs_rest(tp: int, fp: int, fn: int, tn: int) -> dict[str, float]:
    """The counts of one label and what follows from them; 0/0 is 0."""
    return {
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "tn": tn,
        "precision": _ratio(tp, tp + fp),
        "recall": _ratio(tp, tp + fn),
        "specificity": _ratio(tn, tn + fp),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "accuracy": _ratio(tp + tn, tp + fp + fn + tn),
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def auroc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """P(score of a positive > of a negative) + P(equal) / 2, from mid-ranks; None when one side is
    empty.
    """
    n_pos, n_neg = int(positive.sum()), int((~positive).sum())
    if not n_pos or not n_neg:
        return None
    _, index, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mid_rank = (np.cumsum(counts) - (counts - 1) / 2)[index]
    return float((mid_rank[positive].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def confusion(records: Sequence[dict]) -> tuple[list[str], np.ndarray]:
    """Confusion matrix of one data set: (labels [K], counts [K, K + 1]); rows gold, the last column
    is OTHER.

    A row of several gold labels counts once for each: on the diagonal when it was named, else
    shared out evenly over the labels that were named wrongly (or OTHER when there are none). So
    each row of the matrix sums to that label's support.
    """
    vocabulary = dict.fromkeys(label for r in records for label in (*r["vocabulary"], *r["labels"]))
    labels = list({fold(v): v for v in reversed(vocabulary)}.values())[::-1]
    at = {fold(label): k for k, label in enumerate(labels)}
    matrix = np.zeros((len(labels), len(labels) + 1))
    for r in records:
        gold, predicted = _folded(r["labels"]), _folded(r["predicted"])
        wrong = [at.get(label, len(labels)) for label in predicted - gold] or [len(labels)]
        for label in gold:
            if label in predicted:
                matrix[at[label], at[label]] += 1
            else:
                np.add.at(matrix[at[label]], wrong, 1 / len(wrong))
    return labels, matrix


def bootstrap_macro_f1(
    records: Sequence[dict], draws: int = BOOTSTRAP_DRAWS, seed: int = 0
) -> dict[str, np.ndarray]:
    """Macro-F1 of `draws` resamples, {domain: [draws], "": overall [draws]}.

    Rows are sampled with replacement inside each data set (its size is by design, not chance). The
    draws depend on seed and rows only: two evaluations of the same rows in the same order can be
    compared draw by draw.
    """
    grouped: dict[tuple[str, str], list[dict]] = collections.defaultdict(list)
    domains: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    for r in records:
        grouped[r["domain"], r["dataset"]].append(r)
    for (domain, dataset), rows in grouped.items():
        rng = np.random.default_rng([seed, *f"{domain}/{dataset}".encode()])
        _, gold, predicted = indicators(rows)
        f1 = []
        for start in range(0, draws, _DRAWS_AT_ONCE):
            count = min(_DRAWS_AT_ONCE, draws - start)
            picks = (
                rng.integers(len(rows), size=(count, len(rows)))
                + len(rows) * np.arange(count)[:, None]
            )
            weights = (
                np.bincount(picks.ravel(), minlength=count * len(rows))
                .reshape(count, -1)
                .astype(np.float32)
            )
            f1.append(weighted_macro_f1(gold, predicted, weights))
        domains[domain].append(np.concatenate(f1) if f1 else np.zeros(0))
    drawn = {domain: np.mean(values, axis=0) for domain, values in domains.items()}
    return drawn | ({"": np.mean(list(drawn.values()), axis=0)} if drawn else {})


def weighted_macro_f1(gold: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[draws]: macro-F1 of one data set's rows, each counted `weights` [draws, rows] times.

    The mean in a draw is over the labels whose gold rows have a weight in it. gold, predicted: bool
    [rows, labels], see `indicators`.
    """
    hit, either = (gold & predicted).astype(np.float32), gold.astype(np.float32) + predicted
    support, both = weights @ gold.astype(np.float32), weights @ either  # [draws, labels]
    per_label = 2 * (weights @ hit) / np.where(both > 0, both, 1)
    return (per_label * (support > 0)).sum(1) / (support > 0).sum(1)


def interval(drawn: np.ndarray) -> list[float]:
    """[2.5 %, 97.5 %] of bootstrap draws."""
    return [float(v) for v in np.quantile(drawn, (0.025, 0.975))] if len(drawn) else []


def paired_gain(
    before: Sequence[dict], after: Sequence[dict], draws: int = BOOTSTRAP_DRAWS, seed: int = 0
) -> dict:
    """Gain in overall macro-F1 on the rows that both hold: {"gain", "interval", "count"}, or {}."""
    then, now = ({(r["source"], r["id"]): r for r in rows} for rows in (before, after))
    ids = sorted(then.keys() & now.keys())
    if not ids:
        return {}
    rows = [[side[i] for i in ids] for side in (then, now)]
    a, b = (bootstrap_macro_f1(side, draws, seed)[""] for side in rows)
    f1 = [summarize_group(side, draws=0)["overall"]["macro_f1"] for side in rows]
    return {"gain": f1[1] - f1[0], "interval": interval(b - a), "count": len(ids)}


def flat(group: dict, prefix: str = "eval") -> dict[str, float]:
    """A group's metrics for loggers: "prefix/macro_f1", "prefix/domain/ecg/macro_f1", ..."""
    pairs = [
        (prefix, group["overall"]),
        *((f"{prefix}/domain/{d}", m) for d, m in group["domains"].items()),
    ]
    return {
        f"{path}/{n}": float(v)
        for path, metrics in pairs
        for n, v in metrics.items()
        if isinstance(v, (int, float))
    }


# ------------------------------------------------------------------------------------ released code


def released_metrics(
    predictions: Sequence[str],
    answers: Sequence[str],
    data_sources: Sequence[str],
    datasets: Sequence[str],
) -> dict[str, float]:
    """The published code's flat dictionary: "domain/dataset/metric", "domain/metric", "val/metric".

    Its answer is the FIRST \\boxed{}, else the first [...], else the whole text; labels split at
    the first kind of separator found; its "accuracy" is our label_accuracy. Kept to compare with
    published tables, not to choose models by.
    """
    rows = [
        dict(
            domain=s,
            dataset=d,
            labels=released_labels(a),
            predicted=released_labels(_released_answer(p)),
        )
        for p, a, s, d in zip(predictions, answers, data_sources, datasets, strict=True)
    ]
    out: dict[str, float] = {}

    def put(path: str, parts: Iterable[dict]) -> dict:
        parts = list(parts)
        mean = {
            n: float(np.mean([p[n] for p in parts]))
            for n in ("precision", "recall", "specificity", "f1", "accuracy")
        }
        mean["sensitivity"] = mean["recall"]
        out.update({f"{path}/{n}": v for n, v in mean.items()})
        return mean

    domains = []
    for domain, in_domain in _group(rows, "domain").items():
        members = []
        for dataset, in_set in _group(in_domain, "dataset").items():
            _, gold, predicted = indicators(in_set, key=str)
            counts = [
                ((g & p).sum(), (~g & p).sum(), (g & ~p).sum(), (~g & ~p).sum())
                for g, p in zip(gold.T, predicted.T, strict=True)
            ]
            members.append(put(f"{domain}/{dataset}", (one_vs_rest(*map(int, c)) for c in counts)))
        domains.append(put(domain, members))
    put("val", domains)
    return out


def _released_answer(text: str) -> str:
    for opening, closing in (("\\boxed{", "}"), ("[", "]")):
        start = text.find(opening)
        end = text.find(closing, start) if start >= 0 else -1
        if end >= 0:
            return text[start + len(opening) : end]
    return text


# ------------------------------------------------------------------------------------------ helpers


def indicators(
    records: Sequence[dict], key: Callable[[str], str] = fold
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Labels of the gold answers [K], and bool [rows, K]: in the gold set, in the predicted set."""
    spelled: dict[str, str] = {}  # how a label is written where it first occurs
    for r in reversed(records):
        for label in reversed(r["labels"]):
            spelled[key(label)] = label

    def held(side: str) -> np.ndarray:
        sets = [{key(label) for label in r[side]} for r in records]
        return np.array([[k in labels for k in spelled] for labels in sets], bool)

    return list(spelled.values()), held("labels"), held("predicted")


def _mean_of(parts: Sequence[dict]) -> dict:
    """Unweighted mean of each metric over the parts that have it; counts add up."""
    numbers = {
        n: [p[n] for p in parts if n in p] for n in dict.fromkeys(n for p in parts for n in p)
    }
    numbers = {n: v for n, v in numbers.items() if isinstance(v[0], (int, float))}
    return {n: sum(v) if n.endswith("count") else float(np.mean(v)) for n, v in numbers.items()}


def _group(records: Iterable[dict], field: str) -> dict[str, list[dict]]:
    groups: dict[str, list[dict]] = collections.defaultdict(list)
    for r in records:
        groups[r[field]].append(r)
    return dict(groups)


def _readable(r: dict) -> bool:
    """Whether any predicted label is in the row's vocabulary (any label at all where the row states
    none).
    """
    predicted = _folded(r["predicted"])
    return bool(predicted & _folded(r["vocabulary"]) if r["vocabulary"] else predicted)


def _folded(labels: Iterable[str]) -> set[str]:
    return {fold(label) for label in labels}
