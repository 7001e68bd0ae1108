"""Is a probability to be trusted, and what is left when the unsure answers go: from records with
`scores` that sum to one.

The confidence of a row is its largest probability; the row counts as right when that label is among
the gold ones. Most functions take confidences and that. A temperature is fitted on other rows than
those it is judged on (`temperature`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from qoq_jax.base.errors import DataError

BINS = 10
_LEAST = 1e-30  # a probability of 0 counts as this
TEMPERATURES = (0.01, 100.0)  # that are tried


def confidences(records: Sequence[dict]) -> tuple[np.ndarray, np.ndarray]:
    """(float [N] confidence, bool [N] whether the likeliest label is a gold one) of the records
    that have scores.

    Raises:
      DataError: scores of a row are no probabilities that sum to one.
    """
    for r in records:
        values = list(r.get("scores", {}).values())
        if values and not (min(values) >= 0 and abs(sum(values) - 1) < 1e-3):
            raise DataError(
                "the scores of a row are no probabilities that sum to one",
                where=f"row {r.get('id', '')!r}",
                hint="normalise them over the labels of the question",
            )
    found = [
        (max(scores.values()), max(scores, key=scores.__getitem__) in r["labels"])
        for r in records
        if (scores := r.get("scores"))
    ]
    values = np.array([one[0] for one in found], float)
    return values, np.array([one[1] for one in found], bool)


def bins(confidence: np.ndarray, right: np.ndarray, count: int = BINS) -> list[dict]:
    """A reliability diagram: {"low", "high", "count", "confidence", "accuracy"} of each bin of
    equal width that holds a row.
    """
    place = np.minimum((confidence * count).astype(int), count - 1)
    return [
        {
            "low": b / count,
            "high": (b + 1) / count,
            "count": int(inside.sum()),
            "confidence": float(confidence[inside].mean()),
            "accuracy": float(right[inside].mean()),
        }
        for b in range(count)
        if (inside := place == b).any()
    ]


def ece(confidence: np.ndarray, right: np.ndarray, count: int = BINS) -> float:
    """Expected calibration error, sum over bins of n_b / N |accuracy_b - confidence_b| (Guo et al.,
    arXiv 1706.04599, eq. 3).
    """
    parts = bins(confidence, right, count)
    gaps = [one["count"] * abs(one["accuracy"] - one["confidence"]) for one in parts]
    return float(sum(gaps) / len(confidence))


def risks(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """float [N]: the error among the k most confident rows, k from 1 to N: the risk-coverage curve
    (Geifman, Uziel and El-Yaniv, arXiv 1805.08206). Rows of equal confidence enter together.
    """
    order = np.argsort(-confidence, kind="stable")
    errors = np.cumsum(~right[order])
    # Within a tie every order is as good: the errors of the tie are spread evenly over it.
    _, first = np.unique(-confidence[order], return_index=True)
    edges = np.append(first, len(order))
    wrong = np.empty(len(order))
    for begin, end in itertools.pairwise(edges):
        before = errors[begin - 1] if begin else 0
        share = np.arange(1, end - begin + 1) / (end - begin)
        wrong[begin:end] = before + share * (errors[end - 1] - before)
    return wrong / np.arange(1, len(order) + 1)


def aurc(confidence: np.ndarray, right: np.ndarray) -> float:
    """Area under the risk-coverage curve: the mean of `risks`."""
    return float(np.mean(risks(confidence, right)))


def summarize(records: Sequence[dict]) -> dict | None:
    """{"count", "accuracy", "confidence", "ece", "brier", "aurc", "bins"}; None without scores.

    "brier" is the mean over rows of sum_k (p_k - y_k)^2 over the labels of the question, y being
    shared evenly by several gold labels.
    """
    confidence, right = confidences(records)
    if not len(confidence):
        return None
    squares = []
    for r in records:
        if scores := r.get("scores"):
            gold = [label for label in r["labels"] if label in scores]
            share = 1 / len(gold) if gold else 0.0
            squares.append(sum((p - share * (k in gold)) ** 2 for k, p in scores.items()))
    return {
        "count": len(confidence),
        "accuracy": float(right.mean()),
        "confidence": float(confidence.mean()),
        "ece": ece(confidence, right),
        "brier": float(np.mean(squares)),
        "aurc": aurc(confidence, right),
        "bins": bins(confidence, right),
    }


# -------------------------------------------------------------------------------------- temperature


def fit_temperature(records: Sequence[dict]) -> float:
    """The T > 0 of least mean negative log-likelihood of the gold labels under softmax(log p / T)
    (temperature scaling, Guo et al., arXiv 1706.04599, section 4.2), within TEMPERATURES.

    The loss is convex in 1/T, so its slope is followed to zero by halving. Rows of several gold
    labels count each alike; rows without scores or gold labels among them are passed over.

    Raises:
      DataError: no record has scores.
    """
    rows = _log_rows(records)
    if not rows:
        raise DataError(
            "no record has scores to fit a temperature on", hint="qoq evaluate --scores"
        )
    low, high = (1 / bound for bound in reversed(TEMPERATURES))

    def slope(inverse: float) -> float:
        return sum(float(_softmax(inverse * z) @ z - z[gold].mean()) for z, gold in rows)

    for _ in range(100):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return 1 / (low * high) ** 0.5


def nll(records: Sequence[dict], temperature: float = 1.0) -> float:
    """Mean negative log-likelihood of the gold labels at a temperature."""
    each = []
    for z, gold in _log_rows(records):
        scaled = z / temperature
        top = scaled.max()
        each.append(top + np.log(np.exp(scaled - top).sum()) - scaled[gold].mean())
    return float(np.mean(each))


def rescaled(records: Sequence[dict], temperature: float) -> list[dict]:
    """The records with softmax(log p / T) for their scores; which label is likeliest stays."""
    made = []
    for r in records:
        if scores := r.get("scores"):
            p = _softmax(_logs(list(scores.values())) / temperature)
            r = r | {"scores": dict(zip(scores, map(float, p), strict=True))}
        made.append(r)
    return made


def temperature(validation: Sequence[dict], test: Sequence[dict]) -> dict:
    """A temperature fitted on validation records, and test records before and after it.

    Returns:
      {"temperature", "fitted_on": rows, "before" and "after": {"nll", "ece", "brier", "aurc"}}.

    Raises:
      DataError: either has no scores.
    """
    value = fit_temperature(validation)
    if summarize(test) is None:
        raise DataError("no test record has scores", hint="qoq evaluate --scores")
    sides = {"before": list(test), "after": rescaled(test, value)}
    return {"temperature": value, "fitted_on": len(_log_rows(validation))} | {
        side: {"nll": nll(records)}
        | {name: summarize(records)[name] for name in ("ece", "brier", "aurc")}
        for side, records in sides.items()
    }


def _log_rows(records: Sequence[dict]) -> list[tuple[np.ndarray, list[int]]]:
    """(log-probabilities of the labels, places of the gold ones) of the records that have both."""
    rows = []
    for r in records:
        names = list(r.get("scores") or ())
        if gold := [place for place, name in enumerate(names) if name in r["labels"]]:
            rows.append((_logs(list(r["scores"].values())), gold))
    return rows


def _logs(probabilities: Sequence[float]) -> np.ndarray:
    return np.log(np.maximum(np.array(probabilities, float), _LEAST))


def _softmax(z: np.ndarray) -> np.ndarray:
    shares = np.exp(z - z.max())
    return shares / shares.sum()
