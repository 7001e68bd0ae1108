"""How far a download is: a bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Self

from qoq_jax.base import terminal
from qoq_jax.climb import sizes
from qoq_jax.climb.access.access import File

_OFTEN = 60.0  # seconds between two lines in a log file


class Progress:
    """Counts bytes and files, from any number of threads.

    Args:
      title: the data set.
      total: bytes in all, when the files do not say it; 0 when nobody does.
      log: takes lines.
    """

    def __init__(self, title: str, total: int = 0, log: Callable[[str], None] = print):
        self._title, self._total, self._log = title, total, log
        self._lock = threading.Lock()
        self._bar: terminal.Bar | None = None
        self._files = self._finished = 0
        self._bytes = self._new = 0
        self._since = self._said = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def begin(self, wanted: Sequence[File], missing: Sequence[File]) -> None:
        """Tells what there is to do."""
        known = [one.size for one in wanted]
        if None not in known:
            self._total = sum(known)
            self._bytes = self._total - sum(one.size for one in missing)
        self._files, self._finished = len(wanted), len(wanted) - len(missing)
        if self._bar is None:
            megabytes = self._total // 10**6 or None
            self._bar = terminal.Bar(f"{self._title} (MB)", megabytes, self._bytes // 10**6)

    def add(self, size: int, finished: int = 0, *, fresh: bool = True) -> None:
        """Counts bytes, and files that are in place.

        Args:
          fresh: they came just now, and count for the speed.
        """
        with self._lock:
            self._bytes += size
            self._new += size if fresh else 0
            self._finished += finished
            now = time.monotonic()
            if self._bar is not None:
                self._bar.update(self._bytes // 10**6)
            if now - self._said > _OFTEN:
                self._said = now
                if terminal.is_terminal():
                    self._bar.update(self._bytes // 10**6, self._counts())
                else:
                    self._log(f"{self._title}: {self._counts()}")

    def _counts(self) -> str:
        total = f" of {sizes.readable(self._total)}" if self._total else ""
        speed = self._new / max(time.monotonic() - self._since, 1e-3) / 1e6
        return (
            f"{sizes.readable(self._bytes)}{total}, {self._finished:,} of {self._files:,} files, "
            f"{speed:.1f} MB/s"
        )
