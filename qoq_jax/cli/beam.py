"""The options by which a command's tasks are run by Apache Beam."""

from __future__ import annotations

import argparse
import itertools
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
      ConfigError: a quotation mark is open, a word belongs to no option (Beam would leave it out),
        or there is no --runner that they are for.
    """
    text = arguments.runner_options
    if text and not arguments.runner:
        raise ConfigError(f"--runner-options {text}: no runner", hint="name one with --runner")
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(
            f"--runner-options {text}: {error}", hint="close each quotation mark"
        ) from None
    for before, word in itertools.pairwise(["", *words]):
        is_value = before.startswith("--") and "=" not in before
        if not word.startswith("-") and not is_value:
            raise ConfigError(
                f"--runner-options: {word!r} belongs to no option", hint="write --NAME=VALUE"
            )
    return words
