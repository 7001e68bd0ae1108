"""ECG-JEPA pretraining (Kim, arXiv 2410.08559): stage "ecg" of `qoq train`, a run of its own.

The context encoder sees the visible time steps, the predictor fills in the hidden ones, and the
target is a moving average of the encoder. The run ends with WORKDIR/ecg_encoder.safetensors, which
`hf.ecg.load` reads and `model.ecg_weights` starts from, and with a linear probe of the encoder
before and after. Everything random derives from (seed, step).
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from qoq_jax.base import storage
from qoq_jax.base.errors import CheckpointError, DataError
from qoq_jax.climb.mini import ecg_set
from qoq_jax.data import ecgs
from qoq_jax.data.pipeline import Reading
from qoq_jax.hf import ecg as ecg_files
from qoq_jax.models import sizes as variants
from qoq_jax.models import spec
from qoq_jax.models.encoders import ecg as model
from qoq_jax.models.encoders import ecg_jepa
from qoq_jax.parallel import hosts, messages
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.train import datasets, ecg_probe, hooks, loop, run_record, session, stages
from qoq_jax.train.batches import WholeData, check_same_rows
from qoq_jax.train.checkpoint import Checkpointer
from qoq_jax.train.config import Config, EcgPretrainConfig
from qoq_jax.train.goodput import AccountSeconds
from qoq_jax.train.log import open_writer
from qoq_jax.train.optim import make_optimizer, schedule
from qoq_jax.train.profiling import ProfileSteps
from qoq_jax.train.state import TrainState, apply_gradients, keep_finite, start

STAGE = "ecg"
WEIGHTS = "ecg_encoder.safetensors"
MOMENTS_ECGS = 1024  # whose representations give the moments that a projection is whitened by
RANDOM_ENCODERS = 3  # of other seeds, probed for comparison
_WEIGHTS_STREAM = 3  # of random numbers, for the first weights; the masks have the stage's own


@struct.dataclass
class JepaState:
    """What the next update depends on.

    Attributes:
      train: TrainState whose params are {"encoder", "predictor"}.
      target: the moving average of the encoder, laid out as the encoder.
    """

    train: TrainState
    target: Any

    @property
    def skipped(self) -> jax.Array:
        """int32 [], updates in a row that were dropped."""
        return self.train.skipped


# --------------------------------------------------------------------------------------------- step


def param_specs(cfg: variants.EcgConfig) -> dict[str, Any]:
    """{"encoder", "predictor"} of `models.encoders.ecg`."""
    return {"encoder": model.param_specs(cfg), "predictor": ecg_jepa.predictor_param_specs(cfg)}


def momentum(cfg: EcgPretrainConfig, step: jax.Array) -> jax.Array:
    """Momentum of the moving average in update `step` (from 0): m + (1 - m) step / steps."""
    return cfg.momentum + (1 - cfg.momentum) * step.astype(jnp.float32) / cfg.steps


def draw_mask(
    cfg: EcgPretrainConfig, sizes: variants.EcgConfig, key: jax.Array, step: jax.Array
) -> jax.Array:
    """The mask of update `step`, bool [T], True = hidden: one for all leads and ECGs of the batch,
    as in the released code.
    """
    key = jax.random.fold_in(key, step)
    if cfg.mask == "random":
        return ecg_jepa.random_mask(key, sizes, cfg.mask_low, cfg.mask_high)
    return ecg_jepa.block_mask(key, sizes, cfg.mask_low, cfg.mask_high, cfg.mask_blocks)


def create(
    params: Any, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh
) -> JepaState:
    """A fresh state around `params` (on the mesh); the target starts as the encoder."""
    return JepaState(
        train=start(params, optimizer, mesh), target=jax.tree.map(jnp.copy, params["encoder"])
    )


def make_step(
    sizes: variants.EcgConfig,
    cfg: EcgPretrainConfig,
    optimizer: optax.GradientTransformation,
    layout: JepaState,
    key: jax.Array,
    dtype: jnp.dtype | type = jnp.float32,
    remat: bool = False,
) -> Callable:
    """Returns the jitted `step(state, ecg) -> (state, metrics)`.

    The state is donated and keeps the sharding of `layout`; ecg is float32 [B, 8, 2500]. A loss or
    gradient that is not finite leaves parameters, moments and target bit-unchanged.

    Args:
      key: of the masks; folded with the step's number.
      dtype: of the computation; master weights and the moving average stay in float32.
      remat: recompute the blocks in the backward pass.
    """
    # At least one share (one block) of the steps is hidden in every mask.
    # the draw is rounded to float32
    visible = sizes.patches - int(sizes.patches * cfg.mask_low - 1e-3)

    def step(state: JepaState, ecg: jax.Array) -> tuple[JepaState, dict[str, jax.Array]]:
        number = state.train.step
        mask = draw_mask(cfg, sizes, key, number)
        cast = functools.partial(jax.tree.map, lambda x: x.astype(dtype))

        def loss_fn(params: Any) -> jax.Array:
            total, count = ecg_jepa.jepa_loss(
                cast(params), cast(state.target), sizes, ecg, mask, visible, remat
            )
            return total / count

        loss, grads = jax.value_and_grad(loss_fn)(state.train.params)
        train, applied = apply_gradients(state.train, grads, loss, optimizer)
        m, finite = momentum(cfg, number), applied["update_finite"] > 0
        moved = jax.tree.map(
            lambda old, new: m * old + (1 - m) * new, state.target, train.params["encoder"]
        )
        target = keep_finite(finite, moved, state.target)
        return JepaState(train, target), {
            "loss": loss,
            "momentum": m,
            "hidden": mask.mean(dtype=jnp.float32),
        } | applied

    return jax.jit(
        step, donate_argnums=0, out_shardings=(jax.tree.map(lambda x: x.sharding, layout), None)
    )


# ---------------------------------------------------------------------------------------------- run


def run(cfg: Config) -> int:
    """Pretrains, exports and probes; returns the exit code.

    Whatever is finished is not done again.
    """
    # --------------------------------------------------------------------------------------- set-up
    totals, pre = run_record.RunTotals(cfg.workdir), cfg.ecg
    sizes = variants.get(cfg.model.variant).ecg
    mesh = mesh_lib.make_mesh(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor)
    # a batch that does not divide is an error before any work
    mesh_lib.partition_spec(mesh, ("batch",), (pre.batch,))
    share = hosts.Share.of(mesh)
    found = _recordings(cfg)
    data = _batches(cfg, share, found)
    hosts.say(
        f"ecg: {len(found['train'])} training ECGs, "
        f"{spec.count(param_specs(sizes)['encoder']):,} encoder parameters"
    )
    with jax.set_mesh(mesh):
        # --------------------------------------------------------------------------------- training
        initial = initial_params(cfg, sizes, mesh, cfg.seed)
        whole_data = WholeData(data, share)
        state = _train(cfg, sizes, mesh, data, whole_data, initial)
        final = state.train.params
        # ------------------------------------------------------------------------- export and probe
        path = os.path.join(cfg.workdir, WEIGHTS)
        whole = hosts.gather(final)
        whole |= _pooled_moments(cfg, sizes, mesh, found["train"], final["encoder"])
        if hosts.is_main():
            ecg_files.save(path, whole, sizes)
        hosts.say(f"ecg encoder: {path}")
        probed = os.path.join(cfg.workdir, "eval", "ecg.json")
        if not messages.from_main("evaluated", lambda: storage.exists(probed)):
            encoders = {
                "before": initial["encoder"],
                "after": final["encoder"],
                "random": _random_encoders(cfg, sizes, mesh),
            }
            ecg_probe.run(cfg, sizes, mesh, found, encoders)
    skipped = whole_data.quarantined
    totals.keep({"where": where, "reason": reason} for where, reason in skipped.items())
    run_record.write_run(
        cfg.workdir, totals, title=f"ECG-JEPA, {cfg.model.variant}", model=cfg.model.variant
    )
    return 0


def _recordings(cfg: Config) -> dict[str, list[ecgs.Recording]]:
    """Those of each split; the set of `ecg.rows` is made where it is not there.

    Raises:
      DataError: there are none, or the processes have others than each other.
    """
    pre, folders = cfg.ecg, list(cfg.ecg.folders)
    if pre.rows:
        build = functools.partial(ecg_set.build, cfg.data.root, pre.rows, pre.data_seed)
        hosts.once_per_machine("ecg set", lambda: build() and None, datasets.LIMIT)
        folders.insert(0, build())
    if not folders:
        raise DataError("no ECGs", hint="set ecg.rows above 0 or name folders in ecg.folders")
    found = {
        split: [r for folder in folders for r in ecgs.find(folder, split)]
        for split in ("train", "test")
    }
    for recordings in found.values():
        check_same_rows(ecgs.fingerprint(recordings))
    return found


def _batches(
    cfg: Config, share: hosts.Share, found: dict[str, list[ecgs.Recording]]
) -> ecgs.EcgBatches:
    return ecgs.EcgBatches(
        found["train"],
        batch=cfg.ecg.batch,
        seed=cfg.seed + stages.get(STAGE).data_seed,
        length=cfg.data.ecg_length,
        reading=Reading(
            process_index=share.index,
            process_count=share.count,
            on_error=cfg.data.on_error,
            max_bad=cfg.data.max_bad_fraction,
            threads=2,
            cache=cfg.data.cache,
        ),
    )


def _pooled_moments(
    cfg: Config,
    sizes: variants.EcgConfig,
    mesh: jax.sharding.Mesh,
    recordings: Sequence[ecgs.Recording],
    encoder: Any,
) -> dict[str, dict[str, np.ndarray]]:
    """{"pooled": mean and covariance of the representation} over the first training ECGs; {} when
    there are too few for a covariance, or one of them cannot be read.
    """
    if len(recordings) <= sizes.width:
        return {}
    signals, failed = None, ""
    try:
        signals = ecgs.read_all(recordings[:MOMENTS_ECGS], cfg.data.ecg_length)
    except DataError as error:  # the weights are worth more than a whitened projection
        failed = str(error)
    # What follows is computed by all processes together, or by none.
    if failures := [text for text in messages.exchange("moments", failed) if text]:
        hosts.say(f"ecg encoder: without moments of its representation: {failures[0]}")
        return {}
    pooled = ecg_probe.features(encoder, sizes, signals, mesh, cfg.ecg.batch)
    return {"pooled": {"mean": pooled.mean(axis=0), "covariance": np.cov(pooled, rowvar=False)}}


def initial_params(
    cfg: Config, sizes: variants.EcgConfig, mesh: jax.sharding.Mesh, seed: int
) -> dict[str, Any]:
    """{"encoder", "predictor"} on the mesh: random, or from `model.ecg_weights`."""
    specs = param_specs(sizes)
    make = jax.jit(
        lambda key: spec.init_params(specs, key), out_shardings=spec.shardings(specs, mesh)
    )
    params = make(jax.random.fold_in(jax.random.key(seed), _WEIGHTS_STREAM))
    return load_encoder(cfg.model.ecg_weights, sizes, params) if cfg.model.ecg_weights else params


def _random_encoders(
    cfg: Config, sizes: variants.EcgConfig, mesh: jax.sharding.Mesh
) -> list[dict[str, Any]]:
    """Untrained encoders of other seeds."""
    model_cfg = dataclasses.replace(cfg.model, ecg_weights="")
    untrained = dataclasses.replace(cfg, model=model_cfg)
    return [
        initial_params(untrained, sizes, mesh, cfg.seed + 1 + i)["encoder"]
        for i in range(RANDOM_ENCODERS)
    ]


def load_encoder(path: str, sizes: variants.EcgConfig, params: dict[str, Any]) -> dict[str, Any]:
    """`params` with the encoder (and predictor, where both have one) of an ECG-JEPA file in their
    place and sharding.

    Args:
      path: safetensors file, as `hf.ecg.load` reads it.
      sizes: of the variant.
      params: {"encoder": ...} or {"encoder", "predictor"} on their mesh.

    Raises:
      CheckpointError: the file cannot be read, or holds an encoder of another size.
    """
    loaded, cfg = _read_encoder(path, sizes)
    predictors = [(c.predictor_width, c.predictor_depth, c.predictor_heads) for c in (cfg, sizes)]
    parts = ["encoder"] + (
        ["predictor"]
        if "predictor" in params and "predictor" in loaded and predictors[0] == predictors[1]
        else []
    )
    return params | {part: jax.tree.map(_put_as, loaded[part], params[part]) for part in parts}


def _read_encoder(
    path: str, sizes: variants.EcgConfig
) -> tuple[dict[str, Any], variants.EcgConfig]:
    """`hf.ecg.load` of a file whose encoder has the variant's sizes; else CheckpointError."""
    path = ecg_set.WEIGHTS if path == ecg_set.WEIGHTS_NAME else path
    loaded, cfg = ecg_files.load(path, sizes.num_heads)
    for name in ("width", "depth", "patch_size", "mlp_ratio"):
        if getattr(cfg, name) != getattr(sizes, name):
            raise CheckpointError(
                f"its encoder has {name} {getattr(cfg, name)}, the variant's "
                f"{getattr(sizes, name)}",
                where=path,
                hint="choose the model.variant that belongs to the weights",
            )
    return loaded, cfg


def _put_as(new: np.ndarray, old: jax.Array) -> jax.Array:
    return hosts.place(np.asarray(new, old.dtype), old.sharding)


def with_ecg_weights(params: dict[str, Any], setup: Any) -> dict[str, Any]:
    """The whole model's `params` with the ECG encoder of `model.ecg_weights`.

    The projection behind it starts whitened (encoders.ecg.whitening_projection) when the file has
    the moments of the pooled representation and an ECG is one token; else it stays as it is.

    Raises: as `load_encoder`.
    """
    loaded, _ = _read_encoder(setup.config.model.ecg_weights, setup.model.ecg)
    found = {"ecg": jax.tree.map(_put_as, loaded["encoder"], params["ecg"])}
    if "pooled" in loaded and setup.model.ecg_tokens == 1:
        width = setup.model.decoder.width
        start = model.whitening_projection(**loaded["pooled"], width=width)
        found["ecg_proj"] = jax.tree.map(_put_as, start, params["ecg_proj"])
    return params | found


def _train(
    cfg: Config,
    sizes: variants.EcgConfig,
    mesh: jax.sharding.Mesh,
    data: ecgs.EcgBatches,
    whole_data: WholeData,
    initial: Any,
) -> JepaState:
    """The loop around the step, from the last checkpoint to the end."""
    pre, stage = cfg.ecg, stages.get(STAGE)
    optimizer = make_optimizer(
        cfg.optimizer, schedule(pre.schedule, pre.lr, pre.warmup, pre.steps), param_specs(sizes)
    )
    checkpoints = Checkpointer(
        os.path.join(cfg.workdir, "checkpoints", STAGE), sizes, cfg.checkpoint
    )
    state, data_state, begin = loop.resume(
        checkpoints, create(jax.tree.map(jnp.copy, initial), optimizer, mesh), STAGE, pre.steps
    )
    if begin >= pre.steps:
        data.quarantined |= data_state["quarantined"]
        checkpoints.close()
        return state
    if data_state is not None:
        data.set_state(data_state)
    compiled = {"dtype": jnp.dtype(cfg.model.compute_dtype), "remat": cfg.model.remat != "none"}
    key = jax.random.fold_in(jax.random.key(cfg.seed), stage.random_stream)
    update = make_step(sizes, pre, optimizer, state, key, **compiled)
    sharding = mesh_lib.batch_sharding(mesh)

    def step(state: JepaState, number: int) -> loop.StepResult:
        del number  # the state counts its own steps
        batch = hosts.to_global(next(data), sharding)
        return loop.StepResult(*update(state, batch), facts={})

    return loop.run(
        loop.Loop(STAGE, begin, pre.steps, state),
        step,
        [
            hooks.TraceSteps(),
            ProfileSteps(cfg.workdir, cfg.profile),
            AccountSeconds(session.account_of(cfg.workdir), pre.save_every),
            hooks.GuardTransfers(),
            hooks.MeanRow(cfg.log.every, functools.partial(_summarise, batch=pre.batch)),
            hooks.CountCompilations(),
            hooks.CountSkippedSamples(whole_data),
            hooks.WriteRow(functools.partial(open_writer, cfg)),
            hooks.ShowProgress(_headline),
            hooks.StopWhenNotFinite(cfg.optimizer.max_skipped),
            hooks.SaveCheckpoints(checkpoints, pre.save_every, whole_data, grace=cfg.faults.grace),
        ],
    )


def _summarise(steps: list[loop.Row], seconds: float, batch: int) -> loop.Row:
    """The log row of some steps: float32 means, as the device computes, and rates."""
    row = {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}
    rates = {"ecgs_per_second": batch * len(steps) / seconds, "seconds/step": seconds / len(steps)}
    return row | rates


def _headline(row: loop.Row) -> dict[str, str]:
    return {
        "loss": f"{row['loss']:.4f}",
        "ecg/s": f"{row['ecgs_per_second']:.0f}",
        "recompiles": str(row["recompiles"]),
    }
