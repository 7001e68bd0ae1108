"""`qoq evaluate`: a checkpoint of a run on a split."""

from __future__ import annotations

import argparse

from qoq_jax.cli.parser import Commands, command, may_be_distributed
from qoq_jax.train.stages import MODEL_STAGES


def add(commands: Commands) -> None:
    """Adds the command to the parser of `qoq`."""
    evaluate = command(
        commands, "evaluate", run, "Evaluate the checkpoints of a run by greedy decoding."
    )
    evaluate.add_argument("workdir", help="the workdir of a run")
    evaluate.add_argument(
        "--stage", choices=MODEL_STAGES, help="default: the last one that was trained"
    )
    evaluate.add_argument(
        "--split", choices=("validation", "test"), default="test", help="default: test"
    )
    evaluate.add_argument(
        "--scores",
        action="store_true",
        help="also the likelihood of each allowed label, for AUROC and calibration",
    )
    may_be_distributed(evaluate)


def run(arguments: argparse.Namespace) -> int:
    """Evaluates; see train/run.py."""
    from qoq_jax.train import run as training

    return training.evaluate_run(
        arguments.workdir, arguments.stage, arguments.split, arguments.scores
    )
