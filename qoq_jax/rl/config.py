"""Section rl of a config."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from qoq_jax.base.errors import ConfigError
from qoq_jax.base.fields import AtMostOne, NotNegative, Positive
from qoq_jax.data.rows import DOMAINS
from qoq_jax.rewards.score import RewardConfig
from qoq_jax.rl.drpo import DRPOConfig

# "sft" (gold answers to the same questions, no RL) and the rows of rl/algorithms.py
Algorithm = Literal[
    "sft",
    "drpo",
    "grpo",
    "rloo",
    "remax",
    "reinforce_pp",
    "ppo",
    "dr_grpo",
    "f_grpo",
    "disco",
    "dapo",
    "gspo",
]
_FEWER_DOMAINS = (10,)  # num_domains in configs of versions before the last of DOMAINS came
# of the learning rate, after the warm-up
Schedule = Literal["constant", "cosine", "linear"]


@dataclasses.dataclass(frozen=True)
class CriticConfig:
    """Value head of PPO: an MLP on the decoder's last hidden state. Its gradient stops there."""

    lr: NotNegative[float] = 1e-3
    clip: NotNegative[float] = 0.5  # largest move of a value in one update that the loss rewards
    gae_lambda: AtMostOne[NotNegative[float]] = 1.0


@dataclasses.dataclass(frozen=True)
class RlConfig:
    """Reinforcement learning on sampled responses."""

    # sft (gold answers to the same questions, no RL), or a row of rl/algorithms.py
    algorithm: Algorithm = "drpo"
    steps: Positive[int] = 300
    questions: Positive[int] = 32  # prompts per rollout batch
    rollouts: Positive[int] = 6  # responses per prompt
    # longest response in training; what is not finished by then has no format reward
    response_tokens: Positive[int] = 40
    # most responses that are sampled at the same time (their cache takes memory); 0 = all
    rollout_rows: NotNegative[int] = 0
    # keys and values of rollouts: auto (as model.compute_dtype), or int8 in half the memory of
    # bfloat16; docs/generation.md says what it does to the log-probabilities
    kv_cache_dtype: Literal["auto", "int8"] = "auto"
    # weights of rollouts: auto (as model.compute_dtype), or a copy whose decoder layers have 8
    # bits, with a scale for each output: half the bytes that a token reads of bfloat16
    rollout_weights: Literal["auto", "int8"] = "auto"
    minibatches: Positive[int] = 1  # updates per pass over a rollout batch; divides media_rows
    # passes over a rollout batch; from the second on its media rows are shuffled
    epochs: Positive[int] = 1
    # micro-batches per update; minibatches x accumulate divides media_rows
    accumulate: Positive[int] = 1
    lr: NotNegative[float] = 3e-4
    warmup: NotNegative[int] = 10
    schedule: Schedule = "constant"
    temperature: Positive[float] = 1.0
    top_p: AtMostOne[Positive[float]] = 1.0
    gamma: AtMostOne[NotNegative[float]] = 1.0  # discount per token of ppo and reinforce_pp
    kl_coefficient: NotNegative[float] = 1e-4
    kl_estimator: Literal["kl", "abs", "mse", "low_var"] = "low_var"  # kl, abs, mse or low_var
    kl_in: Literal["loss", "reward"] = "loss"  # loss or reward
    # above 0: the coefficient adapts until a response has this KL to the reference
    kl_target: NotNegative[float] = 0.0
    # responses in which an adaptive coefficient changes by at most 20 %
    kl_horizon: Positive[int] = 10000
    # of the policy's entropy, per token, in the loss: keeps exploration up (arXiv 1602.01783,
    # section 4)
    entropy_coefficient: NotNegative[float] = 0.0
    clip_low: float = 0.0  # clip range of the ratio and dual clip; 0 = the algorithm's own
    clip_high: float = 0.0
    clip_dual: float = 0.0
    # denominator of the ratio: the sampler's own, or "trainer" (recomputed for several updates)
    old_logprobs: Literal["sampler", "trainer"] = "sampler"
    # above 0: weigh tokens by min(trainer / sampler probability, cap); needs old_logprobs = trainer
    importance_cap: NotNegative[float] = 0.0
    # dapo: most further rollout batches, to replace questions whose responses all have the same
    # reward
    max_refills: NotNegative[int] = 3
    offload_reference: bool = False  # keep the reference in host memory while it is not needed
    # processes that compute rewards; 0 = in the trainer's own process, without a deadline
    reward_workers: NotNegative[int] = 0
    # seconds that a worker has for one response; past it the reward is 0 and is counted
    reward_deadline: Positive[float] = 2.0
    save_every: Positive[int] = 50
    critic: CriticConfig = dataclasses.field(default_factory=CriticConfig)
    reward: RewardConfig = dataclasses.field(default_factory=RewardConfig)
    drpo: DRPOConfig = dataclasses.field(
        default_factory=lambda: DRPOConfig(num_domains=len(DOMAINS))
    )

    def check(self) -> None:
        """Raises ConfigError when fields contradict each other.

        What an algorithm forbids is checked in rl/algorithms.py.
        """
        if self.rollouts < 2:
            raise ConfigError("rl.rollouts = 1 leaves nothing to compare", hint="use at least 2")
        if self.importance_cap and self.old_logprobs != "trainer":
            raise ConfigError(
                "rl.importance_cap corrects the trainer's log-probs",
                hint="set rl.old_logprobs=trainer",
            )
        if self.drpo.num_domains != len(DOMAINS):
            raise ConfigError(
                f"rl.drpo.num_domains = {self.drpo.num_domains}, but rows name "
                f"{len(DOMAINS)} domains",
                hint=f"set it to {len(DOMAINS)}",
            )
        if not (
            0 <= self.clip_low < 1
            and self.clip_high >= 0
            and (self.clip_dual == 0 or self.clip_dual > 1)
        ):
            raise ConfigError(
                f"rl.clip_low, clip_high, clip_dual = {self.clip_low}, {self.clip_high}, "
                f"{self.clip_dual}",
                hint="use rl.clip_low in [0, 1), rl.clip_high >= 0, rl.clip_dual 0 or above 1 "
                "(inf = none)",
            )
        if self.kl_target and not self.kl_coefficient:
            raise ConfigError(
                "an adaptive KL coefficient is scaled from its start, and 0 stays 0",
                hint="set rl.kl_coefficient above 0",
            )


def with_all_domains(drpo: dict[str, Any]) -> dict[str, Any]:
    """Section rl.drpo of any version's config with today's number of domains. A checkpoint of fewer
    is extended when it is read (train/state.py).
    """
    if drpo.get("num_domains") not in _FEWER_DOMAINS:
        return drpo
    return drpo | {"num_domains": len(DOMAINS)}
