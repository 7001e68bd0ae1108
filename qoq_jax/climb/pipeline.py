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

from collections.abc import Callable, Sequence
from typing import Any

from qoq_jax.base.errors import ConfigError, QoqError

DIRECT = "DirectRunner"
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
    """
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise ConfigError(
            f"{runner} is a runner of Apache Beam, which is not installed",
            hint='pip install "qoq_jax[beam]"',
        ) from None
    try:
        pipeline = apache_beam.Pipeline(options=PipelineOptions([f"--runner={runner}", *options]))
    except QoqError:
        raise
    except Exception as error:  # each runner checks its options in its own way
        raise ConfigError(
            f"Beam refuses the runner {runner!r} or its options ({str(error)[:120]})",
            hint="see the page of the runner in Beam's documentation",
        ) from None

    def run(function: Callable[..., Any], elements: Sequence[Any], *arguments: Any) -> None:
        if elements:
            made = pipeline | apache_beam.Create(elements) | apache_beam.Reshuffle()
            _ = made | apache_beam.Map(function, *arguments)
            pipeline.run().wait_until_finish()

    return run
