"""A small run of SFT and DRPO is killed again and again (SIGKILL), and ends with the same bits.

    python benchmarks/kill_storm.py /tmp/storm --kills 50 --saving 20
    python benchmarks/kill_storm.py /tmp/storm --kills 20 --saving 8 --processes 2

Half of the kills come at a random moment of a process' life, from its first line of Python on; the
others while a checkpoint is being written. Where a run comes to its end before all kills are done,
the next one begins. Checked: each restart goes on at the last step that was committed when the kill
came, and the last state of each run has the bits of a run that was left alone. Of several processes
one is killed, taken at random, or all; those that are left have to leave by themselves, and all
start again. docs/reliability.md has the result.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import random
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks.small_run import SmallRun, committed, differences, final_state, is_saving
from qoq_jax.base import exit_codes

STAGES = {"sft": 6, "rl": 6}  # steps
# A checkpoint after each step, and no limit on restarts: a kill comes before most starts get on.
OVERRIDES = {"sft.save_every": 1, "rl.save_every": 1, "faults.max_restarts": 0}
LIMIT = 900.0  # seconds for a process to end by itself
LOST = (exit_codes.RETRY, -signal.SIGABRT)  # how a process ends that has lost another one


@dataclasses.dataclass
class Tally:
    """What has happened so far.

    Attributes:
      kills: all of them; saving: those that found a save in flight; single: those of one process
        among several.
      lost: committed steps that a restart did not find.
      runs: that came to their end; different: arrays that differ from the uninterrupted run.
    """

    kills: int = 0
    saving: int = 0
    single: int = 0
    lost: int = 0
    runs: int = 0
    different: int = 0


def storm(folder: pathlib.Path, kills: int, saving: int, seed: int, processes: int = 1) -> Tally:
    """Kills `kills` times, `saving` of them during a save at least."""

    def run_of(name: str) -> SmallRun:
        return SmallRun(folder / "shared", folder / name, OVERRIDES, processes)

    rng, tally = random.Random(seed), Tally()
    (folder / "shared").mkdir(parents=True, exist_ok=True)
    whole = run_of("whole")
    assert whole.start().wait(LIMIT) == [0] * processes, whole.said()
    spent = json.loads((whole.workdir / "goodput.json").read_text())["seconds"]
    life = sum(spent.values()) - spent["compile"]  # of the others, for whom all is in the cache
    while tally.kills < kills or tally.saving < saving:
        run = run_of(f"storm-{tally.runs}")
        while tally.kills < kills or tally.saving < saving:
            in_save = tally.saving < saving and tally.kills % 2 == 0
            before = reached(run.workdir)
            start = len(run.said())
            run.start()
            if not wait_for_the_moment(run, rng, in_save, life):
                run.wait(LIMIT)
                break  # it came to its end
            saves, single = kill(run, rng)
            tally.saving += saves
            tally.single += single
            tally.kills += 1
            tally.lost += steps_lost(run.said()[start:], before)
            print(f"kill {tally.kills}, saving {tally.saving}: {reached(run.workdir)}", flush=True)
        before, start = reached(run.workdir), len(run.said())
        assert run.start().wait(LIMIT) == [0] * processes, run.said()
        tally.lost += steps_lost(run.said()[start:], before)
        tally.runs += 1
        tally.different += sum(
            len(differences(final_state(whole.workdir, stage), final_state(run.workdir, stage)))
            for stage in STAGES
        )
    return tally


def kill(run: SmallRun, rng: random.Random) -> tuple[bool, bool]:
    """Kills one of the processes or all, and waits for the others; returns whether a save was in
    flight, and whether one alone was killed.
    """
    index = rng.randrange(2 * len(run.processes))
    if len(run.processes) == 1 or index >= len(run.processes):
        run.kill()
        return is_saving(run.workdir, run.started), False
    run.processes[index].kill()
    saves = is_saving(run.workdir, run.started)
    codes = run.wait(LIMIT)
    others = codes[:index] + codes[index + 1 :]
    # 0: it had come to its end before
    assert all(code in (*LOST, 0) for code in others), (codes, run.said())
    return saves, True


def wait_for_the_moment(run: SmallRun, rng: random.Random, in_save: bool, life: float) -> bool:
    """Waits until the process is to be killed; False when it has ended before."""
    process, begun = run.processes[0], time.monotonic()
    if not in_save:
        end = begun + rng.uniform(0, 0.9 * life)
        while time.monotonic() < end:
            if process.poll() is not None:
                return False
            time.sleep(0.005)
        return process.poll() is None
    skip = rng.randrange(3)  # saves that are let through
    seen = False
    while process.poll() is None:
        saving = is_saving(run.workdir, run.started)
        skip -= saving and not seen
        seen = saving
        if saving and skip < 0:
            time.sleep(rng.uniform(0, 0.05))
            if is_saving(run.workdir, run.started):
                return process.poll() is None
            skip = 0
        time.sleep(0.001)
    return False


def reached(workdir: pathlib.Path) -> dict[str, int]:
    """Stage -> the last committed step."""
    return {stage: (committed(workdir, stage) or [0])[-1] for stage in STAGES}


def steps_lost(said: str, before: dict[str, int]) -> int:
    """Committed steps that a process did not take up, by what it has printed."""
    lost = 0
    for line in said.splitlines():
        for stage, step in before.items():
            if line.startswith(f"{stage}: resuming from step "):
                lost += step - int(line.split()[4])
            elif line.startswith(f"{stage} {1}/{STAGES[stage]} "):
                lost += step  # from the beginning
    return lost


def main() -> int:
    """Prints the tally; 1 when something was lost or differs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=pathlib.Path, help="a new folder; all runs are kept in it")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--saving", type=int, default=20, help="kills during a save, at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    tally = storm(given.folder, given.kills, given.saving, given.seed, given.processes)
    print(json.dumps(dataclasses.asdict(tally)))
    return 1 if tally.lost or tally.different else 0


if __name__ == "__main__":
    sys.exit(main())
