"""Work that is cut into tasks: one after the other in this process, or by Apache Beam.

Beam's runner decides where the work is done: DirectRunner in this process or several of this
machine, or Flink, Spark or Dataflow on many machines, which all see the folders (a shared file
system, or URLs where a task takes them). There is one element per task and what a task makes is a
file, so nothing is shuffled.

As in tensorflow-datasets (core/split_builder.py, core/writer.py), Beam is imported when a runner is
named and not before, runner and options are Beam's own, workers write files that appear whole, and
what needs all of them (keys that are there twice, the order of the rows) is done once, in this
process, after the pipeline. Unlike there, what an ended run has made is kept.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from qoq_jax.base import exit_codes
from qoq_jax.base.errors import ConfigError, QoqError, RetryError, did_you_mean

DIRECT = "DirectRunner"
_HINT = "see the page of the runner in Beam's documentation"
_IN_TASK = " [while running "  # in what Beam raises of a task
_NO_BUG = re.compile(r"(KeyboardInterrupt|\w+: \[Errno )")
#: (function, elements, *arguments): calls function(element, *arguments) for every element, in any
#: order. All of it must be picklable, and a call may be made twice.
Run = Callable[..., None]


def here(function: Callable[..., Any], elements: Sequence[Any], *arguments: Any) -> None:
    """A `Run` in this process, without Beam."""
    for element in elements:
        function(element, *arguments)


def beam(runner: str, options: Sequence[str] = ()) -> Run:
    """A `Run` by Beam.

    Args:
      runner, options: of Beam, as ("--direct_num_workers=8",).

    Raises:
      ConfigError: Beam is not installed or does not know the runner or an option.
      QoqError: when it is run: the runner cannot work, or the system refused a task something.
    """
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise ConfigError(
            f"{runner} is a runner of Apache Beam, which is not installed",
            hint='pip install "qoq_jax[beam]"',
        ) from None
    # What it logs of a task that fails is raised as well.
    logging.getLogger("apache_beam.runners.common").disabled = True
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):  # argparse's usage, a page of it
            chosen = PipelineOptions([f"--runner={runner}", *options])
            pipeline = apache_beam.Pipeline(options=chosen)
            if runner.lower() in ("direct", DIRECT.lower()):
                given = chosen.get_all_options(retain_unknown_options=True)
                _check_names(given, chosen.get_all_options())
    except QoqError:
        raise
    except (Exception, SystemExit) as error:  # each runner checks its options in its own way
        why = error if isinstance(error, Exception) else said.getvalue().rstrip().split("\n")[-1]
        raise ConfigError(
            f"Beam refuses the runner {runner!r} or its options ({_line(why)})", hint=_HINT
        ) from None

    def run(function: Callable[..., Any], elements: Sequence[Any], *arguments: Any) -> None:
        if elements:
            made = pipeline | apache_beam.Create(elements) | apache_beam.Reshuffle()
            _ = made | apache_beam.Map(function, *arguments)
            try:
                pipeline.run().wait_until_finish()
            except Exception as error:  # each runner has its own
                _raise_known(error, runner)
                raise

    return run


def _check_names(given: Iterable[str], known: Iterable[str]) -> None:
    """Refuses options that the DirectRunner does not have, which Beam leaves out with a warning;
    other runners may have some that Beam's Python code does not know.
    """
    names = {f"--{name}" for name in known}
    for option in (f"--{name.partition('=')[0]}" for name in given):
        if option not in names:
            hint = did_you_mean(option, names, _HINT)
            raise ConfigError(f"{DIRECT} has no option {option}", hint=hint)


def _raise_known(error: Exception, runner: str) -> None:
    """Raises in one line what is no bug of a task: Ctrl-C, what the system refused a task, and a
    runner that failed outside of tasks. Beam gives the exceptions of tasks as text.
    """
    in_task = [line for line in str(error).splitlines() if _IN_TASK in line]
    if isinstance(error, QoqError) or (in_task and not _NO_BUG.match(in_task[-1])):
        return
    if in_task and in_task[-1].startswith(KeyboardInterrupt.__name__):
        raise KeyboardInterrupt from None
    said = in_task[-1].partition(_IN_TASK)[0] if in_task else error
    kind = RetryError if exit_codes.is_transient(error) else QoqError
    hint = "start the command again: what is finished is kept" if in_task else _HINT
    raise kind(f"{runner} has failed ({_line(said)})", hint=hint) from None


def _line(said: Exception | str) -> str:
    return " ".join(str(said).split())[:200]
