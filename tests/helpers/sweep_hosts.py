"""Hosts of one sweep on this machine: `python -m helpers.sweep_hosts OUT COUNT`, where the last one
is killed in its first run. Runs train nothing and leave what the report reads.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import warnings

from qoq_jax.base import lock
from qoq_jax.sweep import run as sweep

PLAN = sweep.Sweep(runs={"start": "", "grpo": "start", "drpo": "start"}, baseline="grpo", seeds=4)


def finish(folder: str, stage: str, score: float, seed: int = 0) -> None:
    """What a finished run leaves, as far as the report reads it."""
    os.makedirs(os.path.join(folder, "eval"), exist_ok=True)
    of = {"macro_f1": score, "exact_match": score + 0.1}
    summary = {"sources": {"climb-mini": {"overall": of, "domains": {"ct": of, "ecg": of}}}}
    data = {"mini_rows": 9, "mini_seed": seed, "mini_imbalance": "climb", "real": False}
    rows = [
        {"stage": stage, "step": step, "seconds/step": 2.0, "seconds/reward": 0.1}
        for step in (5, 10, 15)
    ]
    files = {
        "config.json": json.dumps({"data": data | {"extra": []}, "eval": {"validation_rows": 8}}),
        f"eval/{stage}.json": json.dumps({"summary": summary}),
        f"validation-{stage}.json": json.dumps([[10, score / 2], [30, score]]),
        "metrics.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "run.json": "{}",
    }
    for name, content in files.items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
            f.write(content)


def train(job: sweep.Job, begun: str, host: int = 0, count: int = 1) -> int:
    """In the place of `qoq train`; the first run of a host lasts until each host has one."""
    with open(begun, "a", encoding="utf-8") as file:
        file.write(f"{host} {job.name} {job.seed}\n")
    if job.start:
        while len({line[0] for line in lines(begun) if "start" not in line}) < count:
            time.sleep(0.02)
        if host == count - 1 > 0:
            os.makedirs(job.folder)
            os.kill(os.getpid(), signal.SIGKILL)
    finish(job.folder, "rl" if job.start else "sft", 0.3 + 0.01 * len(job.name) + 0.02 * job.seed)
    return 0


def lines(path: str) -> list[str]:
    with open(path, encoding="utf-8") as file:
        return file.read().splitlines()


def host(out: str, index: int, count: int) -> int:
    """One host, which can see nothing of the others but their files."""
    lock._machine = lambda: f"host {index}"
    lock.BEAT, lock.PATIENCE, sweep.LOOK = 0.05, 1.0, 0.05
    sweep.load = lambda file: PLAN
    sweep._check_finished = lambda *_: None
    sweep._train = lambda file, job, *_: train(job, f"{out}.begun", index, count)
    return sweep.run("evidence.py", out, side_by_side=1)


def main() -> int:
    out, count = sys.argv[1], int(sys.argv[2])
    warnings.simplefilter("ignore")  # of forks; nothing has started JAX
    children = []
    for index in range(count):
        child = os.fork()
        if not child:
            os._exit(host(out, index, count))
        children.append(child)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
