"""The stages that a run can be made of: one row each, and one file of this folder that runs it.

To add a stage: a row here, its section in train/config.py, and, where none of the programs does
what it needs, a file with `run(setup, plan, weights)` that train/run.py names. Streams and seeds of
existing rows must not change: old runs resume with them.

Nothing heavy is imported here, since the command line offers these names.
"""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Stage:
    """One row.

    Attributes:
      name: as in `stages` of a config, in metrics.jsonl and in the names of files.
      program: the file of train/ that runs it. A stage of program rl is run by sft when
        `rl.algorithm` is the baseline without RL.
      section: of the config, with its steps, learning rate, ...
      random_stream: folded into the run's key; all random numbers of the stage derive from it.
      data_seed: added to the run's seed for the order of the training rows.
      packed: several samples share a text row, and the changes of rows that section sft asks for
        (`limit`, `diagnoses`, `box_shrink`) are made; else one prompt a text row.
      alone: a run of its own, which trains no multimodal model and answers nothing.
    """

    name: str
    program: Literal["sft", "rl", "jepa"]
    section: Literal["sft", "rl", "align", "ecg"]
    random_stream: int
    data_seed: int
    packed: bool = False
    alone: bool = False


# In the order in which a run goes through them.
STAGES = {
    row.name: row
    for row in (
        Stage("sft", "sft", "sft", random_stream=1, data_seed=0, packed=True),
        # stage 1 of QoQ-Med: section rl with the fields of section align
        Stage("align", "rl", "align", random_stream=3, data_seed=2),
        Stage("rl", "rl", "rl", random_stream=2, data_seed=1),
        Stage("ecg", "jepa", "ecg", random_stream=4, data_seed=0, alone=True),
    )
}
# Stages of the multimodal model, which follow one another in a run.
MODEL_STAGES = tuple(name for name, row in STAGES.items() if not row.alone)


def get(name: str) -> Stage:
    """The row of a stage; a KeyError is a mistake of the caller, since configs are checked."""
    return STAGES[name]


def is_alone(names: tuple[str, ...]) -> bool:
    """Whether the stages of a run are one that is a run of its own."""
    return len(names) == 1 and get(names[0]).alone
