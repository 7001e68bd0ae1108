"""ECG-JEPA pretraining: masks, moving average, one step on one and on eight devices, a whole run,
its resume and its export.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qoq_jax.base.errors import CheckpointError, ConfigError, DataError, QoqError
from qoq_jax.climb.mini import ecg_set
from qoq_jax.data import ecgs
from qoq_jax.data.pipeline import Reading
from qoq_jax.hf import ecg as ecg_files
from qoq_jax.models import sizes as variants
from qoq_jax.models import spec
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.parallel import messages
from qoq_jax.train import jepa as ecg_jepa
from qoq_jax.train import run as loop
from qoq_jax.train.config import (
    Config,
    DataConfig,
    EcgPretrainConfig,
    LogConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
)
from qoq_jax.train.optim import make_optimizer, schedule

SIZES = variants.EcgConfig(
    width=16, depth=1, num_heads=2, predictor_width=8, predictor_depth=1, predictor_heads=2
)
PRE = EcgPretrainConfig(rows=0, steps=8, batch=8, lr=3e-3, warmup=1, momentum=0.996, save_every=3)
OPTIMIZER = make_optimizer(
    OptimizerConfig(b2=0.98),
    schedule("constant", PRE.lr, PRE.warmup, PRE.steps),
    ecg_jepa.param_specs(SIZES),
)


SKIP = Reading(on_error="skip")


def meshes():
    return {
        "one": mesh_lib.make_mesh(1, 1, 1, jax.devices()[:1]),
        "eight": mesh_lib.make_mesh(2, 2, 2, jax.devices()),
    }


def signals(rows, seed=0):
    """Waves of some rate and phase, each lead at its own gain: what is hidden follows from what is
    seen.
    """
    rng, t = np.random.default_rng(seed), np.arange(2500) / 250
    rate, phase = rng.uniform(0.8, 2.0, (rows, 1, 1)), rng.uniform(0, 6.28, (rows, 1, 1))
    gains = rng.uniform(0.5, 1.5, (rows, 8, 1))
    return (gains * np.sin(2 * np.pi * rate * t + phase) ** 9).astype(np.float32)


def fresh(mesh):
    specs = ecg_jepa.param_specs(SIZES)
    params = jax.device_put(spec.init_params(specs, jax.random.key(0)), spec.shardings(specs, mesh))
    return ecg_jepa.create(params, OPTIMIZER, mesh)


@functools.cache
def compiled(mesh):
    return ecg_jepa.make_step(SIZES, PRE, OPTIMIZER, fresh(mesh), jax.random.key(5))


def steps_on(mesh, count, batch=None):
    """(losses, final state on the host) after `count` steps."""
    with jax.set_mesh(mesh):
        state, losses, step = fresh(mesh), [], compiled(mesh)
        for number in range(count):
            ecg = jax.device_put(
                signals(PRE.batch, number % 2) if batch is None else batch,
                mesh_lib.batch_sharding(mesh),
            )
            state, metrics = step(state, ecg)
            losses.append(float(metrics["loss"]))
    return np.array(losses), jax.device_get(state)


@pytest.fixture(scope="module")
def one_device():
    return steps_on(meshes()["one"], 20)


# -------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize("kind", ["random", "block"])
def test_masks_follow_from_key_and_step(kind):
    low, high = {"random": (0.6, 0.7), "block": (0.175, 0.225)}[kind]
    pre = dataclasses.replace(PRE, mask=kind, mask_low=low, mask_high=high)
    draw = jax.jit(
        jax.vmap(lambda seed, step: ecg_jepa.draw_mask(pre, SIZES, jax.random.key(seed), step))
    )
    seeds, numbers = np.repeat([0, 0, 1], 50), np.tile(np.arange(50), 3)
    first, again, other = np.asarray(draw(seeds, numbers)).reshape(3, 50, 50)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() and len({row.tobytes() for row in first}) > 40, (
        "each step and each seed has its own masks"
    )
    hidden = first.sum(axis=1)
    if kind == "random":
        assert hidden.min() >= 30 and hidden.max() <= 34  # floor(50 x [0.6, 0.7))
    else:
        # four runs of 8 to 11 steps, which may overlap
        assert hidden.min() >= 8 and hidden.max() <= 44
        runs = (np.diff(first, axis=1, prepend=False) & first).sum(axis=1)
        assert runs.max() <= 4 and (hidden / runs >= 8).all()


@pytest.mark.slow
def test_the_loss_falls_and_the_target_follows_the_formula(one_device):
    losses, _ = one_device
    assert losses[-4:].mean() < 0.8 * losses[:4].mean()
    mesh = meshes()["one"]
    with jax.set_mesh(mesh):
        state, step = fresh(mesh), compiled(mesh)
        target = jax.device_get(state.target)
        for number in range(3):
            state, metrics = step(
                state, jax.device_put(signals(PRE.batch, number), mesh_lib.batch_sharding(mesh))
            )
            m = 0.996 + 0.004 * number / PRE.steps
            assert float(metrics["momentum"]) == pytest.approx(m, abs=1e-7)
            online = jax.device_get(state.train.params["encoder"])
            target = jax.tree.map(
                lambda t, e, m=m: m * t.astype(np.float64) + (1 - m) * e, target, online
            )
            # 5e-7: three roundings of float32 at values of about 1
            followed = jax.device_get(state.target)
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, atol=5e-7, rtol=0), target, followed
            )
    assert any(
        np.abs(a - b).max() > 1e-4 for a, b in zip(jax.tree.leaves(target), jax.tree.leaves(online))
    )


@pytest.mark.slow
def test_eight_devices_equal_one(one_device):
    losses, state = steps_on(meshes()["eight"], 4)
    expected, whole = steps_on(meshes()["one"], 4)
    np.testing.assert_allclose(losses, expected, atol=1e-5)
    np.testing.assert_allclose(expected, one_device[0][:4], atol=0, rtol=0)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), state.target, whole.target
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
        state.train.params["encoder"],
        whole.train.params["encoder"],
    )


@pytest.mark.slow
def test_a_batch_that_is_not_finite_changes_nothing():
    mesh = meshes()["one"]
    _, state = steps_on(mesh, 1, np.full((PRE.batch, 8, 2500), np.nan, np.float32))
    start = jax.device_get(fresh(mesh))
    assert state.train.skipped == 1 and state.train.step == 1
    jax.tree.map(
        np.testing.assert_array_equal,
        (state.train.params, state.train.opt_state, state.target),
        (start.train.params, start.train.opt_state, start.target),
    )


# ------------------------------------------------------------------------------- data and whole run


def write_wfdb(folder: pathlib.Path, name: str, signal: np.ndarray) -> None:
    """A 12-lead record at 500 Hz from 8 leads [8, 2500] in mV."""
    order = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
    data = np.round(np.repeat(signal, 2, axis=1) * 1000).astype("<i2")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.dat").write_bytes(np.ascontiguousarray(data.T).tobytes())
    lines = [f"{name} 8 500 5000"] + [
        f"{name}.dat 16 1000(0)/mV 16 0 0 0 0 {lead}" for lead in order
    ]
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def wfdb_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wfdb")
    for number, signal in enumerate(signals(20, seed=9)):
        write_wfdb(folder / f"part{number % 3}", f"r{number:02d}", signal)
    (folder / "RECORDS").write_text("not an ECG\n")
    return folder


def test_batches_from_wfdb_are_shuffled_shared_and_resumable(wfdb_folder):
    found = ecgs.find(wfdb_folder, "train")
    assert len(found) == 20 and not found[0].labels and ecgs.find(wfdb_folder, "test") == []
    make = functools.partial(ecgs.EcgBatches, found, batch=8, seed=3)
    whole = make()
    batches = [next(whole) for _ in range(3)]
    state = json.loads(json.dumps(whole.get_state()))
    after = [next(whole) for _ in range(3)]
    assert batches[0].shape == (8, 8, 2500) and batches[0].dtype == np.float32
    resumed = make(reading=Reading(cache=True))
    resumed.set_state(state)
    for batch in after:
        np.testing.assert_array_equal(next(resumed), batch)
    halves = [make(reading=Reading(process_index=i, process_count=2)) for i in range(2)]
    for batch in batches:
        np.testing.assert_array_equal(np.concatenate([next(half) for half in halves]), batch)
    seen = {ecg.tobytes() for batch in batches[:2] for ecg in batch}
    assert len(seen) == 16, "an epoch shows each ECG once"
    with pytest.raises(DataError, match="other ECGs"):
        ecgs.EcgBatches(found[1:], batch=8, seed=3).set_state(state)


def test_bad_files_are_raised_or_counted(wfdb_folder, tmp_path):
    found = ecgs.find(wfdb_folder, "train")
    (tmp_path / "cut.hea").write_text("cut 8 500 5000\n")
    broken = [ecgs.Recording(str(tmp_path / "cut.hea")), *found]
    with pytest.raises(DataError, match="cut"):
        strict = ecgs.EcgBatches(broken, batch=21, seed=0)
        next(strict)
    lenient = ecgs.EcgBatches(broken, batch=21, seed=0, reading=SKIP)
    assert next(lenient).shape[0] == 21 and list(lenient.quarantined) == [str(tmp_path / "cut.hea")]
    with pytest.raises(DataError, match="2 ECGs could not be read, the limit is 1"):
        (tmp_path / "two.hea").write_text("two 8 500 5000\n")
        next(
            ecgs.EcgBatches(
                [ecgs.Recording(str(tmp_path / "two.hea")), *broken],
                batch=22,
                seed=0,
                reading=SKIP,
            )
        )
    with pytest.raises(DataError, match="no ECG files"):
        ecgs.find(tmp_path.joinpath("empty").mkdir() or tmp_path / "empty", "train")
    with pytest.raises(DataError, match="do not fill a batch of 30"):
        ecgs.EcgBatches(found, batch=30, seed=0)


@pytest.fixture
def tiny_variant(monkeypatch):
    nano = variants.get("nano")
    monkeypatch.setattr(ecg_jepa.variants, "get", lambda name: dataclasses.replace(nano, ecg=SIZES))


def config(workdir, folder, root, **changes) -> Config:
    return Config(
        workdir=str(workdir),
        stages=("ecg",),
        mesh=MeshConfig(data=4, fsdp=2),
        log=LogConfig(every=1, tensorboard=False),
        data=DataConfig(root=str(root), cache=True),
        ecg=dataclasses.replace(PRE, **{"rows": 60, "folders": (str(folder),)} | changes),
    )


@pytest.mark.slow
def test_a_run_stopped_on_the_way_ends_with_the_same_bits_and_exports(
    tiny_variant, wfdb_folder, tmp_path, monkeypatch, capsys
):
    cfg = config(tmp_path / "whole", wfdb_folder, tmp_path / "data")
    assert loop.run(cfg) == 0
    assert "macro AUROC" in capsys.readouterr().out
    weights, sizes = ecg_files.load(str(tmp_path / "whole" / ecg_jepa.WEIGHTS), num_heads=2)
    assert sizes == SIZES and set(weights) == {"encoder", "predictor", "pooled"}
    rows = [
        json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [(r["stage"], r["step"]) for r in rows] == [("ecg", i) for i in range(1, 9)] + [
        ("ecg_probe", 8)
    ]
    assert (
        all(row["recompiles"] == 0 for row in rows[:-1]) and 0 <= rows[-1]["probe/after/auroc"] <= 1
    )
    probe = json.loads((tmp_path / "whole" / "eval" / "ecg.json").read_text())
    assert len(probe["random"]) == 3 and probe["before"]["auroc"] == rows[-1]["probe/before/auroc"]

    # A step after the checkpoint of step 3 fails: what was done since is lost, and done again.
    read = ecgs.EcgBatches.__next__
    left = [5]

    def stop(self):
        left[0] -= 1
        if left[0] < 0:
            # appears when it is committed
            while not (tmp_path / "cut" / "checkpoints" / "ecg" / "3").exists():
                time.sleep(0.02)
            raise QoqError("the power went out")
        return read(self)

    monkeypatch.setattr(ecgs.EcgBatches, "__next__", stop)
    cfg = dataclasses.replace(cfg, workdir=str(tmp_path / "cut"))
    with pytest.raises(QoqError, match="power"):
        loop.run(cfg)
    monkeypatch.setattr(ecgs.EcgBatches, "__next__", read)
    capsys.readouterr()
    assert loop.run(cfg) == 0
    assert "resuming from step 3 of 8" in capsys.readouterr().out
    assert (tmp_path / "cut" / ecg_jepa.WEIGHTS).read_bytes() == (
        tmp_path / "whole" / ecg_jepa.WEIGHTS
    ).read_bytes()
    assert json.loads((tmp_path / "cut" / "eval" / "ecg.json").read_text()) == probe
    assert [
        json.loads(line)["step"]
        for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    ] == [*range(1, 9), 8]
    with pytest.raises(ConfigError, match="answers no questions"):
        loop.restore_run(str(tmp_path / "cut"))


def test_the_multimodal_model_starts_from_the_exported_encoder(tmp_path):
    specs = ecg_jepa.param_specs(SIZES)
    trained = spec.init_params(specs, jax.random.key(7))
    ecg_files.save(str(tmp_path / "ecg.safetensors"), trained, SIZES)
    mesh = meshes()["eight"]
    own = jax.device_put(
        spec.init_params(specs["encoder"], jax.random.key(1)),
        spec.shardings(specs["encoder"], mesh),
    )
    projection = jnp.ones(3)

    class Setup:
        config = Config(model=ModelConfig(ecg_weights=str(tmp_path / "ecg.safetensors")))
        model = dataclasses.replace(variants.get("nano"), ecg=SIZES)

    params = ecg_jepa.with_ecg_weights({"ecg": own, "ecg_proj": projection}, Setup)
    assert params["ecg_proj"] is projection
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.device_get(params["ecg"]),
        jax.device_get(trained["encoder"]),
    )
    assert jax.tree.map(lambda x: x.sharding, params["ecg"]) == jax.tree.map(
        lambda x: x.sharding, own
    )
    Setup.model = variants.get("nano")
    with pytest.raises(CheckpointError, match="was trained with 2 heads, not 4"):
        ecg_jepa.with_ecg_weights({"ecg": own}, Setup)
    Setup.model = dataclasses.replace(Setup.model, ecg=dataclasses.replace(SIZES, width=32))
    with pytest.raises(CheckpointError, match="its encoder has width 16, the variant's 32"):
        ecg_jepa.with_ecg_weights({"ecg": own}, Setup)


def test_the_projection_behind_a_pretrained_encoder_starts_whitened(tmp_path):
    trained = spec.init_params(ecg_jepa.param_specs(SIZES), jax.random.key(7))
    rng = np.random.default_rng(0)
    pooled = rng.normal(size=(500, SIZES.width)) * np.logspace(-1, 0, SIZES.width) + 5.0
    moments = {"mean": pooled.mean(axis=0), "covariance": np.cov(pooled, rowvar=False)}
    path = str(tmp_path / "ecg.safetensors")
    ecg_files.save(path, trained | {"pooled": moments}, SIZES)

    class Setup:
        config = Config(model=ModelConfig(ecg_weights=path))
        model = dataclasses.replace(variants.get("nano"), ecg=SIZES, ecg_tokens=1)

    width = Setup.model.decoder.width
    zeros = {"kernel": jnp.zeros((SIZES.width, width)), "bias": jnp.zeros(width)}
    params = ecg_jepa.with_ecg_weights({"ecg": trained["encoder"], "ecg_proj": zeros}, Setup)
    kernel, bias = (np.asarray(params["ecg_proj"][name]) for name in ("kernel", "bias"))
    tokens = pooled @ kernel + bias
    np.testing.assert_allclose(tokens.mean(axis=0), 0, atol=1e-4)
    variances = np.linalg.eigvalsh(np.cov(tokens, rowvar=False))[-SIZES.width :]
    # equal in every direction, but for the ridge
    np.testing.assert_allclose(variances * SIZES.width, 1, rtol=0.01)


def test_the_encoder_of_the_package_has_the_sizes_of_nano_and_moments():
    nano = variants.get("nano").ecg
    loaded, sizes = ecg_files.load(ecg_set.WEIGHTS, nano.num_heads)
    assert {"encoder", "pooled"} <= loaded.keys()
    assert (sizes.width, sizes.depth, sizes.patch_size) == (nano.width, nano.depth, nano.patch_size)


def test_an_encoder_file_with_moments_of_another_width_is_refused(tmp_path):
    trained = spec.init_params(ecg_jepa.param_specs(SIZES), jax.random.key(7))
    wrong = {"mean": np.zeros(3), "covariance": np.eye(3)}
    path = str(tmp_path / "ecg.safetensors")
    ecg_files.save(path, trained | {"pooled": wrong}, SIZES)
    with pytest.raises(CheckpointError, match="do not fit a width of 16"):
        ecg_files.load(path, SIZES.num_heads)


def test_an_ecg_that_cannot_be_read_costs_the_moments_and_not_the_weights(monkeypatch, capsys):
    def refuse(*_):
        raise DataError("is damaged")

    monkeypatch.setattr(ecgs, "read_all", refuse)
    recordings = [None] * (SIZES.width + 1)
    assert ecg_jepa._pooled_moments(Config(), SIZES, None, recordings, None) == {}
    assert "without moments" in capsys.readouterr().out
    assert ecg_jepa._pooled_moments(Config(), SIZES, None, recordings[:3], None) == {}


def test_moments_are_computed_by_all_processes_or_by_none(monkeypatch, capsys):
    monkeypatch.setattr(ecgs, "read_all", lambda *_: np.zeros((1, 8, 2500), np.float32))
    monkeypatch.setattr(messages, "exchange", lambda name, mine: [mine, "x.npz: is damaged"])
    recordings = [None] * (SIZES.width + 1)
    assert ecg_jepa._pooled_moments(Config(), SIZES, None, recordings, None) == {}
    assert "without moments of its representation: x.npz: is damaged" in capsys.readouterr().out


def test_processes_with_other_ecgs_than_each_other_stop(wfdb_folder, tmp_path, monkeypatch):
    cfg = config(tmp_path / "run", wfdb_folder, tmp_path, rows=0)
    found = ecg_jepa._recordings(cfg)
    others = ecgs.fingerprint(found["train"][1:])
    monkeypatch.setattr(messages, "exchange", lambda name, mine: [mine, others])
    with pytest.raises(DataError, match="process 1 has other rows, media"):
        ecg_jepa._recordings(cfg)
