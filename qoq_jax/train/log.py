"""What a run tells: metrics on disk, a live line on the terminal, the number of compilations."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from typing import Any

import jax

from qoq_jax.base import append, files, storage, terminal
from qoq_jax.base.errors import ConfigError
from qoq_jax.parallel import hosts
from qoq_jax.train.config import RunSettings


class MetricWriter:
    """Appends flat metric rows to metrics.jsonl, and to TensorBoard or Weights & Biases when asked.

    A resumed run first drops the rows of steps that it will do again, so that the file holds each
    step once. Of several processes only the main one writes.
    """

    def __init__(self, workdir: str, *, tensorboard: bool, wandb: bool, config: dict[str, Any]):
        self._path = os.path.join(workdir, "metrics.jsonl")
        self._lines = append.Lines(self._path)
        self._board = self._wandb = None
        self._writes = hosts.is_main()
        if tensorboard and self._writes:
            from tensorboardX import SummaryWriter  # imported here: it is slow to load

            self._events = append.Folder(os.path.join(workdir, "tensorboard"))
            self._board = SummaryWriter(self._events.path)
        if wandb and self._writes:
            try:
                import wandb as wandb_module
            except ImportError:
                raise ConfigError(
                    "log.wandb needs the package wandb", hint="pip install 'qoq_jax[wandb]'"
                ) from None
            folder = None if storage.is_url(workdir) else workdir  # None: where wandb keeps its own
            self._wandb = wandb_module.init(project="qoq_jax", dir=folder, config=config)

    def resume(self, stage: str, step: int) -> None:
        """Drops rows of `stage` after `step`, and a last line that a kill left half-written."""
        if not self._writes or not storage.exists(self._path):
            return
        kept = []
        for line in files.read_bytes(self._path).decode().splitlines(keepends=True):
            if line.endswith("\n"):
                row = json.loads(line)
                if row["stage"] != stage or row["step"] <= step:
                    kept.append(line)
        files.write_text(self._path, "".join(kept))

    def write(self, stage: str, step: int, values: dict[str, Any]) -> None:
        """Appends a row; TensorBoard and Weights & Biases get what of it is a number."""
        if not self._writes:
            return
        row = {"stage": stage, "step": step, "time": time.time(), **values}
        self._lines.write(json.dumps(row) + "\n")
        values = {name: x for name, x in values.items() if not isinstance(x, dict)}
        for name, value in values.items():
            if self._board is not None:
                self._board.add_scalar(f"{stage}/{name}", value, step)
        if self._wandb is not None:
            self._wandb.log(
                {f"{stage}/{k}": v for k, v in values.items()} | {f"{stage}/step": step}
            )

    def close(self) -> None:
        self._lines.flush()
        if self._board is not None:
            self._board.close()
            self._events.flush()
        if self._wandb is not None:
            self._wandb.finish()


def open_writer(cfg: RunSettings) -> MetricWriter:
    """The writer that a run's config asks for."""
    return MetricWriter(
        cfg.workdir,
        tensorboard=cfg.log.tensorboard,
        wandb=cfg.log.wandb,
        config=dataclasses.asdict(cfg),
    )


class Progress:
    """Stage, step, time left and what is worth watching, and the reward or loss of each domain.

    On a terminal a bar, below it the rate of steps, memory, and a curve of each domain since the
    process began; one line stays when the stage ends. Elsewhere a line each time, and that of the
    domains every fifth time. Of several processes only the main one shows it.
    """

    def __init__(self, stage: str, steps: int, start: int = 0):
        self._stage, self._steps, self._start = stage, steps, start
        self._began = time.monotonic()
        self._on_terminal = terminal.is_terminal()
        self._bar = terminal.Bar(stage, steps, start) if hosts.is_main() else None
        self._shown, self._last = 0, ""
        self._curves: dict[str, list[float]] = {}

    def advance(self, step: int) -> None:
        """Moves the bar; says nothing elsewhere."""
        if self._bar is not None:
            self._bar.update(step)

    def show(
        self,
        step: int,
        facts: dict[str, str],
        domains: dict[str, float] | None = None,
        what: str = "reward",
        about: str = "",
    ) -> None:
        """Tells of the step that is done.

        Args:
          facts: of the line, name -> text.
          domains: a number of each.
          what: that number is.
          about: another line on a terminal: rate of steps, memory.
        """
        if self._bar is None:
            return
        done, elapsed = step - self._start, time.monotonic() - self._began
        left = elapsed / max(done, 1) * (self._steps - step)
        said = "  ".join(f"{k} {v}" for k, v in facts.items())
        line = f"{self._stage} {step}/{self._steps}  left {clock(left)}  {said}"
        numbers = f"{what}: " + "  ".join(f"{k} {v:.2f}" for k, v in (domains or {}).items())
        if self._on_terminal:
            for name, value in (domains or {}).items():
                self._curves.setdefault(name, []).append(value)
            heading = f"{what} by domain"
            curves = dict(sorted(self._curves.items()))
            self._bar.update(step, panel=terminal.Panel((said, about), heading, curves))
            self._last = line
        else:
            print(line)
            if domains and self._shown % 5 == 0:
                print("  " + numbers)
            sys.stdout.flush()
        self._shown += 1

    def close(self) -> None:
        """Takes the bar away; its last line stays."""
        if self._bar is not None:
            self._bar.close()
        if self._last:
            print(self._last, flush=True)


def rate(seconds: float | None) -> str:
    """Of steps that take so long: 0.25 -> "4.0 steps/s", 12 -> "12.0 s/step", None -> ""."""
    if not seconds:
        return ""
    return f"{seconds:.1f} s/step" if seconds >= 1 else f"{1 / seconds:.1f} steps/s"


def clock(seconds: float) -> str:
    """12.3 -> '12s', 754 -> '12m34s'."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


class CompileCounter:
    """Counts XLA compilations of this process; after warm-up a training loop must add none."""

    _count = 0
    _listening = False

    def __init__(self):
        cls = CompileCounter
        if not cls._listening:
            jax.monitoring.register_event_duration_secs_listener(cls._on_event)
            cls._listening = True
        self._base = cls._count

    @classmethod
    def _on_event(cls, event: str, duration: float, **kwargs: object) -> None:
        del duration, kwargs
        if event == "/jax/core/compile/backend_compile_duration":
            cls._count += 1

    def reset(self) -> None:
        self._base = CompileCounter._count

    @property
    def count(self) -> int:
        """Compilations since the last reset."""
        return CompileCounter._count - self._base


class Clock:
    """Seconds between marks, by what was done until the mark."""

    def __init__(self) -> None:
        self._last, self._seconds = time.perf_counter(), {}

    def mark(self, name: str) -> None:
        """What was done since the last mark was `name`."""
        now, key = time.perf_counter(), f"seconds/{name}"
        self._seconds[key] = self._seconds.get(key, 0.0) + now - self._last
        self._last = now

    def seconds(self) -> dict[str, float]:
        """{"seconds/NAME": sum}."""
        return dict(self._seconds)
