"""The questions of a task, from the files in its folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence

from qoq_jax.base.errors import DataError
from qoq_jax.evaluation.tasks import ecg_qa, layouts, row_sets
from qoq_jax.evaluation.tasks.question import Question
from qoq_jax.evaluation.tasks.table import Task

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


def questions(task: Task, root: str) -> Iterator[Question]:
    """The questions of a task in the order of its files; media can be read until it is closed.

    Args:
      root: the folder in which each task has its own.

    Raises:
      DataError: a file is not there or not in the published layout.
    """
    for question in READERS[task.layout](os.path.join(root, task.folder)):
        if not task.dataset or question.row.dataset == task.dataset:
            yield question


def check(tasks: Sequence[Task], root: str) -> None:
    """Reads the first question of each task, so that a missing folder is said before any work.

    Raises:
      DataError: a task has none.
    """
    for task in tasks:
        folder = os.path.join(root, task.folder)
        with contextlib.closing(questions(task, root)) as found:
            try:
                first = next(found, None)
            except DataError as error:
                hint = f"task {task.name} needs {task.files}"
                raise DataError(error.what, where=error.where or folder, hint=hint) from error
        if first is None:
            raise no_questions(task)


def no_questions(task: Task) -> DataError:
    """Nothing to ask."""
    return DataError("has no questions", where=task.name, hint=f"it asks {task.files}")
