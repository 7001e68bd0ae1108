"""What a step of reinforcement learning hands on, on the device: `GroupBatch`, then `UpdateBatch`.

A group is one prompt and its G responses. Letters: Q groups (= text rows), G responses of a group,
S response positions.
"""

from __future__ import annotations

from typing import Any

import jax
from flax import struct

Array = jax.Array


@struct.dataclass
class GroupBatch:
    """Q groups: prompts, responses, and what the responses earned.

    Attributes:
      rewards: float32 [Q, G].
      domains: int32 [Q].
      valid: bool [Q], False for a row without a prompt.
      mask: float32 [Q, G, S], 1 on sampled tokens.
      kl: float32 [Q, G], KL of each response to the reference, summed over its tokens (low-variance
        estimator).
      penalty: float32 [Q, G, S], β times the KL estimate of each token when KL is part of the
        reward, else None.
      greedy: float32 [Q], reward of the greedy response (ReMax), else None.
      values: float32 [Q, G, S], the critic's value before each token (PPO), else None.
      history: drpo.DomainHistory of earlier batches, or None.
      prompts: the packed prompts, as data/packing.py describes them.
      tokens: int32 [Q, G, S] the responses.
      sampler_logprobs: float32 [Q, G, S], as sampled.
      ref_logprobs: float32 [Q, G, S] under the frozen reference.
      old_logprobs: float32 [Q, G, S] under the policy at the start of the first update, or None
        where the update is the first: its own log-probabilities then, without gradient.
    """

    rewards: Array
    domains: Array
    valid: Array
    mask: Array
    kl: Array | None = None
    penalty: Array | None = None
    greedy: Array | None = None
    values: Array | None = None
    history: Any = None
    prompts: dict[str, Array] | None = None
    tokens: Array | None = None
    sampler_logprobs: Array | None = None
    ref_logprobs: Array | None = None
    old_logprobs: Array | None = None

    @property
    def policy_logprobs(self) -> Array:
        """float32 [Q, G, S] that the KL of responses is computed from: the trainer's, where it has
        computed them, else the sampler's.
        """
        return self.sampler_logprobs if self.old_logprobs is None else self.old_logprobs


@struct.dataclass
class UpdateBatch:
    """What a policy update reads.

    Attributes:
      prompts, tokens, mask, sampler_logprobs, old_logprobs, ref_logprobs, values: of `GroupBatch`.
      advantages: float32 [Q, G], or [Q, G, S] for one number per token.
      returns: float32 [Q, G, S], the critic's targets, or None.
      domains: of `GroupBatch`, for the log; or None.
    """

    prompts: dict[str, Array] | None
    tokens: Array | None
    mask: Array
    sampler_logprobs: Array
    old_logprobs: Array | None
    ref_logprobs: Array
    advantages: Array
    values: Array | None = None
    returns: Array | None = None
    domains: Array | None = None


def update_batch(groups: GroupBatch, advantages: Array, returns: Array | None) -> UpdateBatch:
    """The groups with their advantages ([Q, G] or [Q, G, S]) and the critic's targets."""
    return UpdateBatch(
        prompts=groups.prompts,
        tokens=groups.tokens,
        mask=groups.mask,
        sampler_logprobs=groups.sampler_logprobs,
        old_logprobs=groups.old_logprobs,
        ref_logprobs=groups.ref_logprobs,
        advantages=advantages,
        values=groups.values,
        returns=returns,
        domains=groups.domains,
    )
