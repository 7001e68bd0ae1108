"""Fusion of a patient's modalities: who may influence whose prediction."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qoq_jax.models import fusion, spec

INPUTS = (
    fusion.Inputs("record", pooled=6, tokens=3, width=1, table=True),
    fusion.Inputs("ecg", pooled=4, tokens=2, width=4),
)


def config(method):
    return fusion.FusionConfig(method, INPUTS, classes=3, width=8, heads=2, queries=2)


def weights(method):
    params = spec.init_params(fusion.param_specs(config(method)), jax.random.key(0))
    # heads start at zero: with them nothing would influence anything
    draw = np.random.default_rng(1)
    return jax.tree.map(lambda x: x + jnp.asarray(0.3 * draw.normal(size=x.shape), x.dtype), params)


def patients(rows=5, seed=0):
    rng = np.random.default_rng(seed)
    found = {}
    for one in INPUTS:
        valid = rng.random((rows, one.tokens)) < 0.7
        valid[0] = True
        valid[1] = one.name == "record"  # a patient without an ECG
        found[one.name] = fusion.Modality(
            rng.normal(size=(rows, one.pooled)).astype(np.float32),
            rng.normal(size=(rows, one.tokens, one.width)).astype(np.float32),
            valid,
        )
    return found


def predict(method, params, found):
    if method != "late":
        return jax.nn.log_softmax(fusion.logits(params, config(method), found))
    present = {name: one.present for name, one in found.items()}
    heads = fusion.late_logits(params, found)
    return fusion.late_fusion(heads, present, {"record": 0.3, "ecg": 0.2})


def influences(run, found, rows):
    """Bool [rows, rows]: whether what patient i has changes the prediction of patient j."""
    before = np.asarray(run(found))
    moved = []
    for i in range(rows):
        changed = {
            name: one.replace(
                pooled=np.where(np.arange(rows)[:, None] == i, one.pooled + 1, one.pooled),
                tokens=np.where(np.arange(rows)[:, None, None] == i, one.tokens + 1, one.tokens),
            )
            for name, one in found.items()
        }
        moved.append(np.abs(np.asarray(run(changed)) - before).max(axis=1) > 1e-6)
    return np.stack(moved)


@pytest.mark.parametrize("method", fusion.METHODS)
def test_a_patient_changes_no_other_patients_prediction(method):
    params, found = weights(method), patients()
    run = jax.jit(lambda found: predict(method, params, found))
    np.testing.assert_array_equal(influences(run, found, 5), np.eye(5, dtype=bool))


def test_attention_over_the_batch_is_caught():
    """The mistake of the released code: patients take the place of tokens."""
    params, found = weights("attention"), patients()

    def over_the_batch(found):
        turned = {
            name: one.replace(
                pooled=one.pooled,
                tokens=jnp.swapaxes(one.tokens, 0, 1)[:1].repeat(5, axis=0)[
                    :, : one.tokens.shape[1]
                ],
            )
            for name, one in found.items()
        }
        return predict("attention", params, turned)

    assert influences(over_the_batch, found, 5).sum() > 5


@pytest.mark.parametrize("method", fusion.METHODS)
def test_what_is_written_where_a_modality_is_missing_changes_nothing(method):
    params, found = weights(method), patients()
    junk = found | {
        "ecg": found["ecg"].replace(
            pooled=np.where(found["ecg"].present[:, None], found["ecg"].pooled, 1e4),
            tokens=np.where(found["ecg"].valid[..., None], found["ecg"].tokens, np.nan),
        )
    }
    run = jax.jit(lambda found: predict(method, params, found))
    np.testing.assert_array_equal(np.asarray(run(junk)), np.asarray(run(found)))


@pytest.mark.parametrize("method", fusion.METHODS)
def test_every_weight_has_a_gradient(method):
    params, found = weights(method), patients()
    labels = jnp.array([0, 1, 2, 0, 1])

    def loss(params):
        total, count = fusion.loss(params, config(method), found, labels, jnp.ones(5))
        return total / count

    for path, gradient in spec.flatten(jax.jit(jax.grad(loss))(params)).items():
        # every place of a table, every token, every head
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0, path


def test_the_head_of_a_modality_learns_from_the_patients_who_have_it():
    params, found = weights("late"), patients()
    cfg, labels = config("late"), jnp.array([0, 1, 2, 0, 1])
    total, count = fusion.loss(params, cfg, found, labels, jnp.ones(5))
    heads = fusion.late_logits(params, found)
    expected = sum(
        -float(jax.nn.log_softmax(heads[name])[row, labels[row]])
        for name, one in found.items()
        for row in np.flatnonzero(one.present)
    )
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert float(count) == sum(int(one.present.sum()) for one in found.values())


def test_late_fusion_is_the_weighted_mean_over_the_modalities_that_are_there():
    heads = {"a": jnp.log(jnp.array([[0.8, 0.2]] * 3)), "b": jnp.log(jnp.array([[0.4, 0.6]] * 3))}
    present = {"a": jnp.array([True, True, False]), "b": jnp.array([True, False, False])}
    fused = jnp.exp(fusion.late_fusion(heads, present, {"a": 3.0, "b": 1.0}))
    np.testing.assert_allclose(fused, [[0.7, 0.3], [0.8, 0.2], [0.5, 0.5]], atol=1e-6)


def test_a_patient_without_anything_has_a_finite_prediction():
    found = {name: one.replace(valid=np.zeros_like(one.valid)) for name, one in patients().items()}
    for method in fusion.METHODS:
        assert np.isfinite(np.asarray(predict(method, weights(method), found))).all()
