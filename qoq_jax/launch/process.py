"""What every process of a job runs: its command line, its environment, and its exit codes."""

from __future__ import annotations

import shlex

from qoq_jax.base import exit_codes
from qoq_jax.launch import flags, place
from qoq_jax.launch.spec import Job

PORT = 8476  # of the coordinator, where the engine names it
JAX_PORT = 8482  # the same on Cloud TPU, where JAX finds it (jax/_src/clusters/cloud_tpu_cluster)
# What a process is told of the others, as parallel/hosts.py reads it; that file imports JAX.
COORDINATOR, COUNT, INDEX = "QOQ_COORDINATOR", "QOQ_PROCESS_COUNT", "QOQ_PROCESS_INDEX"
# Stands for the rendered file in the commands of an engine.
FILE = "JOB_FILE"
ACTIONS = ("submit", "status", "logs", "delete")
# A job that ends so is started again: the machine's fault, or it was stopped from outside. 134
# is JAX's own end when a peer is gone (docs/pods.md), 137 SIGKILL.
RESTART = (exit_codes.RETRY, 134, 137, exit_codes.PREEMPTED)
# A job that ends so comes again with the same input, and is not started again.
FAIL = (exit_codes.FAILED, exit_codes.MISTAKE)
_DISTRIBUTED = (["qoq", "train"], ["qoq", "evaluate"])


def finds_the_others(command: str) -> bool:
    """Whether the command takes --distributed."""
    return command.split()[:2] in _DISTRIBUTED


def is_sweep(command: str) -> bool:
    """Whether the command is `qoq sweep`."""
    return command.split()[:2] == ["qoq", "sweep"]


def shares_out(command: str) -> bool:
    """Whether the command wants one process on each host, which share out its runs by files:
    `qoq sweep FILE --jobs N`.
    """
    return is_sweep(command) and _given(command.split(), "--jobs") is not None


def line(job: Job, distributed: bool = False) -> str:
    """The command as a line of a shell.

    `--config.workdir` is added where the command has a config and no workdir yet, `--out` to a
    sweep.

    Args:
      distributed: JAX finds the other processes by itself (`--distributed`).
    """
    words = shlex.split(job.command)
    added = ""
    if distributed and "--distributed" not in words and not shares_out(job.command):
        added += " --distributed"
    option = _folder(job.command)
    takes = is_sweep(job.command) or _given(words, "--config") is not None
    if job.workdir and takes and _given(words, option) is None:
        added += f" {option}={shlex.quote(job.workdir)}"
    return job.command + added


def workdir(job: Job) -> str:
    """The workdir of the run, or the folder of a sweep: of the command where it names one, else of
    the job; "" for none.
    """
    given = _given(shlex.split(job.command), _folder(job.command))
    return job.workdir if given is None else given


def _folder(command: str) -> str:
    return "--out" if is_sweep(command) else "--config.workdir"


def _given(words: list[str], option: str) -> str | None:
    """The value of an option in the words of a command; the last one counts."""
    found = None
    for word, after in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name == option:
            found = value if equals else after
    return found


def environment(job: Job) -> dict[str, str]:
    """Variables of every process, sorted: the compiler's flags and the job's own. No secrets."""
    return dict(sorted({**flags.flags_for(job), **job.env}.items()))


def exports(job: Job) -> str:
    """`environment` as lines of a shell."""
    return "".join(f"export {name}={shlex.quote(v)}\n" for name, v in environment(job).items())


def headline(job: Job, engine: str) -> str:
    """What the file is: the first line of every rendering."""
    return f"{job.name} on {place.of(job)}, engine {engine}; made by `qoq launch`"
