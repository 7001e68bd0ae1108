"""What a person at a terminal sees: progress bars with curves below them, and tables, drawn by
rich.

In a pipe, a log file or a notebook there are no bars, and tables are plain lines. rich is imported
when a terminal is there, and by this file alone.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import io
import itertools
import math
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self


def is_terminal() -> bool:
    """Whether a person looks at standard output."""
    return _display.clock is not None or (
        sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    )


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


@dataclasses.dataclass(frozen=True)
class Panel:
    """What stands below a bar.

    Attributes:
      lines: of facts; one that is too long is cut.
      heading: of the curves.
      curves: name -> values, the oldest first; drawn on one scale, as many beside each other as
        there is room for, each with its last value.
    """

    lines: Sequence[str] = ()
    heading: str = ""
    curves: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        """How rich draws it."""
        from rich.table import Table
        from rich.text import Text

        for line in filter(None, self.lines):
            yield Text(f"  {line}", no_wrap=True, overflow="ellipsis")
        finite = [y for values in self.curves.values() for y in values if math.isfinite(y)]
        if not finite:
            return
        if self.heading:
            scale = f"{_short(min(finite))} to {_short(max(finite))}"
            yield Text(f"  {self.heading}, {scale}", "dim")
        names = max(map(len, self.curves))
        # 14: the margin, the gaps and the last value
        across = max(1, min(len(self.curves), options.max_width // (names + _LEAST_SPARKS + 14)))
        sparks = max(options.max_width // across - names - 14, 1)
        drawn = Table.grid(padding=0)
        cells, ascii_only = [], options.ascii_only
        for name, values in self.curves.items():
            line = sparkline(
                values, min(finite), max(finite), min(sparks, _MOST_SPARKS), ascii_only
            )
            cells.append(
                Text.assemble(f"  {name:<{names}}  ", (line, "cyan"), f"  {_short(values[-1]):<8}")
            )
        for start in range(0, len(cells), across):
            drawn.add_row(*cells[start : start + across])
        yield drawn


def _short(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"


_LEAST_SPARKS, _MOST_SPARKS = 12, 40  # columns of a curve
_SPARKS, _ASCII_SPARKS = "▁▂▃▄▅▆▇█", "_.-~=*#"


def sparkline(
    values: Sequence[float], low: float, high: float, width: int, ascii_only: bool = False
) -> str:
    """A curve as text of `width` characters, its last value at the right end.

    Args:
      values: averaged down where there are more than `width`; what is not finite leaves a blank.
      low, high: of the scale.
      ascii_only: for terminals that have no blocks.
    """
    marks = _ASCII_SPARKS if ascii_only else _SPARKS
    count = min(len(values), width)
    edges = [round(i * len(values) / count) for i in range(count + 1)] if count else []
    out = []
    for start, end in itertools.pairwise(edges):
        found = [y for y in values[start:end] if math.isfinite(y)]
        if not found:
            out.append(" ")
            continue
        height = (sum(found) / len(found) - low) / (high - low) if high > low else 0.0
        out.append(marks[min(int(min(max(height, 0.0), 1.0) * len(marks)), len(marks) - 1)])
    return "".join(out).rjust(width)


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

    def update(self, done: int, text: str | None = None, panel: Panel | None = None) -> None:
        """Moves the bar to `done`; `text` and `panel` replace the last ones."""
        if self._task is None:
            return
        now = time.monotonic()
        told = text is not None or panel is not None
        if told or done == self._total or now - self._at > _OFTEN:
            _display.update(self._task, done, text, panel)
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
    """The bars that are open: one region of the terminal, drawn twice a second by a thread.

    Attributes:
      clock: of what is drawn off screen; None otherwise.
    """

    def __init__(self) -> None:
        self.clock: Callable[[], float] | None = None
        self._lock = threading.RLock()
        self._progress: Any = None

    def add(self, title: str, total: int | None, done: int) -> Any:
        with self._lock:
            if self._progress is None:
                self._progress = _progress()
                self._progress.start()
                atexit.register(self.close)
            return self._progress.add_task(title, total=total, completed=done, text="", panel=None)

    def update(self, task: Any, done: int, text: str | None, panel: Panel | None) -> None:
        with self._lock:
            if self._progress is not None:
                given = {"text": text, "panel": panel}
                said = {name: value for name, value in given.items() if value is not None}
                self._progress.update(task, completed=done, refresh=bool(said), **said)

    def remove(self, task: Any) -> None:
        with self._lock:
            if self._progress is not None:
                self._progress.remove_task(task)
                if not self._progress.task_ids:
                    self.close()

    def picture(self) -> Any:
        with self._lock:
            return "" if self._progress is None else self._progress.get_renderable()

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


@contextlib.contextmanager
def off_screen(clock: Callable[[], float]) -> Iterator[None]:
    """What is drawn meanwhile goes nowhere, as if a person looked at it; `picture` gives it.

    Args:
      clock: seconds, from which the time left follows.
    """
    _display.clock = clock
    try:
        yield
    finally:
        close()
        _display.clock = None


def picture() -> Any:
    """The bars and panels as they are now, for any console of rich to print."""
    return _display.picture()


def _console() -> Any:
    from rich.console import Console

    class PlainCursor(Console):
        """Never hides the cursor: a process that is killed could not bring it back."""

        def show_cursor(self, show: bool = True) -> bool:
            del show
            return False

    style: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
    if _display.clock is not None:
        style |= {"file": io.StringIO(), "force_terminal": True}
    return PlainCursor(**style)


def _progress() -> Any:
    from rich import progress
    from rich.text import Text

    class TimeLeft(progress.TimeRemainingColumn):
        """Named, and only where the length is known."""

        def render(self, task: Any) -> Text:
            shown = super().render(task)
            return Text("") if task.total is None else Text.assemble("ETA ", shown)

    class WithPanels(progress.Progress):
        """The bars, and below them their panels."""

        def get_renderables(self) -> Iterator[Any]:
            yield from super().get_renderables()
            yield from filter(None, (task.fields["panel"] for task in self.tasks))

    return WithPanels(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(20),
        progress.MofNCompleteColumn(),
        TimeLeft(compact=True),
        progress.TextColumn("{task.fields[text]}", markup=False),
        console=_console(),
        get_time=_display.clock,
        refresh_per_second=2,
        speed_estimate_period=600,  # a step of a large model takes minutes
        transient=True,
    )


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], plain: Iterable[str]
) -> None:
    """Prints a table on a terminal, and the lines of `plain` elsewhere.

    Columns in which every cell is a number (or a share, "12.3%") are set to the right. Where the
    terminal is narrow, columns stand closer together before words are broken.
    """
    if not is_terminal():
        for line in plain:
            print(line)
        return
    from rich import box
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    console = _console()
    unbounded = console.options.update(max_width=10_000)
    for padding in (1, 0):
        drawn = Table(
            title=Text(title, "bold"),
            title_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, padding),
        )
        for name, number in zip(columns, _numbers(rows), strict=True):
            drawn.add_column(Text(name), justify="right" if number else "left", overflow="fold")
        for row in rows:
            drawn.add_row(*map(Text, row))
        if Measurement.get(console, unbounded, drawn).maximum <= console.width:
            break
    console.print(drawn)


def aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in a pipe or a file, with columns of one width."""
    lines = [columns, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    numbers = _numbers(rows) or [False] * len(columns)
    return [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, widths, numbers, strict=True)
        ).rstrip()
        for line in lines
    ]


def _numbers(rows: Sequence[Sequence[str]]) -> list[bool]:
    """Whether each column has numbers alone."""
    return [
        all(cell[:1].isdigit() or cell[:1] in "+-<" for cell in column if cell)
        for column in zip(*rows, strict=True)
    ]
