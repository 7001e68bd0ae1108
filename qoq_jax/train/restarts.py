"""A run that dies at one place again and again stops; a scheduler would start it for ever.

WORKDIR/restarts.json counts the starts since the run was last seen further than before: a new
checkpoint of a stage, or a finished evaluation. An end that nobody needs to look into (done, a
mistake in the config, Ctrl-C, preemption) counts as none.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from qoq_jax.base import exit_codes, files, interrupt, storage
from qoq_jax.base.errors import QoqError
from qoq_jax.parallel import hosts, messages

FILE = "restarts.json"
_FORGIVEN = (exit_codes.DONE, exit_codes.MISTAKE, exit_codes.INTERRUPTED, exit_codes.PREEMPTED)


@contextlib.contextmanager
def counted(workdir: str, limit: int) -> Iterator[None]:
    """Inside is one start of the run.

    Args:
      limit: starts in a row without progress; 0 = no limit.

    Raises:
      QoqError: there have been so many.
    """
    path = os.path.join(workdir, FILE)

    def count() -> tuple[int, str]:
        here = _position(workdir)
        found = files.read_json(path, {}, finite=False)
        starts = 1 + (int(found["starts"]) if found.get("position") == here else 0)
        if not limit or starts <= limit:
            files.write_json(path, {"position": here, "starts": starts})
        return starts, here

    starts, here = messages.from_main("restarts", count)
    if limit and starts > limit:
        raise QoqError(
            f"started {limit} times without progress after {here or 'the start'}",
            where=workdir,
            hint=f"find out why from the log; then delete {path}, and the same command goes on",
        )

    def forgive(code: int) -> None:
        if code in _FORGIVEN and hosts.is_main():
            with contextlib.suppress(FileNotFoundError):
                storage.remove(path)

    with interrupt.last_words(forgive):
        try:
            yield
        except KeyboardInterrupt:
            forgive(exit_codes.INTERRUPTED)
            raise
        except QoqError as error:
            forgive(error.exit_code)
            raise
        forgive(exit_codes.DONE)


def _position(workdir: str) -> str:
    """How far the run has come: the last checkpoint of each stage, and the evaluations."""
    checkpoints, evaluations = (os.path.join(workdir, name) for name in ("checkpoints", "eval"))
    found = []
    for stage in sorted(storage.names(checkpoints)):
        names = storage.names(os.path.join(checkpoints, stage))
        steps = [int(name) for name in names if name.isdigit()]
        if steps:
            found.append(f"{stage} step {max(steps)}")
    found += [f"evaluation {name}" for name in sorted(storage.names(evaluations)) if name[0] != "."]
    return ", ".join(found)
