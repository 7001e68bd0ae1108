"""What a person at a terminal sees: progress bars and tables, drawn by rich.

In a pipe, a log file or a notebook there are no bars, and tables are plain lines. rich is imported
when a terminal is there, and by this file alone.
"""

from __future__ import annotations

import atexit
import os
import select
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any, Self


def is_terminal() -> bool:
    """Whether a person looks at standard output."""
    return sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def reader_is_gone() -> bool:
    """Whether nobody reads standard output or standard error any more, as behind `| head`.

    What is still to be written there then goes nowhere: Python flushes once more at its end.
    """
    gone = False
    for number in (1, 2):
        asked = select.poll()
        asked.register(number, 0)
        # An error is reported unasked. A full file or a terminal has none.
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in asked.poll(0)):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)
            gone = True
    return gone


_OFTEN = 0.1  # seconds between two moves of a bar; rows pass by faster


class Bar:
    """A progress bar: title, bar, "done/total", time left, a text. Nothing elsewhere than on a
    terminal.

    Bars that are open at the same time, in any threads, stand below each other; what is printed
    meanwhile goes above them. A bar is gone when it is closed.

    Args:
      total: steps, rows or bytes; None when the length is not known.
      done: of them, at the start.
    """

    def __init__(self, title: str, total: int | None = None, done: int = 0):
        self._total, self._at = total, 0.0
        self._task = _display.add(title, total, done) if is_terminal() else None

    def update(self, done: int, text: str | None = None) -> None:
        """Moves the bar to `done`; `text` (of several lines) replaces the last one."""
        if self._task is None:
            return
        now = time.monotonic()
        if text is not None or done == self._total or now - self._at > _OFTEN:
            _display.update(self._task, done, text)
            self._at = now

    def close(self) -> None:
        if self._task is not None:
            _display.remove(self._task)
            self._task = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Display:
    """The bars that are open: one region of the terminal, drawn twice a second by a thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._progress: Any = None

    def add(self, title: str, total: int | None, done: int) -> Any:
        with self._lock:
            if self._progress is None:
                self._progress = _progress()
                self._progress.start()
                atexit.register(self.close)
            return self._progress.add_task(title, total=total, completed=done, text="")

    def update(self, task: Any, done: int, text: str | None) -> None:
        with self._lock:
            if self._progress is not None:
                said = {} if text is None else {"text": text, "refresh": True}
                self._progress.update(task, completed=done, **said)

    def remove(self, task: Any) -> None:
        with self._lock:
            if self._progress is not None:
                self._progress.remove_task(task)
                if not self._progress.task_ids:
                    self.close()

    def close(self) -> None:
        """Wipes all bars."""
        with self._lock:
            if self._progress is not None:
                progress, self._progress = self._progress, None
                progress.stop()
                atexit.unregister(self.close)


_display = _Display()


def close() -> None:
    """Wipes all bars, before the process ends."""
    _display.close()


def _console() -> Any:
    from rich.console import Console

    class PlainCursor(Console):
        """Never hides the cursor: a process that is killed could not bring it back."""

        def show_cursor(self, show: bool = True) -> bool:
            del show
            return False

    return PlainCursor(highlight=False, markup=False, emoji=False)


def _progress() -> Any:
    from rich import progress

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(20),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        progress.TextColumn("{task.fields[text]}", markup=False),
        console=_console(),
        refresh_per_second=2,
        speed_estimate_period=600,  # a step of a large model takes minutes
        transient=True,
    )


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], plain: Iterable[str]
) -> None:
    """Prints a table on a terminal, and the lines of `plain` elsewhere.

    Columns in which every cell is a number (or a share, "12.3%") are set to the right.
    """
    if not is_terminal():
        for line in plain:
            print(line)
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=Text(title, "bold"), title_justify="left", box=box.SIMPLE_HEAD)
    for name, cells in zip(columns, zip(*rows, strict=True), strict=True):
        numbers = all(cell[:1].isdigit() or cell[:1] in "+-" for cell in cells if cell)
        drawn.add_column(Text(name), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*map(Text, row))
    _console().print(drawn)
