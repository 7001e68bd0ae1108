"""WORKDIR/goodput.json: what the seconds of a run went to, over all its restarts.

The parts are those of ml-goodput-measurement (Google's library for the same on Cloud TPU, which
needs Cloud Logging): goodput is the share of the seconds that went into steps which the run has
kept.

    useful      steps that were kept
    lost        steps that were done again after a restart
    input       the loop waited for the next batch
    save        the loop waited for a checkpoint (the copy from the devices, or the save before)
    evaluation  validations and evaluations
    compile     XLA compilations, or reading them from the cache
    start       set-up of the first process
    restart     set-up of the later ones, up to their first step
    other       between stages, report

Between processes nothing runs: "down" is outside of these. A killed process has written what it did
up to `EVERY` seconds before; the rest counts as down too.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from typing import Any, ClassVar

from qoq_jax.base import files, progress, storage
from qoq_jax.parallel import hosts
from qoq_jax.train.loop import Hook, Loop

FILE = "goodput.json"
EVERY = 5.0  # seconds between writes while training
PARTS = (
    "useful",
    "lost",
    "input",
    "save",
    "evaluation",
    "compile",
    "start",
    "restart",
    "other",
)
_PART_OF_PHASE = {"step": "useful", progress.OTHER: "other"}  # the others have their own names


class Goodput:
    """The account of one process, on top of those before it.

    Attributes:
      starts: processes of the run, this one too.
      lost_steps: that were done again.
    """

    def __init__(self, workdir: str, since: dict[str, float] | None = None):
        """since: seconds of each phase (progress.seconds) that do not belong to the run."""
        self._path, self._since = os.path.join(workdir, FILE), dict(since or {})
        found = files.read_json(self._path, {}, finite=False)
        self.starts = int(found.get("starts", 0)) + 1
        self.lost_steps = int(found.get("lost_steps", 0))
        self._before: Counter[str] = Counter(found.get("seconds", {}))
        self._down = float(found.get("down", 0.0))
        if "time" in found:
            self._down += max(time.time() - found["time"] - sum(self._of_process().values()), 0.0)
        # stage -> [step, seconds] of steps that no checkpoint is known to hold
        self._open: dict[str, list[list[float]]] = found.get("uncommitted", {})
        self._moved: Counter[str] = Counter()
        self._step_seconds, self._written = 0.0, 0.0
        self._sending: threading.Thread | None = None

    def resumed(self, stage: str, step: int) -> None:
        """The stage goes on after `step`: what came later is lost."""
        kept, lost = [], []
        for entry in self._open.get(stage, []):
            (kept if entry[0] <= step else lost).append(entry)
        again = sum(seconds for _, seconds in lost)
        self._moved["lost"] += again
        self._moved["useful"] -= again
        self.lost_steps += len(lost)
        self._open[stage] = kept
        self._step_seconds = progress.seconds().get("step", 0.0)
        self.write()

    def stepped(self, stage: str, step: int) -> None:
        """A step is done."""
        now = progress.seconds().get("step", 0.0)
        self._open.setdefault(stage, []).append([step, round(now - self._step_seconds, 3)])
        self._step_seconds = now
        if time.monotonic() - self._written > EVERY:
            self.write()

    def committed(self, stage: str, step: int) -> None:
        """A checkpoint holds `step` for good."""
        self._open[stage] = [entry for entry in self._open.get(stage, []) if entry[0] > step]

    def _of_process(self) -> Counter[str]:
        """Seconds of each part in this process."""
        found: Counter[str] = Counter()
        setup = "start" if self.starts == 1 else "restart"
        for name, value in progress.seconds().items():
            part = setup if name == progress.SETUP else _PART_OF_PHASE.get(name, name)
            found[part] += max(value - self._since.get(name, 0.0), 0.0)
        return found

    def seconds(self) -> dict[str, float]:
        """Seconds of each of `PARTS`, over all processes."""
        total = Counter(self._before)
        total.update(self._of_process())
        total.update(self._moved)
        return {part: round(max(total[part], 0.0), 3) for part in PARTS}

    def write(self, wait: bool = False) -> None:
        """Writes the file. A workdir that is a URL gets it in the background, and may miss one: the
        steps do not wait for the account.

        Args:
          wait: return when it is written.
        """
        self._written = time.monotonic()
        sending = self._sending
        if not hosts.is_main() or (sending is not None and sending.is_alive() and not wait):
            return
        content: dict[str, Any] = {
            "goodput": share(self.seconds()),
            "seconds": self.seconds(),
            "starts": self.starts,
            "lost_steps": self.lost_steps,
            "down": round(self._down, 3),
            "time": time.time(),
            "uncommitted": self._open,
        }
        if not storage.is_url(self._path):
            files.write_json(self._path, content)
            return
        if sending is not None:
            sending.join()
        self._sending = threading.Thread(target=_send, args=(self._path, content), daemon=True)
        self._sending.start()
        if wait:
            self._sending.join()

    def line(self) -> str:
        """For the log."""
        seconds = self.seconds()
        parts = ", ".join(f"{part} {value:.0f} s" for part, value in seconds.items() if value >= 1)
        starts = f", {self.starts} starts, {self.lost_steps} steps done again"
        return f"goodput {share(seconds):.0%}: {parts}{starts if self.starts > 1 else ''}"


def _send(path: str, content: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        files.write_json(path, content)


def share(seconds: dict[str, float]) -> float:
    """Useful seconds among all."""
    return seconds["useful"] / max(sum(seconds.values()), 1e-9)


class AccountSeconds(Hook):
    """Keeps the account of the steps, and adds to the facts of each the seconds that the loop spent
    beside them since the step before: "seconds/data", "seconds/save", "seconds/validation".
    """

    NAMES: ClassVar = {"input": "data", "save": "save", "evaluation": "validation"}

    def __init__(self, account: Goodput, every: int):
        self._account, self._every = account, every
        self._last: dict[str, float] = {}

    def begin(self, loop: Loop) -> None:
        self._account.resumed(loop.name, loop.start)
        self._last = progress.seconds()

    def after_step(self, loop: Loop) -> None:
        now = progress.seconds()
        for phase, name in self.NAMES.items():
            spent = now.get(phase, 0.0) - self._last.get(phase, 0.0)
            loop.last.facts.setdefault(f"seconds/{name}", spent)
        self._last = now
        self._account.stepped(loop.name, loop.done)
        # A save begins when the one before it is committed.
        if loop.done % self._every == 0:
            self._account.committed(loop.name, loop.done - self._every)

    def end(self, loop: Loop) -> None:
        self._account.committed(loop.name, loop.done)
        self._account.write()

    def preempted(self, loop: Loop) -> None:
        del loop
        self._account.write()
