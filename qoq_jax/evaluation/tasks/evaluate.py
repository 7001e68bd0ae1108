"""An evaluation on tasks: questions, responses, records, results.

The results file has the names of lm-evaluation-harness: results/{task}/{"metric,filter" and
"metric_stderr,filter"}, groups, group_subtasks, configs, versions, n-shot, n-samples, config, date.
The section "qoq" holds what it has no name for: the table of the paper, calibration, fairness.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import os
from collections.abc import Sequence
from typing import Any

from qoq_jax.base import files, terminal
from qoq_jax.base.errors import DataError
from qoq_jax.data.answer_format import BOXED, PIXELS
from qoq_jax.data.labels import split_labels
from qoq_jax.data.meta import SampleMeta
from qoq_jax.evaluation import calibration, fairness, metrics, paper_table
from qoq_jax.evaluation.tasks import answers, predictions, read, row_sets, scores
from qoq_jax.evaluation.tasks.question import Question
from qoq_jax.evaluation.tasks.table import Task
from qoq_jax.rewards import score as rewards

RESULTS, RECORDS, TABLE = "results.json", "records.json", "table.md"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is asked of whom.

    Attributes:
      model: its name, for the results. tasks: of table.py.
      root: the folder in which each task has its own.
      limit: questions of each task, the first ones; 0 = all.
      boxed: answers are asked for in \\boxed{} (question.py).
    """

    model: str
    tasks: Sequence[Task]
    root: str
    limit: int = 0
    boxed: bool = False


def of_predictions(evaluation: Evaluation, path: str, output: str) -> dict:
    """Scores the responses of a file, which has one to each question; see `write`."""
    given = predictions.read(path, [task.name for task in evaluation.tasks])
    records: dict[str, list[dict]] = {}
    for task in evaluation.tasks:
        found = records.setdefault(task.name, [])
        asked = read.questions(task, evaluation.root)
        with terminal.Bar(task.name) as bar:
            for question in itertools.islice(asked, evaluation.limit or None):
                response = given.get((task.name, question.id))
                if response is None:
                    raise DataError(
                        f"no response to {question.id!r} of {task.name}",
                        where=path,
                        hint="give each question a response, an empty one too",
                    )
                meta = meta_of(question, task.name, response.frame_sizes, response.box_coordinates)
                found.append(record(question, response.text, meta, response.scores))
                bar.update(len(found))
        if not found:
            raise read.no_questions(task)
    return write(evaluation, records, output)


def write(evaluation: Evaluation, records: dict[str, list[dict]], output: str) -> dict:
    """Prints a line per task, and writes results.json, records.json and, of tasks of
    classification, table.md into the folder `output`. Returns the results.
    """
    results = summarize(evaluation, records)
    files.write_json(os.path.join(output, RESULTS), results)
    rows = [record for found in records.values() for record in found]
    files.write_json(os.path.join(output, RECORDS), {"records": rows}, indent=None)
    if table := results["qoq"].get("table"):
        files.write_text(os.path.join(output, TABLE), paper_table.markdown(table))
    for name, numbers in results["results"].items():
        print(_line(name, numbers, results["n-samples"]))
    for line in fairness.lines(results["qoq"].get("fairness", {})):
        print(line)
    print(f"results: {os.path.join(output, RESULTS)}")
    return results


def summarize(evaluation: Evaluation, records: dict[str, list[dict]]) -> dict:
    """The content of the results file."""
    results: dict[str, dict] = {}
    subtasks: dict[str, list[str]] = {}
    counts: dict[str, dict[str, int]] = {}
    for task in evaluation.tasks:
        rows = records[task.name]
        for part, numbers in scores.of_task(rows).items():
            name = f"{task.name}_{part}" if part else task.name
            results[name] = {"alias": name} | numbers
            if part:
                subtasks.setdefault(task.name, []).append(name)
        counts[task.name] = {"original": len(rows), "effective": len(rows)}
    classified = [r for found in records.values() for r in found if r["kind"] == "labels"]
    own: dict[str, Any] = {}
    groups: dict[str, dict] = {}
    if classified:
        own["table"] = paper_table.table(classified)
        if sure := calibration.summarize(classified):
            own["calibration"] = sure
        if found := fairness.summarize(classified):
            own["fairness"] = found
        climb = [task.name for task in evaluation.tasks if task.group == "climb"]
        rows = [r for r in classified if r["source"] in climb]
        if len(climb) > 1:
            subtasks["climb"] = climb
            overall = metrics.summarize_group(rows)["overall"]
            names = ("macro_f1", "exact_match", "balanced_accuracy", "label_accuracy")
            numbers = {f"{name},none": overall[name] for name in names}
            groups["climb"] = {"alias": "climb"} | numbers
    tasks = {task.name: task for task in evaluation.tasks}
    return {
        "results": results,
        "groups": groups,
        "group_subtasks": subtasks,
        "configs": {name: dataclasses.asdict(task) for name, task in tasks.items()},
        "versions": {name: task.version for name, task in tasks.items()},
        "n-shot": dict.fromkeys(tasks, 0),
        "n-samples": counts,
        "config": {
            "model": evaluation.model,
            "limit": evaluation.limit or None,
            "boxed": evaluation.boxed,
            "bootstrap_iters": scores.DRAWS,
        },
        "date": datetime.datetime.now(datetime.UTC).timestamp(),
        "qoq": own,
    }


def meta_of(
    question: Question,
    task: str,
    frame_sizes: tuple[tuple[int, int], ...] = (),
    box_coordinates: str = PIXELS,
) -> SampleMeta:
    """What a response to the question is scored by.

    Args:
      frame_sizes: (w, h) of each picture as the model saw it; () = as it is stored.
      box_coordinates: how the response writes boxes.

    Raises:
      DataError: see row_sets.meta_of.
    """
    if question.kind in ("labels", "region"):
        return row_sets.meta_of(question, task, frame_sizes, box_coordinates)
    return SampleMeta(
        id=question.id,
        dataset=task,
        domain="ecg" if question.ecgs else "multimodal",
        labels=question.answers,
        vocabulary=question.options,
        boxes=(),
        box_labels=(),
        box_images=(),
        mask=None,
        frame_sizes=frame_sizes,
        source=task,
        row=None,
        box_coordinates=box_coordinates,
    )


def record(
    question: Question, text: str, meta: SampleMeta, chances: dict[str, float] | None = None
) -> dict:
    """The record of a response; meta: of `meta_of`, chances: {label: probability}."""
    if question.kind in ("labels", "region"):
        made = metrics.record(text, meta, rewards.score(text, meta), chances)
        if BOXED not in text:
            # A model that was not trained to box its answer may still give labels and nothing else.
            named = split_labels(answers.said(text), question.options)
            made["predicted"] = list(named) if set(named) <= set(question.options) else []
        return made | {"kind": question.kind}
    found, near = answers.predicted(question, text), None
    made = {
        "id": question.id,
        "dataset": meta.dataset,
        "domain": meta.domain,
        "source": meta.source,
        "patient": question.group,
        "kind": question.kind,
        "labels": list(question.answers),
        "vocabulary": list(question.options),
        "predicted": list(found),
        "text": text,
        "exact": answers.is_exact(question, found),
    }
    if question.kind == "choice":
        near = answers.nearest(question, text)
        made["exact_nearest"] = answers.is_exact(question, near)
    if question.kind == "open":
        made["f1"], made["recall"] = answers.token_f1(question.answers[0], " ".join(found))
    if question.kind == "set":
        made["f1"] = rewards.set_f1(found, question.answers)
    return made


def _line(name: str, numbers: dict, counts: dict) -> str:
    shown = []
    for key, value in numbers.items():
        metric, _, how = key.partition(",")
        if not how or metric.endswith("_stderr"):
            continue
        error = numbers.get(f"{metric}_stderr,{how}")
        more = f" ± {error:.3f}" if isinstance(error, float) else ""
        shown.append(f"{metric}{'' if how == 'none' else f' ({how})'} {value:.3f}{more}")
    count = f" ({counts[name]['original']} questions)" if name in counts else ""
    return f"{name}{count}: {', '.join(shown)}"
