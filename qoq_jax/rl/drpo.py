"""DRPO, domain-aware relative policy optimisation (QoQ-Med, arXiv 2506.00711), as one jittable
function.

    Q questions   G rollouts per question   N domains   H remembered questions per domain
    P = Q + N * H points to cluster   K most clusters per domain

The vector of a question is its G rewards in ascending order, so that the order of the rollouts
changes nothing, and `kmeans` orders the points itself, so that the order of the questions changes
nothing either.

Clusters: k-means on the sorted reward vectors of a domain; with I_k the inertia of k clusters
and dI_k = I_{k-1} - I_k, k is the first k >= 2 with dI_{k+1} < 0.1 dI_k, at most k_max and the
number of distinct vectors.

With cfg.damping_symmetric, |s'| stands in place of s' in z and t.

The quantile is over questions with unequal rewards. The others have no advantage to damp, and
their products, all 0, would put t at 0 once they are most of the batch, and every positive
advantage with it.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct

from qoq_jax.base.errors import ConfigError
from qoq_jax.base.fields import Positive
from qoq_jax.rl import advantages as advantages_lib
from qoq_jax.rl.kmeans import kmeans_elbow

Array = jax.Array

# Rewards and KL beyond this are cut, so that no product of two of them overflows float32.
LARGEST = 1e9


@dataclasses.dataclass(frozen=True)
class DRPOConfig:
    """What DRPO does; the defaults are the paper's.

    Attributes:
      num_domains: N; domain ids are 0 .. N - 1.
      k_max: most clusters per domain.
      eps: added to the group std, and the floor of both temperatures.
      cluster: False = scale by domain only (ablation).
      damping: KL-aware damping; needs the responses' KL.
      damping_symmetric: damp by |s' KL|, good and bad responses alike (a comment in the released
        code); False = by max(s' KL, 0), good ones alone (paper).
      quantile: p, the share of products below the damping threshold.
      history_size: H, past questions per domain that take part in clusters and counts; 0 =
        statistics of the batch.
      bound: b of "bounded" alone: the largest weight w of a question and, inverted, the smallest.
      variant: "paper"; "bounded" is our own (drpo_bounded.py); "released" is what the released code
        computes: unsorted reward vectors, cluster-balanced domain mean, no floor on the cluster
        temperature, no damping; it also keeps all past questions (a long history).
      cluster_balanced_mean: the mean reward of a domain weighs cluster means by 1 / cluster size
        (always so in "released"); False = plain mean over questions.
    """

    num_domains: int
    k_max: int = 10
    eps: Positive[float] = 1e-6
    cluster: bool = True
    damping: bool = True
    damping_symmetric: bool = False
    quantile: float = 0.75
    history_size: int = 0
    variant: Literal["paper", "released", "bounded"] = "paper"
    cluster_balanced_mean: bool = False
    bound: float = 4.0

    def __post_init__(self):
        if self.variant not in ("paper", "released", "bounded"):
            raise ConfigError(
                f"drpo variant {self.variant!r}", hint="use 'paper', 'released' or 'bounded'"
            )
        if not self.bound > 1:
            raise ConfigError(f"drpo bound={self.bound}", hint="use a number above 1")
        if self.num_domains < 1 or self.k_max < 1 or self.history_size < 0:
            raise ConfigError(
                f"drpo num_domains={self.num_domains} k_max={self.k_max} "
                f"history_size={self.history_size}",
                hint="use num_domains >= 1, k_max >= 1 and history_size >= 0",
            )
        if not 0.0 < self.quantile < 1.0:
            raise ConfigError(f"drpo quantile={self.quantile}", hint="use a share between 0 and 1")


@struct.dataclass
class DomainHistory:
    """The last H questions of each domain.

    Attributes:
      vectors: float32 [N, H, G], a ring of reward vectors per domain; slots not yet written hold 0.
      count: int32 [N], questions written so far; the next goes to slot count % H.
    """

    vectors: Array
    count: Array


def init_history(cfg: DRPOConfig, rollouts: int) -> DomainHistory:
    """An empty history for groups of `rollouts` responses."""
    return DomainHistory(
        vectors=jnp.zeros((cfg.num_domains, cfg.history_size, rollouts), jnp.float32),
        count=jnp.zeros(cfg.num_domains, jnp.int32),
    )


def extend_history(history: DomainHistory, num_domains: int) -> DomainHistory:
    """The history with new domains at its end, up to `num_domains`, each as `init_history` has it;
    those that are there keep their bits.
    """

    def extend(x: Array) -> Array:
        return jnp.pad(x, [(0, num_domains - len(x)), *[(0, 0)] * (x.ndim - 1)])

    return jax.tree.map(extend, history)


@functools.partial(jax.jit, static_argnames="cfg")
def advantages(
    rewards: Array,
    domain_ids: Array,
    kl: Array | None = None,
    history: DomainHistory | None = None,
    *,
    cfg: DRPOConfig,
    valid: Array | None = None,
) -> tuple[Array, DomainHistory | None, dict[str, Array]]:
    """Domain-aware advantages of one rollout batch.

    With r the rewards, g the domain and c the cluster of question q:

        s[q,i]   = (r[q,i] - mean r[q]) / (std r[q] + eps)
        T_g      = max(√N_g μ_g, eps),  T_c = max(√N_c μ_c, eps)
        s'[q,i]  = s[q,i] / (T_g T_c)
        z[q,i]   = max(s'[q,i] KL[q,i], 0),  t = the p-quantile of the products s' KL
        s''[q,i] = s'[q,i] t / (t + z[q,i])
        A[q,i]   = s''[q,i] / std(s'')

    N is a number of questions, μ a mean reward; std r[q] is over the rollouts of a question,
    std(s'') over the batch, both with ddof = 1.

    Every case gives finite numbers. Absent domains take no part. A mean reward <= 0 puts a
    temperature on its floor (the released variant has none for clusters: a negative mean turns the
    sign, only a vanishing one becomes eps). Where t is not positive beyond rounding, there is
    nothing to compare with and nothing is damped. A batch without any signal gets advantages 0.

    Args:
      rewards: [Q, G], G >= 2; cut to ±1e9. A question with one that is not finite is ignored like
        an invalid one.
      domain_ids: int [Q]; a question whose id is outside 0 .. N - 1 is ignored like an invalid one.
      kl: [Q, G], KL of each response to the reference, summed over its tokens; None = 0, so that
        nothing is damped.
      history: questions of past steps, or None to start with none; used when cfg.history_size > 0.
      cfg: static.
      valid: bool [Q]; False marks padding: advantage 0, no part in any statistic. None = all are
        valid.

    Returns:
      advantages [Q, G] float32; the history with this batch added (None when cfg.history_size is
      0); diagnostics: domain_questions [N] and domain_temperature [N] (0 where absent) and
      domain_clusters [N] (history included), zero_variance_groups [], ignored_questions [],
      damping_threshold [] and damping_mean [] (mean t / (t + z)).
    """
    valid, rewards, domains = checked(rewards, domain_ids, kl, valid, cfg)
    vectors = rewards if cfg.variant == "released" else jnp.sort(rewards, axis=1)

    scores = advantages_lib.grpo(rewards, eps=cfg.eps)
    if cfg.history_size and history is None:
        history = init_history(cfg, rewards.shape[1])
    points, point_domains = with_history(vectors, domains, history, cfg)
    temperature, diagnostics = _temperatures(points, point_domains, len(domains), cfg)
    scores = scores / temperature[:, None]

    signal = valid & (rewards.min(axis=1) < rewards.max(axis=1))
    damping, threshold = jnp.ones_like(scores), jnp.zeros(())
    if kl is not None and cfg.damping and cfg.variant == "paper":
        damped = jnp.abs(scores) if cfg.damping_symmetric else scores
        damping, threshold = _damping(damped, kl, signal[:, None], cfg.quantile)
    damping = jnp.where(valid[:, None], damping, 0.0)
    scores = damping * scores

    spread = _masked_std(scores, valid[:, None])
    result = scores / jnp.where(spread > 0, spread, 1.0)
    diagnostics |= dict(
        zero_variance_groups=(valid & ~signal).sum(),
        ignored_questions=(~valid).sum(),
        damping_threshold=threshold,
        damping_mean=damping.sum() / jnp.maximum(valid.sum() * rewards.shape[1], 1),
    )
    return result, push(history, vectors, domains, cfg), diagnostics


def _damping(scores: Array, kl: Array, signal: Array, quantile: float) -> tuple[Array, Array]:
    """t / (t + z) of each rollout [Q, G], and the threshold t [], 0 for no damping.

    The quantile is over questions where `signal` [Q, 1] is True.
    """
    products = scores * jnp.clip(kl.astype(jnp.float32), -LARGEST, LARGEST)
    excess = jnp.where(signal, jnp.maximum(products, 0.0), 0.0)
    threshold = masked_quantile(products, signal, quantile)
    # A reward equal to its group's mean has a score of 0 up to rounding; such a product must not
    # become the threshold.
    threshold = jnp.where(threshold > 1e-5 * excess.max(), threshold, 0.0)
    return jnp.where(threshold > 0, threshold / (threshold + excess), 1.0), threshold


def checked(
    rewards: Array, domain_ids: Array, kl: Array | None, valid: Array | None, cfg: DRPOConfig
) -> tuple[Array, Array, Array]:
    """(valid bool [Q], rewards float32 [Q, G] with 0 where not valid, domain ids with N there)."""
    _check(rewards, domain_ids, kl, valid)
    valid = jnp.ones(domain_ids.shape, bool) if valid is None else valid.astype(bool)
    valid &= (domain_ids >= 0) & (domain_ids < cfg.num_domains)
    valid &= jnp.isfinite(rewards).all(axis=1)
    rewards = jnp.where(
        valid[:, None], jnp.clip(rewards.astype(jnp.float32), -LARGEST, LARGEST), 0.0
    )
    return valid, rewards, jnp.where(valid, domain_ids, cfg.num_domains)


def _check(rewards: Array, domain_ids: Array, kl: Array | None, valid: Array | None) -> None:
    if rewards.ndim != 2 or domain_ids.shape != rewards.shape[:1]:
        shapes = f"{rewards.shape} and {domain_ids.shape}"
        raise ValueError(f"rewards must be [Q, G] and domain_ids [Q], got {shapes}")
    if valid is not None and valid.shape != domain_ids.shape:
        raise ValueError(f"valid must be [Q] = {domain_ids.shape}, got {valid.shape}")
    if kl is not None and kl.shape != rewards.shape:
        raise ValueError(f"kl must have the shape of rewards, {rewards.shape}, got {kl.shape}")


# --------------------------------------------------------------------------------------------------
# Temperatures


def _temperatures(
    points: Array, domains: Array, questions: int, cfg: DRPOConfig
) -> tuple[Array, dict[str, Array]]:
    """T_g T_c of the first `questions` points, [Q], and the diagnostics of the domains."""
    if cfg.cluster:
        clusters, chosen = kmeans_elbow(points, domains, cfg.num_domains, cfg.k_max)
    else:
        clusters, chosen = jnp.zeros_like(domains), jnp.zeros(cfg.num_domains, jnp.int32)
    means = points.mean(axis=1)
    # one cell a (domain, cluster); absent points fall past the end
    cells = domains * cfg.k_max + clusters
    count, mean = group_means(means, cells, cfg.num_domains * cfg.k_max)
    domain_count, domain_mean = group_means(means, domains, cfg.num_domains)
    if cfg.cluster_balanced_mean or cfg.variant == "released":
        weights = jnp.where(count > 0, 1.0 / jnp.maximum(count, 1), 0.0).reshape(
            cfg.num_domains, cfg.k_max
        )
        balanced = (weights * mean.reshape(weights.shape)).sum(axis=1)
        domain_mean = balanced / jnp.where(domain_count > 0, weights.sum(axis=1), 1.0)

    domain_temperature = jnp.maximum(jnp.sqrt(domain_count) * domain_mean, cfg.eps)
    cluster_temperature = jnp.sqrt(count) * mean
    if cfg.variant == "released":
        cluster_temperature = jnp.where(
            jnp.abs(cluster_temperature) < cfg.eps, cfg.eps, cluster_temperature
        )
    else:
        cluster_temperature = jnp.maximum(cluster_temperature, cfg.eps)
    temperature = domain_temperature.at[domains[:questions]].get(mode="fill", fill_value=1.0)
    if cfg.cluster:
        temperature *= cluster_temperature.at[cells[:questions]].get(mode="fill", fill_value=1.0)
    return temperature, dict(
        domain_questions=domain_count.astype(jnp.int32),
        domain_temperature=jnp.where(domain_count > 0, domain_temperature, 0.0),
        domain_clusters=chosen,
    )


def group_means(values: Array, groups: Array, size: int) -> tuple[Array, Array]:
    """Number and mean of the values of each group 0 .. size - 1, both float32 [size]; others are
    dropped.
    """
    # A product, not a scatter-add, which is not deterministic on GPUs.
    member = (groups[:, None] == jnp.arange(size)[None]).astype(jnp.float32)
    count = member.sum(axis=0)
    return count, jnp.matmul(values, member, precision=jax.lax.Precision.HIGHEST) / jnp.maximum(
        count, 1
    )


def _masked_std(x: Array, mask: Array) -> Array:
    """Standard deviation (ddof = 1) of x [Q, G] where mask [Q, 1] is True; 0 for fewer than two
    entries.
    """
    count = mask.sum() * x.shape[1]
    mean = jnp.where(mask, x, 0.0).sum() / jnp.maximum(count, 1)
    return jnp.sqrt(jnp.where(mask, jnp.square(x - mean), 0.0).sum() / jnp.maximum(count - 1, 1))


def masked_quantile(x: Array, mask: Array, p: float) -> Array:
    """p-quantile, linear between order statistics, of x [Q, G] where mask [Q, 1] is True; 0 for
    none.
    """
    ordered = jnp.sort(jnp.where(mask, x, jnp.inf).reshape(-1))
    count = mask.sum() * x.shape[1]
    place = p * jnp.maximum(count - 1, 0)
    low = jnp.floor(place).astype(jnp.int32)
    below, above = ordered[low], ordered[jnp.minimum(low + 1, jnp.maximum(count - 1, 0))]
    return jnp.where(count > 0, below + (place - low) * (above - below), 0.0)


# --------------------------------------------------------------------------------------------------
# History


def with_history(
    vectors: Array, domains: Array, history: DomainHistory | None, cfg: DRPOConfig
) -> tuple[Array, Array]:
    """This batch's points [P, G] first, then the remembered ones; empty slots have domain N."""
    if not cfg.history_size:
        return vectors, domains
    written = jnp.arange(cfg.history_size)[None] < history.count[:, None]
    remembered = jnp.where(written, jnp.arange(cfg.num_domains)[:, None], cfg.num_domains)
    points = jnp.concatenate([vectors, history.vectors.reshape(-1, vectors.shape[1])])
    return points, jnp.concatenate([domains, remembered.reshape(-1).astype(domains.dtype)])


def push(
    history: DomainHistory | None, vectors: Array, domains: Array, cfg: DRPOConfig
) -> DomainHistory | None:
    """The history after this batch; of more than H questions of a domain, the last H stay."""
    if not cfg.history_size:
        return None
    member = (domains[:, None] == jnp.arange(cfg.num_domains)[None]).astype(jnp.int32)  # [Q, N]
    added = member.sum(axis=0)
    # place among its domain's in this batch
    order = (jnp.cumsum(member, axis=0) * member).sum(axis=1) - 1
    slot = (history.count.at[domains].get(mode="fill", fill_value=0) + order) % cfg.history_size
    stays = order >= added.at[domains].get(mode="fill", fill_value=0) - cfg.history_size
    written = history.vectors.at[jnp.where(stays, domains, cfg.num_domains), slot].set(
        vectors, mode="drop"
    )
    # Counting on for ever would overflow after 2^31 questions; only the place in the ring and
    # "full" matter.
    total = history.count + added
    total = jnp.where(
        total >= 2 * cfg.history_size, cfg.history_size + total % cfg.history_size, total
    )
    return DomainHistory(vectors=written, count=total)
