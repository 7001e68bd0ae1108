"""One process of a sweep of evaluations with the tiny model: `python -m helpers.evaluation_sweep
WORKDIR OUT`.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys

import jax

from helpers.many_hosts import CONFIG
from helpers.train import tiny_model
from qoq_jax.models import spec, vlm
from qoq_jax.parallel import hosts
from qoq_jax.sweep import evaluations
from qoq_jax.sweep.evaluation_plan import Decoding, EvaluationSweep
from qoq_jax.train import config as config_lib
from qoq_jax.train import run_config
from qoq_jax.train import setup as setup_lib
from qoq_jax.train.plan import plan
from qoq_jax.train.stage_run import checkpointer, start_state


def model(_: config_lib.Config | None = None):
    """In the place of setup.model_config."""
    return dataclasses.replace(tiny_model(), remat="none")


def make_run(folder: pathlib.Path, steps: int) -> str:
    """The workdir of a run of stage sft with checkpoints of so many steps, random weights; with
    setup.model_config replaced by `model`.
    """
    sections = CONFIG | {"data": CONFIG["data"] | {"root": str(folder / "data")}}
    sections |= {"mesh": {"data": 1}, "eval": {"rows": 4}, "workdir": str(folder / "run")}
    cfg = config_lib.parse(sections | {"stages": ["sft"]})
    run_config.claim(cfg)
    setup = setup_lib.assemble(cfg, devices=jax.devices()[:1])
    with jax.set_mesh(setup.mesh):
        specs = vlm.param_specs(setup.model)
        init = jax.jit(
            lambda key: spec.init_params(specs, key),
            out_shardings=spec.shardings(specs, setup.mesh),
        )
        checkpoints = checkpointer(setup, "sft")
        for step in range(1, steps + 1):
            state = start_state(setup, plan(cfg, "sft"), init(jax.random.key(step)))[0]
            checkpoints.save(step, state, {})
        checkpoints.close()
    return cfg.workdir


def sweep_of(workdir: str) -> EvaluationSweep:
    """Two rows at a time: no multiple of the devices, so that batches are padded."""
    return EvaluationSweep(
        {"one": workdir},
        tasks=("test",),
        checkpoints="all",
        decoding={"greedy": Decoding(), "draws": Decoding(temperature=1.0, samples=2)},
        limit=1,
        rows=2,
        scores=True,
    )


if __name__ == "__main__":
    hosts.join()
    setup_lib.model_config = model
    sys.exit(evaluations.run(sweep_of(sys.argv[1]), sys.argv[2]))
