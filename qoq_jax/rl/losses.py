"""Losses of the policy and the critic: token arrays in, (unreduced sum, denominator) out.

    B rows   L tokens   V vocabulary; any leading shape works, rows may hold several responses

The loss of a batch is sum / denominator. Keeping the two apart makes accumulation over
micro-batches and devices exact: add the sums, add the denominators, divide once. Diagnostics come
as sums over valid tokens, with the same denominator.
"""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp

Array = jax.Array
# exp(20) = 4.9e8: far beyond any useful ratio, far below overflow, so that no token can make inf *
# 0.
MAX_LOG_RATIO = 20.0


def policy_loss(
    logprobs: Array,
    old_logprobs: Array,
    advantages: Array,
    mask: Array,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.3,
    dual_clip: float | None = 3.0,
    weights: Array | None = None,
) -> tuple[Array, Array, dict[str, Array]]:
    """Clipped surrogate with a lower bound for negative advantages.

        ρ = exp(log π - log π_old)
        ℓ = max(-A ρ, -A clip(ρ, 1 - clip_low, 1 + clip_high))
        where A < 0: ℓ = min(ℓ, -A dual_clip)

    PPO (arXiv 1707.06347), equation 7; clip_high > clip_low is DAPO (arXiv 2503.14476), equation
    10; dual clip is arXiv 1912.09729. Token mean = loss_sum / denominator.

    Args:
      logprobs: [B, L] log π(token), differentiated.
      old_logprobs: [B, L] at the start of the update; equal to stop_gradient(logprobs) on the first
        mini-batch.
      advantages: [B, L], or [B, 1] for one number per response.
      mask: [B, L], 1 on response tokens.
      clip_low: ε below 1.
      clip_high: ε above 1.
      dual_clip: c > 1, the largest loss in units of -A where A < 0; None = no bound.
      weights: [B, L] constant factors of the loss per token, e.g. `truncated_importance_weights`.

    Returns:
      loss_sum [], denominator [] (number of valid tokens) and a dict of sums over valid tokens:
      clipped_high (the upper or lower clip is active), clipped_low (the dual clip is active), kl
      (log π_old - log π), ratio.
    """
    _check_same_rank(
        "policy_loss", logprobs, old_logprobs=old_logprobs, advantages=advantages, mask=mask
    )
    mask = mask.astype(jnp.float32)
    advantages = jax.lax.stop_gradient(advantages.astype(jnp.float32))
    log_ratio = logprobs.astype(jnp.float32) - jax.lax.stop_gradient(
        old_logprobs.astype(jnp.float32)
    )
    # Padding may hold anything; a masked factor would still turn its inf into NaN.
    log_ratio = jnp.clip(jnp.where(mask > 0, log_ratio, 0.0), -MAX_LOG_RATIO, MAX_LOG_RATIO)

    ratio = jnp.exp(log_ratio)
    clipped_ratio = jnp.exp(jnp.clip(log_ratio, math.log(1 - clip_low), math.log(1 + clip_high)))
    plain, clipped = -advantages * ratio, -advantages * clipped_ratio
    loss = surrogate = jnp.maximum(plain, clipped)
    if dual_clip is not None:
        loss = jnp.where(advantages < 0, jnp.minimum(surrogate, -advantages * dual_clip), surrogate)

    sums = dict(
        clipped_high=((plain < clipped) * mask).sum(),
        clipped_low=((surrogate > loss) * mask).sum(),
        kl=-(log_ratio * mask).sum(),
        ratio=(ratio * mask).sum(),
    )
    if weights is not None:
        loss = loss * jax.lax.stop_gradient(weights)
    return (loss * mask).sum(), mask.sum(), jax.lax.stop_gradient(sums)


def sequence_policy_loss(
    logprobs: Array,
    old_logprobs: Array,
    advantages: Array,
    mask: Array,
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
) -> tuple[Array, Array, dict[str, Array]]:
    """GSPO: the clipped surrogate with one length-normalised ratio per response.

        ρ = exp((1/|y|) Σₜ (log π - log π_old))
        ℓ = max(-A ρ, -A clip(ρ, 1 - clip_low, 1 + clip_high))

    GSPO (arXiv 2507.18071), equations 5 to 7, with the clip range of its section 5.1.

    Args:
      logprobs: [B, L], one response per row, differentiated.
      old_logprobs: [B, L].
      advantages: [B].
      mask: [B, L], 1 on response tokens.
      clip_low: ε below 1.
      clip_high: ε above 1.

    Returns:
      loss_sum [], denominator [] (number of responses with a valid token) and a dict of sums over
      responses.
    """
    _check_same_rank("sequence_policy_loss", logprobs, old_logprobs=old_logprobs, mask=mask)
    length = mask.astype(jnp.float32).sum(axis=-1)
    difference = jnp.where(mask > 0, logprobs - jax.lax.stop_gradient(old_logprobs), 0.0).astype(
        jnp.float32
    )
    mean = difference.sum(axis=-1) / jnp.maximum(length, 1)
    clips = dict(clip_low=clip_low, clip_high=clip_high, dual_clip=None)
    return policy_loss(mean, jnp.zeros_like(mean), advantages, length > 0, **clips)


KlEstimator = Literal["kl", "abs", "mse", "low_var"]


def kl(logprobs: Array, ref_logprobs: Array, estimator: KlEstimator = "low_var") -> Array:
    """Per-token estimate of KL(π ‖ π_ref) from one sample per token, with d = log π - log π_ref:

        kl       d               unbiased, may be negative
        abs      |d|
        mse      d² / 2          k2
        low_var  e⁻ᵈ + d - 1     k3: unbiased, never negative; clipped to at most 10

    Schulman, "Approximating KL divergence" (joschu.net/blog/kl-approx.html); k3 in the loss is
    GRPO's equation 4.

    Args:
      logprobs: [B, L], differentiated.
      ref_logprobs: [B, L].
      estimator: one of the names above.

    Returns:
      [B, L] float32, unmasked.
    """
    _check_same_rank("kl", logprobs, ref_logprobs=ref_logprobs)
    d = logprobs.astype(jnp.float32) - ref_logprobs.astype(jnp.float32)
    if estimator == "kl":
        return d
    if estimator == "abs":
        return jnp.abs(d)
    if estimator == "mse":
        return 0.5 * jnp.square(d)
    if estimator == "low_var":
        # Where e^-d overflows, the outer clip alone would pass inf * 0 = NaN back.
        d = jnp.maximum(d, -MAX_LOG_RATIO)
        # expm1 and the floor: near d = 0 the plain formula rounds to as little as -6e-8.
        return jnp.clip(jnp.expm1(-d) + d, 0.0, 10.0)
    raise ValueError(f"unknown KL estimator {estimator!r}: use 'kl', 'abs', 'mse' or 'low_var'")


def value_loss(
    values: Array, old_values: Array, returns: Array, mask: Array, *, clip: float = 0.5
) -> tuple[Array, Array, dict[str, Array]]:
    """Clipped squared error of the critic: ℓ = ½ max((V - R)², (clip(V, V_old ± clip) - R)²).

    As in the released PPO code (arXiv 1707.06347 leaves the clip out of its equations).

    Args:
      values: [B, L], differentiated.
      old_values: [B, L] at rollout time.
      returns: [B, L] targets.
      mask: [B, L], 1 on response tokens.
      clip: largest move of a value that is rewarded.

    Returns:
      loss_sum [], denominator [], and a dict of sums over valid tokens: clipped.
    """
    _check_same_rank("value_loss", values, old_values=old_values, returns=returns, mask=mask)
    mask, values = mask.astype(jnp.float32), values.astype(jnp.float32)
    moved = jnp.clip(values, old_values - clip, old_values + clip)
    plain, clipped = jnp.square(values - returns), jnp.square(moved - returns)
    loss = 0.5 * jnp.maximum(plain, clipped)
    return (loss * mask).sum(), mask.sum(), dict(clipped=((plain < clipped) * mask).sum())


def entropy(logits: Array) -> Array:
    """Entropy in nats of softmax(logits): H = log Σ eᶻ - Σ p z; [..., V] -> [...], float32."""
    logits = logits.astype(jnp.float32)
    return jax.nn.logsumexp(logits, axis=-1) - (jax.nn.softmax(logits, axis=-1) * logits).sum(
        axis=-1
    )


def truncated_importance_weights(
    old_logprobs: Array, sampler_logprobs: Array, mask: Array, cap: float = 2.0
) -> Array:
    """Corrects for a sampler that is not bit-equal to the trainer: w = min(π_old / π_sampler, cap).

    Truncated importance sampling (Ionides 2008), per token as ρ̄ in IMPALA (arXiv 1802.01561,
    section 4.1).

    Args:
      old_logprobs: [B, L] of the trainer at the start of the update.
      sampler_logprobs: [B, L] as sampled.
      mask: [B, L], 1 on response tokens.
      cap: largest weight.

    Returns:
      [B, L] float32 without gradient; 1 where mask is 0.
    """
    _check_same_rank(
        "truncated_importance_weights", old_logprobs, sampler=sampler_logprobs, mask=mask
    )
    difference = old_logprobs.astype(jnp.float32) - sampler_logprobs.astype(jnp.float32)
    weights = jnp.minimum(jnp.exp(jnp.minimum(difference, MAX_LOG_RATIO)), cap)
    return jax.lax.stop_gradient(jnp.where(mask > 0, weights, 1.0))


def _check_same_rank(what: str, first: Array, **others: Array) -> None:
    for name, array in others.items():
        if array.ndim != first.ndim:
            raise ValueError(
                f"{what}: {name} of shape {array.shape} must have the rank of {first.shape}"
            )
