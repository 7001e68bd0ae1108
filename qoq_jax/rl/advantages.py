"""Advantage estimators: rewards in, advantages out; no model, no state.

    Q questions   G rollouts of a question   B rows (responses)   L response tokens

Estimators that compare the rollouts of one question take rewards [Q, G] and return one number a
rollout, which the loss applies to every token of that response (`rl.losses` broadcasts it).
Estimators with a notion of time take token-level rewards [B, L] (the reward of a response sits on
its last valid token) and a mask [B, L] that is 1 on response tokens. All are differentiable, but an
advantage is a constant of the loss: callers stop the gradient.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def grpo(rewards: Array, *, eps: float = 1e-6) -> Array:
    """Group-relative score: Aᵢ = (rᵢ - mean(r)) / (std(r) + eps).

    DeepSeekMath (arXiv 2402.03300), section 4.1.2. std has ddof = 1, as the released DRPO code has
    it.

    Args:
      rewards: [Q, G] with G >= 2.
      eps: added to the standard deviation; a group of equal rewards scores exactly 0.

    Returns:
      [Q, G] float32.
    """
    centred = _centred(rewards)
    return centred / (jnp.std(centred, axis=1, ddof=1, keepdims=True) + eps)


def dr_grpo(rewards: Array) -> Array:
    """GRPO without the division by std, which favours very easy and very hard questions: Aᵢ = rᵢ -
    mean(r).

    Understanding R1-Zero-like training (arXiv 2503.20783), section 3; its other half, a loss
    divided by a constant in place of the response length, is the caller's choice of denominator.

    Args:
      rewards: [Q, G] with G >= 2.

    Returns:
      [Q, G] float32.
    """
    return _centred(rewards)


def f_grpo(rewards: Array, *, gamma: float = 1.0, eps: float = 1e-6) -> Array:
    """GRPO with focal weights: Aᵢ = (1 - mean(r))^γ (rᵢ - mean(r)) / (std(r) + eps).

    F-GRPO (arXiv 2602.06717), section 4: a group that succeeds often moves the policy less, so that
    what is known already does not push out rare right responses. Its success rate of 0/1 rewards is
    here the mean reward, cut to [0, 1].

    Args:
      rewards: [Q, G] with G >= 2, in [0, 1].
      gamma: γ; 0 is GRPO.
      eps: as in `grpo`.

    Returns:
      [Q, G] float32.
    """
    success = jnp.clip(rewards.astype(jnp.float32).mean(axis=1, keepdims=True), 0.0, 1.0)
    return (1.0 - success) ** gamma * grpo(rewards, eps=eps)


def disco(
    rewards: Array, domain_ids: Array, valid: Array, *, num_domains: int, eps: float = 1e-5
) -> Array:
    """Rewards scaled by domain and difficulty, less the mean of their group.

        w[q]   = log(1 + 1 / p_g) / (mean r[q] + eps)
        A[q,i] = w[q] (r[q,i] - mean r[q])

    with p_g the share of the question's domain among all questions. DISCO (arXiv 2505.15074),
    section 3, with its logarithmic domain weight. As in its released code there is no division by
    std, which would cancel w. Its p is of the training set; here it is of the batch, which is drawn
    from it.

    Args:
      rewards: [Q, G] with G >= 2, none negative.
      domain_ids: int [Q], 0 .. num_domains - 1.
      valid: bool [Q]; False: advantage 0, and no part in p.
      num_domains: N.
      eps: added to the mean reward.

    Returns:
      [Q, G] float32.
    """
    _check_rank("disco", rewards=(rewards, 2), domain_ids=(domain_ids, 1), valid=(valid, 1))
    member = (domain_ids[:, None] == jnp.arange(num_domains)[None]) & valid[:, None]
    count = member.astype(jnp.float32).sum(axis=0)
    inverse = count.sum() / jnp.maximum(count, 1.0)
    rarity = jnp.log1p(inverse).at[domain_ids].get(mode="fill", fill_value=0.0)
    success = rewards.astype(jnp.float32).mean(axis=1)
    weight = jnp.where(valid, rarity / (jnp.maximum(success, 0.0) + eps), 0.0)
    return weight[:, None] * _centred(rewards)


def rloo(rewards: Array) -> Array:
    """Leave-one-out baseline: Aᵢ = rᵢ - (1/(G-1)) Σⱼ≠ᵢ rⱼ = (G/(G-1)) (rᵢ - mean(r)).

    Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free"; Back to Basics (arXiv
    2402.14740).

    Args:
      rewards: [Q, G] with G >= 2.

    Returns:
      [Q, G] float32.
    """
    group = rewards.shape[-1]
    return _centred(rewards) * (group / (group - 1))


def remax(rewards: Array, greedy_rewards: Array) -> Array:
    """Greedy-response baseline: Aᵢ = rᵢ - r(greedy response to the same question).

    ReMax (arXiv 2310.10505), algorithm 1.

    Args:
      rewards: [Q, G].
      greedy_rewards: [Q], reward of the greedy response of each question.

    Returns:
      [Q, G] float32.
    """
    _check_rank("remax", rewards=(rewards, 2), greedy_rewards=(greedy_rewards, 1))
    return rewards.astype(jnp.float32) - greedy_rewards.astype(jnp.float32)[:, None]


def reinforce_pp(token_rewards: Array, mask: Array, *, gamma: float = 1.0) -> tuple[Array, Array]:
    """Discounted returns, whitened over the batch: Rₜ = rₜ + γ Rₜ₊₁,  A = (R - mean R) / sqrt(var R
    + 1e-8).

    REINFORCE++ (arXiv 2501.03262). Mean and variance (ddof = 1) run over all valid tokens of the
    batch. The running return is reset at padding, so nothing leaks from behind the end of a
    response.

    Args:
      token_rewards: [B, L]; a per-token KL penalty, where wanted, is already subtracted.
      mask: [B, L], 1 on response tokens.
      gamma: discount per token.

    Returns:
      advantages [B, L] and returns [B, L], float32.
    """
    _check_rank("reinforce_pp", token_rewards=(token_rewards, 2), mask=(mask, 2))

    def step(following: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, valid = inputs
        value = reward + gamma * following
        return value * valid, value

    columns = token_rewards.astype(jnp.float32).T, mask.astype(jnp.float32).T
    _, returns = jax.lax.scan(step, jnp.zeros(token_rewards.shape[0]), columns, reverse=True)
    return whiten(returns.T, mask), returns.T


def gae(
    token_rewards: Array, values: Array, mask: Array, *, gamma: float = 1.0, lam: float = 1.0
) -> tuple[Array, Array]:
    """Generalised advantage estimation: δₜ = rₜ + γ Vₜ₊₁ - Vₜ,  Aₜ = δₜ + γλ Aₜ₊₁;  returns are A +
    V.

    GAE (arXiv 1506.02438), equation 16. A is whitened as in `reinforce_pp`, after the
    returns are taken.

    Args:
      token_rewards: [B, L].
      values: [B, L], the critic's value before each token; V past the last column is 0, and callers
        give 0 (or the critic's own output, as the reference does) on padding.
      mask: [B, L], 1 on response tokens.
      gamma: discount per token.
      lam: λ, 0 = one-step TD error, 1 = Monte Carlo.

    Returns:
      advantages [B, L] and returns [B, L] (the critic's targets), float32.
    """
    _check_rank("gae", token_rewards=(token_rewards, 2), values=(values, 2), mask=(mask, 2))
    values = values.astype(jnp.float32)
    following = jnp.pad(values[:, 1:], ((0, 0), (0, 1)))
    delta = token_rewards.astype(jnp.float32) + gamma * following - values

    def step(advantage: Array, delta_t: Array) -> tuple[Array, Array]:
        advantage = delta_t + gamma * lam * advantage
        return advantage, advantage

    _, advantages = jax.lax.scan(step, jnp.zeros(values.shape[0]), delta.T, reverse=True)
    return whiten(advantages.T, mask), advantages.T + values


def whiten(x: Array, mask: Array, *, eps: float = 1e-8) -> Array:
    """(x - mean) / sqrt(var + eps) over the entries where mask is 1; var has ddof = 1.

    Args:
      x: any shape.
      mask: same shape; entries with 0 are transformed too but count in neither moment.
      eps: added to the variance.

    Returns:
      same shape, float32; all zero where fewer than one entry is valid.
    """
    x, mask = x.astype(jnp.float32), mask.astype(jnp.float32)
    count = mask.sum()
    mean = (x * mask).sum() / jnp.maximum(count, 1)
    variance = (jnp.square(x - mean) * mask).sum() / jnp.maximum(count - 1, 1)
    return (x - mean) * jax.lax.rsqrt(variance + eps)


def _centred(rewards: Array) -> Array:
    """rewards - mean over the group, exactly 0 where all are equal.

    The minimum is taken away first: float32 mean(r, ..., r) may differ from r in the last digit,
    and dividing that digit by std + eps would turn a question without any signal into a gradient.
    """
    _check_rank("rewards of a group", rewards=(rewards, 2))
    if rewards.shape[1] < 2:
        raise ValueError(f"a group needs at least 2 rollouts, got rewards of shape {rewards.shape}")
    rewards = rewards.astype(jnp.float32)
    shifted = rewards - rewards.min(axis=1, keepdims=True)
    return shifted - shifted.mean(axis=1, keepdims=True)


def _check_rank(what: str, **arrays: tuple[Array, int]) -> None:
    for name, (array, rank) in arrays.items():
        if array.ndim != rank:
            raise ValueError(f"{what}: {name} must have rank {rank}, got shape {array.shape}")
