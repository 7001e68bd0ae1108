"""Hosts that share out the runs of a sweep, and are killed and replaced at random: is each run done
once, and is the report that of one host?

    python benchmarks/sweep_storm.py /tmp/sweep-storm --hosts 5 --kills 12     # half a minute

Hosts are processes of this machine that see nothing of one another but their files; they count as
dead after 3 s, not 60. Runs sleep up to 1.5 s and train nothing, hold their workdir's lock as
`qoq train` does, and leave what the report reads.
"""

from __future__ import annotations

import argparse
import collections
import os
import pathlib
import random
import signal
import sys
import time
import warnings

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))

from helpers import sweep_hosts

from qoq_jax.base import lock
from qoq_jax.sweep import run as sweep

PLAN = sweep.Sweep(
    runs={"start": "", **{f"run{i}": "start" for i in range(10)}}, baseline="run0", seeds=6
)
TABLES = ("report.md", "results.json")


def note(log: str, *words: object) -> None:
    """Adds a line in one piece."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, (" ".join(map(str, words)) + "\n").encode())
    os.close(file)


def host(out: str, name: str, longest: float) -> int:
    """A host to its end, as a machine of that name; each run sleeps `longest` seconds at most."""
    lock._machine = lambda: name
    lock.BEAT, lock.PATIENCE, sweep.LOOK = 0.1, 3.0, 0.1
    sweep.load = lambda file: PLAN
    sweep._check_finished = lambda *_: None
    rng = random.Random(name)

    def train(file: str, job: sweep.Job, *_: object) -> int:
        os.makedirs(job.folder, exist_ok=True)
        with lock.hold(job.folder):
            note(f"{out}.log", "begin", name, job.folder)
            time.sleep(longest * rng.random())
            sweep_hosts.finish(job.folder, "rl" if job.start else "sft", 0.3 + 0.01 * job.seed)
            note(f"{out}.log", "end", name, job.folder)
        return 0

    sweep._train = train
    return sweep.run("sweep.py", out, side_by_side=2)


def fork(out: str, name: str, longest: float = 1.5) -> int:
    """Process id of a host."""
    child = os.fork()
    if not child:
        os.dup2(os.open(f"{out}.{name}.log", os.O_CREAT | os.O_WRONLY), 1)
        os._exit(host(out, name, longest))
    return child


def storm(out: str, hosts: int, kills: int) -> tuple[int, list[int]]:
    """(hosts that were killed, exit codes of the others); each is followed by a new one."""
    rng = random.Random(0)
    alive = {fork(out, f"host{i}"): f"host{i}" for i in range(hosts)}
    killed, codes = 0, []
    for number in range(kills):
        time.sleep(1)
        child = rng.choice(list(alive))
        name = alive.pop(child)
        os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code != -signal.SIGKILL:
            codes.append(code)  # it had ended, as the sweep has
            break
        note(f"{out}.log", "killed", name)
        killed += 1
        alive[fork(out, f"new{number}")] = f"new{number}"
    codes += [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in alive]
    return killed, codes


def count(log: str) -> tuple[int, int, int]:
    """(runs that ended, that ended twice, that were begun while another host was at them or after
    their end).
    """
    ends: collections.Counter[str] = collections.Counter()
    at: dict[str, str] = {}  # folder -> host
    wrong = 0
    for line in sweep_hosts.lines(log):
        what, name, *folder = line.split()
        if what == "killed":
            at = {run: host for run, host in at.items() if host != name}
        elif what == "begin":
            wrong += folder[0] in at or folder[0] in ends
            at[folder[0]] = name
        else:
            ends[folder[0]] += 1
            del at[folder[0]]
    return len(ends), sum(n > 1 for n in ends.values()), wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path, help="a new folder")
    parser.add_argument("--hosts", type=int, default=5)
    parser.add_argument("--kills", type=int, default=12)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    warnings.simplefilter("ignore")  # of forks; nothing has started JAX
    out, one = str(arguments.folder / "out"), str(arguments.folder / "one")
    killed, codes = storm(out, arguments.hosts, arguments.kills)
    os.waitpid(fork(one, "one", longest=0.0), 0)
    same = all(
        pathlib.Path(out, t).read_bytes() == pathlib.Path(one, t).read_bytes() for t in TABLES
    )
    ended, twice, wrong = count(f"{out}.log")
    print(f"{arguments.hosts} hosts, {killed} killed; exit codes of the others {sorted(codes)}")
    print(f"runs that ended {ended} of {10 * 6 + 1}, twice {twice}; begun by two hosts {wrong}")
    print(f"report as of one host: {'yes' if same else 'NO'}")
    return 0 if same and ended == 61 and not (twice or wrong or any(codes)) else 1


if __name__ == "__main__":
    sys.exit(main())
