"""Drafts by n-gram lookup: the same responses in fewer steps."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.generation import make_model, samples

from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.sampling import engine, lookup
from qoq_jax.sampling.model import Model

NEW = 40


@pytest.fixture(scope="module")
def model():
    return make_model(eos_ids=tuple(range(30)))


def assert_same(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x.token_ids, y.token_ids)
            np.testing.assert_allclose(x.logprobs, y.logprobs, atol=1e-4)
            assert x.finish_reason == y.finish_reason


def test_a_draft_is_what_followed_the_last_same_tokens():
    context = jnp.array(
        [[[7, 8, 1, 2, 7, 8, 3, 4, 5, 7, 8, 0, 0], [1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]]]
    )
    found = lookup.draft(context, jnp.array([[11, 4]]), 4)
    np.testing.assert_array_equal(found, [[[3, 4, 5, 7], [-1, -1, -1, -1]]])
    # where the text ends it begins anew
    context = jnp.array([[[1, 2, 9, 1, 2, 0, 0]]])
    np.testing.assert_array_equal(lookup.draft(context, jnp.array([[5]]), 4), [[[9, 1, 2, 9]]])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.8, "top_p": 0.95, "num_samples": 2, "seed": 5, "rows": 4},
        {"temperature": 0.2, "seed": 7, "rows": 2, "prefill_tokens": 16},
    ],
    ids=["greedy", "sampled, refilled", "prefilled in parts"],
)
def test_responses_are_those_without(model, options, monkeypatch):
    """Images, ECGs, text and videos; places for responses grow on the way."""
    monkeypatch.setattr(engine, "FIRST_PLACES", 16)
    monkeypatch.setattr(engine, "CALL", 8)
    wanted = model.generate(samples(), NEW, **options)
    assert_same(model.generate(samples(), NEW, lookup=3, **options), wanted)


@pytest.mark.slow
def test_over_a_mesh(model):
    mesh = mesh_lib.make_mesh(data=2, fsdp=2, tensor=2)
    sharded = make_model(mesh, eos_ids=tuple(range(30)))
    options = {"temperature": 0.8, "num_samples": 2, "seed": 5, "lookup": 3}
    assert_same(
        sharded.generate(samples(), NEW, **options), model.generate(samples(), NEW, **options)
    )


def test_repetition_takes_fewer_steps():
    """A greedy response of the model with a tied head repeats itself."""

    model = make_model(eos_ids=())
    head = model.params["decoder"] | {"lm_head": 4 * model.params["decoder"]["embedding"]}
    model = Model(model.cfg, model.params | {"decoder": head}, model.tokenizer)
    steps, found = {}, {}
    for drafts in (0, 4):
        before = model._engine.steps
        found[drafts] = model.generate([{"prompt": "Why?"}], 64, lookup=drafts)
        steps[drafts] = model._engine.steps - before
    assert_same(found[4], found[0])
    assert steps[0] == 64 and steps[4] < 20
