"""The options by which a command's tasks are run by Apache Beam."""

from __future__ import annotations

import argparse
import shlex

from qoq_jax.base.errors import ConfigError


def add(parser: argparse.ArgumentParser, default: str, said: str) -> None:
    """Adds --runner and --runner-options.

    Args:
      default: of --runner; "" where the command needs no Beam.
      said: of the default, in the help.
    """
    parser.add_argument(
        "--runner",
        default=default,
        metavar="NAME",
        help=f"of Beam, as DirectRunner or FlinkRunner; default: {said}",
    )
    parser.add_argument(
        "--runner-options",
        default="",
        metavar="TEXT",
        help="for the runner, written with '=': "
        "--runner-options='--direct_num_workers=8 --direct_running_mode=multi_processing'",
    )


def options(arguments: argparse.Namespace) -> list[str]:
    """What --runner-options says, in words.

    Raises:
      ConfigError: a quotation mark is open, or there is no --runner that they are for.
    """
    text = arguments.runner_options
    if text and not arguments.runner:
        raise ConfigError(f"--runner-options {text}: no runner", hint="name one with --runner")
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(
            f"--runner-options {text}: {error}", hint="close each quotation mark"
        ) from None
