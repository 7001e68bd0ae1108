"""The training run, top to bottom: mesh, data and model, the stages of the config with an
evaluation after each, report.

Each stage resumes from its last checkpoint; whatever is finished is not done again. Everything
random derives from (seed, stage, step), so a killed run ends with the same bits as one that was
left alone.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import jax

from qoq_jax.base import files, storage
from qoq_jax.base.errors import ConfigError
from qoq_jax.evaluation import calibration, fairness, few, runner
from qoq_jax.models import spec, vlm
from qoq_jax.parallel import hosts, messages
from qoq_jax.parallel.mesh import MESH_AXES, MeshConfig
from qoq_jax.report import pages
from qoq_jax.report.cases import write_cases
from qoq_jax.rewards import custom
from qoq_jax.rl import algorithms
from qoq_jax.train import jepa, rl, run_config, run_record, session, sft, stages
from qoq_jax.train.config import Config
from qoq_jax.train.plan import Plan, plan
from qoq_jax.train.setup import Setup, assemble
from qoq_jax.train.stage_run import state_layout
from qoq_jax.train.weights import start_weights, weights_after

# Program of a stage (train/stages.py) -> what runs it: (setup, plan, weights) -> weights reached.
PROGRAMS: dict[str, Callable[[Setup, Plan, Any], Any]] = {"sft": sft.run, "rl": rl.run}
# ... of a run of its own: config -> exit code.
ALONE: dict[str, Callable[[Config], int]] = {"jepa": jepa.run}


def run(cfg: Config) -> int:
    """`qoq train`. Returns the exit code."""
    return session.run(cfg, _run)


def _run(cfg: Config) -> int:
    if stages.is_alone(cfg.stages):
        return ALONE[stages.get(cfg.stages[0]).program](cfg)

    # ---------------------------------------------------------------------- mesh, data and model
    # The data sets are made in the background, until the first rows are asked for.
    totals, setup = run_record.RunTotals(cfg.workdir), assemble(cfg, training=True)
    try:
        with jax.set_mesh(setup.mesh):
            check_stages(setup)
            if hosts.is_main():
                print(", ".join(f"{name}={kernel}" for name, kernel in kernels(setup).items()))
            weights = start_weights(setup)

            # ---------------------------------------------------------- stages and evaluation
            for stage in cfg.stages:
                weights = run_stage(setup, stage, weights)
                totals.keep(setup.quarantined)
                written = functools.partial(
                    storage.exists, _eval_file(cfg.workdir, stage, cfg.eval.split)
                )
                if not messages.from_main("evaluated", written):
                    evaluate_stage(setup, stage, weights, cfg.eval.split, totals)
    finally:
        totals.keep(setup.quarantined)

    # ------------------------------------------------------------------------------------ report
    _write_run_record(setup, totals)
    if hosts.is_main():
        for name, page in pages.write(cfg.workdir).items():
            print(f"{name}: {page}")
    return 0


def kernels(setup: Setup) -> dict[str, str]:
    """The kernels of attention that the config or, with "auto", the platform has chosen."""
    model = setup.model
    return {"attention": model.attention, "decode_attention": model.decode_attention}


# ------------------------------------------------------------------------------------------- stages


def check_stages(setup: Setup) -> None:
    """Finds mistakes in the config of a later stage before the first one has trained for hours.

    Raises:
      ConfigError: frozen weights, adapters or a reward function that are not there.
    """
    for one in (plan(setup.config, name) for name in setup.config.stages):
        state_layout(setup, one)
        if one.rl is not None and one.rl.reward.custom:
            custom.load(one.rl.reward.custom)


def run_stage(setup: Setup, name: str, weights: Any) -> Any:
    """One stage of the config; returns the weights reached.

    Args:
      setup: the run.
      name: of the stage.
      weights: all weights of the model to start from, or None for random ones.
    """
    one = plan(setup.config, name)
    # A stage of RL whose algorithm is the baseline without RL has no section rl.
    program = "sft" if one.rl is None else one.stage.program
    return PROGRAMS[program](setup, one, weights)


# --------------------------------------------------------------------------------------- evaluation


def evaluate_stage(
    setup: Setup,
    stage: str,
    params: Any,
    split: str,
    totals: run_record.RunTotals | None = None,
) -> None:
    """Greedy evaluation of a stage's parameters on all sources; writes WORKDIR/eval/STAGE.json and
    prints the summary.

    On the test split it writes WORKDIR/gallery/STAGE too. totals: takes the samples that were
    skipped.
    """
    workdir = setup.config.workdir
    result = runner.evaluate(setup, params, split)
    if split == "test" and hosts.is_main():
        folder = os.path.join(workdir, "gallery", stage)
        most = setup.config.eval.gallery
        length = setup.config.data.ecg_length
        write_cases(folder, result["records"], setup.rows(split), setup.roots, most, length)
    if totals:  # before the file that says that this evaluation is done
        totals.keep(setup.quarantined)
    if not hosts.is_main():
        return
    files.write_json(_eval_file(workdir, stage, split), result, indent=None)
    print(f"{stage} on {split}: " + runner.headline(result["summary"]))
    for line in fairness.lines(result.get("fairness", {})):
        print(line)
    if "real" in result:
        print("real samples, " + few.line(result["real"]))


def evaluate_run(
    workdir: str, stage: str | None, split: str, scores: bool = False, temperature: bool = False
) -> int:
    """`qoq evaluate`: restores the last checkpoint of a run and evaluates it.

    scores: with the likelihood of each label, whatever the run's config says.
    temperature: fit one on the validation split too, and report test before and after it.
    """
    setup, params, stage = restore_run(workdir, stage)
    if scores:
        config = setup.config
        config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, scores=True))
        setup = dataclasses.replace(setup, config=config)
    with jax.set_mesh(setup.mesh):
        for one in ("validation", split) if temperature else (split,):
            evaluate_stage(setup, stage, params, one)
    if temperature and hosts.is_main():
        fit_temperature(workdir, stage)
    return 0


def fit_temperature(workdir: str, stage: str) -> None:
    """Puts "temperature" (calibration.temperature) into WORKDIR/eval/STAGE.json, from its records
    and those of the validation split, and prints it.
    """
    path = _eval_file(workdir, stage, "test")
    validation = files.read_json(_eval_file(workdir, stage, "validation"), finite=False)
    result = files.read_json(path, finite=False)
    found = calibration.temperature(validation["records"], result["records"])
    files.write_json(path, result | {"temperature": found}, indent=None)
    (low, high), (before, after) = calibration.TEMPERATURES, (found["before"], found["after"])
    print(
        f"temperature {found['temperature']:.3f} (of {low:g} to {high:g}), fitted on "
        f"{found['fitted_on']} validation rows; test: "
        f"NLL {before['nll']:.3f} -> {after['nll']:.3f}, "
        f"calibration error {before['ece']:.3f} -> {after['ece']:.3f}"
    )


def restore_run(
    workdir: str,
    stage: str | None = None,
    prepare: bool = True,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[Setup, dict[str, Any], str]:
    """(setup, all weights, stage name) of a finished or running training run.

    Args:
      prepare: its data sets are needed too.
      mesh: for another than the run was trained on.

    Raises:
      ConfigError: the run has no such stage, or trained no model that answers.
      CheckpointError: there is no run, or it has no sound checkpoint.
    """
    cfg = run_config.read(workdir)
    if stages.is_alone(cfg.stages):
        raise ConfigError(
            "this run pretrained an ECG encoder, which answers no questions",
            where=workdir,
            hint="train a model that starts from it: "
            f"--config.model.ecg_weights={workdir}/{jepa.WEIGHTS}",
        )
    if stage and stage not in cfg.stages:
        raise ConfigError(
            f"the run has no stage {stage}", where=workdir, hint=f"it has {', '.join(cfg.stages)}"
        )
    name = stage or run_config.last_trained_stage(cfg)
    devices = None
    if mesh is not None:
        cfg = dataclasses.replace(cfg, mesh=MeshConfig(*(mesh.shape[axis] for axis in MESH_AXES)))
        devices = list(mesh.devices.flat)
    setup = assemble(cfg, prepare, devices=devices)
    with jax.set_mesh(setup.mesh):
        return setup, weights_after(setup, name), name


def _eval_file(workdir: str, stage: str, split: str) -> str:
    name = stage if split == "test" else f"{stage}-{split}"
    return os.path.join(workdir, "eval", f"{name}.json")


# -------------------------------------------------------------------------------------- bookkeeping


def _write_run_record(setup: Setup, totals: run_record.RunTotals) -> None:
    """run.json, which only a finished run has."""
    cfg = setup.config
    run_record.write_run(
        cfg.workdir,
        totals,
        title=f"{cfg.model.variant} on {', '.join(setup.roots)}",
        model=cfg.model.variant,
        algorithm=cfg.rl.algorithm if "rl" in cfg.stages else algorithms.SUPERVISED,
        parameters=spec.count(vlm.param_specs(setup.model)),
        kernels=kernels(setup),
        notes=setup.notes,
    )
