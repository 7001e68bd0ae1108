"""From records to the numbers of a task, each with a standard error.

    acc           share of questions whose option's letter was read and is right
    acc (nearest) the same with the option most alike where no letter can be read, as MedEvalKit
    exact_match   share whose answer is the gold one, in normal form; of sets, the same set
    f1, recall    of the words of open answers (answers.token_f1); of sets, F1 of the sets
    unparseable   share without an answer that can be read
    macro_f1, ... of classification, over data sets as in metrics.py
    iou, iou_over_half   of regions, 0 where the response has no box

Standard errors are the spread of a Bayesian bootstrap (Rubin 1981) that weighs groups (patients;
pictures where no patient is known), since questions of one are alike. Of one group there is none:
"N/A".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from qoq_jax.evaluation import compare, metrics

DRAWS = 1000
_AT_ONCE = 4_000_000  # draws x rows in memory
_OF_LABELS = (
    "macro_f1",
    "exact_match",
    "balanced_accuracy",
    "label_accuracy",
    "auroc",
    "iou",
    "iou_over_half",
    "unparseable",
)
_KINDS = {"choice": "choice", "yes_no": "closed", "short": "closed", "open": "open", "set": "set"}
# {"metric,filter": value, "metric_stderr,filter": value or "N/A"}, as lm-evaluation-harness
Numbers = dict[str, float | str]


def of_task(records: Sequence[dict]) -> dict[str, Numbers]:
    """{"": numbers of all questions, "closed", "open", ...: of each kind if there are several}."""
    kind = records[0]["kind"]
    if kind == "labels":
        return {"": _of_labels(records)}
    if kind == "region":
        return {"": _of_regions(records)}
    parts: dict[str, list[dict]] = {}
    for record in records:
        parts.setdefault(kind_of(record), []).append(record)
    found = {"": _of_answers(records)}
    return found | ({k: _of_answers(v) for k, v in parts.items()} if len(parts) > 1 else {})


def kind_of(record: dict) -> str:
    """The part of `of_task` that a question belongs to, "region" or "labels"."""
    return _KINDS.get(record["kind"], record["kind"])


def _of_answers(records: Sequence[dict]) -> Numbers:
    kinds = {kind_of(r) for r in records}
    first = "acc" if kinds == {"choice"} else "exact_match"
    columns = {(first, "none"): [r["exact"] for r in records]}
    if "choice" in kinds:
        columns[first, "nearest"] = [r["exact_nearest"] for r in records]
    if kinds <= {"open", "set"}:
        columns["f1", "none"] = [r["f1"] for r in records]
    if kinds == {"open"}:
        columns["recall", "none"] = [r["recall"] for r in records]
    columns["unparseable", "none"] = [not r["predicted"] for r in records]
    made: Numbers = {}
    for (name, how), values in columns.items():
        made[f"{name},{how}"] = float(np.mean(values))
        made[f"{name}_stderr,{how}"] = _error(records, _mean_of(values))
    return made


def _of_labels(records: Sequence[dict]) -> Numbers:
    """Labels -> data set -> domain -> all, as metrics.py; a task may hold several data sets."""
    whole = metrics.summarize_group(records, draws=0)["overall"]
    made: Numbers = {}
    for name in _OF_LABELS:
        if name in whole:
            made[f"{name},none"] = whole[name]
            made[f"{name}_stderr,none"] = "N/A"
    made["macro_f1_stderr,none"] = _error(records, lambda w: compare.macro_f1(records, w))
    return made


def _of_regions(records: Sequence[dict]) -> Numbers:
    made: Numbers = {}
    ious = [r["iou"] or 0.0 for r in records]
    for name, values in (("iou", ious), ("iou_over_half", [iou > 0.5 for iou in ious])):
        made[f"{name},none"] = float(np.mean(values))
        made[f"{name}_stderr,none"] = _error(records, _mean_of(values))
    return made


def _mean_of(values: Sequence[float]) -> Callable[[np.ndarray], np.ndarray]:
    column = np.asarray(values, float)

    def mean(weights: np.ndarray) -> np.ndarray:
        return weights @ column / weights.sum(axis=1)

    return mean


def _error(records: Sequence[dict], statistic: Callable[[np.ndarray], np.ndarray]) -> float | str:
    found = spread(records, statistic)
    return "N/A" if found is None else found


def spread(
    records: Sequence[dict], statistic: Callable[[np.ndarray], np.ndarray], draws: int = DRAWS
) -> float | None:
    """Standard deviation over draws of a statistic of weights [draws, rows]; None where all rows
    are of one group, whose weight cancels.
    """
    if len(set(_groups(records))) < 2:
        return None
    drawn = [statistic(weights) for weights in group_weights(records, draws)]
    return float(np.std(np.concatenate(drawn), ddof=1))


def group_weights(
    records: Sequence[dict], draws: int = DRAWS, seed: int = 0
) -> Iterator[np.ndarray]:
    """Weights [draws, rows] in parts that fit into memory: Exp(1) per group."""
    groups, index = np.unique(_groups(records), return_inverse=True)
    rng, size = np.random.default_rng(seed), max(1, _AT_ONCE // len(records))
    for start in range(0, draws, size):
        yield rng.exponential(size=(min(size, draws - start), len(groups)))[:, index]


def _groups(records: Sequence[dict]) -> list[str]:
    return [
        r.get("patient") or f"row {r.get('source')} {r.get('id', place)}"  # samples of a row too
        for place, r in enumerate(records)
    ]
