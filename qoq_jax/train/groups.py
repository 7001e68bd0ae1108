"""The host's part of a rollout batch: where its prompts stand, and what the responses earned.

The device's part is `rl.batches.GroupBatch`. Of several processes each knows its own rows
(`HostGroups`), scores their responses, and tells the others what the log needs (`Summary`).
Letters: Q text rows (one prompt each), N prompts that are there (a row may be empty), G responses
of a prompt, S response positions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from qoq_jax.base.errors import QoqError
from qoq_jax.data.packing import Placed
from qoq_jax.data.tokenizer import Tokenizer
from qoq_jax.parallel import hosts
from qoq_jax.rewards import score as rewards_lib
from qoq_jax.rewards.pool import RewardPool
from qoq_jax.rl import algorithms
from qoq_jax.train import domains
from qoq_jax.train.plan import Plan
from qoq_jax.train.setup import Setup

Terms = dict[str, np.ndarray]


@dataclasses.dataclass
class HostGroups:
    """Q groups on the host: those of this process.

    Attributes:
      prompts: the packed prompts, as data/packing.py describes them.
      samples: the N prompts that are there, each with its text row.
      terms: each term of the reward, float32 [N, G]; NaN where a sample has no such term. "total"
        is what advantages see.
      tokens: float [Q], response tokens of each group.
      lost: responses whose reward missed its deadline.
      labels: how often each label was named and is right, per domain; one entry for each batch
        that was sampled, so that responses of groups that DAPO leaves out count too.
      greedy: float32 [N], reward of the greedy response to each prompt, or None.
      facts: more for the log.
    """

    prompts: dict[str, np.ndarray]
    samples: Sequence[Placed]
    terms: Terms
    tokens: np.ndarray
    lost: int = 0
    labels: Sequence[domains.Labels] = ()
    greedy: np.ndarray | None = None
    facts: dict[str, float] = dataclasses.field(default_factory=dict)

    def by_row(self, values: np.ndarray) -> np.ndarray:
        """[N, ...] of the prompts that are there -> [Q, ...] of all text rows, 0 where none is."""
        rows = np.zeros((len(self.tokens), *values.shape[1:]), values.dtype)
        rows[[sample.row for sample in self.samples]] = values
        return rows

    def valid(self) -> np.ndarray:
        """bool [Q]: whether a text row holds a prompt."""
        return self.by_row(np.ones(len(self.samples), bool))

    def domains(self, names: Sequence[str]) -> np.ndarray:
        """int32 [Q]: index of each prompt's domain in `names`."""
        return self.by_row(np.array([names.index(s.meta.domain) for s in self.samples], np.int32))

    def summary(self, share: hosts.Share) -> Summary:
        """What is logged of the groups of all processes; all must call it."""
        mine = {
            "terms": {name: value.tolist() for name, value in self.terms.items()},
            "domains": [sample.meta.domain for sample in self.samples],
            "tokens": self.tokens.tolist(),
            "lost": self.lost,
            "labels": [domains.labels_to_json(labels) for labels in self.labels],
        }
        parts = share.join("groups", mine)
        responses = self.terms["total"].shape[1]

        def join(name: str) -> np.ndarray:
            rows = [row for part in parts for row in part["terms"][name]]
            return np.array(rows, np.float32).reshape(-1, responses)

        # Draw by draw, and in each in the order of the rows: as one process counts them.
        labels = [
            domains.labels_from_json(part["labels"][draw])
            for draw in range(len(self.labels))
            for part in parts
        ]
        return Summary(
            terms={name: join(name) for name in self.terms},
            domains=[name for part in parts for name in part["domains"]],
            tokens=np.concatenate([part["tokens"] for part in parts]),
            lost=sum(part["lost"] for part in parts),
            labels=domains.add_labels(labels),
            facts=self.facts,
        )


@dataclasses.dataclass
class Summary:
    """What all processes know of a rollout batch: Q rows and N prompts are those of all of them.

    Attributes:
      terms: each term of the reward, float32 [N, G]; NaN where a sample has no such term.
      domains: of the N prompts.
      tokens: float [Q], response tokens of each group.
      lost, labels, facts: as in HostGroups; labels of all batches that were sampled.
    """

    terms: Terms
    domains: list[str]
    tokens: np.ndarray
    lost: int
    labels: domains.Labels
    facts: dict[str, float]

    def log_facts(self) -> dict[str, float]:
        """What is logged of the rewards: means of terms and domains, groups without spread."""
        facts = {
            f"reward/{name}": _finite_mean(value)
            for name, value in self.terms.items()
            if name not in ("coherence", "custom") or np.isfinite(value).any()
        }
        total = self.terms["total"]
        for domain in sorted(set(self.domains)):
            members = [i for i, name in enumerate(self.domains) if name == domain]
            facts[f"reward/domain/{domain}"] = _finite_mean(total[members])
        equal = (total.std(axis=1) < 1e-6).astype(np.float32)
        return facts | {"zero_variance_groups": _finite_mean(equal)} | self.facts


class ResponseScorer:
    """Rewards of responses: token ids in, numbers out; in worker processes when asked."""

    def __init__(self, setup: Setup, plan: Plan):
        self._tokenizer, self._rl, self._algorithm = setup.tokenizer, plan.rl, plan.algorithm
        self._pool = RewardPool(plan.rl.reward, plan.rl.reward_workers, plan.rl.reward_deadline)

    def close(self) -> None:
        """Ends the worker processes."""
        self._pool.close()

    def sampled(
        self, samples: Sequence[Placed], tokens: np.ndarray, mask: np.ndarray
    ) -> tuple[Terms, int, domains.Labels]:
        """(terms [N, G], rewards that missed their deadline, labels) of sampled responses, [Q, G,
        S]; the total less what the algorithm takes from long ones.
        """
        texts, lengths = decoded(self._tokenizer, samples, tokens, mask)
        terms, lost = reward_terms(self._pool, samples, texts, self._rl.reward_deadline)
        overlong = algorithms.overlong_penalty(
            lengths, self._rl.response_tokens, self._algorithm.overlong
        )
        if overlong.any():
            terms["total"] = terms["total"] - overlong.astype(np.float32)
        metas = [sample.meta for sample in samples for _ in range(tokens.shape[1])]
        return terms, lost, domains.count_labels(texts, metas)

    def greedy(
        self, samples: Sequence[Placed], tokens: np.ndarray, mask: np.ndarray
    ) -> tuple[np.ndarray, int]:
        """(float32 [N], rewards that missed their deadline) of one greedy response to each prompt,
        [Q, 1, S].
        """
        texts, _ = decoded(self._tokenizer, samples, tokens, mask)
        terms, lost = reward_terms(self._pool, samples, texts, self._rl.reward_deadline)
        return terms["total"][:, 0], lost


def decoded(
    tokenizer: Tokenizer, samples: Sequence[Placed], tokens: np.ndarray, mask: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """(texts [N * G], lengths in tokens [N, G]) of responses [Q, G, S]."""
    lengths = np.array([mask[sample.row].sum(axis=1) for sample in samples], int)
    lengths = lengths.reshape(len(samples), tokens.shape[1])
    texts = [
        tokenizer.decode(tokens[sample.row, i, :length])
        for sample, of_sample in zip(samples, lengths, strict=True)
        for i, length in enumerate(of_sample)
    ]
    return texts, lengths


def reward_terms(
    pool: RewardPool, samples: Sequence[Placed], texts: Sequence[str], deadline: float
) -> tuple[Terms, int]:
    """(terms [N, G], number of rewards that missed their deadline) of the texts [N * G].

    Raises:
      QoqError: no response got its reward in time.
    """
    count = len(texts) // max(len(samples), 1)
    scored, lost = pool.score(texts, [sample.meta for sample in samples for _ in range(count)])
    if texts and lost == len(texts):
        raise QoqError(
            f"none of {lost} responses got its reward within {deadline:g} s",
            hint="raise rl.reward_deadline, or lower rl.reward_workers",
        )
    shape = (len(samples), count)
    return {name: value.reshape(shape) for name, value in rewards_lib.stack(scored).items()}, lost


def _finite_mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else 0.0
