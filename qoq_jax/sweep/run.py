"""`qoq sweep`: many runs of one config file from shared starts, several seeds each, and the tables
that compare them.

A config file that can be swept defines `get_config(arg)` and `SWEEP`, a `Sweep` that says which
args to run. Each run is a `qoq train` of its own in OUT/ARG/seedN, so a sweep that was stopped goes
on where it was; finished runs are not done again.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence

from qoq_jax.base import exit_codes, files, lock, terminal
from qoq_jax.base.errors import ConfigError, QoqError
from qoq_jax.parallel import hosts
from qoq_jax.sweep import children, claims, subsets
from qoq_jax.sweep import tables as sweep_report
from qoq_jax.sweep.evaluation_plan import EvaluationSweep
from qoq_jax.sweep.plan import Job, Sweep
from qoq_jax.train import config as config_lib

LOOK = 5.0  # seconds between two looks at what other processes do


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a run is.

    Attributes:
      cores: of this machine; () = all.
      devices: what its environment has beside this process's.
      apart: the run is on this machine alone, whatever the environment tells of others.
    """

    cores: tuple[int, ...] = ()
    devices: dict[str, str] = dataclasses.field(default_factory=dict)
    apart: bool = False


def jobs(sweep: Sweep, out: str, only: Sequence[str] = ()) -> tuple[list[Job], list[Job]]:
    """(starts, other runs), seed by seed, so that an unfinished sweep has as many whole seeds as
    possible.

    Raises:
      ConfigError: `only` names a run that the sweep does not have.
    """
    unknown = [name for name in only if name not in sweep.runs]
    if unknown:
        raise ConfigError(
            f"no run {', '.join(unknown)} in the sweep", hint=f"it has {', '.join(sweep.runs)}"
        )
    begins = sweep.starts()
    wanted = [name for name in sweep.runs if name not in begins and (not only or name in only)]
    needed = {start for name in wanted for start in sweep.behind(name)}

    def folder(name: str) -> str:
        return os.path.join(out, name) if name else ""

    starts = [
        Job(name, 0, folder(name), folder(sweep.runs[name])) for name in begins if name in needed
    ]
    others = [
        Job(name, seed, os.path.join(folder(name), f"seed{seed}"), folder(sweep.runs[name]))
        for seed in range(sweep.seeds)
        for name in wanted
    ]
    return starts, others


def run(
    file: str,
    out: str,
    only: Sequence[str] = (),
    seeds: int | None = None,
    side_by_side: int | None = None,
    overrides: Sequence[str] = (),
) -> int:
    """Runs what is not finished, writes OUT/report.md after each run; returns the exit code.

    Args:
      file: config file with SWEEP.
      out: folder of all runs.
      only: args to run; () = all.
      seeds: instead of the sweep's own number.
      side_by_side: runs at a time on this machine, each with its share of the machine's cores and
        devices; None = one, with all that this process may use.
      overrides: `--config.a.b=value` for every run.

    Processes over one folder share out the runs (claims.py), and each stays until the last one has
    ended, to take over what another one leaves. But of several processes that the environment tells
    of (docs/pods.md), without `side_by_side`, each starts its process of every run, one run after
    the other, and the first one writes the report.

    Raises:
      ConfigError: a finished run was trained with another config, or several runs at a time are
        more than there are devices.
    """
    apart = side_by_side is not None
    place = None if apart else hosts.told()
    sweep = load(file)
    sweep = dataclasses.replace(sweep, seeds=seeds or sweep.seeds)
    starts, others = jobs(sweep, out, only)
    # A run that others start from is alone on its machine.
    counts = (starts, 1), (others, min(side_by_side, len(others)) if apart else 1)
    groups = [(group, places(count, apart)) for group, count in counts if group]
    os.makedirs(out, exist_ok=True)
    for job in (*starts, *others):
        _check_finished(file, job, out, overrides)
    numbers = {job: number for number, job in enumerate((*starts, *others), 1)}
    board = claims.Board((*starts, *others), shared=place is None)

    def do(job: Job, at: Place) -> int:
        code = _train(file, job, out, at, overrides, numbers[job])
        if code:
            what = "was left" if code == exit_codes.PREEMPTED else "failed"
            said = f"{job.folder} {what} with exit code {code}"
            print(f"{said}; its output is in {_log(job, at)}", flush=True)
        return code

    def report(job: Job) -> None:
        if place is None or place[2] == 0:
            _write(sweep, out, final=False)
            done = sum(claims.is_finished(one.folder) for one in others)
            print(f"{job.folder}  ({done} of {len(others)} runs)", flush=True)
            bar.update(done)

    bar = terminal.Bar("sweep: runs", len(others))
    with bar, children.passing_on(board.leave):
        waits = False
        while left := board.open():
            begun = sum(_drain(board, *group, do, report) for group in groups)
            if not begun and board.open():
                if not waits:
                    print(f"waiting for {left} runs of other processes", flush=True)
                waits = True
                time.sleep(LOOK)
    if place is None or place[2] == 0:
        _write(sweep, out, final=True)
        sweep_report.show(sweep, out)
        print(f"report: {os.path.join(out, 'report.md')}")
    return exit_code([*board.codes.values(), *[exit_codes.PREEMPTED] * board.leaving])


def _drain(
    board: claims.Board,
    group: Sequence[Job],
    at: Sequence[Place],
    do: Callable[[Job, Place], int],
    report: Callable[[Job], None],
) -> int:
    """Does the runs of a group, at each place one at a time, until none can be begun and those that
    were begun have ended; how many these are.
    """

    def work(place: Place) -> int:
        begun = 0
        while True:
            if taken := board.take(group):
                job, claim = taken
                begun += 1
                with claim:
                    code = exit_codes.FAILED
                    try:
                        code = do(job, place)
                    finally:
                        board.ended(job, code)
                if not code:
                    report(job)
            elif not board.wait(LOOK):
                return begun

    with concurrent.futures.ThreadPoolExecutor(len(at)) as pool:
        return sum(pool.map(work, at))


def _write(sweep: Sweep, out: str, final: bool) -> None:
    """Writes the report, one process at a time, so that what was read first is not written last.

    Args:
      final: waits for another process; else that one, or a later one, will write it.
    """
    watch = lock.Watch()
    while not (held := lock.take(out, watch, "report.lock")):
        if not final:
            return
        time.sleep(LOOK)
    with held:
        sweep_report.write(sweep, out)


def places(count: int, apart: bool) -> list[Place]:
    """Where so many runs at a time are on this machine.

    Raises:
      ConfigError: there are fewer devices than that.
    """
    devices = subsets.of_runs(count) if apart else [{}] * count
    return [Place(*share, apart) for share in zip(core_shares(count), devices, strict=True)]


def dry_run(file: str, out: str, only: Sequence[str] = (), seeds: int | None = None) -> int:
    """Prints the runs, in their order, and whether they are finished."""
    sweep = load(file)
    starts, others = jobs(dataclasses.replace(sweep, seeds=seeds or sweep.seeds), out, only)
    rows = []
    for job in (*starts, *others):
        begun = "begun" if os.path.isdir(job.folder) else "to do"
        done = os.path.exists(os.path.join(job.folder, "run.json"))
        rows.append([job.folder, job.start or "-", "finished" if done else begun])
    title = f"{len(rows)} runs in {out}"
    lines = map("  ".join, rows)
    terminal.table(title, ("run", "starts from", "state"), rows, plain=(title, *lines))
    return 0


def exit_code(codes: Sequence[int]) -> int:
    """Of a sweep, by those of its runs that did not end well: what a scheduler may start again is
    told apart from what would fail again.
    """
    if not codes:
        return exit_codes.DONE
    if set(codes) & {exit_codes.FAILED, exit_codes.MISTAKE}:
        return exit_codes.FAILED
    for code in (exit_codes.INTERRUPTED, exit_codes.PREEMPTED):
        if code in codes:
            return code
    return exit_codes.RETRY  # or killed by a signal


def core_shares(runs: int) -> list[tuple[int, ...]]:
    """The cores this process may use, dealt out to runs side by side: threads of one run that wait
    for another's cost more.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return [tuple(cores[i::runs]) if len(cores) >= runs else tuple(cores) for i in range(runs)]


def is_of_evaluations(file: str) -> bool:
    """Whether SWEEP of a config file is an EvaluationSweep.

    Raises:
      ConfigError: no such file.
    """
    return isinstance(getattr(config_lib.load_module(file), "SWEEP", None), EvaluationSweep)


def load_evaluations(file: str) -> EvaluationSweep:
    """SWEEP of a config file that has one of evaluations.

    Raises:
      ConfigError: it says nothing that can be done.
    """
    sweep: EvaluationSweep = config_lib.load_module(file).SWEEP
    sweep.check(file)
    return sweep


def load(file: str) -> Sweep:
    """SWEEP of a config file.

    Raises:
      ConfigError: no such file, or no SWEEP in it.
    """
    module = config_lib.load_module(file)
    found = getattr(module, "SWEEP", None)
    if not isinstance(found, Sweep):
        raise ConfigError(
            "defines no SWEEP",
            where=file,
            hint="SWEEP = Sweep(runs={...}, baseline=...), as configs/evidence.py",
        )
    names = list(found.runs)
    late = [
        name
        for i, (name, start) in enumerate(found.runs.items())
        if start and start not in names[:i]
    ]
    named = {
        found.baseline,
        *found.baselines,
        *found.baselines.values(),
        *(name for chart in found.charts.values() for name in chart),
    }
    if late or not named <= set(names):
        raise ConfigError(
            "SWEEP has a baseline or a chart of what is no run, or a run listed before its start",
            where=file,
        )
    return found


def assignments(job: Job, out: str, overrides: Sequence[str] = ()) -> list[str]:
    """What `qoq train` is told beside the config file and its arg."""
    start = [f"--config.start={job.start}"] if job.start else []
    return [
        f"--config.seed={job.seed}",
        f"--config.workdir={job.folder}",
        f"--config.compile_cache={os.path.join(out, 'compile_cache')}",
        *overrides,
        *start,
    ]


def _check_finished(file: str, job: Job, out: str, overrides: Sequence[str]) -> None:
    """Refuses a finished run of another config: it would stand in the tables under this name."""
    if not os.path.exists(os.path.join(job.folder, "run.json")):
        return
    config = config_lib.parse(
        config_lib.override(config_lib.load(f"{file}:{job.name}"), assignments(job, out, overrides))
    )
    theirs = files.read_json(os.path.join(job.folder, "config.json"), finite=False)
    # Not the place of its start: OUT may have been moved.
    changed = [name for name in config_lib.differences(config, theirs) if name != "start"]
    if changed:
        raise ConfigError(
            f"this run was trained with another {', '.join(changed[:5])}",
            where=job.folder,
            hint="give another --out, or move the run away",
        )


def _log(job: Job, at: Place) -> str:
    """Where the output of a run goes: FOLDER.log, or FOLDER.process1.log of a second process."""
    place = None if at.apart else hosts.told()
    of_process = f".process{place[2]}" if place is not None and place[2] else ""
    return f"{job.folder}{of_process}.log"


def _train(
    file: str, job: Job, out: str, place: Place, overrides: Sequence[str], number: int
) -> int:
    """`qoq train` of a job, the n-th of the sweep, in a process of its own at its place."""
    os.makedirs(os.path.dirname(job.folder), exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "qoq_jax.cli.main",
        "train",
        f"--config={file}:{job.name}",
        *assignments(job, out, overrides),
    ]
    if place.cores and shutil.which("taskset"):
        command = ["taskset", "--cpu-list", ",".join(map(str, place.cores)), *command]
    environment = hosts.environment_apart() if place.apart else hosts.environment_of_job(number)
    with open(_log(job, place), "a", encoding="utf-8") as log:
        try:
            return children.run(command, stdout=log, stderr=log, env=environment | place.devices)
        except OSError as error:
            raise QoqError(f"cannot start a run: {error.strerror}", where=job.folder) from error
