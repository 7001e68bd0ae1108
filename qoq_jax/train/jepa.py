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
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from qoq_jax.base.errors import CheckpointError, DataError, QoqError
from qoq_jax.climb.mini import ecg_set, ecg_simulator
from qoq_jax.data import ecgs
from qoq_jax.evaluation.probe import linear_probe
from qoq_jax.hf import ecg as ecg_files
from qoq_jax.models import sizes as variants
from qoq_jax.models import spec
from qoq_jax.models.encoders import ecg as model
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.train import run_record as facts
from qoq_jax.train.checkpoint import Checkpointer
from qoq_jax.train.config import Config, EcgPretrainConfig
from qoq_jax.train.log import CompileCounter, MetricWriter, Progress
from qoq_jax.train.state import TrainState, apply_gradients, make_optimizer, schedule, start

STAGE = "ecg"
WEIGHTS = "ecg_encoder.safetensors"
RANDOM_ENCODERS = 3  # of other seeds, probed for comparison
_WARMUP_STEPS = 2  # in which compilations are expected


@struct.dataclass
class JepaState:
    """What the next update depends on.

    Attributes:
      train: TrainState whose params are {"encoder", "predictor"}.
      target: the moving average of the encoder, laid out as the encoder.
    """

    train: TrainState
    target: Any


# --------------------------------------------------------------------------------------------- step


def param_specs(cfg: variants.EcgConfig) -> dict[str, Any]:
    """{"encoder", "predictor"} of `models.ecg`."""
    return {"encoder": model.param_specs(cfg), "predictor": model.predictor_param_specs(cfg)}


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
        return model.random_mask(key, sizes, cfg.mask_low, cfg.mask_high)
    return model.block_mask(key, sizes, cfg.mask_low, cfg.mask_high, cfg.mask_blocks)


def create(params, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh) -> JepaState:
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
    dtype=jnp.float32,
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

        def loss_fn(params):
            total, count = model.jepa_loss(
                cast(params), cast(state.target), sizes, ecg, mask, visible, remat
            )
            return total / count

        loss, grads = jax.value_and_grad(loss_fn)(state.train.params)
        train, applied = apply_gradients(state.train, grads, loss, optimizer)
        m, finite = momentum(cfg, number), applied["update_finite"] > 0
        target = jax.tree.map(
            lambda old, new: jnp.where(finite, m * old + (1 - m) * new, old),
            state.target,
            train.params["encoder"],
        )
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
    tally, pre = facts.Tally(cfg.workdir), cfg.ecg
    sizes = variants.get(cfg.model.variant).ecg
    mesh = mesh_lib.make_mesh(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor)
    # a batch that does not divide is an error before any work
    mesh_lib.partition_spec(mesh, ("batch",), (pre.batch,))
    folders = ([ecg_set.build(cfg.data.root, pre.rows, pre.data_seed)] if pre.rows else []) + list(
        pre.folders
    )
    if not folders:
        raise DataError("no ECGs", hint="set ecg.rows above 0 or name folders in ecg.folders")
    found = {
        split: [r for folder in folders for r in ecgs.find(folder, split)]
        for split in ("train", "test")
    }
    data = ecgs.EcgBatches(
        found["train"],
        batch=pre.batch,
        seed=cfg.seed,
        on_error=cfg.data.on_error,
        max_bad=cfg.data.max_bad_fraction,
        cache=cfg.data.cache,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    print(
        f"ecg: {len(found['train'])} ECGs to learn from, "
        f"{spec.count(param_specs(sizes)['encoder']):,} encoder parameters"
    )
    with jax.set_mesh(mesh):
        # --------------------------------------------------------------------------------- training
        initial = initial_params(cfg, sizes, mesh, cfg.seed)
        state = _train(cfg, sizes, mesh, data, initial)
        final = state.train.params
        # ------------------------------------------------------------------------- export and probe
        path = os.path.join(cfg.workdir, WEIGHTS)
        if jax.process_index() == 0:
            ecg_files.save(path, jax.device_get(final), sizes)
        print(f"ecg encoder: {path}")
        if not os.path.exists(os.path.join(cfg.workdir, "eval", "ecg.json")):
            others = [
                initial_params(
                    dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, ecg_weights="")),
                    sizes,
                    mesh,
                    cfg.seed + 1 + i,
                )["encoder"]
                for i in range(RANDOM_ENCODERS)
            ]
            _probe(cfg, sizes, mesh, found, initial["encoder"], final["encoder"], others)
    tally.keep({"where": where, "reason": reason} for where, reason in data.quarantined.items())
    facts.write_run(
        cfg.workdir, tally, title=f"ECG-JEPA, {cfg.model.variant}", model=cfg.model.variant
    )
    return 0


def initial_params(cfg: Config, sizes: variants.EcgConfig, mesh: jax.sharding.Mesh, seed: int):
    """{"encoder", "predictor"} on the mesh: random, or from `model.ecg_weights`."""
    specs = param_specs(sizes)
    make = jax.jit(
        lambda key: spec.init_params(specs, key), out_shardings=spec.shardings(specs, mesh)
    )
    params = make(jax.random.fold_in(jax.random.key(seed), 3))
    return load_encoder(cfg.model.ecg_weights, sizes, params) if cfg.model.ecg_weights else params


def load_encoder(path: str, sizes: variants.EcgConfig, params):
    """`params` with the encoder (and predictor, where both have one) of an ECG-JEPA file in their
    place and sharding.

    Args:
      path: safetensors file, as `hf.ecg.load` reads it.
      sizes: of the variant.
      params: {"encoder": ...} or {"encoder", "predictor"} on their mesh.

    Raises:
      CheckpointError: the file cannot be read, or holds an encoder of another size.
    """
    loaded, cfg = ecg_files.load(path, sizes.num_heads)
    for name in ("width", "depth", "patch_size", "mlp_ratio"):
        if getattr(cfg, name) != getattr(sizes, name):
            raise CheckpointError(
                f"its encoder has {name} {getattr(cfg, name)}, the variant's "
                f"{getattr(sizes, name)}",
                where=path,
                hint="choose the model.variant that belongs to the weights",
            )
    predictors = [(c.predictor_width, c.predictor_depth, c.predictor_heads) for c in (cfg, sizes)]
    parts = ["encoder"] + (
        ["predictor"]
        if "predictor" in params and "predictor" in loaded and predictors[0] == predictors[1]
        else []
    )
    put = lambda new, old: jax.device_put(np.asarray(new, old.dtype), old.sharding)  # noqa: E731
    return params | {part: jax.tree.map(put, loaded[part], params[part]) for part in parts}


def with_ecg_weights(params, setup):
    """The whole model's `params` with the ECG encoder of `model.ecg_weights`; the projection behind
    it stays as it is.

    Raises: as `load_encoder`.
    """
    return params | {
        "ecg": load_encoder(
            setup.config.model.ecg_weights, setup.model.ecg, {"encoder": params["ecg"]}
        )["encoder"]
    }


def _train(
    cfg: Config, sizes: variants.EcgConfig, mesh: jax.sharding.Mesh, data: ecgs.EcgBatches, initial
) -> JepaState:
    """The loop around the step, from the last checkpoint to the end."""
    pre = cfg.ecg
    optimizer = make_optimizer(cfg.optimizer, schedule(pre.schedule, pre.lr, pre.warmup, pre.steps))
    state, begin = create(jax.tree.map(jnp.copy, initial), optimizer, mesh), 0
    checkpoints = Checkpointer(os.path.join(cfg.workdir, "checkpoints", STAGE), sizes)
    if checkpoints.latest() is not None:
        state, data_state, begin = checkpoints.restore(state, resume=True)
        if begin < pre.steps:
            data.set_state(data_state)
            print(f"{STAGE}: going on from step {begin} of {pre.steps}")
    if begin >= pre.steps:
        data.quarantined |= data_state["quarantined"]
        checkpoints.close()
        return state
    key = jax.random.fold_in(jax.random.key(cfg.seed), 4)
    step_fn = make_step(
        sizes,
        pre,
        optimizer,
        state,
        key,
        jnp.dtype(cfg.model.compute_dtype),
        cfg.model.remat != "none",
    )
    writer = _writer(cfg)
    writer.resume(STAGE, begin)
    sharding, progress, compiles, rows = (
        mesh_lib.batch_sharding(mesh),
        Progress(STAGE, pre.steps, begin),
        CompileCounter(),
        [],
    )
    recompiles, clock = 0, time.perf_counter()
    for number in range(begin, pre.steps):
        batch = jax.make_array_from_process_local_data(sharding, next(data))
        done = number + 1
        compiles.reset()  # Orbax compiles too, when it saves: only the step's own count
        with jax.transfer_guard_host_to_device("disallow"):
            state, metrics = step_fn(state, batch)
        recompiles += compiles.count if done > begin + _WARMUP_STEPS else 0
        rows.append(metrics)
        if done % cfg.log.every == 0 or done in (pre.steps, begin + 1):
            host = jax.device_get(rows)
            seconds, clock = time.perf_counter() - clock, time.perf_counter()
            row = {name: float(np.mean([one[name] for one in host])) for name in host[0]}
            row |= {
                "ecgs_per_second": pre.batch * len(rows) / seconds,
                "seconds/step": seconds / len(rows),
                "recompiles": recompiles,
                "skipped_samples": len(data.quarantined),
            }
            writer.write(STAGE, done, row)
            progress.show(
                done,
                {
                    "loss": f"{row['loss']:.4f}",
                    "ecg/s": f"{row['ecgs_per_second']:.0f}",
                    "recompiles": str(recompiles),
                },
            )
            rows = []
            if int(state.train.skipped) >= cfg.optimizer.max_skipped:
                raise QoqError(
                    f"{int(state.train.skipped)} updates in a row were not finite",
                    where=f"{STAGE} step {done}",
                    hint="lower the learning rate; parameters are those of the last finite step",
                )
        if done % pre.save_every == 0 or done == pre.steps:
            checkpoints.save(done, state, data.get_state())
    checkpoints.close()
    writer.close()
    return state


# -------------------------------------------------------------------------------------------- probe


def features(
    params, sizes: variants.EcgConfig, signals: np.ndarray, mesh: jax.sharding.Mesh, batch: int
) -> np.ndarray:
    """float32 [n, W]: the pooled representation of ECGs [n, 8, 2500], `batch` at a time on all
    devices.
    """
    encode = _encoder(sizes)
    sharding, made = mesh_lib.batch_sharding(mesh), []
    for first in range(0, len(signals), batch):
        part = signals[first : first + batch]
        # one shape, one compilation
        whole = np.concatenate([part, np.zeros((batch - len(part), *part.shape[1:]), part.dtype)])
        made.append(np.asarray(encode(params, jax.device_put(whole, sharding)))[: len(part)])
    return np.concatenate(made)


@functools.cache
def _encoder(sizes: variants.EcgConfig) -> Callable:
    return jax.jit(lambda params, ecg: model.represent(params, sizes, ecg))


def _probe(cfg: Config, sizes: variants.EcgConfig, mesh, found, before, after, others) -> None:
    """Linear probe of the seven classes on held-out patients; writes WORKDIR/eval/ecg.json and a
    metrics row.
    """
    names = ecg_simulator.LABELS
    labelled = {
        split: [r for r in rows if set(r.vocabulary) == set(names)] for split, rows in found.items()
    }
    if not labelled["train"] or not labelled["test"]:
        print(
            "ecg probe: left out, since no labelled train and test ECGs of the seven classes "
            "are there (ecg.rows is 0)"
        )
        return
    shared = {r.patient for r in labelled["train"]} & {r.patient for r in labelled["test"]} - {""}
    if shared:
        raise DataError(
            f"{len(shared)} patients are in both train and test",
            where="linear probe",
            hint="split by patient",
        )
    signals = {split: ecgs.read_all(rows) for split, rows in labelled.items()}
    gold = {
        split: np.array([[name in r.labels for name in names] for r in rows])
        for split, rows in labelled.items()
    }

    def score(encoder) -> dict:
        seen, held_out = (
            features(encoder, sizes, signals[split], mesh, cfg.ecg.batch)
            for split in ("train", "test")
        )
        return linear_probe(seen, gold["train"], held_out, gold["test"], names)

    result = {
        "before": score(before),
        "after": score(after),
        "random": [score(encoder) for encoder in others],
        "train_ecgs": len(labelled["train"]),
        "test_ecgs": len(labelled["test"]),
        "test_patients": len({r.patient for r in labelled["test"]}),
    }
    row = {
        f"probe/{when}/{name}": result[when][name]
        for when in ("before", "after")
        for name in ("auroc", "macro_f1")
    }
    row |= {
        f"probe/random/{name}": float(np.mean([one[name] for one in result["random"]]))
        for name in ("auroc", "macro_f1")
    }
    if jax.process_index() == 0:
        writer = _writer(cfg)
        writer.resume("ecg_probe", -1)
        writer.write("ecg_probe", cfg.ecg.steps, row)
        writer.close()
        facts.write_json(os.path.join(cfg.workdir, "eval", "ecg.json"), result)
    print(
        f"ecg probe, {result['test_ecgs']} held-out ECGs of {result['test_patients']} patients: "
        "macro AUROC "
        f"{row['probe/before/auroc']:.3f} before, {row['probe/after/auroc']:.3f} after; macro-F1 "
        f"{row['probe/before/macro_f1']:.3f} before, {row['probe/after/macro_f1']:.3f} after "
        f"({RANDOM_ENCODERS} other random encoders: {row['probe/random/auroc']:.3f}, "
        f"{row['probe/random/macro_f1']:.3f})"
    )


# -------------------------------------------------------------------------------------- bookkeeping


def _writer(cfg: Config) -> MetricWriter:
    return MetricWriter(
        cfg.workdir,
        tensorboard=cfg.log.tensorboard,
        wandb=cfg.log.wandb,
        config=dataclasses.asdict(cfg),
    )
