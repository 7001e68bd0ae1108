"""DRPO with bounded weights: our own variant of rl/drpo.py (`rl.drpo.variant = "bounded"`).

It keeps the paper's aim, rare domains and hard questions first and drift held, without two faults
of its formula: temperatures that go to 0 with a mean reward, so that one lucky response fills a
batch, and a damping that is the stronger the rarer and harder the question. docs/rl.md has the
propositions and their proofs.

Letters as in drpo.py: Q questions, G rollouts, N domains.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from qoq_jax.rl import advantages as advantages_lib
from qoq_jax.rl import drpo
from qoq_jax.rl.drpo import DomainHistory, DRPOConfig
from qoq_jax.rl.kmeans import kmeans_elbow

Array = jax.Array


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
    """Domain-aware advantages of one rollout batch, w of each question within [1/b, b].

    With r the rewards, g the domain and c the cluster of question q, and b = cfg.bound:

        s[q,i]  = (r[q,i] - mean r[q]) / (std r[q] + eps)
        μ~_c    = (n_c μ_c + μ) / (n_c + 1)
        w[q]    = clip(√(n / n_g) μ / μ~_c, 1/b, b)
        k[q]    = mean_i KL[q,i],  t = the p-quantile of k
        m[q]    = min(1, t / k[q])
        A[q,i]  = s[q,i] w[q] m[q] / mean(w m)

    n_g is the number of the batch's questions in domain g and n its mean over the domains that are
    there; n_c and μ_c are count and mean reward of a cluster, history included, and μ the mean
    reward of all of them. Quantile and mean(w m) are over questions with unequal rewards.

    Arguments, returns and what is ignored: as `drpo.advantages`. Where μ or μ~_c is not positive,
    the difficulty has no part in w; where t is not, nothing is damped. cfg.damping_symmetric and
    cfg.cluster_balanced_mean play no part.
    """
    valid, rewards, domains = drpo.checked(rewards, domain_ids, kl, valid, cfg)
    if cfg.history_size and history is None:
        history = drpo.init_history(cfg, rewards.shape[1])
    vectors = jnp.sort(rewards, axis=1)
    points, point_domains = drpo.with_history(vectors, domains, history, cfg)
    weight, diagnostics = _weights(points, point_domains, domains, cfg)

    signal = valid & (rewards.min(axis=1) < rewards.max(axis=1))
    damping, threshold = jnp.ones_like(weight), jnp.zeros(())
    if kl is not None and cfg.damping:
        drift = jnp.clip(kl.astype(jnp.float32), -drpo.LARGEST, drpo.LARGEST).mean(axis=1)
        threshold = drpo.masked_quantile(drift[:, None], signal[:, None], cfg.quantile)
        holds = (threshold > 0) & (drift > threshold)
        damping = jnp.where(holds, threshold / jnp.where(holds, drift, 1.0), 1.0)

    scale = jnp.where(signal, weight * damping, 0.0)
    mean = scale.sum() / jnp.maximum(signal.sum(), 1)
    result = (
        advantages_lib.grpo(rewards, eps=cfg.eps)
        * (scale / jnp.where(mean > 0, mean, 1.0))[:, None]
    )
    diagnostics |= dict(
        zero_variance_groups=(valid & ~signal).sum(),
        ignored_questions=(~valid).sum(),
        damping_threshold=threshold,
        damping_mean=jnp.where(signal, damping, 0.0).sum() / jnp.maximum(signal.sum(), 1),
        weight_max=scale.max() / jnp.where(mean > 0, mean, 1.0),
    )
    return result, drpo.push(history, vectors, domains, cfg), diagnostics


def _weights(
    points: Array, point_domains: Array, domains: Array, cfg: DRPOConfig
) -> tuple[Array, dict[str, Array]]:
    """w of each question of the batch, [Q], and the diagnostics of the domains."""
    size, k_max = cfg.num_domains, cfg.k_max
    if cfg.cluster:
        clusters, chosen = kmeans_elbow(points, point_domains, size, k_max)
    else:
        clusters, chosen = jnp.zeros_like(point_domains), jnp.zeros(size, jnp.int32)
    means = points.mean(axis=1)
    # one cell per (domain, cluster); absent points fall past the end
    cells = point_domains * k_max + clusters
    count, mean = drpo.group_means(means, cells, size * k_max)
    overall = (count * mean).sum() / jnp.maximum(count.sum(), 1)
    shrunken = (count * mean + overall) / (count + 1)
    difficulty = jnp.where(
        (overall > 0) & (shrunken > 0), overall / jnp.where(shrunken > 0, shrunken, 1.0), 1.0
    )
    here, _ = drpo.group_means(means[: len(domains)], domains, size)
    usual = here.sum() / jnp.maximum((here > 0).sum(), 1)
    rarity = jnp.sqrt(usual / jnp.maximum(here, 1))
    weight = rarity.at[domains].get(mode="fill", fill_value=1.0) * difficulty.at[
        cells[: len(domains)]
    ].get(mode="fill", fill_value=1.0)
    weight = jnp.clip(weight, 1 / cfg.bound, cfg.bound)
    _, mean_weight = drpo.group_means(weight, domains, size)
    return weight, dict(
        domain_questions=here.astype(jnp.int32),
        domain_temperature=jnp.where(here > 0, 1 / jnp.where(here > 0, mean_weight, 1.0), 0.0),
        domain_clusters=chosen,
    )
