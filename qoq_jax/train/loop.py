"""The training run, top to bottom: data, SFT warm start, evaluation, reinforcement learning, evaluation, report.

Each stage resumes from its last checkpoint; whatever is finished is not done again. Everything random derives from
(seed, stage, step), so a killed run ends with the same bits as one that was left alone.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import platform
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from qoq_jax import config as config_lib
from qoq_jax.config import Config
from qoq_jax.data import pipeline
from qoq_jax.errors import CheckpointError, ConfigError, QoqError
from qoq_jax.evaluation import report, runner
from qoq_jax.models import spec, vlm
from qoq_jax.rl import rewards as rewards_lib
from qoq_jax.train import ecg_jepa
from qoq_jax.train import step as steps
from qoq_jax.train.checkpoint import Checkpointer
from qoq_jax.train.log import CompileCounter, MetricWriter, Progress
from qoq_jax.train.setup import Setup, assemble
from qoq_jax.train.state import TrainState, create, empty_history, make_optimizer, schedule

WARMUP_STEPS = 2  # steps of a stage in which compilations are expected


def run(cfg: Config) -> int:
    """`qoq train`. Returns the exit code."""
    # ------------------------------------------------------------------------------------------------ set-up
    started = time.time()
    os.makedirs(cfg.workdir, exist_ok=True)
    _claim_workdir(cfg)
    # Private to the run, since a compile cache is code: a restart then begins without compiling again.
    jax.config.update("jax_compilation_cache_dir", os.path.abspath(os.path.join(cfg.workdir, "compile_cache")))
    if cfg.stages == (ecg_jepa.STAGE,):
        return ecg_jepa.run(cfg)
    setup = assemble(cfg)
    with jax.set_mesh(setup.mesh):
        # -------------------------------------------------------------------------------------------- stages
        params = None
        for stage in cfg.stages:
            params = {"sft": run_sft, "rl": run_rl}[stage](setup, params)
            if not os.path.exists(_eval_file(cfg.workdir, stage, cfg.eval.split)):
                evaluate_stage(setup, stage, params, cfg.eval.split)
    # ------------------------------------------------------------------------------------------------ report
    _write_run_facts(setup, started)
    print(f"report: {report.write_report(cfg.workdir)}")
    return 0


# ---------------------------------------------------------------------------------------------------------- SFT


def run_sft(setup: Setup, params):
    """Supervised warm start on gold answers; returns the final parameters."""
    cfg = setup.config
    stage = Stage(setup, "sft", cfg.sft.steps, cfg.sft.save_every,
                  make_optimizer(cfg.optimizer, schedule(cfg.sft.schedule, cfg.sft.lr, cfg.sft.warmup, cfg.sft.steps)),
                  setup.training_iterator("sft"), params)
    step_fn = steps.make_sft_step(setup.model, stage.optimizer, cfg.sft.accumulate, stage.state)

    def one(state: TrainState, step: int):
        batch, samples = next(stage.data)
        state, metrics = step_fn(state, setup.put(batch))
        return state, metrics, {"tokens": float(batch["loss_mask"].sum()), "samples": len(samples)}

    return stage.loop(one, lambda m: {"loss": f"{m['loss']:.3f}"})


# ----------------------------------------------------------------------------------------------------------- RL


def run_rl(setup: Setup, params):
    """DRPO or GRPO from the warm start (the reference policy); returns the final parameters."""
    cfg, rl = setup.config, setup.config.rl
    if params is None:
        raise ConfigError("stage rl needs a warm start", mend="put sft before rl in stages")
    stage = Stage(setup, "rl", rl.steps, rl.save_every,
                  make_optimizer(cfg.optimizer, schedule(rl.schedule, rl.lr, rl.warmup, rl.steps * rl.minibatches)),
                  setup.training_iterator("rl"), jax.tree.map(jnp.copy, params), empty_history(rl.drpo, rl.rollouts))
    reference = params
    sampler = steps.make_sampler(setup.model, rl.rollouts, rl.response_tokens, rl.temperature, rl.top_p)
    scorer = steps.make_scorer(setup.model, rl.temperature)
    advantages_fn = steps.make_advantages(rl)
    kl_fn, banned = jax.jit(steps.rollout_kl), setup.banned
    update = steps.make_policy_step(setup.model, rl, stage.optimizer, stage.state)

    def one(state: TrainState, step: int):
        clock = Clock()
        batch, samples = next(stage.data)
        batch = setup.put(batch)
        clock.mark("data")
        # Rollout: G answers a question, with the parameters that the update will change.
        sampled = sampler(state.params, batch, stage.key(step), banned)
        tokens, mask = np.asarray(sampled.tokens), np.asarray(sampled.mask)
        clock.mark("rollout")
        # Reward: the only work of a step on the host.
        questions = Questions(setup, samples, cfg.rl.questions)
        scored = questions.score(tokens, mask, rl.reward)
        clock.mark("reward")
        # Reference and (off-policy only) old log-probabilities.
        ref_logprobs = scorer(reference, batch, sampled.tokens, sampled.mask)
        old = sampled.logprobs if rl.old_logprobs == "sampler" else scorer(
            state.params, batch, sampled.tokens, sampled.mask)
        kl = kl_fn(sampled, ref_logprobs)
        advantages, history, diagnostics = advantages_fn(
            *setup.put((questions.total, questions.domains, questions.valid)), kl, state.history)
        state = state.replace(history=history)
        jax.block_until_ready(advantages)
        clock.mark("score")
        # Update.
        experience = steps.Experience(sampled.tokens, sampled.mask, old, ref_logprobs, advantages)
        for part in steps.split_questions((batch, experience), rl.minibatches):
            state, metrics = update(state, *part)
        jax.block_until_ready(metrics)
        clock.mark("update")
        facts = questions.facts(scored) | clock.seconds() | {
            "kl_answer": float((np.asarray(kl) * questions.valid[:, None]).sum() / max(questions.valid.sum() * rl.rollouts, 1)),
            "response_length": float(mask.sum() / max(questions.valid.sum() * rl.rollouts, 1)),
            "tokens": float(mask.sum()), "samples": len(samples),
        }
        facts |= {f"drpo/{name}": float(value) for name, value in diagnostics.items() if np.ndim(value) == 0}
        return state, metrics, facts

    return stage.loop(one, lambda m: {
        "reward": f"{m['reward/total']:.3f}", "acc": f"{m['reward/accuracy']:.2f}", "iou": f"{m['reward/iou']:.2f}",
        "format": f"{m['reward/format']:.2f}"})


class Questions:
    """A rollout batch's samples on the host: their places, domains and rewards."""

    def __init__(self, setup: Setup, samples, rows: int):
        self._setup, self._samples = setup, samples
        self.domains = np.zeros(rows, np.int32)
        self.valid = np.zeros(rows, bool)
        for placed in samples:
            self.domains[placed.row] = setup.domains.index(placed.meta.domain)
            self.valid[placed.row] = True
        self.total = None

    def score(self, tokens: np.ndarray, mask: np.ndarray, cfg) -> dict[str, np.ndarray]:
        """Rewards of all answers; returns each part as float32 [N, G] over the questions that are there (IoU may be NaN)."""
        q, g, _ = tokens.shape
        texts, metas = [], []
        for placed in self._samples:
            for i in range(g):
                length = int(mask[placed.row, i].sum())
                texts.append(self._setup.tokenizer.decode(tokens[placed.row, i, :length]))
                metas.append(placed.meta)
        parts = rewards_lib.stack(rewards_lib.score_batch(texts, metas, cfg))
        parts = {name: value.reshape(len(self._samples), g) for name, value in parts.items()}
        self.total = np.zeros((q, g), np.float32)
        for placed, total in zip(self._samples, parts["total"]):
            self.total[placed.row] = total
        return parts

    def facts(self, parts: dict[str, np.ndarray]) -> dict[str, float]:
        facts = {f"reward/{name}": _nanmean(value) for name, value in parts.items()}
        for domain in sorted({s.meta.domain for s in self._samples}):
            rows = [i for i, s in enumerate(self._samples) if s.meta.domain == domain]
            facts[f"reward/domain/{domain}"] = _nanmean(parts["total"][rows])
        facts["zero_variance_groups"] = float((parts["total"].std(axis=1) < 1e-6).mean())
        return facts


def _nanmean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else 0.0


class Clock:
    """Seconds between marks."""

    def __init__(self):
        self._last, self._seconds = time.perf_counter(), {}

    def mark(self, name: str) -> None:
        now = time.perf_counter()
        self._seconds[f"seconds/{name}"] = now - self._last
        self._last = now

    def seconds(self) -> dict[str, float]:
        return dict(self._seconds)


# ------------------------------------------------------------------------------------------------- stage machinery


class Stage:
    """One stage's state, data and checkpoints, and the loop around its step."""

    def __init__(self, setup: Setup, name: str, total: int, save_every: int, optimizer, data, params, history=None):
        self.setup, self.name, self.total, self.save_every = setup, name, total, save_every
        self.optimizer, self.data = optimizer, data
        self._root = jax.random.fold_in(jax.random.key(setup.config.seed), {"sft": 1, "rl": 2}[name])
        self._checkpoints = Checkpointer(os.path.join(setup.config.workdir, "checkpoints", name), setup.model)
        self.state = create(self.key(0), setup.model, optimizer, setup.mesh, params, history)
        self.start = 0
        if self._checkpoints.latest() is not None:
            self.state, data_state, self.start = self._checkpoints.restore(self.state)
            if self.start < total:
                data.set_state(data_state)
                print(f"{name}: going on from step {self.start} of {total}")
        elif name == "sft" and setup.config.model.ecg_weights:
            self.state = self.state.replace(params=ecg_jepa.with_ecg_weights(self.state.params, setup))

    def key(self, step: int) -> jax.Array:
        """The PRNG key of a step."""
        return jax.random.fold_in(self._root, jax.device_put(np.uint32(step)))

    def loop(self, one, headline):
        """Runs `one(state, step) -> (state, device metrics, host facts)` to the end; returns the final parameters."""
        cfg = self.setup.config
        if self.start >= self.total:
            self._checkpoints.close()
            return self.state.params
        writer = MetricWriter(cfg.workdir, tensorboard=cfg.log.tensorboard, wandb=cfg.log.wandb,
                              config=dataclasses.asdict(cfg))
        writer.resume(self.name, self.start)
        progress = Progress(self.name, self.total, self.start)
        compiles = CompileCounter()
        state, window, began = self.state, [], time.perf_counter()
        for step in range(self.start, self.total):
            # A numpy array that slips into a device operation would cross to the device unseen, at every step.
            with jax.transfer_guard_host_to_device("disallow"):
                state, metrics, facts = one(state, step)
            window.append((metrics, facts))
            done = step + 1
            if done == self.start + WARMUP_STEPS:
                compiles.reset()
            if done % cfg.log.every == 0 or done == self.total or done == self.start + 1:
                jax.block_until_ready(metrics)  # steps run ahead of the host; time what is done, not what is asked for
                row = self._summarise(window, time.perf_counter() - began)
                row["recompiles"] = compiles.count if done > self.start + WARMUP_STEPS else 0
                row["skipped_samples"] = len(self.data.quarantined)
                writer.write(self.name, done, row)
                progress.show(done, headline(row) | {"tok/s": f"{row['tokens_per_second']:.0f}",
                                                     "recompiles": str(int(row["recompiles"]))})
                window, began = [], time.perf_counter()
                if int(state.skipped) >= cfg.optimizer.max_skipped:
                    raise QoqError(f"{int(state.skipped)} updates in a row were not finite", where=f"{self.name} step {done}",
                                   mend="lower the learning rate; parameters are those of the last finite step")
            if done % self.save_every == 0 or done == self.total:
                self._checkpoints.save(done, state, self.data.get_state())
        self._checkpoints.close()
        writer.close()
        self.setup.remember_quarantined(self.data.quarantined)
        return state.params

    @staticmethod
    def _summarise(window, seconds: float) -> dict[str, float]:
        """Means over the steps since the last log line; counts become rates."""
        rows = [{k: float(v) for k, v in jax.device_get(metrics).items()} | facts for metrics, facts in window]
        keys = sorted({key for row in rows for key in row})
        row = {key: float(np.mean([r[key] for r in rows if key in r])) for key in keys}
        row["logprob_difference_max"] = max((r.get("logprob_difference_max", 0.0) for r in rows), default=0.0)
        row["tokens_per_second"] = sum(r["tokens"] for r in rows) / seconds
        row["seconds/step"] = seconds / len(rows)
        return row


# ------------------------------------------------------------------------------------------------------- evaluation


def evaluate_stage(setup: Setup, stage: str, params, split: str) -> None:
    """Greedy evaluation of a stage's parameters on all sources; writes WORKDIR/eval/STAGE.json and prints the summary."""
    result = runner.evaluate(setup, params, split)
    path = _eval_file(setup.config.workdir, stage, split)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if split == "test":
        runner.write_gallery(setup, result, os.path.join(setup.config.workdir, "gallery"))
    with open(path + ".tmp", "w", encoding="utf-8") as f:
        json.dump(result, f)
    os.replace(path + ".tmp", path)
    print(f"{stage} on {split}: " + runner.headline(result["summary"]))


def evaluate_run(workdir: str, stage: str | None, split: str) -> int:
    """`qoq evaluate`: restores the last checkpoint of a run and evaluates it."""
    setup, params, stage = restore_run(workdir, stage)
    with jax.set_mesh(setup.mesh):
        evaluate_stage(setup, stage, params, split)
    return 0


def restore_run(workdir: str, stage: str | None = None, prepare: bool = True):
    """(setup, params, stage name) of a finished or running training run; `prepare`: its data sets are needed too."""
    path = os.path.join(workdir, "config.json")
    if not os.path.exists(path):
        raise CheckpointError("no run here (config.json is missing)", where=workdir, mend="name the workdir of a qoq train run")
    with open(path, encoding="utf-8") as f:
        cfg = config_lib.parse(json.load(f))
    cfg = dataclasses.replace(cfg, workdir=workdir)
    if cfg.stages == (ecg_jepa.STAGE,):
        raise ConfigError("this run pretrained an ECG encoder, which answers no questions", where=workdir,
                          mend=f"train a model that starts from it: --config.model.ecg_weights={workdir}/{ecg_jepa.WEIGHTS}")
    setup = assemble(cfg, prepare)
    for name in (stage,) if stage else reversed(cfg.stages):
        folder = os.path.join(workdir, "checkpoints", name)
        if os.path.isdir(folder):
            checkpoints = Checkpointer(folder, setup.model)
            if checkpoints.latest() is not None:
                part = cfg.sft if name == "sft" else cfg.rl
                optimizer = make_optimizer(cfg.optimizer, schedule(part.schedule, part.lr, part.warmup, part.steps))
                history = empty_history(cfg.rl.drpo, cfg.rl.rollouts) if name == "rl" else None
                with jax.set_mesh(setup.mesh):
                    empty = create(jax.random.key(0), setup.model, optimizer, setup.mesh, None, history)
                state, _, _ = checkpoints.restore(empty)
                return setup, state.params, name
    raise CheckpointError("no checkpoint", where=workdir, mend="train first")


def _eval_file(workdir: str, stage: str, split: str) -> str:
    name = stage if split == "test" else f"{stage}-{split}"
    return os.path.join(workdir, "eval", f"{name}.json")


# -------------------------------------------------------------------------------------------------------- bookkeeping


def _claim_workdir(cfg: Config) -> None:
    """Writes config.json, or checks that the run there was started with the same config."""
    path = os.path.join(cfg.workdir, "config.json")
    ours = json.loads(json.dumps(dataclasses.asdict(cfg)))
    if os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            theirs = json.load(f)
        changed = sorted(_differences(ours, theirs))
        if changed:
            raise ConfigError(f"the run there was started with another {', '.join(changed[:5])}", where=cfg.workdir,
                              mend="give the same config, or another --config.workdir")
        return
    with open(path + ".tmp", "w", encoding="utf-8") as f:
        json.dump(ours, f, indent=1)
    os.replace(path + ".tmp", path)


def _differences(a, b, prefix: str = ""):
    if isinstance(a, dict) and isinstance(b, dict):
        for key in a.keys() | b.keys():
            if prefix + key not in ("workdir",) and not key == "log":
                yield from _differences(a.get(key), b.get(key), prefix + key + ".")
    elif a != b:
        yield prefix.rstrip(".")


def _write_run_facts(setup: Setup, started: float) -> None:
    """run.json: what a reader needs to repeat the run. Seconds add up over restarts."""
    path = os.path.join(setup.config.workdir, "run.json")
    before = {}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            before = json.load(f)
    facts = {
        "command": "qoq " + " ".join(sys.argv[1:]) if before.get("command") is None else before["command"],
        "versions": {"python": platform.python_version(), "jax": jax.__version__, "numpy": np.__version__},
        "hardware": f"{jax.device_count()} x {jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores",
        "seconds": {"all": before.get("seconds", {}).get("all", 0.0) + time.time() - started},
        "title": f"{setup.config.model.variant} on {', '.join(setup.roots)}",
        "model": setup.config.model.variant,
        "algorithm": setup.config.rl.algorithm if "rl" in setup.config.stages else "sft",
        "parameters": spec.count(vlm.param_specs(setup.model)),
        "notes": setup.notes,
        "skipped": before.get("skipped", []) + setup.quarantined,
    }
    with open(path, "w", encoding="utf-8") as f:
        json.dump(facts, f, indent=1)
