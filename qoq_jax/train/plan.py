"""What a config says about one stage, resolved once: `Plan`; and the keys of its random numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from qoq_jax.models.lora import LoraConfig
from qoq_jax.rl import algorithms
from qoq_jax.train import stages
from qoq_jax.train.config import Config, OptimizerConfig, RlConfig, other_sampler


@dataclasses.dataclass(frozen=True)
class Plan:
    """A stage as the config has it.

    Attributes:
      stage: its row in the registry.
      steps, save_every: of the loop.
      updates: of the optimiser, in the whole stage.
      accumulate: micro-batches per update.
      lr, warmup, schedule, optimizer: of the optimiser.
      lora: rank 0 = all weights are trained.
      rl, algorithm: the section that an RL stage reads and the row of its algorithm; both None for
        a supervised stage.
      domains: rows of these domains alone; () = all.
      other_sampler: whether responses are sampled from another policy than the trainer's.
    """

    stage: stages.Stage
    steps: int
    save_every: int
    updates: int
    accumulate: int
    lr: float
    warmup: int
    schedule: str
    optimizer: OptimizerConfig
    lora: LoraConfig
    rl: RlConfig | None = None
    algorithm: algorithms.Algorithm | None = None
    domains: tuple[str, ...] = ()
    other_sampler: bool = False

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.stage.name

    @property
    def critic(self) -> bool:
        """Whether a value head is trained beside the weights."""
        return self.algorithm is not None and self.algorithm.critic

    @property
    def scores_old(self) -> bool:
        """Whether the trainer computes the log-probabilities of the policy that a step begins with
        in a pass of their own: with several updates, or when advantages read a KL that would else
        be that of another policy, the sampler's. With one update they are the update's own.
        """
        if self.algorithm is None or self.rl.old_logprobs != "trainer":
            return False
        reads_kl = self.algorithm.reads_kl or self.rl.kl_in == "reward" or self.rl.kl_target > 0
        several = self.rl.minibatches * self.rl.epochs > 1
        return several or (self.other_sampler and reads_kl)


def plan(cfg: Config, name: str) -> Plan:
    """What the config says about stage sft, align or rl."""
    row = stages.get(name)
    lora = cfg.lora if name in cfg.lora.stages else dataclasses.replace(cfg.lora, rank=0)
    return _supervised(cfg, row, lora) if row.program == "sft" else _rl(cfg, row, lora)


def _supervised(cfg: Config, row: stages.Stage, lora: LoraConfig) -> Plan:
    section = cfg.sft
    return Plan(
        stage=row,
        steps=section.steps,
        save_every=section.save_every,
        updates=section.steps,
        accumulate=section.accumulate,
        lr=section.lr,
        warmup=section.warmup,
        schedule=section.schedule,
        optimizer=cfg.optimizer,
        lora=lora,
    )


def _rl(cfg: Config, row: stages.Stage, lora: LoraConfig) -> Plan:
    rl, optimizer, domains = cfg.rl, cfg.optimizer, ()
    if row.section == "align":  # section rl with the fields of section align
        rl = dataclasses.replace(rl, steps=cfg.align.steps, lr=cfg.align.lr)
        frozen = tuple(dict.fromkeys((*optimizer.frozen, *cfg.align.frozen)))
        optimizer = dataclasses.replace(optimizer, frozen=frozen)
        domains = cfg.align.domains
    algorithm = algorithms.resolve(rl)
    updates = 1 if algorithm is None else rl.minibatches * rl.epochs  # per step
    return Plan(
        stage=row,
        steps=rl.steps,
        save_every=rl.save_every,
        updates=rl.steps * updates,
        accumulate=rl.accumulate,
        lr=rl.lr,
        warmup=rl.warmup,
        schedule=rl.schedule,
        optimizer=optimizer,
        lora=lora,
        rl=None if algorithm is None else rl,
        algorithm=algorithm,
        domains=domains,
        other_sampler=other_sampler(cfg) is not None,
    )


# ----------------------------------------------------------------------------------- random numbers


def root_key(setup: Any, name: str) -> jax.Array:
    """The PRNG key that all keys of a stage derive from. setup: train.setup.Setup."""
    return jax.random.fold_in(jax.random.key(setup.config.seed), stages.get(name).random_stream)


def step_key(root: jax.Array, step: int) -> jax.Array:
    """The PRNG key of a step (from 0)."""
    return jax.random.fold_in(root, jax.device_put(np.uint32(step)))
