"""The training run, top to bottom: data, the stages of the config, an evaluation after each,
report.

Each stage resumes from its last checkpoint; whatever is finished is not done again. Everything
random derives from (seed, stage, step), so a killed run ends with the same bits as one that was
left alone.
"""

from __future__ import annotations

import dataclasses
import json
import os

import jax

from qoq_jax import hf
from qoq_jax.base.errors import CheckpointError, ConfigError
from qoq_jax.data.answer_format import PIXELS
from qoq_jax.evaluation import runner
from qoq_jax.models import spec, vlm
from qoq_jax.report import report
from qoq_jax.rewards import custom
from qoq_jax.train import config as config_lib
from qoq_jax.train import jepa as ecg_jepa
from qoq_jax.train import loop as stage_lib
from qoq_jax.train import rl as reinforce
from qoq_jax.train import run_record as facts
from qoq_jax.train import sft as supervised
from qoq_jax.train.checkpoint import has_checkpoint
from qoq_jax.train.config import Config
from qoq_jax.train.setup import Setup, assemble, is_published, model_config


def run(cfg: Config) -> int:
    """`qoq train`. Returns the exit code."""
    # --------------------------------------------------------------------------------------- set-up
    os.makedirs(cfg.workdir, exist_ok=True)
    claimed = _claim_workdir(cfg)
    try:
        return _run(cfg)
    except ConfigError:
        if claimed and not os.path.exists(os.path.join(cfg.workdir, "metrics.jsonl")):
            # nothing was trained: the mended config may have the workdir
            os.remove(os.path.join(cfg.workdir, "config.json"))
        raise


def _run(cfg: Config) -> int:
    # Private to the run, since a compile cache is code: a restart then begins without compiling
    # again.
    cache = cfg.compile_cache or os.path.join(cfg.workdir, "compile_cache")
    jax.config.update("jax_compilation_cache_dir", os.path.abspath(cache))
    if cfg.stages == (ecg_jepa.STAGE,):
        return ecg_jepa.run(cfg)
    tally, setup = facts.Tally(cfg.workdir), assemble(cfg, training=True)
    try:
        with jax.set_mesh(setup.mesh):
            # ------------------------------------------------------------------------------- stages
            check_stages(setup)
            weights = start_weights(setup)
            for stage in cfg.stages:
                weights = run_stage(setup, stage, weights)
                tally.keep(setup.quarantined)
                if not os.path.exists(_eval_file(cfg.workdir, stage, cfg.eval.split)):
                    evaluate_stage(setup, stage, weights, cfg.eval.split, tally)
    finally:
        tally.keep(setup.quarantined)
    # --------------------------------------------------------------------------------------- report
    _write_run_facts(setup, tally)
    print(f"report: {report.write_report(cfg.workdir)}")
    return 0


def check_stages(setup: Setup) -> None:
    """Finds mistakes in the config of a later stage before the first one has trained for hours.

    Raises:
      ConfigError: frozen weights, adapters or a reward function that are not there.
    """
    for plan in (stage_lib.plan(setup.config, name) for name in setup.config.stages):
        stage_lib.state_layout(setup, plan)
        if plan.rl is not None and plan.rl.reward.custom:
            custom.load(plan.rl.reward.custom)


def run_stage(setup: Setup, name: str, weights):
    """One stage of the config, supervised or RL; returns the weights reached."""
    plan = stage_lib.plan(setup.config, name)
    return (supervised if plan.rl is None else reinforce).run(setup, plan, weights)


# --------------------------------------------------------------------------------------- evaluation


def evaluate_stage(
    setup: Setup, stage: str, params, split: str, tally: facts.Tally | None = None
) -> None:
    """Greedy evaluation of a stage's parameters on all sources; writes WORKDIR/eval/STAGE.json and
    prints the summary.

    On the test split it writes WORKDIR/gallery/STAGE too. tally: takes the samples that were
    skipped.
    """
    result = runner.evaluate(setup, params, split)
    if split == "test":
        runner.write_gallery(setup, result, os.path.join(setup.config.workdir, "gallery", stage))
    if tally:  # before the file that says that this evaluation is done
        tally.keep(setup.quarantined)
    facts.write_json(_eval_file(setup.config.workdir, stage, split), result, indent=None)
    print(f"{stage} on {split}: " + runner.headline(result["summary"]))


def evaluate_run(workdir: str, stage: str | None, split: str) -> int:
    """`qoq evaluate`: restores the last checkpoint of a run and evaluates it."""
    setup, params, stage = restore_run(workdir, stage)
    with jax.set_mesh(setup.mesh):
        evaluate_stage(setup, stage, params, split)
    return 0


def restore_run(workdir: str, stage: str | None = None, prepare: bool = True):
    """(setup, all weights, stage name) of a finished or running training run; `prepare`: its data
    sets are needed too.
    """
    cfg = _config_of(workdir)
    if cfg.stages == (ecg_jepa.STAGE,):
        raise ConfigError(
            "this run pretrained an ECG encoder, which answers no questions",
            where=workdir,
            hint="train a model that starts from it: "
            f"--config.model.ecg_weights={workdir}/{ecg_jepa.WEIGHTS}",
        )
    if stage and stage not in cfg.stages:
        raise ConfigError(
            f"the run has no stage {stage}", where=workdir, hint=f"it has {', '.join(cfg.stages)}"
        )
    name = stage or _last_stage(cfg)
    setup = assemble(cfg, prepare)
    with jax.set_mesh(setup.mesh):
        return setup, reached_weights(setup, name), name


def start_weights(setup: Setup):
    """Weights on the setup's mesh: those of the run `config.start`, or of `model.variant` with
    `model.ecg_weights`.

    None: all are random.
    """
    cfg = setup.config
    if not cfg.start:
        weights = published_weights(setup) if is_published(cfg.model.variant) else None
        if not cfg.model.ecg_weights:
            return weights
        return ecg_jepa.with_ecg_weights(
            weights or stage_lib.random_weights(setup, cfg.stages[0]), setup
        )
    theirs = _config_of(setup.config.start)
    other = dataclasses.replace(setup, config=theirs)
    if model_config(theirs) != model_config(setup.config):
        raise ConfigError(
            "the run named in start trained another model",
            where=setup.config.start,
            hint="give both runs the same section model",
        )
    return reached_weights(other, _last_stage(theirs))


def published_weights(setup: Setup):
    """The weights of the Hugging Face model that `model.variant` names, float32; an ECG encoder
    that it lacks is random.
    """
    _, found = hf.load(hf.resolve(setup.config.model.variant), setup.mesh, "float32")
    wanted = vlm.param_specs(setup.model)
    lacking = wanted.keys() - found.keys()
    new = stage_lib.random_weights(setup, setup.config.stages[0], lacking) if lacking else {}
    return {branch: found[branch] if branch in found else new[branch] for branch in wanted}


def reached_weights(setup: Setup, name: str):
    """All weights after a stage, from its checkpoint.

    Adapters are added to what the stages before reached.
    """
    before = None
    if stage_lib.plan(setup.config, name).lora.rank:
        place = setup.config.stages.index(name)
        before = (
            reached_weights(setup, setup.config.stages[place - 1])
            if place
            else start_weights(setup)
        )
    return stage_lib.load_weights(setup, name, before)


def _config_of(workdir: str) -> Config:
    path = os.path.join(workdir, "config.json")
    if not os.path.exists(path):
        raise CheckpointError(
            "no run here (config.json is missing)",
            where=workdir,
            hint="name the workdir of a qoq train run",
        )
    content = _read_config(path)
    if "model_type" in content:
        raise ConfigError(
            "this is a Hugging Face model, not a run",
            where=workdir,
            hint="train from it with --config.model.variant",
        )
    # Runs from before this field wrote pixels, whatever the family.
    model = {"box_coordinates": PIXELS} | dict(content.get("model", {}))
    return dataclasses.replace(config_lib.parse(content | {"model": model}), workdir=workdir)


def _last_stage(cfg: Config) -> str:
    """The last stage that has a checkpoint."""
    for name in reversed(cfg.stages):
        if has_checkpoint(os.path.join(cfg.workdir, "checkpoints", name)):
            return name
    raise CheckpointError("no checkpoint", where=cfg.workdir, hint="train first")


def _eval_file(workdir: str, stage: str, split: str) -> str:
    name = stage if split == "test" else f"{stage}-{split}"
    return os.path.join(workdir, "eval", f"{name}.json")


# -------------------------------------------------------------------------------------- bookkeeping


def _claim_workdir(cfg: Config) -> bool:
    """Writes config.json and returns True, or checks that the run there was started with the same
    config.
    """
    path = os.path.join(cfg.workdir, "config.json")
    ours = json.loads(json.dumps(dataclasses.asdict(cfg)))
    if os.path.exists(path):
        theirs = _read_config(path)
        changed = config_lib.differences(cfg, theirs)
        if changed:
            raise ConfigError(
                f"the run there was started with another {', '.join(changed[:5])}",
                where=cfg.workdir,
                hint="give the same config, or another --config.workdir",
            )
        return False
    facts.write_json(path, ours)
    return True


def _read_config(path: str) -> dict:
    """The config.json of a run."""
    try:
        return dict(facts.read_json(path))
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"is damaged ({type(error).__name__})",
            where=path,
            hint="delete the file and start the same qoq train command again, which writes it anew",
        ) from error


def _write_run_facts(setup: Setup, tally: facts.Tally) -> None:
    """run.json, which only a finished run has."""
    facts.write_run(
        setup.config.workdir,
        tally,
        title=f"{setup.config.model.variant} on {', '.join(setup.roots)}",
        model=setup.config.model.variant,
        algorithm=setup.config.rl.algorithm if "rl" in setup.config.stages else "sft",
        parameters=spec.count(vlm.param_specs(setup.model)),
        notes=setup.notes,
    )
