"""What training does to each domain, for the log and the report: in supervised stages the loss of
each, in reinforcement learning more.

A domain that falls onto one label is seen here first: its entropy and its labels narrow, and soon
it has no share of the advantages, since responses that are all alike earn all the same.

Letters: Q groups, G responses of a group, S response positions, N domains; B rows of T tokens.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qoq_jax.data.answer_format import boxed_labels, last_boxed
from qoq_jax.data.meta import SampleMeta
from qoq_jax.data.packing import Placed
from qoq_jax.data.rows import DOMAINS
from qoq_jax.rl import losses
from qoq_jax.rl.batches import GroupBatch

# Names in the metrics and facts of a step; not averaged as numbers are, but joined by `row`.
SUMS, ENTROPY, LABELS = "domain_sums", "domain_entropy", "labels"
LOSS = "domain_loss"  # of supervised stages
_OF_RL = (SUMS, ENTROPY, LABELS)
JOINED = (*_OF_RL, LOSS)
MOST_LABELS = 12  # of a domain that a row names; the others are counted together
OTHERS, NONE = "(others)", "(no answer)"


@dataclasses.dataclass
class LabelCounts:
    """Labels of some responses of one domain.

    Attributes:
      responses: their number.
      sampled: label -> how many of them name it. NONE: those without a readable answer; OTHERS:
        those that name something beside their row's vocabulary.
      gold: label -> how many of them have it as a gold label.
    """

    responses: int = 0
    sampled: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    gold: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def add(self, other: LabelCounts) -> None:
        """Adds another's counts to these."""
        self.responses += other.responses
        self.sampled.update(other.sampled)
        self.gold.update(other.gold)

    def top(self) -> float:
        """Share of the responses that name the most frequent label, or have no answer."""
        named = (count for label, count in self.sampled.items() if label != OTHERS)
        return max(named, default=0) / max(self.responses, 1)


Labels = dict[str, LabelCounts]  # by domain


# ---------------------------------------------------------------------------------- on the device


@jax.jit
def domain_sums(groups: GroupBatch, advantages: jax.Array) -> jax.Array:
    """Sums over the responses of each domain, float32 [3, N].

    Rows: responses; KL to the reference (low-variance estimator, before the update); |advantage|
    over tokens.

    Args:
      groups: with the log-probabilities of sampler and reference.
      advantages: [Q, G] or [Q, G, S].
    """
    mask = groups.mask * groups.valid[:, None, None]
    spread = jnp.abs(advantages if advantages.ndim == 3 else advantages[..., None])
    kl = losses.kl(groups.policy_logprobs, groups.ref_logprobs, "low_var")
    per_group = [
        groups.valid.astype(jnp.float32) * mask.shape[1],
        jnp.where(mask > 0, kl, 0.0).sum(axis=(1, 2)),
        (spread * mask).sum(axis=(1, 2)),
    ]
    return _by_domain(per_group, groups.domains)


def entropy_sums(entropy: jax.Array, mask: jax.Array, domains: jax.Array) -> jax.Array:
    """Sums over the responses of each domain in an update, float32 [2, N]: entropy of the policy,
    response tokens.

    Args:
      entropy: [Q, G, S] of the whole next-token distribution, nats, 0 where masked.
      mask: [Q, G, S], 0 in rows without a prompt.
      domains: int [Q].
    """
    per_group = [jax.lax.stop_gradient(entropy).sum(axis=(1, 2)), mask.sum(axis=(1, 2))]
    return _by_domain(per_group, domains)


def loss_sums(losses: jax.Array, weight: jax.Array, domains: jax.Array) -> jax.Array:
    """Sums over the tokens of each domain, float32 [2, N]: loss, weight.

    Args:
      losses, weight: [B, T], of each token.
      domains: int [B, T], as `token_domains`.
    """
    per_token = [jax.lax.stop_gradient(losses * weight).reshape(-1), weight.reshape(-1)]
    return _by_domain(per_token, domains.reshape(-1))


def _by_domain(per_group: Sequence[jax.Array], domains: jax.Array) -> jax.Array:
    """[Q] each -> [rows, N]; a group whose number is not finite counts as 0 there, or the product
    would spread it over all domains.
    """
    member = (domains[:, None] == jnp.arange(len(DOMAINS))[None]).astype(jnp.float32)
    # A product, not a scatter-add, which is not deterministic on GPUs.
    return jnp.matmul(
        jnp.nan_to_num(jnp.stack(per_group), posinf=0.0, neginf=0.0),
        member,
        precision=jax.lax.Precision.HIGHEST,
    )


# ------------------------------------------------------------------------------------ on the host


def token_domains(segment_ids: np.ndarray, samples: Iterable[Placed]) -> np.ndarray:
    """int32 [B, T]: the number of the domain of each token's sample, -1 where there is none.

    Args:
      segment_ids: [B, T] of a packed batch, 0 where there is no sample.
      samples: of the batch.
    """
    table = np.full((len(segment_ids), segment_ids.max(initial=0) + 1), -1, np.int32)
    for one in samples:
        table[one.row, one.segment] = DOMAINS.index(one.meta.domain)
    return np.take_along_axis(table, segment_ids, axis=1)


def count_labels(texts: Sequence[str], metas: Sequence[SampleMeta]) -> Labels:
    """The labels that responses name, and those that their prompts have, per domain."""
    found: Labels = {}
    for text, meta in zip(texts, metas, strict=True):
        known = set(meta.vocabulary)
        named = boxed_labels(last_boxed(text), meta.vocabulary)
        # A dict, not a set: ties keep their order from run to run.
        labels = dict.fromkeys(x if not known or x in known else OTHERS for x in named) or (NONE,)
        of_domain = found.setdefault(meta.domain, LabelCounts())
        of_domain.responses += 1
        of_domain.sampled.update(list(labels))
        of_domain.gold.update(meta.labels)
    return found


def add_labels(parts: Iterable[Labels]) -> Labels:
    """The sum of several counts."""
    total: Labels = {}
    for part in parts:
        for domain, counts in part.items():
            total.setdefault(domain, LabelCounts()).add(counts)
    return total


def labels_to_json(labels: Labels) -> dict[str, Any]:
    """Counts as JSON, for another process; the order of labels is kept."""
    return {
        domain: {
            "responses": counts.responses,
            "sampled": dict(counts.sampled),
            "gold": dict(counts.gold),
        }
        for domain, counts in labels.items()
    }


def labels_from_json(found: dict[str, Any]) -> Labels:
    """The inverse of `labels_to_json`."""
    return {
        domain: LabelCounts(
            of_it["responses"],
            collections.Counter(of_it["sampled"]),
            collections.Counter(of_it["gold"]),
        )
        for domain, of_it in found.items()
    }


def row(steps: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a log row says of some steps: for each domain that was sampled in them

        domain/NAME/entropy          of the policy in the update, nats per response token
        domain/NAME/kl               to the reference, nats per response
        domain/NAME/advantage_share  of the sum of |advantage| over all response tokens
        domain/NAME/top_label        share of its responses that name its most frequent label

    and "labels": {NAME: {"responses": n, "sampled": {label: responses}, "gold": {...}}}, the most
    frequent first. In supervised stages, in their place,

        loss/domain/NAME             mean over the tokens of its gold responses, nats

    and {} in others. Sums over the steps are divided once, so that a
    step counts by its responses.

    Of a domain whose groups DAPO has left out, all of them, the policy learns nothing: it has no
    entropy and no KL, and an advantage share of 0.
    """
    if all(LOSS in step for step in steps):
        total, weight = np.sum([np.asarray(step[LOSS], np.float64) for step in steps], axis=0)
        return {
            f"loss/domain/{name}": float(total[number] / weight[number])
            for number, name in enumerate(DOMAINS)
            if weight[number]
        }
    if not all(name in step for step in steps for name in _OF_RL):
        return {}
    responses, kl, spread = np.sum([np.asarray(step[SUMS], np.float64) for step in steps], axis=0)
    entropy, tokens = np.sum([np.asarray(step[ENTROPY], np.float64) for step in steps], axis=0)
    labels = add_labels(step[LABELS] for step in steps)
    out: dict[str, Any] = {}
    for number, name in enumerate(DOMAINS):
        if not responses[number] and name not in labels:
            continue
        if tokens[number]:
            out[f"domain/{name}/entropy"] = float(entropy[number] / tokens[number])
        if responses[number]:
            out[f"domain/{name}/kl"] = float(kl[number] / responses[number])
        out[f"domain/{name}/advantage_share"] = float(spread[number] / max(spread.sum(), 1e-9))
        if name in labels:
            out[f"domain/{name}/top_label"] = labels[name].top()
    out[LABELS] = {
        name: {
            "responses": counts.responses,
            "sampled": _most_frequent(counts.sampled),
            "gold": _most_frequent(counts.gold),
        }
        for name, counts in sorted(labels.items())
    }
    return out


def _most_frequent(counts: collections.Counter[str]) -> dict[str, int]:
    common = counts.most_common()
    kept, rest = dict(common[:MOST_LABELS]), common[MOST_LABELS:]
    if rest:
        kept[OTHERS] = kept.get(OTHERS, 0) + sum(count for _, count in rest)
    return kept
