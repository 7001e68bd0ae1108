"""A stage of a run: what the config makes of its name, its state and checkpoints, and the loop
around its step.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Container

import jax
import jax.numpy as jnp
import numpy as np

from qoq_jax.base.errors import CheckpointError, QoqError
from qoq_jax.data import pipeline
from qoq_jax.models import lora as lora_lib
from qoq_jax.models import spec, vlm
from qoq_jax.models.lora import LoraConfig
from qoq_jax.parallel import offload
from qoq_jax.rl.algorithms import ALGORITHMS
from qoq_jax.train.checkpoint import Checkpointer, has_checkpoint
from qoq_jax.train.config import Config, OptimizerConfig, RlConfig
from qoq_jax.train.log import CompileCounter, MetricWriter, Progress
from qoq_jax.train.policy import critic_specs
from qoq_jax.train.setup import Setup
from qoq_jax.train.state import (
    TrainState,
    check_frozen,
    create,
    empty_history,
    layout,
    make_optimizer,
    schedule,
)
from qoq_jax.train.step import model_weights
from qoq_jax.train.validation import Validation

WARMUP_STEPS = 2  # steps of a stage in which compilations are expected
_STREAMS = {"sft": 1, "rl": 2, "align": 3}  # of random numbers


@dataclasses.dataclass(frozen=True)
class Plan:
    """A stage as the config has it.

    steps, save_every: of its loop. updates: of the optimiser. rl: the section that an RL stage
    reads, None for a supervised one.
    lora: rank 0 = all weights are trained. domains: () = all.
    """

    name: str
    steps: int
    save_every: int
    updates: int
    lr: float
    warmup: int
    schedule: str
    optimizer: OptimizerConfig
    lora: LoraConfig
    rl: RlConfig | None = None
    domains: tuple[str, ...] = ()

    @property
    def critic(self) -> bool:
        return self.rl is not None and ALGORITHMS[self.rl.algorithm].critic


def plan(cfg: Config, name: str) -> Plan:
    """What the config says about stage sft, align or rl.

    Stage align is section rl with the fields of section align.
    """
    lora = cfg.lora if name in cfg.lora.stages else dataclasses.replace(cfg.lora, rank=0)
    if name == "sft":
        s = cfg.sft
        return Plan(
            name, s.steps, s.save_every, s.steps, s.lr, s.warmup, s.schedule, cfg.optimizer, lora
        )
    rl, optimizer, domains = cfg.rl, cfg.optimizer, ()
    if name == "align":
        rl = dataclasses.replace(rl, steps=cfg.align.steps, lr=cfg.align.lr)
        optimizer = dataclasses.replace(
            optimizer, frozen=tuple(dict.fromkeys((*optimizer.frozen, *cfg.align.frozen)))
        )
        domains = cfg.align.domains
    supervised = rl.algorithm == "sft"
    updates = rl.steps * (1 if supervised else rl.minibatches * rl.epochs)
    return Plan(
        name,
        rl.steps,
        rl.save_every,
        updates,
        rl.lr,
        rl.warmup,
        rl.schedule,
        optimizer,
        lora,
        None if supervised else rl,
        domains,
    )


def start_state(setup: Setup, plan: Plan, weights) -> tuple[TrainState, object, object]:
    """(state of step 0, optimiser, base of the adapters or None).

    Args:
      weights: all weights of the model to start from, or None for random ones. The state takes them
        over: a step donates them.
    """
    specs, key = vlm.param_specs(setup.model), step_key(root_key(setup, plan.name), 0)
    optimizer, history, coefficient = _beside_weights(setup, plan)
    trained, base = weights, None
    if weights is None and (plan.lora.rank or plan.critic):
        trained = random_weights(setup, plan.name)
    if plan.lora.rank:
        base = trained
        trained = {"lora": lora_lib.init(specs, plan.lora, jax.random.fold_in(key, 1), setup.mesh)}
    if plan.critic:
        head = critic_specs(setup.model.decoder.width)
        trained = dict(
            trained,
            critic=jax.jit(
                lambda k: spec.init_params(head, k), out_shardings=spec.shardings(head, setup.mesh)
            )(jax.random.fold_in(key, 2)),
        )
    return (
        create(key, setup.model, optimizer, setup.mesh, trained, history, coefficient),
        optimizer,
        base,
    )


def state_layout(setup: Setup, plan: Plan) -> TrainState:
    """The state of a stage as shapes and places: enough to read a checkpoint, and nothing is drawn
    or compiled for it.
    """
    specs = vlm.param_specs(setup.model)
    trained = {"lora": lora_lib.adapter_specs(specs, plan.lora)} if plan.lora.rank else dict(specs)
    if plan.critic:
        trained["critic"] = critic_specs(setup.model.decoder.width)
    params = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        spec.abstract(trained),
        spec.shardings(trained, setup.mesh),
    )
    optimizer, history, coefficient = _beside_weights(setup, plan)
    return layout(params, optimizer, setup.mesh, history, coefficient)


def _beside_weights(setup: Setup, plan: Plan):
    """(optimiser, empty history or None, first KL coefficient or None) of a stage."""
    check_frozen(plan.optimizer.frozen, vlm.param_specs(setup.model))
    optimizer = make_optimizer(
        plan.optimizer,
        schedule(plan.schedule, plan.lr, plan.warmup, plan.updates),
        plan.rl.critic.lr if plan.critic else None,
    )
    history = coefficient = None
    if plan.rl is not None:
        history = (
            empty_history(plan.rl.drpo, plan.rl.rollouts) if plan.rl.algorithm == "drpo" else None
        )
        coefficient = plan.rl.kl_coefficient if plan.rl.kl_target else None
    return optimizer, history, coefficient


def random_weights(setup: Setup, name: str, lacking: Container[str] | None = None):
    """The weights that a stage starts from when there are none, or the branches of them that are
    `lacking`; on the mesh.
    """
    specs, key = vlm.param_specs(setup.model), step_key(root_key(setup, name), 0)
    specs = {branch: part for branch, part in specs.items() if lacking is None or branch in lacking}
    return jax.jit(
        lambda k: spec.init_params(specs, k), out_shardings=spec.shardings(specs, setup.mesh)
    )(key)


def full_weights(trained, base, lora: LoraConfig):
    """All weights of the model out of what a stage trains: adapters merged, the critic left out."""
    weights = model_weights(trained, base, lora)
    return {name: part for name, part in weights.items() if name != "critic"}


def root_key(setup: Setup, name: str) -> jax.Array:
    """The PRNG key that all keys of a stage derive from."""
    return jax.random.fold_in(jax.random.key(setup.config.seed), _STREAMS[name])


def step_key(root: jax.Array, step: int) -> jax.Array:
    """The PRNG key of a step."""
    return jax.random.fold_in(root, jax.device_put(np.uint32(step)))


def checkpointer(setup: Setup, name: str) -> Checkpointer:
    return Checkpointer(os.path.join(setup.config.workdir, "checkpoints", name), setup.model)


def load_weights(setup: Setup, name: str, before) -> object:
    """All weights that a stage has reached, from its last checkpoint (or its best, with
    `eval.best`).

    Args:
      before: the weights that the stage started from; needed for adapters, else None will do.

    Raises:
      CheckpointError: there is no sound checkpoint.
    """
    stage = plan(setup.config, name)
    folder = os.path.join(setup.config.workdir, "checkpoints", name)
    if not has_checkpoint(folder):
        raise CheckpointError(
            "no checkpoint", where=folder, hint="train this stage first, or name another"
        )
    checkpoints = checkpointer(setup, name)
    if stage.lora.rank and before is None:
        before = random_weights(setup, name)
    trained = checkpoints.restore(state_layout(setup, stage))[0].params
    if setup.config.eval.best:
        trained = Validation(setup.config.workdir, name, setup.config.eval).restore_best(trained)
    return full_weights(trained, before, stage.lora)


class Stage:
    """One stage's state, data and checkpoints, and the loop around its step.

    Args:
      weights: all weights of the model to start from, or None for random ones.
      keep: the weights given stay usable (as a reference); without it the first step donates them.
    """

    def __init__(self, setup: Setup, plan: Plan, weights, keep: bool = False):
        self.setup, self.plan, self.data, self._data_state = setup, plan, None, None
        self.asked: list[str] = []  # ids of the rows of the last step
        self._checkpoints, self._root = checkpointer(setup, plan.name), root_key(setup, plan.name)
        copied = jax.tree.map(jnp.copy, weights) if keep and not plan.lora.rank else weights
        self.state, self.optimizer, self.base = start_state(setup, plan, copied)
        self.start = 0
        if self._checkpoints.latest() is not None:
            self.state, self._data_state, self.start = self._checkpoints.restore(
                self.state, resume=True
            )
            if self.start < plan.steps:
                print(f"{plan.name}: going on from step {self.start} of {plan.steps}")
        # Shapes and places alone: the arrays themselves are donated by the first update.
        self.layout = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), self.state
        )
        self._validation = Validation(
            setup.config.workdir, plan.name, setup.config.eval, self.start
        )

    def feed(self, data: pipeline.BatchIterator) -> None:
        """Gives the stage its batches, from where the checkpoint left them."""
        self.data = data
        if self._data_state is None:
            return
        if self.finished:
            self.setup.remember_quarantined(self._data_state["quarantined"])
        else:
            data.set_state(self._data_state)

    @property
    def finished(self) -> bool:
        return self.start >= self.plan.steps or self._validation.stopped

    def key(self, step: int) -> jax.Array:
        return step_key(self._root, step)

    def weights(self, state: TrainState):
        """All weights of the model at a state."""
        return full_weights(state.params, self.base, self.plan.lora)

    def on_device(self, state: TrainState) -> TrainState:
        """The state with its moments on the device, for an update."""
        return (
            state.replace(opt_state=offload.to_device(state.opt_state))
            if self.plan.optimizer.offload
            else state
        )

    def parked(self, state: TrainState) -> TrainState:
        """The state between updates."""
        return (
            state.replace(opt_state=offload.to_host(state.opt_state))
            if self.plan.optimizer.offload
            else state
        )

    def loop(self, one, headline):
        """Runs `one(state, step) -> (state, device metrics, host facts)` to the end; returns the
        weights to go on with.
        """
        cfg, name, total = self.setup.config, self.plan.name, self.plan.steps
        if self.finished:
            self._checkpoints.close()
            return self._result(self.state)
        writer = MetricWriter(
            cfg.workdir,
            tensorboard=cfg.log.tensorboard,
            wandb=cfg.log.wandb,
            config=dataclasses.asdict(cfg),
        )
        writer.resume(name, self.start)
        progress = Progress(name, total, self.start)
        compiles = CompileCounter()
        state, window, began = self.parked(self.state), [], time.perf_counter()
        self.state = None  # the first update donates it
        for step in range(self.start, total):
            # A numpy array that slips into a device operation would cross to the device unseen, at
            # every step.
            with jax.transfer_guard_host_to_device("disallow"):
                state, metrics, facts = one(state, step)
            window.append((metrics, facts, self.asked))
            done = step + 1
            if done == self.start + WARMUP_STEPS:
                compiles.reset()
            validates = self._validation.due(done, done == total)
            if validates or done % cfg.log.every == 0 or done == total or done == self.start + 1:
                # steps run ahead of the host; time what is done, not what is asked for
                jax.block_until_ready(metrics)
                row = self._summarise(window, time.perf_counter() - began)
                row["recompiles"] = compiles.count if done > self.start + WARMUP_STEPS else 0
                row["skipped_samples"] = len(self.data.quarantined)
                row |= self.data.count_ecg_lengths()
                row["skipped_updates"] = self._note_skipped(window, done)
                if validates:
                    # the first validation of a process compiles its own sampler
                    with compiles.ignored():
                        row |= self._validation.run(
                            self.setup, done, self.weights(state), state.params
                        )
                writer.write(name, done, row)
                progress.show(
                    done,
                    headline(row)
                    | {
                        "tok/s": f"{row['tokens_per_second']:.0f}",
                        "recompiles": str(int(row["recompiles"])),
                    },
                    {
                        key.removeprefix("reward/domain/"): row[key]
                        for key in row
                        if key.startswith("reward/domain/")
                    },
                )
                window, began = [], time.perf_counter()
                if int(state.skipped) >= cfg.optimizer.max_skipped:
                    raise QoqError(
                        f"{int(state.skipped)} updates in a row were not finite",
                        where=f"{name} step {done}",
                        hint="lower the learning rate; parameters are those of the last finite "
                        "step",
                    )
            stops = self._validation.stopped
            if done % self.plan.save_every == 0 or done == total or stops:
                self._checkpoints.save(done, self.on_device(state), self.data.get_state())
            if stops:
                print(
                    f"{name}: no better validation since step {self._validation.best_step}, "
                    f"stopped at step {done}"
                )
                break
        self._checkpoints.close()
        writer.close()
        self.setup.remember_quarantined(self.data.quarantined)
        return self._result(state)

    def _result(self, state: TrainState):
        if not self.setup.config.eval.best:
            return self.weights(state)
        return full_weights(self._validation.restore_best(state.params), self.base, self.plan.lora)

    def _note_skipped(self, window, done: int) -> int:
        """Number of steps since the last log line that dropped an update;
        WORKDIR/skipped_updates.jsonl gets their row ids.
        """
        finite = jax.device_get([metrics["update_finite"] for metrics, _, _ in window])
        dropped = [i for i, value in enumerate(finite) if value < 1]
        if dropped:
            with open(
                os.path.join(self.setup.config.workdir, "skipped_updates.jsonl"),
                "a",
                encoding="utf-8",
            ) as f:
                for i in dropped:
                    step = done - len(window) + i + 1
                    f.write(
                        json.dumps({"stage": self.plan.name, "step": step, "ids": window[i][2]})
                        + "\n"
                    )
        return len(dropped)

    @staticmethod
    def _summarise(window, seconds: float) -> dict[str, float]:
        """Means over the steps since the last log line; counts become rates."""
        rows = [
            {k: float(v) for k, v in jax.device_get(metrics).items()} | facts
            for metrics, facts, _ in window
        ]
        keys = sorted({key for row in rows for key in row})
        row = {key: float(np.mean([r[key] for r in rows if key in r])) for key in keys}
        row["logprob_difference_max"] = max(
            (r.get("logprob_difference_max", 0.0) for r in rows), default=0.0
        )
        row["tokens_per_second"] = sum(r["tokens"] for r in rows) / seconds
        row["seconds/step"] = seconds / len(rows)
        return row


class Clock:
    """Seconds between marks."""

    def __init__(self):
        self._last, self._seconds = time.perf_counter(), {}

    def mark(self, name: str) -> None:
        now = time.perf_counter()
        self._seconds[f"seconds/{name}"] = (
            self._seconds.get(f"seconds/{name}", 0.0) + now - self._last
        )
        self._last = now

    def seconds(self) -> dict[str, float]:
        return dict(self._seconds)
