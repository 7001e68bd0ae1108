"""A small run of SFT and DRPO is killed again and again (SIGKILL), and ends with the same bits.

    python benchmarks/kill_storm.py /tmp/storm --kills 50 --saving 20

Half of the kills come at a random moment of a process' life, from its first line of Python on; the
others while a checkpoint is being written. Where a run comes to its end before all kills are done,
the next one begins. Checked: each restart goes on at the last step that was committed when the kill
came, and the last state of each run has the bits of a run that was left alone. docs/reliability.md
has the result.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import random
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks.small_run import SmallRun, committed, differences, final_state, is_saving

STAGES = {"sft": 6, "rl": 6}  # steps
# A checkpoint after each step, and no limit on restarts: a kill comes before most starts get on.
OVERRIDES = {"sft.save_every": 1, "rl.save_every": 1, "faults.max_restarts": 0}
LIMIT = 900.0  # seconds for a process to end by itself


@dataclasses.dataclass
class Tally:
    """What has happened so far.

    Attributes:
      kills: all of them; saving: those that found a save in flight.
      lost: committed steps that a restart did not find.
      runs: that came to their end; different: arrays that differ from the uninterrupted run.
    """

    kills: int = 0
    saving: int = 0
    lost: int = 0
    runs: int = 0
    different: int = 0


def storm(folder: pathlib.Path, kills: int, saving: int, seed: int) -> Tally:
    """Kills `kills` times, `saving` of them during a save at least."""
    rng, tally = random.Random(seed), Tally()
    (folder / "shared").mkdir(parents=True, exist_ok=True)
    whole = SmallRun(folder / "shared", folder / "whole", OVERRIDES)
    assert whole.start().wait(LIMIT) == [0], whole.said()
    began = time.monotonic()  # once more, with all programs in the cache: how long a life is
    again = SmallRun(folder / "shared", folder / "timed", OVERRIDES)
    assert again.start().wait(LIMIT) == [0], again.said()
    life = time.monotonic() - began
    while tally.kills < kills or tally.saving < saving:
        run = SmallRun(folder / "shared", folder / f"storm-{tally.runs}", OVERRIDES)
        while tally.kills < kills or tally.saving < saving:
            in_save = tally.saving < saving and tally.kills % 2 == 0
            before = reached(run.workdir)
            start = len(run.said())
            run.start()
            if not wait_for_the_moment(run, rng, in_save, life):
                break  # it came to its end
            run.kill()
            tally.saving += is_saving(run.workdir, run.started)
            tally.kills += 1
            tally.lost += steps_lost(run.said()[start:], before)
            print(f"kill {tally.kills}, saving {tally.saving}: {reached(run.workdir)}", flush=True)
        before, start = reached(run.workdir), len(run.said())
        assert run.start().wait(LIMIT) == [0], run.said()
        tally.lost += steps_lost(run.said()[start:], before)
        tally.runs += 1
        tally.different += sum(
            len(differences(final_state(whole.workdir, stage), final_state(run.workdir, stage)))
            for stage in STAGES
        )
    return tally


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
    arguments = parser.parse_args()
    tally = storm(arguments.folder, arguments.kills, arguments.saving, arguments.seed)
    print(json.dumps(dataclasses.asdict(tally)))
    return 1 if tally.lost or tally.different else 0


if __name__ == "__main__":
    sys.exit(main())
