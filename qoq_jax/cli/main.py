"""The `qoq` command: one file per command in this folder.

Heavy modules are imported where a command runs, so that `qoq --help` is fast.
"""

from __future__ import annotations

import argparse
import errno
import functools
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NoReturn

from qoq_jax.base import exit_codes, interrupt, terminal
from qoq_jax.base.errors import QoqError
from qoq_jax.cli import (
    compare,
    data,
    evaluate,
    generate,
    grade,
    launch,
    parser,
    plan,
    report,
    sweep,
    train,
)
from qoq_jax.cli.parser import Commands, command
from qoq_jax.parallel import compiler
from qoq_jax.train.stages import MODEL_STAGES

COMMANDS = (train, evaluate, compare, generate, data, report, grade, sweep, plan, launch)
_TAKE_OVERRIDES = ("train", "sweep", "plan")
_SEVERAL = ("train", "evaluate")  # may run as several processes (docs/pods.md)
_CONTINUES = {
    "train": "; the same command resumes from the last checkpoint",
    "data": "; the same command continues where it stopped",
    "sweep": "; the same command continues with what is not finished",
}
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    base/exit_codes.py lists them.
    """
    try:
        try:
            return _main(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not terminal.reader_is_gone():
            raise
        return exit_codes.READER_GONE


def entry() -> NoReturn:
    """The process `qoq`: `main`, and the end of the process with its exit code; after Ctrl-C at
    once.
    """
    code = main()
    if code == exit_codes.INTERRUPTED:
        interrupt.leave(code)
    interrupt.end(code)


def _main(argv: Sequence[str] | None) -> int:
    arguments = _parse(argv)
    compiler.prepare()
    if arguments.command not in _SEVERAL and not _sweep_joins(arguments):
        return _run(arguments)
    from qoq_jax.parallel import hosts  # imports JAX

    return hosts.leave(
        lambda: _run(arguments, functools.partial(hosts.join, arguments.distributed))
    )


def _sweep_joins(arguments: argparse.Namespace) -> bool:
    return arguments.command == "sweep" and sweep.joins(arguments)


def _run(arguments: argparse.Namespace, join: Callable[[], None] = lambda: None) -> int:
    try:
        with interrupt.quick(f"stopped{_CONTINUES.get(arguments.command, '')}"):
            join()
            return arguments.run(arguments) or exit_codes.DONE
    except QoqError as error:
        print(f"qoq: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        if not terminal.reader_is_gone():
            raise
        return exit_codes.READER_GONE
    except OSError as error:
        if exit_codes.is_transient(error):
            what = error.filename or "storage or network"
            print(f"qoq: {what}: {exit_codes.reason(error)} (hint: try again)", file=sys.stderr)
            return exit_codes.RETRY
        if error.errno in _DISK_FULL:
            hint = "free disk space, or choose another data.root or workdir"
            what = error.filename or "cannot write"
        elif error.filename is None:
            raise
        else:
            hint, what = "check the path and its rights", error.filename
        print(f"qoq: {what}: {exit_codes.reason(error)} (hint: {hint})", file=sys.stderr)
        return exit_codes.FAILED
    except KeyboardInterrupt:
        return interrupt.CODE


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; `overrides` holds the --config.section.field=value ones."""
    whole = parser.make()
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for one in COMMANDS:
        one.add(commands)
    _add_convert(commands)
    arguments, overrides = whole.parse_known_args(argv)
    for before, text in pairwise(["", *overrides]):
        # The value of an override that was written with a space: config.override says so.
        value = before.startswith("--config.") and "=" not in before
        known = text.startswith("--config.") or value
        if arguments.command not in _TAKE_OVERRIDES or not known:
            whole.error(f"unknown argument {text!r}")
    arguments.overrides = overrides
    return arguments


def _add_convert(commands: Commands) -> None:
    convert = command(
        commands, "convert", _convert, "Write a Hugging Face directory, as transformers loads it."
    )
    convert.add_argument(
        "source",
        help="a run's workdir, a Hugging Face directory or hub id, or an ECG-JEPA .pth file",
    )
    convert.add_argument("dest", help="a new directory; for a .pth file, a new safetensors file")
    convert.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="default: as in the source"
    )
    convert.add_argument("--shard-size", default="5GB", help="largest weight file; default: 5GB")
    convert.add_argument(
        "--stage",
        choices=MODEL_STAGES,
        help="of a run; default: the last one that was trained",
    )
    convert.add_argument(
        "--ecg", help="ECG-JEPA weights (.pth or safetensors) to put into the model"
    )
    convert.add_argument(
        "--ecg-heads",
        type=int,
        help="heads of that encoder; default: 16 at the published width of 768",
    )


def _convert(arguments: argparse.Namespace) -> int:
    from qoq_jax.cli import convert

    return convert.run(arguments)


if __name__ == "__main__":
    entry()
