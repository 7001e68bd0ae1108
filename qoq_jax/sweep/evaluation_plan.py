"""What a sweep of evaluations does, as a config file says it."""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Literal

from qoq_jax.base.errors import ConfigError
from qoq_jax.evaluation.tasks import read, table
from qoq_jax.evaluation.tasks.table import Task
from qoq_jax.parallel.mesh import MeshConfig

LAST, ALL = "last", "all"
SPLITS = ("validation", "test")
_NAME = re.compile(r"[\w.+-]+")


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How responses are decoded.

    Attributes:
      temperature: 0 = greedy, the same for every seed and so done for one.
      samples: responses to each row.
      top_p: 1 = off. top_k: 0 = off.
    """

    temperature: float = 0.0
    samples: int = 1
    top_p: float = 1.0
    top_k: int = 0


@dataclasses.dataclass(frozen=True)
class EvaluationSweep:
    """What to evaluate: every checkpoint on every task, with every way of decoding and every seed.

    Attributes:
      runs: name in the tables -> workdir of a `qoq train` run.
      tasks: splits of each run's own data, "validation" or "test", and names or groups of published
        tasks (`qoq evaluate --list-tasks`).
      data_root: the folder in which each published task has its own.
      boxed: published questions of visual question answering ask for \\boxed{}.
      checkpoints: "last", "all" that a stage has kept, or steps.
      stage: of the runs; "" = the last one that was trained.
      decoding: name in the tables -> Decoding.
      seeds: of each way of decoding that draws.
      limit: rows per domain of each source, and first questions of a published task; 0 = all.
      rows: responses that a device works at; 0 = the run's eval.rows.
      scores: the likelihood of each allowed label too.
      mesh: data * fsdp * tensor is the number of devices; as it is, each has whole weights.
    """

    runs: dict[str, str]
    tasks: tuple[str, ...] = ("test",)
    data_root: str = "."
    boxed: bool = False
    checkpoints: Literal["last", "all"] | tuple[int, ...] = LAST
    stage: str = ""
    decoding: dict[str, Decoding] = dataclasses.field(
        default_factory=lambda: {"greedy": Decoding()}
    )
    seeds: int = 1
    limit: int = 0
    rows: int = 0
    scores: bool = False
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)

    def check(self, where: str) -> None:
        """Checks that it can be done; where: the config file.

        Raises:
          ConfigError: it says nothing that can be done. DataError: a published task has no files.
        """
        wrong = ""
        names = [*self.runs, *self.decoding]
        if not (self.runs and self.tasks and self.decoding):
            wrong = "no runs, no tasks or no decoding"
        elif bad := [name for name in names if not _NAME.fullmatch(name)]:
            wrong = f"the name {bad[0]!r}, which is to be part of a folder's name"
        elif isinstance(self.checkpoints, str) and self.checkpoints not in (LAST, ALL):
            wrong = f"checkpoints={self.checkpoints!r}"
        elif self.seeds < 1 or min(self.limit, self.rows) < 0:
            wrong = "seeds below 1, or limit or rows below 0"
        for name, one in self.decoding.items():
            if one.samples < 1 or one.temperature < 0 or one.top_k < 0 or not 0 < one.top_p <= 1:
                wrong = f"decoding {name!r}: {one}"
            elif one.samples > 1 and not one.temperature:
                wrong = f"decoding {name!r}: {one.samples} greedy samples, which are all alike"
        if wrong:
            raise ConfigError(f"SWEEP has {wrong}", where=where, hint="see docs/evaluation.md")
        read.check(self.published(), self.data_root)

    def splits(self) -> list[str]:
        """The tasks that are splits of each run's own data."""
        return [name for name in dict.fromkeys(self.tasks) if name in SPLITS]

    def published(self) -> list[Task]:
        """The other ones.

        Raises:
          ConfigError: there is no such task.
        """
        names = [name for name in self.tasks if name not in SPLITS]
        return table.find(names) if names else []


@dataclasses.dataclass(frozen=True)
class Cell:
    """One evaluation of a sweep: a row of its table, and a folder in OUT/cells."""

    run: str
    workdir: str
    stage: str
    step: int
    task: str
    decoding: str
    how: Decoding
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.run}-{self.stage}-{self.step}-{self.task}-{self.decoding}-seed{self.seed}"

    def folder(self, out: str) -> str:
        return os.path.join(out, "cells", self.name)


def cells_of(sweep: EvaluationSweep, run: str, stage: str, steps: list[int]) -> list[Cell]:
    """The evaluations of the checkpoints of one run, in the order in which they are done:
    checkpoint by checkpoint, since each is read once.
    """
    return [
        Cell(run, sweep.runs[run], stage, step, task, decoding, how, seed)
        for step in steps
        for task in [*sweep.splits(), *(task.name for task in sweep.published())]
        for decoding, how in sweep.decoding.items()
        for seed in range(sweep.seeds if how.temperature else 1)
    ]
