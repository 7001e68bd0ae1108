"""What reinforcement learning does to each domain, for the log and the report.

A domain that falls onto one label is seen here first: its entropy and its labels narrow, and soon
it has no share of the advantages, since responses that are all alike earn all the same.

Letters: Q groups, G responses of a group, S response positions, N domains.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qoq_jax.data.answer_format import boxed_labels, last_boxed
from qoq_jax.data.meta import SampleMeta
from qoq_jax.data.rows import DOMAINS
from qoq_jax.rl import losses
from qoq_jax.rl.batches import GroupBatch

SUMS, LABELS = "domain_sums", "labels"  # names in the metrics and facts of a step, and of a row
MOST_LABELS = 12  # of a domain that a row names; the others are counted together
OTHERS, NONE = "(others)", "(no answer)"

# domain -> {"sampled", "gold"} -> label -> number of responses
Labels = dict[str, dict[str, collections.Counter[str]]]


@jax.jit
def domain_sums(groups: GroupBatch, advantages: jax.Array) -> jax.Array:
    """Sums over the responses of each domain, float32 [5, N].

    Rows: responses; response tokens; -log π of the sampled tokens under the sampler, whose mean per
    token estimates the entropy (of what is left after top-p); KL to the reference (low-variance
    estimator); |advantage| over tokens.

    Args:
      groups: with the log-probabilities of sampler and reference.
      advantages: [Q, G] or [Q, G, S].
    """
    count, mask = len(DOMAINS), groups.mask * groups.valid[:, None, None]
    spread = jnp.abs(advantages if advantages.ndim == 3 else advantages[..., None])
    kl = losses.kl(groups.sampler_logprobs, groups.ref_logprobs, "low_var")
    per_group = jnp.stack(
        [
            groups.valid.astype(jnp.float32) * mask.shape[1],
            mask.sum(axis=(1, 2)),
            -(jnp.where(mask > 0, groups.sampler_logprobs, 0.0)).sum(axis=(1, 2)),
            jnp.where(mask > 0, kl, 0.0).sum(axis=(1, 2)),
            (spread * mask).sum(axis=(1, 2)),
        ]
    )
    # A product, not a scatter-add, which is not deterministic on GPUs.
    member = (groups.domains[:, None] == jnp.arange(count)[None]).astype(jnp.float32)
    return jnp.matmul(per_group, member, precision=jax.lax.Precision.HIGHEST)


def count_labels(texts: Sequence[str], metas: Sequence[SampleMeta]) -> Labels:
    """The labels that responses name, and those that their prompts have, per domain."""
    found: Labels = {}
    for text, meta in zip(texts, metas, strict=True):
        of_domain = found.setdefault(
            meta.domain, {"sampled": collections.Counter(), "gold": collections.Counter()}
        )
        known = set(meta.vocabulary)
        labels = boxed_labels(last_boxed(text), meta.vocabulary) or (NONE,)
        of_domain["sampled"].update(
            label if not known or label in known or label == NONE else OTHERS for label in labels
        )
        of_domain["gold"].update(meta.labels)
    return found


def add_labels(parts: Iterable[Labels]) -> Labels:
    """The sum of several counts."""
    total: Labels = {}
    for part in parts:
        for domain, sides in part.items():
            of_domain = total.setdefault(
                domain, {"sampled": collections.Counter(), "gold": collections.Counter()}
            )
            for side, counts in sides.items():
                of_domain[side].update(counts)
    return total


def row(steps: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a log row says of some steps: for each domain that occurs in them

        domain/NAME/entropy          nats per response token
        domain/NAME/kl               to the reference, nats per response
        domain/NAME/advantage_share  of the sum of |advantage| over all response tokens
        domain/NAME/top_label        share of its most frequent label among all that it named

    and "labels": {NAME: {"sampled": {label: responses}, "gold": {...}}}, the most frequent first.
    Sums over the steps are divided once, so that a step counts by its responses.
    """
    sums = [step[SUMS] for step in steps if SUMS in step]
    if not sums:
        return {}
    responses, tokens, surprise, kl, spread = np.sum(np.asarray(sums, np.float64), axis=0)
    labels = add_labels(step[LABELS] for step in steps if LABELS in step)
    out: dict[str, Any] = {}
    for number in np.flatnonzero(responses):
        name = DOMAINS[number]
        out[f"domain/{name}/entropy"] = float(surprise[number] / max(tokens[number], 1.0))
        out[f"domain/{name}/kl"] = float(kl[number] / responses[number])
        out[f"domain/{name}/advantage_share"] = float(spread[number] / max(spread.sum(), 1e-9))
        if sampled := labels.get(name, {}).get("sampled"):
            out[f"domain/{name}/top_label"] = max(sampled.values()) / sampled.total()
    out[LABELS] = {
        name: {side: _most_frequent(counts) for side, counts in sides.items()}
        for name, sides in sorted(labels.items())
    }
    return out


def _most_frequent(counts: collections.Counter[str]) -> dict[str, int]:
    common = counts.most_common()
    kept, rest = dict(common[:MOST_LABELS]), common[MOST_LABELS:]
    if rest:
        kept[OTHERS] = kept.get(OTHERS, 0) + sum(count for _, count in rest)
    return kept
