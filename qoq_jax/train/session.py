"""What surrounds a training run: its claim on the workdir, SIGTERM, the watchdog, the count of
restarts, the account of its seconds, the cache of compiled programs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax

from qoq_jax.base import append, interrupt, lock, progress, storage
from qoq_jax.base.errors import ConfigError
from qoq_jax.parallel import hosts, messages, preemption, watchdog
from qoq_jax.train import checkpoint_store, restarts, run_config
from qoq_jax.train.config import RunSettings
from qoq_jax.train.goodput import Goodput
from qoq_jax.train.profiling import CompileLog

_accounts: dict[str, Goodput] = {}
_Settings = TypeVar("_Settings", bound=RunSettings)


def run(cfg: _Settings, body: Callable[[_Settings], int]) -> int:
    """Runs `body` as the run of a config, alone in its workdir; returns its exit code.

    Raises:
      ConfigError: a run of another config is there, or the processes have different ones; what
        `body` raises.
    """
    checkpoint_store.check(cfg.workdir)
    run_config.check_alike(cfg)
    with contextlib.ExitStack() as held:

        def claim() -> bool:
            storage.make_folder(cfg.workdir)
            held.enter_context(lock.hold(cfg.workdir))
            return run_config.claim(cfg)

        claimed = messages.from_main("workdir", claim)
        try:
            with running(cfg):
                # Private to the run, since a compile cache is code: a restart then begins without
                # compiling again.
                cache = cfg.compile_cache or os.path.join(cfg.workdir, "compile_cache")
                jax.config.update("jax_compilation_cache_dir", storage.absolute(cache))
                return body(cfg)
        except ConfigError:
            if claimed and hosts.is_main():
                run_config.release(cfg.workdir)
            raise
        finally:
            append.flush_all()


@contextlib.contextmanager
def running(cfg: RunSettings) -> Iterator[None]:
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
