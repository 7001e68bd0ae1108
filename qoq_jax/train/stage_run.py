"""One stage of the multimodal model as it runs: its state, data and checkpoints, and the loop with
the hooks that all such stages share.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from qoq_jax.data import pipeline
from qoq_jax.models import critic, spec, vlm
from qoq_jax.models import lora as lora_lib
from qoq_jax.parallel import offload
from qoq_jax.train import domains, hooks, session
from qoq_jax.train import loop as loop_lib
from qoq_jax.train.batches import WholeData, check_same_rows
from qoq_jax.train.checkpoint import Checkpointer
from qoq_jax.train.goodput import AccountSeconds
from qoq_jax.train.log import open_writer
from qoq_jax.train.loop import Loop, Row, StepResult
from qoq_jax.train.optim import check_frozen, make_optimizer, schedule
from qoq_jax.train.plan import Plan, root_key, step_key
from qoq_jax.train.profiling import ProfileSteps
from qoq_jax.train.setup import Setup
from qoq_jax.train.state import TrainState, create, empty_history, layout
from qoq_jax.train.step import full_weights, model_weights
from qoq_jax.train.validation import StopEarly, Validate, Validation

MAXIMA = ("logprob_difference_max",)  # of a window of steps, where other metrics are means


# -------------------------------------------------------------------------------------------- state


def start_state(
    setup: Setup, plan: Plan, weights: Any
) -> tuple[TrainState, optax.GradientTransformation, Any]:
    """(state of step 0, optimiser, base of the adapters or None).

    Args:
      setup, plan: the run and the stage.
      weights: all weights of the model to start from, or None for random ones. The state takes them
        over: a step donates them.
    """
    specs, key = vlm.param_specs(setup.model), step_key(root_key(setup, plan.name), 0)
    optimizer, history, coefficient = _beside_weights(setup, plan)
    trained, base = weights, None
    if weights is None and (plan.lora.rank or plan.critic):
        trained = random_weights(setup, plan.name)
    if plan.lora.rank:
        base = trained
        trained = {"lora": lora_lib.init(specs, plan.lora, jax.random.fold_in(key, 1), setup.mesh)}
    if plan.critic:
        head = critic.param_specs(setup.model.decoder.width)
        trained = dict(trained, critic=_draw(head, jax.random.fold_in(key, 2), setup.mesh))
    state = create(key, setup.model, optimizer, setup.mesh, trained, history, coefficient)
    return state, optimizer, base


def state_layout(setup: Setup, plan: Plan) -> TrainState:
    """The state of a stage as shapes and places: enough to read a checkpoint, and nothing is
    sampled or compiled for it.
    """
    trained = trained_specs(setup, plan)
    params = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        spec.abstract(trained),
        spec.shardings(trained, setup.mesh),
    )
    optimizer, history, coefficient = _beside_weights(setup, plan)
    return layout(params, optimizer, setup.mesh, history, coefficient)


def trained_specs(setup: Setup, plan: Plan) -> dict[str, Any]:
    """Declarations of what a stage trains: all weights or adapters, and the critic."""
    specs = vlm.param_specs(setup.model)
    trained = {"lora": lora_lib.adapter_specs(specs, plan.lora)} if plan.lora.rank else dict(specs)
    if plan.critic:
        trained["critic"] = critic.param_specs(setup.model.decoder.width)
    return trained


def _beside_weights(
    setup: Setup, plan: Plan
) -> tuple[optax.GradientTransformation, Any, float | None]:
    """(optimiser, empty history or None, first KL coefficient or None) of a stage."""
    check_frozen(plan.optimizer.frozen, vlm.param_specs(setup.model))
    optimizer = make_optimizer(
        plan.optimizer,
        schedule(plan.schedule, plan.lr, plan.warmup, plan.updates),
        trained_specs(setup, plan),
        plan.rl.critic.lr if plan.critic else None,
    )
    if plan.rl is None:
        return optimizer, None, None
    history = empty_history(plan.rl.drpo, plan.rl.rollouts) if plan.algorithm.history else None
    return optimizer, history, plan.rl.kl_coefficient if plan.rl.kl_target else None


def random_weights(
    setup: Setup, name: str, branches: frozenset[str] | None = None
) -> dict[str, Any]:
    """The weights that a stage starts from when there are none, or these branches of them; on the
    mesh.
    """
    specs = vlm.param_specs(setup.model)
    if branches is not None:
        specs = {branch: part for branch, part in specs.items() if branch in branches}
    return _draw(specs, step_key(root_key(setup, name), 0), setup.mesh)


def _draw(specs: Any, key: jax.Array, mesh: jax.sharding.Mesh) -> Any:
    """Random weights on the mesh."""
    make = functools.partial(spec.init_params, specs)
    return jax.jit(make, out_shardings=spec.shardings(specs, mesh))(key)


def checkpointer(setup: Setup, name: str, read_only: bool = False) -> Checkpointer:
    """The checkpoints of a stage; `read_only` for whoever does not train it."""
    folder = os.path.join(setup.config.workdir, "checkpoints", name)
    return Checkpointer(folder, setup.model, setup.config.checkpoint, read_only)


# ---------------------------------------------------------------------------------------------- run


class StageRun:
    """One stage's state, data and checkpoints, and the loop around its step.

    Attributes:
      setup, plan: the run and the stage.
      state: where the stage stands before its loop begins; None from then on, since the first
        update donates it.
      start: finished steps, by the last checkpoint.
      optimizer, layout: what an update needs; layout is the state as shapes and places.
      base: what adapters are added to, or None.
      data: the batches, once `feed` has been called.

    Args:
      weights: all weights of the model to start from, or None for random ones.
      keep: the weights given stay usable (as a reference); without it the first step donates them.
    """

    def __init__(self, setup: Setup, plan: Plan, weights: Any, keep: bool = False):
        self.setup, self.plan = setup, plan
        self.data: pipeline.BatchIterator | None = None
        self._checkpoints, self._root = checkpointer(setup, plan.name), root_key(setup, plan.name)
        copied = jax.tree.map(jnp.copy, weights) if keep and not plan.lora.rank else weights
        state, self.optimizer, self.base = start_state(setup, plan, copied)
        self.state, self._data_state, self.start = loop_lib.resume(
            self._checkpoints, state, plan.name, plan.steps
        )
        # Shapes and places alone: the arrays themselves are donated by the first update.
        self.layout = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), self.state
        )
        self._validation = Validation(
            setup.config.workdir, plan.name, setup.config.eval, self.start
        )

    def feed(self, data: pipeline.BatchIterator) -> None:
        """Gives the stage its batches, from where the checkpoint left them."""
        self.data, self._whole_data = data, WholeData(data, self.setup.share)
        if not self.finished:
            check_same_rows(data.fingerprint)
        if self._data_state is None:
            return
        if self.finished:
            self.setup.remember_quarantined(self._data_state["quarantined"])
        else:
            data.set_state(self._data_state)

    @property
    def finished(self) -> bool:
        """Whether no step is left to do."""
        return self.start >= self.plan.steps or self._validation.stopped

    def key(self, step: int) -> jax.Array:
        """The PRNG key of a step (from 0)."""
        return step_key(self._root, step)

    def all_weights(self, state: TrainState) -> Any:
        """All weights of the model at a state, adapters merged, without the critic."""
        return full_weights(state.params, self.base, self.plan.lora)

    def policy_weights(self, state: TrainState) -> Any:
        """The weights that responses are sampled with: as `all_weights`, and the critic beside them
        when there is one and all weights are trained.
        """
        return model_weights(state.params, self.base, self.plan.lora)

    def on_device(self, state: TrainState) -> TrainState:
        """The state with its moments on the device, for an update."""
        if not self.plan.optimizer.offload:
            return state
        return state.replace(opt_state=offload.to_device(state.opt_state))

    def offloaded(self, state: TrainState) -> TrainState:
        """The state between updates: with `optimizer.offload` its moments are in host memory."""
        if not self.plan.optimizer.offload:
            return state
        return state.replace(opt_state=offload.to_host(state.opt_state))

    def loop(
        self,
        step: Callable[[TrainState, int], StepResult],
        headline: Callable[[Row], dict[str, str]],
    ) -> Any:
        """Runs the stage to its end; returns the weights to continue with.

        Args:
          step: (state, number from 0) -> StepResult with the facts "tokens" and "samples".
          headline: what of a log row is shown on the terminal.
        """
        plan = self.plan
        if self.finished:
            self._checkpoints.close()
            return self._weights_to_go_on_with(self.state)
        began = Loop(plan.name, self.start, plan.steps, self.offloaded(self.state))
        self.state = None  # the first update donates it
        state = loop_lib.run(began, step, self._hooks(headline))
        self.setup.remember_quarantined(self._whole_data.quarantined)
        return self._weights_to_go_on_with(state)

    def _hooks(self, headline: Callable[[Row], dict[str, str]]) -> list[loop_lib.Hook]:
        cfg, validate = (
            self.setup.config,
            Validate(self._validation, self.setup, self.all_weights),
        )
        return [
            hooks.TraceSteps(),
            ProfileSteps(cfg.workdir, cfg.profile),
            AccountSeconds(session.account_of(cfg.workdir), self.plan.save_every),
            hooks.GuardTransfers(),
            hooks.MeanRow(cfg.log.every, summarise, also_due=validate.due),
            hooks.CountCompilations(),
            hooks.CountSkippedSamples(self._whole_data),
            hooks.CountSkippedUpdates(cfg.workdir, self.setup.share),
            validate,
            hooks.WriteRow(functools.partial(open_writer, cfg)),
            hooks.ShowProgress(lambda row: headline(row) | speed(row)),
            hooks.StopWhenNotFinite(cfg.optimizer.max_skipped),
            StopEarly(self._validation),
            hooks.SaveCheckpoints(
                self._checkpoints,
                self.plan.save_every,
                self._whole_data,
                to_save=self.on_device,
                score=lambda loop: dict(self._validation.scores).get(loop.done),
                grace=cfg.faults.grace,
            ),
        ]

    def _weights_to_go_on_with(self, state: TrainState) -> Any:
        """Those of the last step, or with `eval.best` those of the best validation."""
        if not self.setup.config.eval.best:
            return self.all_weights(state)
        best = self._validation.restore_best(state.params)
        return full_weights(best, self.base, self.plan.lora)


def summarise(steps: list[Row], seconds: float) -> Row:
    """The log row of some steps: means, counts as rates, and what was counted per domain."""
    by_domain = domains.row(steps)
    numbers = [
        {name: x for name, x in step.items() if name not in domains.JOINED} for step in steps
    ]
    row = hooks.mean_of_steps(numbers, MAXIMA) | by_domain
    row["tokens_per_second"] = sum(float(step["tokens"]) for step in steps) / seconds
    row["seconds/step"] = seconds / len(steps)
    return row


def speed(row: Row) -> dict[str, str]:
    """What of a log row of any stage is shown on the terminal beside its headline."""
    return {"tok/s": f"{row['tokens_per_second']:.0f}", "recompiles": str(int(row["recompiles"]))}
