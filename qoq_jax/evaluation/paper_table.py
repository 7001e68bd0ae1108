"""The paper's table of results: domains across, one row per measure.

The paper's "balanced accuracy" is the mean over labels of one-vs-rest accuracy; it flatters (on K
balanced classes an unreadable answer scores 1 - 1/K), so it stands under the name `label_accuracy`.
Rows "released" are what the published code counts from the same responses: its own reading of the
answer, of the labels and of the mean (metrics.released_metrics).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qoq_jax.data import rows as schema
from qoq_jax.evaluation import metrics

# The paper's mean over vision is of its eight: chest X-ray to ultrasound.
_NOT_VISION = ("ecg", "multimodal", "endoscopy")
TITLES = {
    "macro_f1": "macro-F1",
    "balanced_accuracy": "balanced accuracy (mean recall)",
    "label_accuracy": 'label accuracy (the paper\'s "balanced accuracy")',
    "released_f1": "F1, as the released code counts",
    "released_accuracy": '"balanced accuracy", as the released code counts',
}


def table(records: Sequence[dict]) -> dict:
    """{"domains": [...], "rows": {measure: {domain: value, "vision": mean over the paper's vision
    domains, "all": mean over all}}} of records of classification (at least one).
    """
    group = metrics.summarize_group(records, draws=0)
    released = metrics.released_metrics(
        [r["text"] for r in records],
        [", ".join(r["labels"]) for r in records],
        [r["domain"] for r in records],
        [r["dataset"] for r in records],
    )
    domains = [domain for domain in schema.DOMAINS if domain in group["domains"]]
    rows = {
        name: {domain: group["domains"][domain][name] for domain in domains}
        for name in ("macro_f1", "balanced_accuracy", "label_accuracy")
    }
    rows["released_f1"] = {domain: released[f"{domain}/f1"] for domain in domains}
    rows["released_accuracy"] = {domain: released[f"{domain}/accuracy"] for domain in domains}
    for values in rows.values():
        vision = [values[domain] for domain in domains if domain not in _NOT_VISION]
        every = float(np.mean([values[domain] for domain in domains]))
        values |= {"vision": float(np.mean(vision))} if vision else {}
        values["all"] = every
    return {"domains": domains, "rows": rows}


def markdown(made: dict) -> str:
    """The table as Markdown."""
    columns = [*made["domains"], "vision", "all"]
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, values in made["rows"].items():
        cells = (f"{values[column]:.3f}" if column in values else "" for column in columns)
        lines.append(f"| {TITLES[name]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
