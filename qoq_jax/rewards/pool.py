"""Rewards in worker processes with a deadline: a text or a user's function that hangs costs one
response its reward, not the run.

Our own parser is linear and takes a tenth of a millisecond, so the default is no workers
(`rl.reward_workers = 0`). They pay for a user's function that is slow or not to be trusted. A
worker that misses a deadline, or dies, is replaced; its response gets reward 0.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import dataclasses
import multiprocessing
import signal
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from qoq_jax.base import progress
from qoq_jax.base.errors import QoqError
from qoq_jax.rewards import custom
from qoq_jax.rewards import score as rewards
from qoq_jax.rewards.score import Reward, RewardConfig

START_SECONDS = 120.0  # for a worker to start and import; a busy machine takes some seconds
LOST = Reward(total=0.0, accuracy=0.0, iou=None, format=0.0, length=None)


def _work(connection: Connection, cfg: RewardConfig) -> None:
    """A worker: receives lists of (text, meta), sends one Reward or QoqError each, ends when the
    trainer does.
    """
    # The terminal's Ctrl-C, and SIGTERM that a scheduler sends to all processes of a job, are for
    # the trainer, which ends its workers: a worker that is gone costs a response its reward.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        if cfg.custom:
            custom.load(cfg.custom)  # before the clock runs: a user's module may take seconds
        connection.send("ready")
        while True:
            for text, meta in connection.recv():
                try:
                    connection.send(rewards.score(text, meta, cfg))
                except QoqError as error:
                    connection.send(error)
    except (EOFError, OSError):
        return


@dataclasses.dataclass(eq=False)
class _Worker:
    process: Any
    connection: Any
    # (index, text, meta), in the order sent
    todo: collections.deque = dataclasses.field(default_factory=collections.deque)
    alive_since: float = 0.0  # when it last showed progress


class RewardPool:
    """Scores responses, in `workers` processes or, with 0, in this one.

    Args:
      deadline: seconds per response.
    """

    def __init__(self, cfg: RewardConfig, workers: int = 0, deadline: float = 2.0):
        self._cfg, self._deadline = cfg, deadline
        if cfg.custom:  # a mistake in its name stops the run here, not at the first reward
            custom.load(cfg.custom)
        # Not fork: a child of a process that runs JAX's threads may hang.
        self._context = multiprocessing.get_context("spawn")
        self._workers = [self._start() for _ in range(workers)]
        # before Python's own end, which would wait for workers that ignore its SIGTERM
        atexit.register(self.close)
        for worker in self._workers:
            self._await_start(worker)

    def score(self, texts: Sequence[str], metas: Sequence) -> tuple[list[Reward], int]:
        """The reward of each (text, meta), and how many responses were given up (with reward 0).

        Raises:
          QoqError: the user's function raised or returned nonsense.
        """
        if not self._workers:
            return rewards.score_batch(texts, metas, self._cfg), 0
        # one may have died since the last batch (out of memory, say)
        for i, worker in enumerate(self._workers):
            if not worker.process.is_alive():
                _end(worker)
                self._workers[i] = self._start()
                self._await_start(self._workers[i])
        results: list[Reward | None] = [None] * len(texts)
        jobs = list(zip(range(len(texts)), texts, metas, strict=True))
        # Neighbours together: the responses to a question share their meta, and a mask is pickled
        # once per worker.
        edges = [len(jobs) * i // len(self._workers) for i in range(len(self._workers) + 1)]
        for worker, begin, end in zip(self._workers, edges, edges[1:]):
            self._send(worker, jobs[begin:end])
        lost = 0
        while busy := [worker for worker in self._workers if worker.todo]:
            now = time.monotonic()
            until = min(worker.alive_since for worker in busy) + self._deadline
            ready = multiprocessing.connection.wait(
                [worker.connection for worker in busy], max(until - now, 0.0)
            )
            for worker in busy:
                # Asked again, since replacing another worker takes longer than many a deadline.
                if worker.connection in ready or worker.connection.poll():
                    lost += self._receive(worker, results)
                elif time.monotonic() - worker.alive_since > self._deadline:
                    lost += self._give_up(worker, results)
        return results, lost

    def close(self) -> None:
        """Ends the workers."""
        for worker in self._workers:
            _end(worker)
        self._workers = []
        atexit.unregister(self.close)

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, self._cfg), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _await_start(self, worker: _Worker) -> None:
        try:
            if worker.connection.poll(START_SECONDS) and worker.connection.recv() == "ready":
                return
        except (EOFError, OSError):
            pass
        self.close()
        raise QoqError(
            "a reward worker does not start",
            hint="see its message above, or set rl.reward_workers=0",
        )

    def _send(self, worker: _Worker, jobs: list) -> None:
        worker.todo.extend(jobs)
        if jobs:
            # it has just died; the wait for its first answer finds that out
            with contextlib.suppress(OSError):
                worker.connection.send([(text, meta) for _, text, meta in jobs])
        worker.alive_since = time.monotonic()

    def _receive(self, worker: _Worker, results: list) -> int:
        """Takes one result; returns 1 when the worker had died instead."""
        try:
            result = worker.connection.recv()
        except (EOFError, OSError):
            return self._give_up(worker, results)
        if isinstance(result, QoqError):
            raise result
        results[worker.todo.popleft()[0]] = result
        progress.beat()
        worker.alive_since = time.monotonic()
        return 0

    def _give_up(self, worker: _Worker, results: list) -> int:
        """Replaces a worker; the response that it was scoring gets reward 0."""
        _end(worker)
        results[worker.todo.popleft()[0]] = LOST
        fresh = self._start()
        self._await_start(fresh)
        self._workers[self._workers.index(worker)] = fresh
        self._send(fresh, list(worker.todo))
        worker.todo.clear()
        return 1


def _end(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.connection.close()
