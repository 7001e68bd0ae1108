"""Packed batches through the slots: the same answers whatever the number of rows, the batch and the
mesh.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest
from helpers.generation import config, weights
from helpers.train import prompt_batch

from qoq_jax.models import spec, vlm
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.sampling import loop
from qoq_jax.sampling.sampler import make_sampler
from qoq_jax.sampling.schedule import Settings
from qoq_jax.train.log import CompileCounter

Q, G, S = 8, 2, 12
# about one word in ten ends an answer, so that lengths differ
CFG = config(eos_ids=tuple(range(100)))


def settings(rows: int, **changes) -> Settings:
    return Settings(**(dict(max_new_tokens=S, temperature=1.5, num_samples=G, rows=rows) | changes))


@pytest.fixture(scope="module")
def batch() -> dict:
    """Eight prompts, the fifth row empty; two media rows for four text rows each."""
    batch = dict(prompt_batch(CFG, Q))
    batch["segment_ids"] = batch["segment_ids"].at[4].set(0)
    media = ("patches", "patch_hw", "patch_frame", "patch_window", "ecg")
    return batch | {name: batch[name][:2] for name in media}


@pytest.fixture(scope="module")
def banned():
    return jax.device_put(np.zeros(CFG.decoder.vocab_size, bool))


@pytest.fixture(scope="module")
def at_once(batch, banned):
    return make_sampler(CFG, settings(0), None)(weights(), batch, jax.random.key(3), banned)


def assert_same(a, b) -> None:
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_array_equal(a.mask, b.mask)
    np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)


def test_answers_differ_in_length(at_once):
    lengths = np.asarray(at_once.mask.sum(axis=-1))
    assert (lengths[4] == 0).all() and lengths.max() == S and np.unique(lengths).size > 4


@pytest.mark.parametrize("rows", [1, Q * G // 4, Q * G // 2, Q * G])
def test_the_number_of_rows_changes_no_answer(batch, banned, at_once, rows):
    """One row: even the answers to one prompt come one after the other."""
    sampler = make_sampler(CFG, settings(rows), None)
    assert_same(at_once, sampler(weights(), batch, jax.random.key(3), banned))


@pytest.mark.slow
def test_nucleus_and_temperature_are_those_of_the_whole_batch(batch, banned):
    both = [settings(rows, temperature=0.8, top_p=0.9) for rows in (0, 6)]
    drawn = [
        make_sampler(CFG, one, None)(weights(), batch, jax.random.key(5), banned) for one in both
    ]
    assert_same(*drawn)


def test_a_step_crosses_no_array_unseen_and_compiles_nothing_new(batch, banned):
    """As the training loop calls it: numpy arrays that slip into a device operation are refused."""
    sampler = make_sampler(CFG, settings(4), None)
    keys = [jax.random.key(i) for i in range(3)]
    sampler(weights(), batch, keys[0], banned)
    compiles = CompileCounter()
    with jax.transfer_guard_host_to_device("disallow"):
        for key in keys[1:]:
            sampler(weights(), batch, key, banned)
    assert compiles.count == 0


def test_greedy_answers_run_from_batch_to_batch(batch, banned):
    """Three batches through four rows: each answer is that of its own batch alone, and all have
    come.
    """
    one = make_sampler(CFG, settings(0, temperature=0.0, num_samples=1), None)
    few = make_sampler(CFG, settings(4, temperature=0.0, num_samples=1), None)
    asked = [row for row in range(Q) if row != 4]
    batches = [batch] + [batch | {"tokens": batch["tokens"] + shift} for shift in (1, 2)]
    expected = [one(weights(), each, jax.random.key(0), banned) for each in batches]
    found = list(few.greedy(weights(), iter([(each, asked) for each in batches]), banned))
    assert sorted(answer.prompt for answer in found) == list(range(3 * len(asked)))
    for answer in found:
        which, row = divmod(answer.prompt, len(asked))
        tokens, mask = (
            np.asarray(x)[asked[row], 0] for x in (expected[which].tokens, expected[which].mask)
        )
        np.testing.assert_array_equal(answer.token_ids, tokens[mask > 0])


def test_no_batch_has_no_answers(banned):
    sampler = make_sampler(CFG, settings(4, temperature=0.0, num_samples=1), None)
    assert list(sampler.greedy(weights(), iter(()), banned)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "rows, ways",
    [
        (0, dict(data=2, fsdp=2, tensor=2)),
        (Q * G // 2, dict(data=2, fsdp=2, tensor=2)),
        (Q * G // 2, dict(data=2, fsdp=2, sequence=2)),
    ],
)
def test_eight_devices_equal_one(batch, banned, at_once, rows, ways):
    mesh = mesh_lib.make_mesh(**ways)
    params = jax.device_put(weights(), spec.shardings(vlm.param_specs(CFG), mesh))
    media = ("patches", "patch_hw", "patch_frame", "patch_window", "ecg")
    # four media rows, one for each device that rows are cut over
    spread = {name: np.repeat(np.asarray(batch[name]), 2, axis=0) for name in media}
    sharded = jax.device_put(batch | spread, mesh_lib.batch_sharding(mesh))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    key, banned = jax.device_put((jax.random.key(3), banned), whole)
    with jax.set_mesh(mesh):
        sampler = make_sampler(CFG, settings(rows), mesh)
        assert_same(at_once, sampler(params, sharded, key, banned))
        compiles = CompileCounter()
        drawn = sampler(params, sharded, key, banned)
        assert compiles.count == 0
    assert drawn.tokens.sharding.is_equivalent_to(mesh_lib.batch_sharding(mesh), 3)


# ---------------------------------------------------------------------------- when the loop returns


def state(live, ended, steps=1) -> loop.DecodeState:
    decoded = loop.Decoded(tokens=None, logprobs=None, count=None, steps=steps)
    return loop.DecodeState(None, decoded, live=np.array(live), ended=np.array(ended))


def orders(**changes) -> loop.Orders:
    none = dict(start=None, live=None, keys=None, limit=None)
    usual = dict(steps=4, more=np.array([False, False]), wanted=3)
    return loop.Orders(**none, **(usual | changes))


BOTH, FIRST, NONE = [[True], [True]], [[True], [False]], [[False], [False]]


@pytest.mark.parametrize(
    ("at", "asked", "goes_on"),
    [
        (state(BOTH, NONE), orders(), True),
        (state(BOTH, NONE, steps=4), orders(), False),  # all steps of the call are done
        (state(NONE, FIRST), orders(), False),  # no row lives
        (state(FIRST, [[False], [True]]), orders(), True),  # a row ends, and nothing waits for it
        (state(FIRST, [[False], [True]]), orders(more=np.array([False, True])), False),
        (state(FIRST, [[False], [True]]), orders(more=np.array([True, False])), True),
        (state(FIRST, NONE), orders(wanted=1), False),  # a prompt waits for the idle slot
        (state(FIRST, NONE), orders(wanted=2), True),  # one idle slot is not worth a prefill
    ],
)
def test_the_loop_goes_on(at, asked, goes_on):
    assert bool(loop.goes_on(at, asked)) is goes_on
