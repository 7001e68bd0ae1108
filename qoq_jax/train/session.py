"""What surrounds a training run: SIGTERM, the watchdog, the count of restarts, the account of its
seconds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from qoq_jax.base import append, interrupt, progress
from qoq_jax.parallel import hosts, preemption, watchdog
from qoq_jax.train import restarts
from qoq_jax.train.config import Config
from qoq_jax.train.goodput import Goodput
from qoq_jax.train.profiling import CompileLog

_accounts: dict[str, Goodput] = {}


@contextlib.contextmanager
def running(cfg: Config) -> Iterator[None]:
    """Inside is one start of the run of a config; see docs/reliability.md.

    Raises:
      QoqError: the run has died here too often.
    """
    account = Goodput(cfg.workdir, progress.seconds() if _accounts else None)
    _accounts[cfg.workdir] = account
    with contextlib.ExitStack() as around:
        around.enter_context(restarts.counted(cfg.workdir, cfg.faults.max_restarts))
        around.enter_context(interrupt.last_words(lambda code: account.write(wait=True)))
        # Rows after the last checkpoint, where the workdir is a URL.
        around.enter_context(interrupt.last_words(lambda code: append.flush_all()))
        around.enter_context(CompileLog.open(cfg.workdir))
        limits = cfg.faults.watchdog, cfg.faults.watchdog_compile
        around.enter_context(watchdog.watching(cfg.workdir, *limits))
        around.enter_context(preemption.listen(cfg.faults.grace))
        try:
            yield
        finally:
            account.write(wait=True)
            if hosts.is_main():
                print(account.line(), flush=True)


def account_of(workdir: str) -> Goodput:
    """The account of the run that is open there, or a new one: a loop that is run by itself."""
    if workdir not in _accounts:
        _accounts[workdir] = Goodput(workdir, progress.seconds())
    return _accounts[workdir]
