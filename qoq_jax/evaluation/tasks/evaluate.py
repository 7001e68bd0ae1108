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
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from qoq_jax.base import files, terminal
from qoq_jax.base.errors import DataError
from qoq_jax.data.answer_format import BOXED
from qoq_jax.data.labels import split_labels
from qoq_jax.evaluation import calibration, fairness, metrics, paper_table
from qoq_jax.evaluation.tasks import answers, ecg_qa, layouts, predictions, row_sets, scores
from qoq_jax.evaluation.tasks.predictions import Response
from qoq_jax.evaluation.tasks.question import Question, prompt
from qoq_jax.evaluation.tasks.table import Task
from qoq_jax.rewards import score as rewards

READERS: dict[str, Callable[[str], Iterator[Question]]] = {
    "rows": row_sets.rows,
    "regions": row_sets.regions,
    "vqa_rad": layouts.vqa_rad,
    "slake": layouts.slake,
    "path_vqa": layouts.path_vqa,
    "pmc_vqa": layouts.pmc_vqa,
    "omnimedvqa": layouts.omnimedvqa,
    "medxpertqa": layouts.medxpertqa,
    "mmmu": layouts.mmmu,
    "ecg_qa": ecg_qa.ecg_qa,
}
RESULTS, RECORDS, TABLE = "results.json", "records.json", "table.md"
# Questions of a task -> a response to each, in order.
Ask: TypeAlias = Callable[[str, Sequence[Question]], list[Response]]
_BATCH = 32


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


def asking_model(model: Any, boxed: bool) -> Ask:
    """Greedy responses of a sampling.model.Model."""

    def ask(task: str, questions: Sequence[Question]) -> list[Response]:
        samples = [
            {
                "prompt": prompt(question, boxed),
                "images": [_picture(one) for one in question.images],
                "videos": list(question.videos),
                "ecg": list(question.ecgs),
            }
            for question in questions
        ]
        try:
            sizes = [sample["meta"].frame_sizes for sample in model.prepare(samples)]
            found = model.generate(samples)
        except DataError as error:
            where = f"{task}, questions from {questions[0].id!r} on: {error.where}"
            raise DataError(error.what, where=where, hint=error.hint) from error
        coordinates = model.process.box_coordinates
        return [
            Response(one[0].text, {}, size, coordinates)
            for one, size in zip(found, sizes, strict=True)
        ]

    return ask


def of_predictions(path: str, tasks: Sequence[Task]) -> Ask:
    """Responses of a file; each question needs one."""
    given = predictions.read(path, [task.name for task in tasks])

    def ask(task: str, questions: Sequence[Question]) -> list[Response]:
        for question in questions:
            if (task, question.id) not in given:
                raise DataError(
                    f"no response to {question.id!r} of {task}",
                    where=path,
                    hint="give each question a response, an empty one too",
                )
        return [given[task, question.id] for question in questions]

    return ask


def run(evaluation: Evaluation, ask: Ask, output: str) -> dict:
    """Evaluates, prints a line per task, and writes results.json, records.json and, of tasks of
    classification, table.md into the folder `output`. Returns the results.
    """
    records: dict[str, list[dict]] = {}
    for task in evaluation.tasks:
        questions = READERS[task.layout](os.path.join(evaluation.root, task.folder))
        if task.dataset:
            questions = (one for one in questions if one.row.dataset == task.dataset)
        asked = itertools.islice(questions, evaluation.limit or None)
        found = records.setdefault(task.name, [])
        with terminal.Bar(task.name) as bar:
            while batch := list(itertools.islice(asked, _BATCH)):
                given = ask(task.name, batch)
                found += [_record(task.name, *pair) for pair in zip(batch, given, strict=True)]
                bar.update(len(found))
        if not found:
            raise DataError("has no questions", where=task.name, hint=f"it asks {task.files}")
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


def _record(task: str, question: Question, response: Response) -> dict:
    if question.kind in ("labels", "region"):
        sizes, coordinates = response.frame_sizes, response.box_coordinates
        meta = row_sets.meta_of(question, task, sizes, coordinates)
        made = metrics.record(
            response.text, meta, rewards.score(response.text, meta), response.scores
        )
        if BOXED not in response.text:
            # A model that was not trained to box its answer may still give labels and nothing else.
            named = split_labels(answers.said(response.text), question.options)
            made["predicted"] = list(named) if set(named) <= set(question.options) else []
        return made | {"kind": question.kind}
    found, near = answers.predicted(question, response.text), None
    made = {
        "id": question.id,
        "dataset": task,
        "domain": "ecg" if question.ecgs else "multimodal",
        "source": task,
        "patient": question.group,
        "kind": question.kind,
        "labels": list(question.answers),
        "vocabulary": list(question.options),
        "predicted": list(found),
        "text": response.text,
        "exact": answers.is_exact(question, found),
    }
    if question.kind == "choice":
        near = answers.nearest(question, response.text)
        made["exact_nearest"] = answers.is_exact(question, near)
    if question.kind == "open":
        made["f1"], made["recall"] = answers.token_f1(question.answers[0], " ".join(found))
    if question.kind == "set":
        made["f1"] = rewards.set_f1(found, question.answers)
    return made


def _picture(one: str | bytes) -> Any:
    if isinstance(one, str):
        return one
    import io

    from PIL import Image

    return Image.open(io.BytesIO(one))


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
