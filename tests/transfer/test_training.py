"""Training: one device and eight, a killed run and a whole one, what a run writes."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from qoq_jax.base.errors import ConfigError, DataError, Preempted
from qoq_jax.models import spec
from qoq_jax.parallel import preemption
from qoq_jax.transfer import run, training
from qoq_jax.transfer.sets import Vocabulary


def trained(cfg, sets, devices=None):
    bench = training.bench_of(cfg, Vocabulary.of(sets.values()), devices)
    with jax.set_mesh(bench.mesh):
        return jax.device_get(training.train(bench, run.STAGE, list(sets.values()), 6)[0])


def assert_close(a, b, **tolerance):
    for path, value in spec.flatten(a).items():
        np.testing.assert_allclose(value, spec.flatten(b)[path], err_msg=path, **tolerance)


@pytest.fixture(scope="module")
def whole(configured, sets, tmp_path_factory):
    """(config, weights) of a run on one device that nothing stopped."""
    cfg = configured(workdir=str(tmp_path_factory.mktemp("one")), mesh={"data": 1})
    return cfg, trained(cfg, sets, jax.devices()[:1])


def test_eight_devices_train_what_one_trains(whole, configured, sets, tmp_path):
    cfg = configured(workdir=str(tmp_path), mesh={"data": 2, "fsdp": 2, "tensor": 2})
    assert_close(trained(cfg, sets), whole[1], rtol=2e-4, atol=2e-6)


def test_a_preempted_run_ends_with_the_same_bits(whole, configured, sets, tmp_path, monkeypatch):
    cfg = configured(workdir=str(tmp_path), mesh={"data": 1})
    asked = []

    def noticed():
        asked.append(1)
        return len(asked) == 3

    monkeypatch.setattr(preemption, "is_noticed", noticed)
    with pytest.raises(Preempted, match="SIGTERM"):
        trained(cfg, sets, jax.devices()[:1])
    monkeypatch.undo()
    assert_close(trained(cfg, sets, jax.devices()[:1]), whole[1], rtol=0, atol=0)


def test_the_log_has_each_step_once(whole):
    rows = pathlib.Path(whole[0].workdir, "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 5, 6]


def test_a_set_trains_its_own_columns_alone(configured, sets, tmp_path):
    """All models have one head; columns of labels that no set has stay as they began."""
    cfg = configured(workdir=str(tmp_path), mesh={"data": 1}, optimizer={"weight_decay": 0.0})
    bench = training.bench_of(cfg, Vocabulary.of(sets.values()), jax.devices()[:1])
    with jax.set_mesh(bench.mesh):
        before = jax.device_get(bench.random_weights(cfg.seed))["head"]["kernel"]
        after = training.train(bench, run.STAGE, [sets["skin"]], 2)[0]["head"]["kernel"]
    own = bench.vocabulary.columns(sets["skin"])
    other = [k for k in range(len(bench.vocabulary)) if k not in own]
    np.testing.assert_array_equal(after[:, other], before[:, other])
    assert (np.asarray(after)[:, own] != before[:, own]).all()


@pytest.mark.parametrize(("name", "value"), [("sequence", 2), ("rollout_tensor", 4)])
def test_axes_of_text_alone_are_refused(name, value, configured):
    with pytest.raises(ConfigError, match=rf"mesh.{name} = {value}: an encoder .* no rows of text"):
        configured(mesh={"data": -1, name: value})


def test_a_batch_that_does_not_divide_over_the_devices_is_refused(configured, sets):
    cfg = configured(few={"batch": 12})
    with pytest.raises(ConfigError, match="12 rows does not divide over 8 devices"):
        training.bench_of(cfg, Vocabulary.of(sets.values()))


@pytest.mark.parametrize(("target", "trained_on"), [("", ("skin",)), ("skin", ())])
def test_what_cannot_be_scored_is_said_before_training(
    configured, sets, tmp_path, target, trained_on
):
    split = sets["skin"].splits["test"]
    part = {**sets["skin"].splits, "test": dataclasses.replace(split, gold=split.gold[::2])}
    one_sided = sets | {"skin": dataclasses.replace(sets["skin"], splits=part)}
    cfg = configured(workdir=str(tmp_path / "run"), target=target, sets=trained_on)
    with pytest.raises(DataError, match="skin: no label is both present and absent in the"):
        run.run_on(cfg, one_sided)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_what_could_not_be_read_is_in_the_record_of_the_run(configured, sets, tmp_path):
    split = sets["skin"].splits["train"]

    def read(place):
        if place == 3:
            raise DataError("is damaged", where="a.png")
        return split.read(place)

    part = {**sets["skin"].splits, "train": dataclasses.replace(split, read=read)}
    cfg = configured(
        workdir=str(tmp_path),
        sets=("skin",),
        data={"on_error": "skip", "max_bad_fraction": 0.05},
    )
    broken = sets | {"skin": dataclasses.replace(sets["skin"], splits=part)}
    assert run.run_on(cfg, broken) == 0
    (skipped,) = json.loads((tmp_path / "run.json").read_text())["skipped"]
    assert skipped["where"] == "skin/skin-train-3" and "is damaged" in skipped["reason"]
