"""Reinforcement learning on one page: `RlStep` goes from prompts to new weights, top to bottom.

What differs between algorithms is in rl/algorithms.py; here only the fields of its row are read.
Letters: Q groups (a prompt and its responses), G responses of a group, S response positions.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qoq_jax.base.errors import ConfigError
from qoq_jax.parallel import hosts, offload, preemption
from qoq_jax.rl.algorithms import Estimate
from qoq_jax.rl.batches import GroupBatch, UpdateBatch, update_batch
from qoq_jax.sampling import vllm
from qoq_jax.sampling.layout import Layout
from qoq_jax.sampling.rollout import Rollout, make_scorer
from qoq_jax.sampling.sampler import make_sampler
from qoq_jax.sampling.schedule import Settings
from qoq_jax.train import domains, minibatches, policy, refill
from qoq_jax.train.groups import HostGroups, ResponseScorer, Summary
from qoq_jax.train.log import Clock
from qoq_jax.train.loop import Row, StepResult
from qoq_jax.train.plan import Plan
from qoq_jax.train.setup import Setup
from qoq_jax.train.stage_run import StageRun
from qoq_jax.train.state import TrainState
from qoq_jax.train.step import Batch, Metrics


def run(setup: Setup, plan: Plan, weights: Any) -> Any:
    """RL from the weights given, which are the reference policy; returns the weights reached.

    Raises:
      ConfigError: there are no weights to start from.
    """
    if weights is None:
        raise ConfigError(
            f"stage {plan.name} needs a warm start",
            hint="put sft before it in stages, or set start",
        )
    stage = StageRun(setup, plan, weights, keep=True)
    stage.feed(setup.training_iterator(plan.name, answers=False, domains=plan.domains))
    with contextlib.closing(RlStep(stage, weights)) as step:
        return stage.loop(step, headline)


def headline(row: Row) -> dict[str, str]:
    """What of a log row is shown on the terminal."""
    return {
        "reward": f"{row['reward/total']:.3f}",
        "acc": f"{row['reward/accuracy']:.2f}",
        "iou": f"{row['reward/iou']:.2f}",
        "format": f"{row['reward/format']:.2f}",
    }


class RlStep:
    """One step: rollout, reward, log-probabilities, advantage, update; and the functions compiled
    for it.
    """

    def __init__(self, stage: StageRun, reference: Any):
        self._stage, self._plan = stage, stage.plan
        model, rl, algorithm = stage.setup.model, stage.plan.rl, stage.plan.algorithm
        # The base of adapters is the reference: no second copy.
        self._reference = reference if stage.base is None else stage.base
        self._offloads = rl.offload_reference and stage.base is None
        if self._offloads:
            self._reference = offload.to_host(reference)
        self._groups = GroupSampler(stage)
        self._score = make_scorer(model, rl.temperature)
        self._values = policy.make_critic(model) if algorithm.critic else None
        self._advantages = policy.make_advantages(rl, algorithm)
        self._update = policy.make_policy_step(model, stage.plan, stage.optimizer, stage.layout)

    def close(self) -> None:
        """Ends what the step started."""
        self._groups.close()

    def __call__(self, state: TrainState, number: int) -> StepResult:
        """The step `number` (from 0)."""
        stage, clock = self._stage, Clock()
        weights = stage.policy_weights(state)

        # ------------------------------------------------------------------- rollout and reward
        host, prompts, responses = self._groups.draw(weights, stage.key(number), clock)
        preemption.poll()

        # ---------------------------------------------------------- log-probabilities and values
        groups = self._with_scores(self._put(host, prompts, responses), state, weights)
        clock.mark("score")
        preemption.poll()  # the last place in a step where the state is still whole

        # --------------------------------------------------------------------------- advantage
        groups = groups.replace(history=state.history)
        estimate, kl, coefficient = self._advantages(groups, state.kl_coefficient)
        state = state.replace(history=estimate.history, kl_coefficient=coefficient)
        jax.block_until_ready(estimate.advantages)
        clock.mark("advantages")

        # ------------------------------------------------------------------------------ update
        batch = update_batch(groups, estimate.advantages, estimate.returns)
        whole = host.summary(stage.setup.share)
        state, metrics = self._updates(state, batch, whole.tokens, number)
        jax.block_until_ready(metrics)
        clock.mark("update")

        # --------------------------------------------------------------------------------- log
        # Numbers of the device stay there until a row is logged.
        metrics = metrics | self._diagnostics(estimate, kl, state)
        metrics[domains.SUMS] = domains.domain_sums(groups, estimate.advantages)
        facts = self._facts(whole) | clock.seconds()
        return StepResult(state, metrics, facts, [sample.meta.id for sample in host.samples])

    def _put(self, host: HostGroups, prompts: Batch, responses: Rollout) -> GroupBatch:
        """The groups on the device. Beside its prompts, a step sends nothing there but rewards."""
        setup = self._stage.setup
        rewards, domains, valid = setup.put(
            (host.by_row(host.terms["total"]), host.domains(setup.domains), host.valid())
        )
        return GroupBatch(
            rewards=rewards,
            domains=domains,
            valid=valid,
            greedy=None if host.greedy is None else setup.put(host.by_row(host.greedy)),
            prompts=prompts,
            tokens=responses.tokens,
            mask=responses.mask,
            sampler_logprobs=responses.logprobs,
        )

    def _with_scores(self, groups: GroupBatch, state: TrainState, weights: Any) -> GroupBatch:
        """The groups with the log-probabilities of reference and old policy, and the critic's
        values.
        """
        rl, sampled = self._plan.rl, (groups.prompts, groups.tokens, groups.mask)
        reference = offload.to_device(self._reference) if self._offloads else self._reference
        scored = {"ref_logprobs": self._score(reference, *sampled)}
        if rl.old_logprobs == "sampler":
            scored["old_logprobs"] = groups.sampler_logprobs
        elif self._plan.scores_old:  # else the update's own log-probabilities are the old
            scored["old_logprobs"] = self._score(weights, *sampled)
        if self._values is not None:
            scored["values"] = self._values(weights, state.params["critic"], *sampled)
        return groups.replace(**jax.block_until_ready(scored))

    def _updates(
        self, state: TrainState, batch: UpdateBatch, tokens: np.ndarray, number: int
    ) -> tuple[TrainState, Metrics]:
        """Epochs of mini-batches over one rollout batch; returns the state and the mean of the
        metrics.

        Media rows are dealt to mini-batches by their response tokens (tokens: [Q]); from the second
        epoch on also at random, fixed by seed, step and epoch. The log-probabilities of
        sampler and trainer are compared in the first update, before the weights have moved.
        """
        stage, rl, config = self._stage, self._plan.rl, self._stage.setup.config
        state, parts, found = stage.on_device(state), rl.minibatches, []
        tokens = tokens.reshape(config.data.media_rows, -1).sum(axis=1)
        for epoch in range(rl.epochs):
            if parts > 1:
                rng = np.random.default_rng([config.seed, number, epoch]) if epoch else None
                order = minibatches.deal_rows(tokens, parts, rng)
                batch = minibatches.reorder(batch, stage.setup.everywhere(order))
                tokens = tokens[order]
            for part in minibatches.split(batch, rl.minibatches):
                state, metrics = self._update(state, part, stage.base)
                found.append(metrics)
        if len(found) > 1:
            first = {k: v for k, v in found[0].items() if k.startswith("logprob_difference")}
            metrics = _mean(found) | first
        return stage.offloaded(state), metrics

    def _diagnostics(self, estimate: Estimate, kl: jax.Array, state: TrainState) -> Metrics:
        """What of the advantages is logged, on the device."""
        prefix, coefficient = self._plan.algorithm.metrics, state.kl_coefficient
        found = {f"{prefix}/{k}": v for k, v in estimate.diagnostics.items() if v.ndim == 0}
        adaptive = {} if coefficient is None else {"kl_coefficient": coefficient}
        return {"kl_answer": kl} | adaptive | found

    def _facts(self, whole: Summary) -> dict[str, Any]:
        """What of the rollout is logged, on the host."""
        rl, tokens, valid = self._plan.rl, int(whole.tokens.sum()), len(whole.domains)
        lost = {"reward/lost": float(whole.lost)} if rl.reward_workers else {}
        return (
            whole.log_facts()
            | lost
            | self._groups.facts
            | {
                "response_length": float(tokens / max(valid * rl.rollouts, 1)),
                "tokens": float(tokens),
                "samples": valid,
                domains.LABELS: whole.labels,
            }
        )


class GroupSampler:
    """Draws rollout batches: prompts, responses, rewards, and what else the algorithm asks for."""

    def __init__(self, stage: StageRun):
        self._stage, self._setup, self._plan = stage, stage.setup, stage.plan
        rl = stage.plan.rl
        model = dataclasses.replace(stage.setup.model, kv_cache_dtype=rl.kv_cache_dtype)
        self._banned = stage.setup.banned
        greedy = Settings(rl.response_tokens, rows=rl.rollout_rows)
        sampled = dataclasses.replace(
            greedy, temperature=rl.temperature, top_p=rl.top_p, num_samples=rl.rollouts
        )
        setup = stage.setup
        ways = setup.config.mesh.rollout_tensor
        self._layout = Layout(model, setup.mesh, ways, rl.rollout_weights)
        self._sample = make_sampler(model, sampled, self._layout.mesh)
        self._sample_greedily = make_sampler(model, greedy, self._layout.mesh)
        self._settings = {"sampled": sampled, "greedy": greedy}
        self._server = vllm.of_config(setup.config, model, setup.tokenizer)
        self._scorer = ResponseScorer(stage.setup, stage.plan)

    @property
    def facts(self) -> dict[str, float]:
        """What of the sampler is logged: bytes of its weights on a device, where it has its own."""
        return {"reshard_bytes": float(self._layout.moved)} if self._layout.moved else {}

    def close(self) -> None:
        """Ends the reward workers, and removes the weights that were written for a server."""
        self._scorer.close()
        if self._server is not None:
            self._server.close()

    def draw(self, weights: Any, key: jax.Array, clock: Clock) -> tuple[HostGroups, Batch, Rollout]:
        """(this process's groups on the host with their rewards; prompts and responses of all on
        the device).
        """
        if self._server is not None:
            self._server.load(weights)
            clock.mark("reshard")
        elif self._layout.moves:
            weights = jax.block_until_ready(self._layout.weights(weights))
            clock.mark("reshard")
        host, prompts, responses = self._draw_once(weights, key, clock)
        if self._plan.algorithm.greedy:
            # No key is used: greedy decoding has no randomness.
            found = self._responses("greedy", weights, host, prompts, key)
            host.greedy, lost = self._scorer.greedy(
                host.samples, *self._setup.own((found.tokens, found.mask))
            )
            host.lost += lost
            clock.mark("greedy")
        if not self._plan.algorithm.refill:
            return host, prompts, responses

        def draw_again(count: int) -> tuple[HostGroups, Batch, Rollout]:
            number = jax.device_put(np.uint32(1 << 16 | count))
            return self._draw_once(weights, jax.random.fold_in(key, number), clock)

        host, arrays = refill.informative_groups(
            (host, prompts, responses),
            draw_again,
            self._setup.training_budget(self._plan.name, answers=False),
            self._plan.rl.max_refills,
            self._setup,
        )
        prompts, responses = self._setup.put(host.prompts), Rollout(*self._setup.put(arrays))
        clock.mark("data")
        return host, prompts, responses

    def _responses(
        self, kind: str, weights: Any, host: HostGroups, prompts: Batch, key: jax.Array
    ) -> Rollout:
        """Responses of a kind, "sampled" or "greedy", to prompts on the host and on the device."""
        if self._server is not None:
            budget = self._setup.training_budget(self._plan.name, answers=False)
            # below 2^31: what rows and responses add to it stays in the 63 bits that vLLM takes
            seed = int(hosts.gather(_bits(key))) >> 1
            return Rollout(
                *self._setup.put(
                    self._server.rollout(
                        host.prompts,
                        host.samples,
                        budget,
                        self._settings[kind],
                        seed,
                        self._setup.share,
                    )
                )
            )
        sample = self._sample if kind == "sampled" else self._sample_greedily
        with self._layout.on_mesh():
            found = sample(weights, self._layout.prompts(prompts), key, self._banned)
        return self._layout.responses(found)

    def _draw_once(
        self, weights: Any, key: jax.Array, clock: Clock
    ) -> tuple[HostGroups, Batch, Rollout]:
        host_prompts, samples = next(self._stage.data)
        prompts = self._setup.put(host_prompts)
        clock.mark("data")
        # G responses to each prompt, with the parameters that the update will change
        place = HostGroups(host_prompts, samples, {}, np.zeros(len(host_prompts["tokens"])))
        responses = self._responses("sampled", weights, place, prompts, key)
        tokens, mask = self._setup.own((responses.tokens, responses.mask))
        clock.mark("rollout")
        terms, lost, labels = self._scorer.sampled(samples, tokens, mask)
        clock.mark("reward")
        host = HostGroups(host_prompts, samples, terms, mask.sum(axis=(1, 2)), lost, [labels])
        return host, prompts, responses


@jax.jit
def _bits(key: jax.Array) -> jax.Array:
    """uint32 [], for what has random numbers of its own."""
    return jax.random.bits(key, dtype=jnp.uint32)


@jax.jit
def _mean(metrics: list[Metrics]) -> Metrics:
    return jax.tree.map(lambda *values: jnp.stack(values).mean(axis=0), *metrics)
