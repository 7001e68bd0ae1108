"""`qoq evaluate`: a checkpoint of a run on a split, or any model on published tasks."""

from __future__ import annotations

import argparse
import os

from qoq_jax.base.errors import ConfigError
from qoq_jax.cli.parser import Commands, command, may_be_distributed
from qoq_jax.train.stages import MODEL_STAGES


def add(commands: Commands) -> None:
    """Adds the command to the parser of `qoq`."""
    evaluate = command(
        commands,
        "evaluate",
        run,
        "Evaluate the checkpoints of a run by greedy decoding, or any model on published tasks.",
    )
    evaluate.add_argument(
        "model",
        nargs="?",
        help="the workdir of a run; with --tasks also a Hugging Face directory or hub id, or a "
        "file of predictions (*.jsonl, *.jsonl.gz), which is scored without a model",
    )
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
    evaluate.add_argument(
        "--temperature",
        action="store_true",
        help="--scores of both splits, and a temperature fitted on validation and judged on test",
    )
    evaluate.add_argument(
        "--tasks", help="names or groups joined by commas, as climb,vqa-rad: see --list-tasks"
    )
    evaluate.add_argument(
        "--data-root", default=".", help="the folder in which each task has its own; default: ."
    )
    evaluate.add_argument(
        "--limit", type=int, default=0, help="first questions of each task; default: all"
    )
    evaluate.add_argument(
        "--boxed",
        action="store_true",
        help="ask for the answer in \\boxed{}, as models that reason",
    )
    for axis in ("fsdp", "tensor"):
        evaluate.add_argument(
            f"--{axis}",
            type=int,
            default=1,
            help=f"--tasks: ways that {axis} cuts the weights (docs/pods.md); default: 1, whole "
            "weights on each device",
        )
    evaluate.add_argument(
        "--output", help="folder of the results; default: MODEL/eval/tasks, or evaluation/NAME"
    )
    evaluate.add_argument("--list-tasks", action="store_true", help="the tasks, and no more")
    may_be_distributed(evaluate)


def run(arguments: argparse.Namespace) -> int:
    """Evaluates; see train/run.py, and evaluation/tasks/ for --tasks."""
    if arguments.list_tasks:
        return _list_tasks()
    if not arguments.model:
        raise ConfigError("no model is named", hint="qoq evaluate WORKDIR, or --list-tasks")
    if arguments.tasks is not None:
        return _on_tasks(arguments)
    from qoq_jax.base import storage
    from qoq_jax.train import run as training

    if not storage.is_dir(arguments.model):
        hint = "qoq evaluate WORKDIR; other models and files of predictions need --tasks"
        raise ConfigError("is no workdir of a run", where=arguments.model, hint=hint)
    scores, fit = arguments.scores or arguments.temperature, arguments.temperature
    if fit and arguments.split != "test":
        raise ConfigError("--temperature is judged on test", hint="leave out --split")
    return training.evaluate_run(arguments.model, arguments.stage, arguments.split, scores, fit)


def _list_tasks() -> int:
    from qoq_jax.base import terminal
    from qoq_jax.evaluation.tasks import table

    rows = [
        [task.name, task.group, task.split, task.metric, task.folder + "/", task.files]
        for task in table.load().values()
    ]
    columns = ("task", "group", "split", "metric", "folder", "which holds")
    terminal.table("tasks", columns, rows, plain=map("  ".join, (columns, *rows)))
    return 0


def _on_tasks(arguments: argparse.Namespace) -> int:
    from qoq_jax.evaluation.tasks import evaluate, read, table
    from qoq_jax.parallel import mesh as mesh_lib

    tasks = table.find([word.strip() for word in arguments.tasks.split(",") if word.strip()])
    if arguments.limit < 0:
        raise ConfigError(f"--limit {arguments.limit}", hint="name 0 (all) or more questions")
    for option in ("stage", "temperature"):
        if getattr(arguments, option):
            raise ConfigError(f"--{option} does not go with --tasks", hint="leave it out")
    name, root = arguments.model.rstrip("/"), arguments.data_root
    read.check(tasks, root)
    asked = evaluate.Evaluation(name, tasks, root, arguments.limit, arguments.boxed)
    if name.endswith((".jsonl", ".jsonl.gz")):
        if arguments.scores or arguments.distributed:
            raise ConfigError(
                "--scores or --distributed with a file of predictions",
                hint="leave them out; its lines may have scores",
            )
        output = os.path.join("evaluation", os.path.basename(name).partition(".jsonl")[0])
        evaluate.of_predictions(asked, name, arguments.output or output)
        return 0
    from qoq_jax.evaluation.tasks import of_model
    from qoq_jax.train.load import load

    is_run = os.path.isdir(os.path.join(name, "checkpoints"))
    output = (
        os.path.join(name, "eval", "tasks")
        if is_run
        else os.path.join("evaluation", os.path.basename(name))
    )
    mesh = mesh_lib.make_mesh(-1, arguments.fsdp, arguments.tensor)
    of_model.run(asked, load(name, mesh), mesh, arguments.output or output, arguments.scores)
    return 0
