"""The masked loss: labels of other sets cost nothing."""

import jax
import jax.numpy as jnp
import numpy as np

from qoq_jax.transfer import model

LOGITS = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32) * 3
# Row 0 is of an exclusive set of columns 0 and 3; row 1 of a set of several labels, 1, 3 and 4.
OWN = np.array([[1, 0, 0, 1, 0], [0, 1, 0, 1, 1]], bool)
GOLD = np.array([[0, 0, 0, 1, 0], [0, 1, 0, 0, 1]], np.float32)
EXCLUSIVE = np.array([True, False])


def losses(logits=LOGITS):
    return model.masked_losses(*map(jnp.asarray, (logits, GOLD, OWN, EXCLUSIVE)))


def test_an_exclusive_set_has_a_softmax_over_its_own_labels():
    z = LOGITS[0, [0, 3]].astype(np.float64)
    np.testing.assert_allclose(losses()[0], -np.log(np.exp(z[1]) / np.exp(z).sum()), rtol=1e-5)


def test_a_set_of_several_labels_has_the_mean_of_binary_cross_entropies():
    p = 1 / (1 + np.exp(-LOGITS[1, [1, 3, 4]].astype(np.float64)))
    expected = -np.mean([np.log(p[0]), np.log(1 - p[1]), np.log(p[2])])
    np.testing.assert_allclose(losses()[1], expected, rtol=1e-5)


def test_absent_labels_have_no_gradient_at_all():
    grads = np.asarray(jax.grad(lambda z: losses(z).sum())(jnp.asarray(LOGITS)))
    assert (grads[~OWN] == 0).all()
    assert (grads[OWN] != 0).all()


def test_absent_labels_change_nothing_however_large_their_logits():
    large = np.where(OWN, LOGITS, 1e30).astype(np.float32)
    np.testing.assert_array_equal(losses(large), losses())
    grads = np.asarray(jax.grad(lambda z: losses(z).sum())(jnp.asarray(large)))
    assert np.isfinite(grads).all()


def test_a_sample_that_was_not_read_costs_nothing():
    batch = {"gold": GOLD, "own": OWN, "exclusive": EXCLUSIVE, "weight": np.float32([1, 0])}
    batch = {name: jnp.asarray(value) for name, value in batch.items()}
    np.testing.assert_allclose(model.loss(jnp.asarray(LOGITS), batch), losses()[0], rtol=1e-6)
