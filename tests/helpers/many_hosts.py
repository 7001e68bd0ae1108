"""One process of a run with the tiny model: `python -m helpers.many_hosts WORKDIR JSON`.

The JSON says what to do, in order: [{"stage": "rl", "algorithm": "drpo", "steps": 2, ...}, ...].
Each part has a workdir of its own below WORKDIR, named by its place, or by "name", which may be a
path elsewhere. "evaluate" adds an evaluation of the weights reached; "until" ends the work on it
after so many steps, as if it had been stopped then, and the same part again goes on. Process 0
writes WORKDIR/result.json: of each part the SHA-256 of all weights, the rows of metrics.jsonl
without times, and the evaluation.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import sys
from typing import Any

import jax
import numpy as np

from helpers import compile_cache
from helpers.train import tiny_model
from qoq_jax.base import interrupt
from qoq_jax.evaluation import runner
from qoq_jax.models import spec, vlm
from qoq_jax.parallel import hosts
from qoq_jax.train import config as config_lib
from qoq_jax.train import loop as loop_lib
from qoq_jax.train import run as run_lib
from qoq_jax.train import setup as setup_lib
from qoq_jax.train import stage_run

CONFIG = {
    "data": {
        "real": False,
        "mini_rows": 40,
        "max_patches": 72,
        "mean_patches": 64,
        "mean_ecgs": 0.5,
        "max_prompt_tokens": 76,
        "frame_max_pixels": 84 * 84,
        "media_rows": 4,
        "cache": True,
    },
    "rl": {
        "questions": 8,
        "rollouts": 3,
        "response_tokens": 6,
        "warmup": 2,
        "lr": 1e-3,
        "save_every": 100,
        "reward": {
            "accuracy": 0.0,
            "iou": 0.0,
            "format": 0.0,
            "custom": "helpers.train:pseudo_reward",
        },
    },
    "sft": {"rows": 4, "tokens": 120, "samples": 6, "warmup": 1, "lr": 1e-3, "save_every": 100},
    "log": {"every": 1, "tensorboard": False},
    "eval": {"rows": 8, "limit_per_domain": 2},
    "mesh": {"data": 2, "fsdp": 2},
}
TIMES = ("time", "seconds", "tokens_per_second", "recompiles", "ecgs_per_second")


def main(workdir: str, parts: list[dict[str, Any]]) -> int:
    """Does the parts; returns the exit code."""
    hosts.join()
    compile_cache.every_process_writes()
    setup_lib.model_config = lambda cfg: dataclasses.replace(tiny_model(), remat="none")
    return run(pathlib.Path(workdir), parts)


def run(workdir: pathlib.Path, parts: list[dict[str, Any]]) -> int:
    results = []
    for number, part in enumerate(parts):
        folder = workdir / part.pop("name", str(number))
        stage, evaluates = part.pop("stage"), part.pop("evaluate", False)
        stage_run.loop_lib.run = functools.partial(_run_until, part.pop("until", None))
        sections = {name: CONFIG[name] | part.pop(name, {}) for name in CONFIG}
        sections["data"]["root"] = str(workdir.parent / "data")
        sections[stage] = sections[stage] | part
        cfg = config_lib.parse(sections | {"workdir": str(folder), "stages": [stage]})
        os.makedirs(folder, exist_ok=True)
        setup = setup_lib.assemble(cfg)
        with jax.set_mesh(setup.mesh):
            specs = vlm.param_specs(setup.model)
            start = jax.jit(
                lambda key, specs=specs: spec.init_params(specs, key),
                out_shardings=spec.shardings(specs, setup.mesh),
            )
            weights = run_lib.run_stage(setup, stage, start(jax.random.key(3)))
            evaluation = runner.evaluate(setup, weights, "test") if evaluates else None
        whole = hosts.gather(weights)
        if hosts.is_main():
            results.append(
                {
                    "weights": digest(whole),
                    "rows": rows(folder),
                    "evaluation": evaluation,
                    "skipped": setup.quarantined,
                }
            )
    if hosts.is_main():
        (workdir / "result.json").write_text(json.dumps(results))
    return 0


class _Stop(loop_lib.Hook):
    def __init__(self, until: int):
        self._until = until

    def after_step(self, loop: loop_lib.Loop) -> None:
        loop.stop = loop.done >= self._until


def _run_until(until: int | None, loop: Any, step: Any, hooks: Any, run: Any = loop_lib.run) -> Any:
    return run(loop, step, hooks if until is None else [_Stop(until), *hooks])


def digest(weights: Any) -> str:
    """SHA-256 of all bits."""
    found = hashlib.sha256()
    for array in jax.tree.leaves(weights):
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def rows(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Those of metrics.jsonl, without what a clock says."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith(TIMES)} for line in lines
    ]


if __name__ == "__main__":
    interrupt.end(hosts.leave(lambda: main(sys.argv[1], json.loads(sys.argv[2]))))
