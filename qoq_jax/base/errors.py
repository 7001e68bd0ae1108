"""Errors a user can act on: one line that names the thing, where it is, and a hint.

The command line prints such an error without a traceback; anything else is a bug and keeps its
traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from qoq_jax.base import exit_codes


class QoqError(Exception):
    """Base of all errors that are the input's fault, not the program's.

    Args:
      what: what is wrong, with the offending value.
      where: file, row or field, when there is one.
      hint: what the user can do about it.
    """

    exit_code = exit_codes.FAILED

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None):
        what, where, hint = (text and _with_urls(text) for text in (what, where, hint))
        self.what, self.where, self.hint = what, where, hint
        super().__init__(f"{where}: {what}" if where else what)

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head} (hint: {self.hint})" if self.hint else head

    def __reduce__(self) -> tuple:
        # Errors cross process borders (Grain workers); keyword-only arguments need help to be
        # rebuilt there.
        return _rebuild, (type(self), self.what, self.where, self.hint)


def _rebuild(cls: type[QoqError], what: str, where: str | None, hint: str | None) -> QoqError:
    return cls(what, where=where, hint=hint)


class ConfigError(QoqError):
    """A mistake in a config, an override or the command line (exit code 2)."""

    exit_code = exit_codes.MISTAKE


class RetryError(QoqError):
    """The machine failed, not the run: the same command may succeed (exit code 42)."""

    exit_code = exit_codes.RETRY


class Preempted(QoqError):
    """The run was asked to leave, and what could be saved is saved (exit code 143)."""

    exit_code = exit_codes.PREEMPTED


class DataError(QoqError):
    """An unreadable or inconsistent sample, file or data set."""


class CheckpointError(QoqError):
    """A checkpoint that is damaged, of another model, or cannot be written."""


_copies: dict[str, str] = {}  # folder of this machine -> URL that it holds copies of


def is_copy(folder: str, url: str) -> None:
    """From now on, errors name the URL, which the user gave, in the place of the folder of this
    machine that holds copies of it.
    """
    _copies[folder] = url


def _with_urls(text: str) -> str:
    for folder, url in list(_copies.items()):
        text = text.replace(folder, url) if folder in text else text
    return text


def did_you_mean(
    name: object, known: Iterable[object], otherwise: str | None = None, *, cutoff: float = 0.6
) -> str:
    """A hint for a name that is not among the known ones: the nearest of them.

    Args:
      otherwise: the hint where none is near; None lists all that are known.
      cutoff: how near, 0 to 1 (difflib's ratio).
    """
    names = [str(one) for one in known]
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=cutoff)
    if near:
        return f"did you mean {near[0]!r}?"
    return "known: " + ", ".join(sorted(names)) if otherwise is None else otherwise
