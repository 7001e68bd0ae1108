"""Reinforcement learning stages: rollout, reward, advantage, updates.

What differs between algorithms is in rl/algorithms.py.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from qoq_jax.base.errors import ConfigError, QoqError
from qoq_jax.models import lora as lora_lib
from qoq_jax.parallel import offload
from qoq_jax.rewards import score as rewards_lib
from qoq_jax.rewards.pool import RewardPool
from qoq_jax.rl import algorithms
from qoq_jax.sampling.rollout import Rollout, make_scorer
from qoq_jax.sampling.sampler import make_sampler
from qoq_jax.sampling.schedule import Settings
from qoq_jax.train import policy
from qoq_jax.train.loop import Clock, Plan, Stage
from qoq_jax.train.refill import Answered, Refill, unpack
from qoq_jax.train.setup import Setup
from qoq_jax.train.state import TrainState


def run(setup: Setup, plan: Plan, weights):
    """RL from the weights given, which are the reference policy; returns the weights reached."""
    rl = plan.rl
    if weights is None:
        raise ConfigError(
            f"stage {plan.name} needs a warm start",
            hint="put sft before it in stages, or set start",
        )
    algorithm = algorithms.resolve(rl)
    stage = Stage(setup, plan, weights, keep=True)
    stage.feed(setup.training_iterator(plan.name, answers=False, domains=plan.domains))
    # The base of adapters is the reference: no second copy.
    reference = weights if stage.base is None else stage.base
    if rl.offload_reference and stage.base is None:
        reference = offload.to_host(reference)
    fetched = (
        offload.to_device if rl.offload_reference and stage.base is None else lambda tree: tree
    )
    scorer = make_scorer(setup.model, rl.temperature)
    valued = policy.make_critic(setup.model) if algorithm.critic else None
    advantages_fn = policy.make_advantages(rl)
    update = policy.make_policy_step(
        setup.model, rl, stage.optimizer, stage.layout, plan.lora, plan.optimizer.frozen
    )
    off_policy = rl.minibatches * rl.epochs > 1
    sampling = Sampling(setup, plan, stage)

    def one(state: TrainState, step: int):
        clock = Clock()
        # All weights, adapters merged; the update merges its own, for the gradient.
        current = (
            state.params
            if stage.base is None
            else lora_lib.merge(stage.base, state.params["lora"], plan.lora)
        )
        # Rollout and reward; the reward is the only work of a step on the host.
        batch, drawn, questions = sampling.draw(current, step, clock)
        # Reference and (off-policy only) old log-probabilities, values, advantages.
        ref_logprobs = scorer(fetched(reference), batch, drawn.tokens, drawn.mask)
        old = drawn.logprobs
        if rl.old_logprobs == "trainer":
            old = scorer(current, batch, drawn.tokens, drawn.mask) if off_policy else None
        values = (
            valued(current, state.params["critic"], batch, drawn.tokens, drawn.mask)
            if valued
            else None
        )
        greedy = None if questions.greedy is None else setup.put(questions.greedy)
        jax.block_until_ready((ref_logprobs, old, values))
        clock.mark("score")
        estimate, kl_answer, coefficient = advantages_fn(
            *setup.put((questions.total, questions.domains, questions.valid)),
            drawn.mask,
            drawn.logprobs,
            ref_logprobs,
            state.history,
            state.kl_coefficient,
            greedy,
            values,
        )
        state = state.replace(history=estimate.history, kl_coefficient=coefficient)
        jax.block_until_ready(estimate.advantages)
        clock.mark("advantages")
        # Updates.
        experience = policy.Experience(
            drawn.tokens,
            drawn.mask,
            drawn.logprobs,
            old,
            ref_logprobs,
            estimate.advantages,
            values,
            estimate.returns,
        )
        state, metrics = _updates(
            stage, update, state, (batch, experience), questions.answer_tokens, step
        )
        jax.block_until_ready(metrics)
        clock.mark("update")
        # Facts from the device stay there until a line is logged; those of the host are numbers
        # already.
        metrics["kl_answer"] = kl_answer
        if coefficient is not None:
            metrics["kl_coefficient"] = state.kl_coefficient
        prefix = "drpo" if rl.algorithm == "drpo" else "advantage"
        metrics |= {
            f"{prefix}/{name}": value
            for name, value in estimate.diagnostics.items()
            if value.ndim == 0
        }
        facts = (
            questions.facts()
            | clock.seconds()
            | {
                "response_length": float(
                    questions.tokens / max(questions.valid.sum() * rl.rollouts, 1)
                ),
                "tokens": float(questions.tokens),
                "samples": int(questions.valid.sum()),
            }
        )
        stage.asked = [s.meta.id for s in questions.samples]
        return state, metrics, facts

    try:
        return stage.loop(
            one,
            lambda m: {
                "reward": f"{m['reward/total']:.3f}",
                "acc": f"{m['reward/accuracy']:.2f}",
                "iou": f"{m['reward/iou']:.2f}",
                "format": f"{m['reward/format']:.2f}",
            },
        )
    finally:
        sampling.close()


def _updates(stage: Stage, update, state: TrainState, tree, tokens: np.ndarray, step: int):
    """Epochs of mini-batches over one rollout batch; returns the state and the mean of the metrics.

    Media rows are dealt to mini- and micro-batches by their answer tokens (tokens: [Q]); from the
    second epoch on also at random, fixed by seed, step and epoch. The sampler's and the trainer's
    log-probabilities are compared in the first update, before the weights have moved.
    """
    setup, rl = stage.setup, stage.plan.rl
    state, rows, parts = (
        stage.on_device(state),
        setup.config.data.media_rows,
        rl.minibatches * rl.accumulate,
    )
    tokens, found = tokens.reshape(rows, -1).sum(axis=1), []
    for epoch in range(rl.epochs):
        if parts > 1:
            order = policy.deal_rows(
                tokens,
                parts,
                np.random.default_rng([setup.config.seed, step, epoch]) if epoch else None,
            )
            tree, tokens = policy.shuffle_questions(tree, jax.device_put(order)), tokens[order]
        for part in policy.split_questions(tree, rl.minibatches):
            state, metrics = update(state, *part, stage.base)
            found.append(metrics)
    if len(found) > 1:
        metrics = _mean(found) | {
            name: value for name, value in found[0].items() if name.startswith("logprob_difference")
        }
    return stage.parked(state), metrics


@jax.jit
def _mean(metrics: list[dict]) -> dict:
    return jax.tree.map(lambda *values: jnp.stack(values).mean(), *metrics)


class Sampling:
    """Draws rollout batches: prompts, answers, rewards, and whatever else the algorithm asks for."""

    def __init__(self, setup: Setup, plan: Plan, stage: Stage):
        self._setup, self._rl, self._stage = setup, plan.rl, stage
        self._algorithm, self._banned = algorithms.resolve(plan.rl), setup.banned
        rl = plan.rl
        greedy = Settings(rl.response_tokens, rows=rl.rollout_rows)
        drawn = dataclasses.replace(
            greedy, temperature=rl.temperature, top_p=rl.top_p, num_samples=rl.rollouts
        )
        self._sampler = make_sampler(setup.model, drawn, setup.mesh)
        self._greedy = make_sampler(setup.model, greedy, setup.mesh)
        self._pool = RewardPool(rl.reward, rl.reward_workers, rl.reward_deadline)

    def close(self) -> None:
        self._pool.close()

    def draw(self, weights, step: int, clock: Clock) -> tuple[dict, Rollout, Questions]:
        """(device batch, answers on the device, what they earned)."""
        key = self._stage.key(step)
        host_batch, batch, drawn, questions = self._once(weights, key, clock)
        if self._algorithm.greedy:
            # No key is drawn from: greedy decoding has no randomness.
            greedy = self._greedy(weights, batch, key, self._banned)
            questions.score_greedy(np.asarray(greedy.tokens), np.asarray(greedy.mask))
            clock.mark("greedy")
        if self._algorithm.refill:
            batch, drawn, questions = self._refilled(
                weights, key, clock, host_batch, drawn, questions
            )
        return batch, drawn, questions

    def _once(self, weights, key, clock: Clock):
        host_batch, samples = next(self._stage.data)
        batch = self._setup.put(host_batch)
        clock.mark("data")
        # G answers a question, with the parameters that the update will change.
        drawn = self._sampler(weights, batch, key, self._banned)
        tokens, mask = np.asarray(drawn.tokens), np.asarray(drawn.mask)
        clock.mark("rollout")
        questions = Questions(self._setup, self._rl, self._pool, samples)
        questions.score(tokens, mask)
        clock.mark("reward")
        return host_batch, batch, drawn, questions

    def _refilled(self, weights, key, clock: Clock, host_batch, drawn, questions):
        """Dynamic sampling: further batches until all places hold questions whose answers differ in
        reward, or the limit.
        """
        budget = self._setup.training_budget(self._stage.plan.name, answers=False)
        refill, lost = Refill(budget), questions.lost
        refill.add(_answered(host_batch, drawn, questions, budget))
        refills = 0
        while not refill.full and refills < self._rl.max_refills:
            refills += 1
            host_batch, _, drawn, questions = self._once(
                weights,
                jax.random.fold_in(key, jax.device_put(np.uint32(1 << 16 | refills))),
                clock,
            )
            lost += questions.lost
            refill.add(_answered(host_batch, drawn, questions, budget))
        host_batch, placed, kept = refill.batch()
        q, g, s = drawn.tokens.shape
        arrays = (
            np.full((q, g, s), self._setup.model.pad_id, np.int32),
            *np.zeros((2, q, g, s), np.float32),
        )
        for place, item in zip(placed, kept):
            for array, answers in zip(arrays, item.answers):
                array[place.row] = answers
        questions = Questions(self._setup, self._rl, self._pool, placed)
        questions.lost = lost
        questions.take([item.rewards for item in kept], arrays[1])
        questions.extra = {
            "dapo/refills": float(refills),
            "dapo/questions_sampled": float(refill.seen),
            "dapo/informative": refill.informative / max(refill.seen, 1),
        }
        batch, drawn = self._setup.put(host_batch), Rollout(*self._setup.put(arrays))
        clock.mark("data")
        return batch, drawn, questions


def _answered(host_batch, drawn: Rollout, questions: Questions, budget) -> list[Answered]:
    arrays = [np.asarray(x) for x in (drawn.tokens, drawn.mask, drawn.logprobs)]
    return [
        Answered(
            unpack(host_batch, placed, budget),
            placed,
            tuple(x[placed.row] for x in arrays),
            rewards,
        )
        for placed, rewards in zip(questions.samples, questions.by_question())
    ]


class Questions:
    """A rollout batch's samples on the host: their places, domains and rewards.

    Attributes:
      domains, valid: [Q]. total: float32 [Q, G], the reward that advantages see. greedy: float32
        [Q] or None.
      parts: each term of the reward, float32 [N, G], for the N questions that are there; NaN where
        a sample has no such term.
      tokens: answer tokens; answer_tokens: those of each question, [Q]. lost: answers whose reward
        missed its deadline.
      extra: further facts for the log.
    """

    def __init__(self, setup: Setup, rl, pool: RewardPool, samples):
        self._setup, self._rl, self._pool, self.samples = setup, rl, pool, samples
        self.domains, self.valid = np.zeros(rl.questions, np.int32), np.zeros(rl.questions, bool)
        for placed in samples:
            self.domains[placed.row] = setup.domains.index(placed.meta.domain)
            self.valid[placed.row] = True
        self.greedy, self.parts, self.tokens, self.lost, self.extra = None, {}, 0, 0, {}
        self.total = np.zeros((rl.questions, rl.rollouts), np.float32)
        self.answer_tokens = np.zeros(rl.questions)

    def score(self, tokens: np.ndarray, mask: np.ndarray) -> None:
        """Rewards of all answers, [Q, G, S]."""
        parts, lengths = self._rewards(tokens, mask)
        overlong = algorithms.overlong_penalty(
            lengths, self._rl.response_tokens, algorithms.resolve(self._rl).overlong
        )
        if overlong.any():
            parts["total"] = parts["total"] - overlong.astype(np.float32)
        self._set(parts, mask)

    def score_greedy(self, tokens: np.ndarray, mask: np.ndarray) -> None:
        """Rewards of one greedy answer a question, [Q, 1, S]."""
        parts, _ = self._rewards(tokens, mask)
        self.greedy = np.zeros(self._rl.questions, np.float32)
        for placed, total in zip(self.samples, parts["total"]):
            self.greedy[placed.row] = total[0]

    def by_question(self) -> list[dict[str, np.ndarray]]:
        """The terms of each question, float32 [G]."""
        return [
            {name: value[i] for name, value in self.parts.items()} for i in range(len(self.samples))
        ]

    def take(self, rewards: list[dict[str, np.ndarray]], mask: np.ndarray) -> None:
        """Rewards that are known already, in the order of the samples."""
        names = rewards[0] if rewards else rewards_lib.TERMS
        empty = np.zeros((0, self._rl.rollouts), np.float32)
        self._set(
            {name: np.stack([r[name] for r in rewards]) if rewards else empty for name in names},
            mask,
        )

    def facts(self) -> dict[str, float]:
        facts = {
            f"reward/{name}": _nanmean(value)
            for name, value in self.parts.items()
            if name not in ("coherence", "custom") or np.isfinite(value).any()
        }
        for domain in sorted({s.meta.domain for s in self.samples}):
            rows = [i for i, s in enumerate(self.samples) if s.meta.domain == domain]
            facts[f"reward/domain/{domain}"] = _nanmean(self.parts["total"][rows])
        facts["zero_variance_groups"] = _nanmean(
            (self.parts["total"].std(axis=1) < 1e-6).astype(np.float32)
        )
        if self._rl.reward_workers:
            facts["reward/lost"] = float(self.lost)
        return facts | self.extra

    def _rewards(
        self, tokens: np.ndarray, mask: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """(terms, lengths), each [N, answers a question]."""
        count = tokens.shape[1]
        texts, metas, lengths = [], [], []
        for placed in self.samples:
            for i in range(count):
                lengths.append(int(mask[placed.row, i].sum()))
                texts.append(self._setup.tokenizer.decode(tokens[placed.row, i, : lengths[-1]]))
                metas.append(placed.meta)
        scored, lost = self._pool.score(texts, metas)
        self.lost += lost
        if texts and lost == len(texts):
            raise QoqError(
                f"none of {lost} answers got its reward within {self._rl.reward_deadline:g} s",
                hint="raise rl.reward_deadline, or lower rl.reward_workers",
            )
        shape = (len(self.samples), count)
        return {
            name: value.reshape(shape) for name, value in rewards_lib.stack(scored).items()
        }, np.reshape(lengths, shape)

    def _set(self, parts: dict[str, np.ndarray], mask: np.ndarray) -> None:
        self.parts, self.tokens, self.answer_tokens = parts, int(mask.sum()), mask.sum(axis=(1, 2))
        for placed, total in zip(self.samples, parts["total"]):
            self.total[placed.row] = total


def _nanmean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else 0.0
