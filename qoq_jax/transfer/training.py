"""Training an encoder and its head on labelled sets: the step, and the loop around it."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from qoq_jax.base.errors import ConfigError
from qoq_jax.data.pipeline import Reading
from qoq_jax.models import spec
from qoq_jax.models.encoders.encoder import Encoder, Params
from qoq_jax.parallel import hosts
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.train import hooks, loop, session
from qoq_jax.train.batches import WholeData, check_same_rows
from qoq_jax.train.checkpoint import Checkpointer
from qoq_jax.train.goodput import AccountSeconds
from qoq_jax.train.log import open_writer
from qoq_jax.train.optim import make_optimizer, schedule
from qoq_jax.train.profiling import ProfileSteps
from qoq_jax.train.sections import OptimizerConfig
from qoq_jax.train.state import TrainState, apply_gradients, layout
from qoq_jax.transfer import model
from qoq_jax.transfer.batches import Batches
from qoq_jax.transfer.config import TransferConfig, encoder_of
from qoq_jax.transfer.sets import LabelledSet, Vocabulary

STREAM = 5  # of random numbers, for the first weights


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What a checkpoint's weights belong to."""

    encoder: str
    cfg: Any
    classes: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Bench:
    """What the trainings of a run share.

    Attributes:
      config: of the run.
      encoder: its row of the registry.
      vocabulary: classes of all sets of its kind, whichever of them are trained on: all models of
        an experiment have one head.
      mesh: devices.
      reading: the share of this process.
    """

    config: TransferConfig
    encoder: Encoder
    vocabulary: Vocabulary
    mesh: jax.sharding.Mesh
    reading: Reading

    @property
    def program(self) -> Program:
        """What its compiled functions depend on."""
        cfg, classes = self.config, len(self.vocabulary)
        return Program(self.encoder, classes, cfg.compute_dtype, cfg.optimizer, self.mesh)

    @property
    def dtype(self) -> jnp.dtype:
        """Of the computation."""
        return jnp.dtype(self.config.compute_dtype)

    def random_weights(self, seed: int) -> Params:
        """{"encoder", "head"} on the mesh."""
        return _make_weights(self.program)(jax.random.fold_in(jax.random.key(seed), STREAM))

    def start(self, params: Params) -> TrainState:
        """Step 0 around weights on the mesh, which the state takes over."""
        replicated = jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec())
        # Two separate zeros: a donated buffer must not appear twice in the state.
        step, skipped = (hosts.place(np.zeros((), np.int32), replicated) for _ in range(2))
        moments = _make_moments(self.program)(params)
        return TrainState(step, params, moments, skipped, None, None)

    def rates(self, lr: float, warmup: int, steps: int) -> np.ndarray:
        """float32 [steps]: the learning rate of each step."""
        rate = schedule(self.config.training.schedule, lr, warmup, steps)
        return np.asarray(jax.vmap(rate)(jnp.arange(steps)), np.float32)


def bench_of(
    cfg: TransferConfig, vocabulary: Vocabulary, devices: Sequence[jax.Device] | None = None
) -> Bench:
    """The mesh of a config, and what a process reads.

    Raises:
      ConfigError: a batch that does not divide over the devices, or a size of pictures that the
        encoder cannot take.
    """
    mesh = mesh_lib.make_mesh(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor, devices)
    for batch in (cfg.training.batch, cfg.few.batch):
        mesh_lib.partition_spec(mesh, ("batch",), (batch,))
    encoder = encoder_of(cfg)
    _check_size(encoder, len(vocabulary))
    share = hosts.Share.of(mesh)
    reading = Reading(
        process_index=share.index,
        process_count=share.count,
        on_error=cfg.data.on_error,
        max_bad=cfg.data.max_bad_fraction,
        threads=2,
    )
    return Bench(cfg, encoder, vocabulary, mesh, reading)


def _check_size(encoder: Encoder, classes: int) -> None:
    if encoder.kind != "image":
        return
    size = encoder.cfg.image_size
    shapes = {
        "pixels": jax.ShapeDtypeStruct((1, 1, size, size, 3), jnp.uint8),
        "slice_valid": jax.ShapeDtypeStruct((1, 1), jnp.bool_),
    }
    params = spec.abstract(model.param_specs(encoder, classes))
    try:
        jax.eval_shape(functools.partial(model.logits, encoder=encoder), params, inputs=shapes)
    except ValueError as error:
        raise ConfigError(
            f"data.image_size = {size}: {error}",
            where=encoder.name,
            hint="use a multiple of the encoder's patches and of its steps down",
        ) from error


# --------------------------------------------------------------------------------------- programs


@dataclasses.dataclass(frozen=True)
class Program:
    """What the compiled functions depend on: runs in one process that share it compile once."""

    encoder: Encoder
    classes: int
    dtype: str
    optimizer: OptimizerConfig
    mesh: jax.sharding.Mesh

    @property
    def specs(self) -> dict[str, Any]:
        """Declarations of the weights."""
        return model.param_specs(self.encoder, self.classes)

    def adamw(self, rate: jax.Array | float) -> optax.GradientTransformation:
        """The optimiser at a learning rate."""
        return make_optimizer(self.optimizer, lambda count: rate, self.specs)

    def shardings(self) -> TrainState:
        """Where a state lies."""
        places = spec.shardings(self.specs, self.mesh)
        params = jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
            spec.abstract(self.specs),
            places,
        )
        state = layout(params, self.adamw(0.0), self.mesh)
        return jax.tree.map(lambda x: x.sharding, state)


@functools.cache
def _make_weights(program: Program) -> Callable[[jax.Array], Params]:
    make = functools.partial(spec.init_params, program.specs)
    return jax.jit(make, out_shardings=spec.shardings(program.specs, program.mesh))


@functools.cache
def _make_moments(program: Program) -> Callable[[Params], Any]:
    return jax.jit(program.adamw(0.0).init, out_shardings=program.shardings().opt_state)


@functools.cache
def make_step(
    program: Program,
) -> Callable[[TrainState, dict[str, Any], jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns the jitted `step(state, batch, learning rate []) -> (state, metrics)`; the state is
    donated.
    """
    dtype = jnp.dtype(program.dtype)

    def step(
        state: TrainState, batch: dict[str, Any], rate: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        def loss_fn(params: Params) -> jax.Array:
            found = model.logits(params, program.encoder, batch["inputs"], dtype)
            return model.loss(found, batch)

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        state, applied = apply_gradients(state, grads, loss, program.adamw(rate))
        return state, {"loss": loss, "samples": batch["weight"].sum()} | applied

    return jax.jit(step, donate_argnums=0, out_shardings=(program.shardings(), None))


def stepper(
    bench: Bench, batches: Iterator[dict[str, Any]], rates: np.ndarray
) -> Callable[[TrainState, int], loop.StepResult]:
    """The step of a loop: the next batch at the learning rate of its number."""
    update, sharding = make_step(bench.program), mesh_lib.batch_sharding(bench.mesh)
    replicated = jax.sharding.NamedSharding(bench.mesh, jax.sharding.PartitionSpec())

    def step(state: TrainState, number: int) -> loop.StepResult:
        batch = hosts.to_global(next(batches), sharding)
        rate = hosts.place(rates[number], replicated)
        return loop.StepResult(*update(state, batch, rate), facts={})

    return step


# ------------------------------------------------------------------------------------------- train


def train(
    bench: Bench, stage: str, sets: Sequence[LabelledSet], steps: int
) -> tuple[Params, dict[str, str]]:
    """Trains from random weights on some sets, from the stage's last checkpoint to the end; returns
    {"encoder", "head"} on the mesh, and the samples that were left out (name -> reason).

    Raises:
      DataError: a sample that cannot be read, or a checkpoint of other data.
    """
    cfg = bench.config
    data = Batches(
        sets,
        bench.vocabulary,
        batch=cfg.training.batch,
        seed=cfg.seed,
        temperature=cfg.training.temperature,
        reading=bench.reading,
    )
    check_same_rows(data.fingerprint)
    share = hosts.Share.of(bench.mesh)
    whole_data = WholeData(data, share)
    rates = bench.rates(cfg.training.lr, min(cfg.training.warmup, steps // 2), steps)
    architecture = Architecture(cfg.encoder, bench.encoder.cfg, bench.vocabulary.classes)
    folder = os.path.join(cfg.workdir, "checkpoints", stage)
    checkpoints = Checkpointer(folder, architecture, cfg.checkpoint)
    first = bench.start(bench.random_weights(cfg.seed))
    state, data_state, begin = loop.resume(checkpoints, first, stage, steps)
    if begin >= steps:
        checkpoints.close()
        return state.params, data_state["quarantined"]
    if data_state is not None:
        data.set_state(data_state)
    account = session.account_of(cfg.workdir)
    grace = cfg.faults.grace
    state = loop.run(
        loop.Loop(stage, begin, steps, state),
        stepper(bench, data, rates),
        [
            hooks.TraceSteps(),
            ProfileSteps(cfg.workdir, cfg.profile),
            AccountSeconds(account, cfg.training.save_every),
            hooks.GuardTransfers(),
            hooks.MeanRow(cfg.log.every, _summarise),
            hooks.CountCompilations(),
            hooks.CountSkippedSamples(whole_data),
            hooks.CountSkippedUpdates(cfg.workdir, share),
            hooks.WriteRow(functools.partial(open_writer, cfg)),
            hooks.ShowProgress(_headline),
            hooks.StopWhenNotFinite(cfg.optimizer.max_skipped),
            hooks.SaveCheckpoints(checkpoints, cfg.training.save_every, whole_data, grace=grace),
        ],
    )
    return state.params, whole_data.quarantined


def _summarise(steps: list[loop.Row], seconds: float) -> loop.Row:
    """The log row of some steps: means, and rates."""
    row = {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}
    samples = sum(step["samples"] for step in steps)
    return row | {
        "samples_per_second": float(samples) / seconds,
        "seconds/step": seconds / len(steps),
    }


def _headline(row: loop.Row) -> dict[str, str]:
    return {"loss": f"{row['loss']:.4f}", "samples/s": f"{row['samples_per_second']:.0f}"}
