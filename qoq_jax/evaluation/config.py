"""Section eval of a config."""

from __future__ import annotations

import dataclasses
from typing import Literal

from qoq_jax.base.errors import ConfigError
from qoq_jax.base.fields import NotNegative, Positive


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Evaluation of a checkpoint by greedy decoding."""

    split: Literal["validation", "test"] = "test"
    rows: Positive[int] = 32  # rows per batch
    limit_per_domain: int = 0  # 0 = all
    scores: bool = False  # the likelihood of each allowed label too: AUROC and calibration
    gallery: int = 24  # cases shown in the report
    every: NotNegative[int] = 0  # steps between validations while training; 0 = none
    validation_rows: Positive[int] = 8  # validation rows per domain
    best: bool = False  # continue with the weights of the best validation, not with the last ones
    # stop a stage after so many validations without a new best; 0 = never
    patience: NotNegative[int] = 0

    def check(self) -> None:
        """Raises ConfigError when fields contradict each other."""
        if (self.best or self.patience) and not self.every:
            raise ConfigError("eval.best and eval.patience need validations", hint="set eval.every")
