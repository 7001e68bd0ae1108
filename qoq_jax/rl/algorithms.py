"""Every algorithm as one row of a table: advantage, policy ratio, loss mean, clip range, and what
it needs of a rollout.

`ALGORITHMS[name]` is all that tells the algorithms apart; the trainer reads its fields and knows no
names. The functions behind the rows live in advantages.py, drpo.py and losses.py.

Letters: Q questions, G rollouts per question, S response positions.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from qoq_jax.base.errors import ConfigError
from qoq_jax.rl import advantages as estimators
from qoq_jax.rl import drpo, drpo_bounded
from qoq_jax.rl.batches import GroupBatch
from qoq_jax.rl.config import RlConfig

Array = jax.Array


@struct.dataclass
class Estimate:
    """Advantages [Q, G] or [Q, G, S], the critic's targets [Q, G, S] or None, the history after
    this batch, diagnostics.
    """

    advantages: Array
    returns: Array | None
    history: Any
    diagnostics: dict[str, Array]


# ------------------------------------------------------------------------------ advantage functions


def finite_rewards(
    advantage: Callable[[GroupBatch, RlConfig], Estimate],
) -> Callable[[GroupBatch, RlConfig], Estimate]:
    """The advantage function for questions whose rewards are all finite.

    A question with a reward that is not (a function of the user's may give NaN) counts as an
    invalid one: advantage 0, no part in any statistic, and critic targets that are the values
    themselves. The diagnostic `nonfinite_questions` counts them.
    """

    @functools.wraps(advantage)
    def guarded(o: GroupBatch, rl: RlConfig) -> Estimate:
        finite = jnp.isfinite(o.rewards).all(axis=1)
        if o.greedy is not None:
            finite &= jnp.isfinite(o.greedy)
        kept = o.replace(
            rewards=jnp.where(finite[:, None], o.rewards, 0.0),
            greedy=None if o.greedy is None else jnp.where(finite, o.greedy, 0.0),
            valid=o.valid & finite,
            mask=o.mask * finite[:, None, None],
        )
        estimate = advantage(kept, rl)
        returns = estimate.returns
        if returns is not None:
            returns = jnp.where(finite[:, None, None], returns, o.values)
        count = (o.valid & ~finite).sum()
        return estimate.replace(
            returns=returns,
            diagnostics=estimate.diagnostics | {"nonfinite_questions": count},
        )

    return guarded


def group(estimator: Callable[[Array], Array]) -> Callable[[GroupBatch, RlConfig], Estimate]:
    """An advantage function from one that compares the rewards of a question, [Q, G] -> [Q, G]."""

    @finite_rewards
    def advantage(o: GroupBatch, rl: RlConfig) -> Estimate:
        del rl
        return Estimate(
            jnp.where(o.valid[:, None], estimator(answer_rewards(o)), 0.0), None, o.history, {}
        )

    return advantage


@finite_rewards
def remax(o: GroupBatch, rl: RlConfig) -> Estimate:
    del rl
    scores = estimators.remax(answer_rewards(o), o.greedy)
    greedy = jnp.where(o.valid, o.greedy, 0.0).sum() / jnp.maximum(o.valid.sum(), 1)
    return Estimate(
        jnp.where(o.valid[:, None], scores, 0.0), None, o.history, {"greedy_reward": greedy}
    )


@finite_rewards
def reinforce_pp(o: GroupBatch, rl: RlConfig) -> Estimate:
    rewards, mask = _rows(token_rewards(o)), _rows(o.mask)
    scores, _ = estimators.reinforce_pp(rewards, mask, gamma=rl.gamma)
    return Estimate((scores * mask).reshape(o.mask.shape), None, o.history, {})


@finite_rewards
def ppo(o: GroupBatch, rl: RlConfig) -> Estimate:
    rewards, mask, values = _rows(token_rewards(o)), _rows(o.mask), _rows(o.values * o.mask)
    scores, returns = estimators.gae(
        rewards, values, mask, gamma=rl.gamma, lam=rl.critic.gae_lambda
    )
    count = jnp.maximum(mask.sum(), 1)

    def variance(x: Array) -> Array:
        return (jnp.square(x - (x * mask).sum() / count) * mask).sum() / count

    explained = 1 - variance(returns - values) / jnp.maximum(variance(returns), 1e-8)
    facts = {"value": (values * mask).sum() / count, "explained_variance": explained}
    return Estimate(
        (scores * mask).reshape(o.mask.shape), returns.reshape(o.mask.shape), o.history, facts
    )


@finite_rewards
def domain_relative(o: GroupBatch, rl: RlConfig) -> Estimate:
    estimator = drpo_bounded if rl.drpo.variant == "bounded" else drpo
    scores, history, facts = estimator.advantages(
        answer_rewards(o), o.domains, kl=o.kl, history=o.history, cfg=rl.drpo, valid=o.valid
    )
    return Estimate(scores, None, history, facts)


@finite_rewards
def disco(o: GroupBatch, rl: RlConfig) -> Estimate:
    """estimators.disco over the domains of rl.drpo.num_domains."""
    scores = estimators.disco(
        answer_rewards(o), o.domains, o.valid, num_domains=rl.drpo.num_domains
    )
    return Estimate(scores, None, o.history, {})


# ---------------------------------------------------------------------------------------- the table


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """One row.

    Attributes:
      advantage: GroupBatch, RlConfig -> Estimate.
      ratio: "token": one ratio π/π_old per token; "sequence": their geometric mean over the
        response (GSPO).
      mean: what the loss of an update is divided by. "token": its response tokens. "sequence": the
        mean over a response's tokens, then over responses. "constant": responses times the longest
        length (Dr. GRPO), so that length carries no weight.
      clip_low, clip_high, clip_dual: used where the config has 0; inf = no dual clip.
      critic: trains a value head. greedy: needs the greedy response to each question.
      refill: questions whose responses all have the same reward are replaced by further ones
        (DAPO's dynamic sampling).
      overlong: share of the longest length, at its end, over which the reward falls by up to 1
        (DAPO's overlong shaping).
      history: keeps a record of each domain's earlier groups (`rl.drpo.history_size`).
      metrics: first part of the names of its diagnostics in metrics.jsonl.
      divides_by_rewards: rewards must not be negative, as they are with KL inside them.
      reads_kl: advantages depend on the KL of responses, also when it is no part of the reward.
    """

    advantage: Callable[[GroupBatch, RlConfig], Estimate]
    ratio: Literal["token", "sequence"] = "token"
    mean: Literal["token", "sequence", "constant"] = "token"
    clip_low: float = 0.2
    clip_high: float = 0.3
    clip_dual: float = 3.0
    critic: bool = False
    greedy: bool = False
    refill: bool = False
    overlong: float = 0.0
    history: bool = False
    metrics: str = "advantage"
    divides_by_rewards: bool = False
    reads_kl: bool = False


# The algorithms that the QoQ-Med paper compares share its clip range, dual clip and token mean; the
# others have their own papers' settings.
SUPERVISED = "sft"  # `rl.algorithm` of the baseline without RL
ALGORITHMS = {
    # arXiv 2506.00711
    "drpo": Algorithm(
        domain_relative, history=True, metrics="drpo", divides_by_rewards=True, reads_kl=True
    ),
    "grpo": Algorithm(group(estimators.grpo)),  # arXiv 2402.03300
    "rloo": Algorithm(group(estimators.rloo)),  # arXiv 2402.14740
    "remax": Algorithm(remax, greedy=True),  # arXiv 2310.10505
    "reinforce_pp": Algorithm(reinforce_pp),  # arXiv 2501.03262
    "ppo": Algorithm(ppo, critic=True),  # arXiv 1707.06347, GAE arXiv 1506.02438
    # arXiv 2503.20783
    "dr_grpo": Algorithm(
        group(estimators.dr_grpo), mean="constant", clip_high=0.2, clip_dual=math.inf
    ),
    "f_grpo": Algorithm(group(estimators.f_grpo)),  # arXiv 2602.06717
    # arXiv 2505.15074, on the loss of Dr. GRPO as its released code
    "disco": Algorithm(
        disco, mean="constant", clip_high=0.2, clip_dual=math.inf, divides_by_rewards=True
    ),
    # arXiv 2503.14476
    "dapo": Algorithm(
        group(estimators.grpo), clip_high=0.28, clip_dual=math.inf, refill=True, overlong=0.2
    ),
    "gspo": Algorithm(
        group(estimators.grpo),
        ratio="sequence",
        mean="sequence",
        clip_low=3e-4,
        clip_high=4e-4,
        clip_dual=math.inf,
    ),  # arXiv 2507.18071
}


def resolve(rl: RlConfig) -> Algorithm | None:
    """The row of `rl.algorithm` with the clip range of the config where that is not 0; None for
    `SUPERVISED`, which learns from gold answers instead of RL.
    """
    if rl.algorithm == SUPERVISED:
        return None
    row = ALGORITHMS[rl.algorithm]
    set_in_config = {
        name: value
        for name in ("clip_low", "clip_high", "clip_dual")
        if (value := getattr(rl, name))
    }
    return dataclasses.replace(row, **set_in_config)


def check(rl: RlConfig) -> None:
    """Raises ConfigError when the algorithm does not go with other fields of the section."""
    row, name = resolve(rl), rl.algorithm
    if row is None:
        return
    if row.ratio == "sequence" and rl.clip_dual:
        raise ConfigError(
            f"rl.clip_dual bounds the loss of a token, and {name} has one ratio per response",
            hint="set it to 0",
        )
    if row.ratio == "sequence" and rl.importance_cap:
        raise ConfigError(
            f"rl.importance_cap weighs tokens, and {name} has one ratio per response",
            hint="set it to 0",
        )
    if row.divides_by_rewards and rl.kl_in == "reward":
        raise ConfigError(
            f"{name} divides by mean rewards: KL inside them makes those of wrong responses "
            "negative, and they would outweigh all others",
            hint="set rl.kl_in=loss",
        )


# ----------------------------------------------------------------------------------- reward shaping


def answer_rewards(o: GroupBatch) -> Array:
    """Reward of each response, less the KL of its tokens when KL is part of the reward; [Q, G]."""
    return o.rewards if o.penalty is None else o.rewards - o.penalty.sum(axis=-1)


def token_rewards(o: GroupBatch) -> Array:
    """The reward on a response's last token, less β KL on each token when KL is part of the reward;
    [Q, G, S].
    """
    last = o.mask - jnp.pad(o.mask[..., 1:], ((0, 0), (0, 0), (0, 1)))
    rewards = last * o.rewards[..., None]
    return rewards if o.penalty is None else rewards - o.penalty


def overlong_penalty(lengths: Array | np.ndarray, limit: int, share: float) -> Array | np.ndarray:
    """What is taken from the reward of long responses: 0 up to limit - zone tokens, then linear to
    1 at the limit.

    DAPO (arXiv 2503.14476), equation 13, with zone = share * limit. Works on numpy and jax arrays
    alike.

    Args:
      lengths: [Q, G] tokens. limit: longest response. share: of the limit; 0 = no penalty.
    """
    zone = max(1, round(share * limit))
    return (lengths - (limit - zone)).clip(0, zone) / zone if share else lengths * 0.0


def next_kl_coefficient(
    coefficient: Array, kl: Array, target: float, horizon: int, answers: int
) -> Array:
    """β (1 + clip(KL / target - 1, ±0.2) answers / horizon): the coefficient that pulls KL per
    response to its target.

    Fine-Tuning Language Models from Human Preferences (arXiv 1909.08593), section 2.2.
    """
    error = jnp.clip(kl / target - 1.0, -0.2, 0.2)
    return coefficient * (1.0 + error * min(answers / horizon, 1.0))


# ---------------------------------------------------------------------------------------- loss mean


def loss_weights(mask: Array, mean: str) -> tuple[Array | None, Array]:
    """(factor of each token's loss or None for 1, divisor of the sum) for a mean over all responses
    of an update.

    Args:
      mask: float32 [Q, G, S]; responses without a token count nowhere.
      mean: see `Algorithm`.
    """
    lengths = mask.sum(axis=-1)
    answers = jnp.maximum((lengths > 0).sum().astype(jnp.float32), 1.0)
    if mean == "token":
        return None, jnp.maximum(mask.sum(), 1.0)
    if mean == "constant":
        return None, answers * mask.shape[-1]
    return jnp.broadcast_to(1.0 / jnp.maximum(lengths, 1.0)[..., None], mask.shape), answers


def _rows(x: Array) -> Array:
    """[Q, G, S] -> [Q * G, S]."""
    return x.reshape(-1, x.shape[-1])
