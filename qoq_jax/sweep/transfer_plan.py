"""What a sweep of encoders trains, as a config file says it (docs/experiments.md)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Literal

from qoq_jax.base.errors import ConfigError
from qoq_jax.transfer import batches
from qoq_jax.transfer.config import TransferConfig
from qoq_jax.transfer.run import replaced
from qoq_jax.transfer.sets import LabelledSet, chosen, train_counts

MULTITASK, FEW_SHOT = "multitask", "few_shot"


@dataclasses.dataclass(frozen=True)
class TransferSweep:
    """Runs that are made of one config.

    Attributes:
      experiment: "multitask" (RQ1 of CLIMB): all sets together, and each by itself. "few_shot"
        (RQ2): pretraining without the target of the config and transfer to it; without one in the
        config, each set in its turn.
      seeds: runs of each kind; of "few_shot" the draws give the spread, and one is usual.
      budgets: of a set by itself, beside the run on all: "samples", as many steps as give it as
        many of its samples as it had there; "steps", as many steps.
    """

    experiment: Literal["multitask", "few_shot"]
    seeds: int = 3
    budgets: tuple[Literal["samples", "steps"], ...] = ("samples",)

    def check(self, where: str) -> None:
        """Raises ConfigError when it says nothing that can be done; where: the config file."""
        wrong = ""
        if self.experiment not in (MULTITASK, FEW_SHOT):
            wrong = f"the experiment {self.experiment!r}"
        elif self.seeds < 1:
            wrong = "seeds below 1"
        elif set(self.budgets) - {"samples", "steps"} or not self.budgets:
            wrong = f"budgets {self.budgets!r}"
        if wrong:
            raise ConfigError(f"SWEEP has {wrong}", where=where, hint="see docs/experiments.md")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a sweep, in OUT/cells/NAME.

    Attributes:
      kind: "multitask", or the budget of a set by itself ("samples", "steps"), or "few_shot".
      dataset: the one set, or the target; "" = all.
    """

    kind: str
    dataset: str
    seed: int
    config: TransferConfig

    @property
    def name(self) -> str:
        parts = (self.kind, self.dataset, f"seed{self.seed}")
        return "-".join(part for part in parts if part)


def cells(
    sweep: TransferSweep, base: TransferConfig, found: Mapping[str, LabelledSet], out: str
) -> list[Cell]:
    """The runs, seed by seed, so that an unfinished sweep has as many whole seeds as possible.

    Raises:
      ConfigError: there is no such target.
      DataError: a set has no training split.
    """
    made = []

    def add(kind: str, dataset: str, seed: int, **changes: object) -> None:
        cell = Cell(kind, dataset, seed, base)
        cfg = replaced(
            base,
            seed=seed,
            workdir=os.path.join(out, "cells", cell.name),
            compile_cache=os.path.join(out, "compile_cache"),
            **changes,
        )
        made.append(dataclasses.replace(cell, config=cfg))

    sets = [one for one in chosen(found, base.sets) if "test" in one.splits]
    counts = train_counts(chosen(found, base.sets))
    share = batches.shares(counts, base.training.temperature)
    for seed in range(base.seed, base.seed + sweep.seeds):
        if sweep.experiment == FEW_SHOT:
            for target in chosen(found, (base.target,)) if base.target else sets:
                add(FEW_SHOT, target.name, seed, target=target.name)
            continue
        add(MULTITASK, "", seed)
        for one in sets:
            for budget in sweep.budgets:
                part = share[one.name] if budget == "samples" else 1.0
                steps = max(1, round(part * base.training.steps))
                add(budget, one.name, seed, sets=(one.name,), steps=steps)
    return made
