"""Each phase of a run meets each fault; the exit codes, and what is saved, are those of
docs/reliability.md.

    python benchmarks/signal_matrix.py /tmp/matrix
    python benchmarks/signal_matrix.py /tmp/matrix --only rollout:SIGTERM,save:sleep
    python benchmarks/signal_matrix.py /tmp/matrix --processes 2

A run is prepared that has saved two of four DRPO steps. A copy of it goes on for each case, with a
pause put into the phase of its second step (of the evaluation after the last one): there the signal
is sent to the last of its processes, or, for "sleep", the pause never ends.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks.small_run import SmallRun, committed

PHASES = ("rollout", "reward", "train", "save", "evaluate")
FAULTS = ("SIGTERM", "SIGKILL", "SIGSTOP", "sleep")
OVERRIDES = {"rl.steps": 4, "sft.steps": 4, "faults.watchdog": 30, "faults.watchdog_compile": 90}
PAUSE = 4.0  # seconds in which a signal is sent
PATIENCE = 240.0  # seconds for the processes to end: start, limit of the watchdog, end
# Last step that is committed after SIGTERM. The update of step 4 cannot be left in its middle, and
# a save that has begun is waited for.
SAVED = {"rollout": 3, "reward": 3, "train": 4, "save": 4, "evaluate": 4}


@dataclasses.dataclass(frozen=True)
class Case:
    """One cell of the matrix and what came of it.

    Attributes:
      codes: exit codes of the processes; negative: the signal that ended them.
      seconds: from the fault to the last of them.
      saved: the last committed step.
      again: exit code of the same command afterwards.
    """

    phase: str
    fault: str
    codes: tuple[int, ...]
    seconds: float
    saved: int
    again: int | None

    def is_right(self) -> bool:
        """Whether everything is as documented."""
        *others, hit = self.codes
        if self.fault == "SIGTERM":
            return set(self.codes) == {143} and self.saved == SAVED[self.phase]
        if self.fault == "SIGKILL":
            return hit == -signal.SIGKILL and all(others) and self.again == 0
        if self.fault == "SIGSTOP" and not others:
            return hit == 0 and self.saved == 4  # it goes on as if nothing had been
        if self.fault == "SIGSTOP":
            return all(others)
        return 42 in self.codes and all(self.codes)


def try_case(folder: pathlib.Path, phase: str, fault: str, processes: int) -> Case:
    """Runs one case; `folder` has been prepared."""
    workdir = folder / f"{phase}-{fault}-{processes}"
    shutil.rmtree(workdir, ignore_errors=True)
    shutil.copytree(folder / "prepared", workdir)
    program = [str(pathlib.Path(__file__)), "--child", f"{phase}:{fault}"]
    run = SmallRun(folder / "shared", workdir, OVERRIDES, processes, program)
    run.start()
    marks = [workdir / f"in-{phase}-{index}" for index in range(processes)]
    end = time.monotonic() + PATIENCE
    while not all(mark.exists() for mark in marks):
        assert time.monotonic() < end and run.processes[-1].poll() is None, run.said()
        time.sleep(0.05)
    began = time.monotonic()
    if fault != "sleep":
        os.kill(run.processes[-1].pid, getattr(signal, fault))
    if fault == "SIGSTOP":
        _wake_later(run, processes)
    codes = tuple(run.wait(PATIENCE))
    seconds, saved, again = time.monotonic() - began, committed(workdir, "rl")[-1], None
    if fault == "SIGKILL":
        again = SmallRun(folder / "shared", workdir, OVERRIDES, processes).start().wait(PATIENCE)[0]
    return Case(phase, fault, codes, seconds, saved, again)


def _wake_later(run: SmallRun, processes: int) -> None:
    """A process alone sleeps longer than the watchdog allows and is woken. Among others it stays
    stopped until they have left.
    """
    if processes == 1:
        time.sleep(1.5 * OVERRIDES["faults.watchdog_compile"])
        os.kill(run.processes[-1].pid, signal.SIGCONT)
        return
    for process in run.processes[:-1]:
        process.wait(PATIENCE)
    os.kill(run.processes[-1].pid, signal.SIGKILL)


def prepare(folder: pathlib.Path, processes: int) -> None:
    """A run with two of four DRPO steps saved, in folder/prepared."""
    if (folder / "prepared").exists():
        return
    (folder / "shared").mkdir(parents=True, exist_ok=True)
    unwatched = OVERRIDES | {"faults.watchdog": 0}  # it compiles everything
    run = SmallRun(folder / "shared", folder / "making", unwatched, processes)
    assert run.start().wait(4 * PATIENCE) == [0] * processes, run.said()
    shutil.rmtree(run.workdir / "checkpoints" / "rl" / "4")
    for name in ("eval/rl.json", "run.json", "report.html", "log-0.txt"):
        (run.workdir / name).unlink()
    run.workdir.rename(folder / "prepared")


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
    last = int(os.environ.get("QOQ_PROCESS_COUNT", "1")) - 1
    # Longer than any limit, in the process that a fault is about.
    seconds = 1e6 if fault == "sleep" and index == last else PAUSE
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
        codes = ", ".join(map(str, case.codes)) + ("" if case.again is None else ", then 0")
        verdict = "as documented" if case.is_right() else "WRONG"
        print(
            f"| {phase} | {fault} | {codes} | {case.seconds:.0f} | {case.saved} | {verdict} |",
            flush=True,
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
