"""Runs that have measured everything that the report has a section for."""

from __future__ import annotations

import json
import pathlib

import numpy as np

from helpers import cases
from qoq_jax.evaluation import calibration, fairness, metrics

TASKS = {
    "results": {
        "vqa-rad": {"alias": "vqa-rad", "exact_match,none": 0.5, "exact_match_stderr,none": 0.02},
        "pmc-vqa": {"alias": "pmc-vqa", "acc,nearest": 0.4, "acc_stderr,nearest": "N/A"},
    },
    "groups": {"climb": {"alias": "climb", "macro_f1,none": 0.25}},
    "n-samples": {"vqa-rad": {"original": 451}, "pmc-vqa": {"original": 2000}},
    "config": {"limit": 2000, "boxed": True},
}


def records(right: float, seed: int = 0, count: int = 132) -> list[dict]:
    """Rows of as many patients, of which a share `right` of the women's and less of the men's are
    right.
    """
    made = []
    for i in range(count):
        drawn = np.random.default_rng([seed, i]).random()
        sex = ("female", "male")[i // 6 % 2]
        one = cases.record(i, drawn < right - (0.3 if sex == "male" else 0))
        made.append(one | {"patient": f"patient-{i}", "attributes": {"sex": sex}})
    return made


def write(root: pathlib.Path, name: str, made: list[dict], **more: object) -> None:
    """eval/NAME.json with a summary and `more`."""
    content = {"split": "test", "records": made, "summary": metrics.summarize(made, draws=20)}
    path = root / f"eval/{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content | more))


def write_run(root: pathlib.Path) -> pathlib.Path:
    """Three stages, both splits of each, with fairness, a temperature and TASKS."""
    for stage, right in (("sft", 0.5), ("align", 0.6), ("rl", 0.9)):
        made, validation = records(right), records(right, seed=1)
        write(root, f"{stage}-validation", validation)
        found = {"fairness": fairness.summarize(made, draws=20)}
        write(root, stage, made, temperature=calibration.temperature(validation, made), **found)
    (root / "eval/tasks").mkdir()
    (root / "eval/tasks/results.json").write_text(json.dumps(TASKS))
    return root
