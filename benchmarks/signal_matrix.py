"""Each phase of a run meets each fault; the exit codes, and what is saved, are those of
docs/reliability.md.

    python benchmarks/signal_matrix.py /tmp/matrix
    python benchmarks/signal_matrix.py /tmp/matrix --only rollout:SIGTERM,save:sleep
    python benchmarks/signal_matrix.py /tmp/matrix --processes 2

A run is prepared that has saved two of four DRPO steps. A copy of it goes on for each case, with a
pause put into the phase of its second step (of the evaluation after the last one): there the signal
is sent to the last of its processes, or, for "sleep", its pause never ends. In a save it is the
first one, which alone commits.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks.small_run import HEARTBEAT, SmallRun, committed
from qoq_jax.base import exit_codes

PHASES = ("rollout", "reward", "train", "save", "evaluate")
FAULTS = ("SIGTERM", "SIGKILL", "SIGSTOP", "sleep")
STEPS = 4
OVERRIDES = {
    "rl.steps": STEPS,
    "sft.steps": STEPS,
    "faults.watchdog": 30,
    "faults.watchdog_compile": 90,
}
PAUSE = 4.0  # seconds in which a signal is sent
PATIENCE = 240.0  # seconds for the processes to end: start, limit of the watchdog, end
# Last step that is committed after SIGTERM. The update of step 4 cannot be left in its middle, and
# a save that has begun is waited for.
SAVED = {"rollout": 3, "reward": 3, "train": 4, "save": 4, "evaluate": 4}


# Seconds from the fault to the end of the last process: what docs/reliability.md allows the fault,
# and SLACK for a busy machine. A process alone that was stopped goes on to its end.
GRACE, SLACK = 25.0, 30.0
LIMITS = {
    "SIGTERM": PAUSE + GRACE,
    "SIGKILL": PAUSE + 2 * HEARTBEAT,
    "SIGSTOP": OVERRIDES["faults.watchdog_compile"],
    "sleep": OVERRIDES["faults.watchdog_compile"],
}
# How a process ends that has lost another one: the line of qoq, or JAX's abort after the heartbeat
# (code 134 in a shell). A scheduler restarts on both.
LOST = (exit_codes.RETRY, -signal.SIGABRT)


@dataclasses.dataclass(frozen=True)
class Case:
    """One cell of the matrix and what came of it.

    Attributes:
      codes: exit codes of the processes; negative: the signal that ended them.
      seconds: from the fault to the last of them.
      saved: the last committed step.
      again: exit codes of the same command afterwards; () when it was not run.
    """

    phase: str
    fault: str
    codes: tuple[int, ...]
    seconds: float
    saved: int
    again: tuple[int, ...] = ()

    def is_right(self) -> bool:
        """Whether everything is as documented."""
        others = list(self.codes)
        hit = others.pop(victim(self.phase, len(others)))
        alone = self.fault == "SIGSTOP" and not others
        if self.seconds > LIMITS[self.fault] + SLACK and not alone:
            return False
        if self.fault == "SIGTERM":
            return set(self.codes) == {exit_codes.PREEMPTED} and self.saved == SAVED[self.phase]
        if self.fault == "SIGKILL":
            ended = hit == -signal.SIGKILL and set(self.again) == {0}
            return ended and all(code in LOST for code in others)
        if alone:
            return hit == 0 and self.saved == STEPS  # it goes on as if nothing had been
        if self.fault == "SIGSTOP":  # it never goes on, and is killed when the others have left
            return all(code in LOST for code in others)
        return exit_codes.RETRY in self.codes and all(code in LOST for code in self.codes)

    def row(self) -> str:
        """For the table of docs/reliability.md."""
        codes = ", ".join(map(str, self.codes))
        if self.again:
            codes += ", then " + ", ".join(map(str, self.again))
        verdict = "as documented" if self.is_right() else "WRONG"
        cells = self.phase, self.fault, codes, f"{self.seconds:.0f}", str(self.saved), verdict
        return f"| {' | '.join(cells)} |"


def try_case(folder: pathlib.Path, phase: str, fault: str, processes: int) -> Case:
    """Runs one case; `folder` has been prepared."""
    workdir = folder / f"{phase}-{fault}-{processes}"
    shutil.rmtree(workdir, ignore_errors=True)
    shutil.copytree(_prepared(folder, processes), workdir)
    program = [str(pathlib.Path(__file__)), "--child", f"{phase}:{fault}"]
    run = SmallRun(folder / "shared", workdir, OVERRIDES, processes, program)
    run.start()
    index = victim(phase, processes)
    marks = [workdir / f"in-{phase}-{i}" for i in range(processes)]
    marks = [marks[index]] if phase == "save" else marks
    end = time.monotonic() + PATIENCE
    while not all(mark.exists() for mark in marks):
        assert time.monotonic() < end and run.processes[index].poll() is None, run.said()
        time.sleep(0.05)
    began = time.monotonic()
    if fault != "sleep":
        os.kill(run.processes[index].pid, getattr(signal, fault))
    if fault == "SIGSTOP":
        others = [process for i, process in enumerate(run.processes) if i != index]
        _wake_later(run.processes[index], others)
    codes = tuple(run.wait(PATIENCE))
    seconds, saved, again = time.monotonic() - began, committed(workdir, "rl")[-1], ()
    if fault == "SIGKILL":
        same = SmallRun(folder / "shared", workdir, OVERRIDES, processes).start()
        again = tuple(same.wait(PATIENCE))
    return Case(phase, fault, codes, seconds, saved, again)


def victim(phase: str, processes: int) -> int:
    """The process that a fault is about."""
    return 0 if phase == "save" else processes - 1


def _wake_later(hit: subprocess.Popen, others: list[subprocess.Popen]) -> None:
    """A process alone sleeps longer than the watchdog allows and is woken. Among others it stays
    stopped until they have left.
    """
    if not others:
        time.sleep(1.5 * OVERRIDES["faults.watchdog_compile"])
        hit.send_signal(signal.SIGCONT)
        return
    for process in others:
        process.wait(PATIENCE)
    hit.kill()


def prepare(folder: pathlib.Path, processes: int) -> None:
    """A run with two of four DRPO steps saved, in folder/prepared-PROCESSES."""
    prepared = _prepared(folder, processes)
    if prepared.exists():
        return
    (folder / "shared").mkdir(parents=True, exist_ok=True)
    unwatched = OVERRIDES | {"faults.watchdog": 0}  # it compiles everything
    run = SmallRun(folder / "shared", folder / f"making-{processes}", unwatched, processes)
    assert run.start().wait(4 * PATIENCE) == [0] * processes, run.said()
    shutil.rmtree(run.workdir / "checkpoints" / "rl" / str(STEPS))
    for name in ("eval/rl.json", "run.json", "report.html", "log-0.txt"):
        (run.workdir / name).unlink()
    run.workdir.rename(prepared)


def _prepared(folder: pathlib.Path, processes: int) -> pathlib.Path:
    return folder / f"prepared-{processes}"


# ------------------------------------------------------------------------------- inside the process


def child(case: str, arguments: list[str]) -> int:
    """`qoq` with a pause in one phase."""
    from qoq_jax.cli import main
    from qoq_jax.evaluation import metrics
    from qoq_jax.sampling.sampler import Sampler
    from qoq_jax.train.checkpoint import Checkpointer
    from qoq_jax.train.groups import ResponseScorer
    from qoq_jax.train.rl import RlStep

    phase, _, fault = case.partition(":")
    workdir = next(a for a in arguments if a.startswith("--config.workdir=")).partition("=")[2]
    owner, name = {
        "rollout": (Sampler, "__call__"),
        "reward": (ResponseScorer, "sampled"),
        "train": (RlStep, "_updates"),
        "save": (Checkpointer, "_before_commit"),
        "evaluate": (metrics, "record"),
    }[phase]
    # The first save of the process is that of step 4, and its first evaluation the one at the end.
    number = 1 if phase in ("save", "evaluate") else 2
    index = int(os.environ.get("QOQ_PROCESS_INDEX", "0"))
    hit = victim(phase, int(os.environ.get("QOQ_PROCESS_COUNT", "1")))
    # Longer than any limit, in the process that a fault is about.
    seconds = 1e6 if fault == "sleep" and index == hit else PAUSE
    mark = pathlib.Path(workdir) / f"in-{phase}-{index}"
    setattr(owner, name, _pausing(getattr(owner, name), number, mark, seconds))
    return main.main(arguments)


def _pausing(
    function: Callable, number: int, mark: pathlib.Path, seconds: float
) -> Callable[..., object]:
    """`function`, with a pause before its `number`-th call."""
    calls, lock = [], threading.Lock()

    def paused(*args: object, **kwargs: object) -> object:
        with lock:
            calls.append(1)
            due = len(calls) == number
        if due:
            mark.touch()
            time.sleep(seconds)
        return function(*args, **kwargs)

    return paused


def main() -> int:
    """Prints a table; 1 when a case is not as documented."""
    if sys.argv[1] == "--child":
        return child(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=pathlib.Path, help="all runs are kept in it")
    parser.add_argument("--only", default="", help="PHASE:FAULT,... in the place of all")
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    cases = [tuple(name.split(":")) for name in arguments.only.split(",") if name]
    prepare(arguments.folder, arguments.processes)
    wrong = 0
    print("| phase | fault | exit codes | seconds | last step saved | |\n|---|---|---|---|---|---|")
    for phase, fault in cases or [(phase, fault) for phase in PHASES for fault in FAULTS]:
        case = try_case(arguments.folder, phase, fault, arguments.processes)
        wrong += not case.is_right()
        print(case.row(), flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
