"""Prompts that are prefilled in parts, beside running responses."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.generation import config, make_model, samples, weights
from helpers.train import prompt_batch

from qoq_jax.models import vlm
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.sampling import loop
from qoq_jax.sampling.schedule import Device, Schedule, Settings

NEW = 10
SETTINGS = dict(temperature=0.8, num_samples=2, seed=5, rows=4)


@pytest.fixture(scope="module")
def model():
    return make_model(eos_ids=tuple(range(100)))  # lengths differ: slots are free at other times


@pytest.fixture(scope="module")
def whole(model):
    return model.generate([*samples(), *samples()], NEW, **SETTINGS)


def assert_same(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x.token_ids, y.token_ids)
            np.testing.assert_allclose(x.logprobs, y.logprobs, atol=1e-4)


@pytest.mark.parametrize("part", [7, 64])
def test_responses_are_those_of_whole_prefills(model, whole, part):
    """Images, ECGs, text and videos; parts that divide nothing, and parts longer than a prompt."""
    found = model.generate([*samples(), *samples()], NEW, prefill_tokens=part, **SETTINGS)
    assert_same(found, whole)


@pytest.mark.slow
def test_over_a_mesh(whole):
    mesh = mesh_lib.make_mesh(data=2, fsdp=2, tensor=2)
    sharded = make_model(mesh, eos_ids=tuple(range(100)))
    found = sharded.generate([*samples(), *samples()], NEW, prefill_tokens=8, **SETTINGS)
    assert_same(found, whole)


def test_running_responses_wait_for_one_part_at_most():
    """A device that writes down what it is asked: responses of 64, 3 and 5 tokens in two slots,
    prompts of five parts, at most four tokens a call.
    """
    end, call, left, asked = 9, 4, {0: 64, 1: 3, 2: 5}, []

    def prefill(arriving):
        for prompt, slot in arriving.items():
            for _ in range(5):
                asked.append("part")
                yield None
            yield {prompt: slot}, lambda slots, here={slot: prompt}: slots | here

    def decode(slots, orders):
        asked.append(("decode", left[0]))
        tokens, count = np.zeros((2, 1, call), np.int32), np.zeros((2, 1), np.int32)
        for slot in np.flatnonzero(orders.live[:, 0]):
            prompt = slots[int(slot)]
            count[slot] = n = min(int(orders.steps), left[prompt])
            tokens[slot, 0, :n] = 5
            left[prompt] -= n
            if not left[prompt]:
                tokens[slot, 0, n - 1] = end
        steps = np.int32(count.max())
        return slots, loop.Decoded(tokens, np.zeros(tokens.shape, np.float32), count, steps)

    def whole(slots, arriving):
        raise AssertionError("a whole prompt was prefilled")

    settings = Settings(max_new_tokens=99, rows=2, prefill_tokens=8)
    schedule = Schedule(iter(range(3)), settings, 2, 1, [end])
    device = Device(whole, decode, call, 99, prefill=prefill)
    found = list(schedule.run(device, {}, lambda prompt, sample: np.zeros(2, np.uint32)))
    assert [response.prompt for response in found] == [1, 2, 0]
    assert [response.length for response in found] == [3, 5, 64] and schedule.admitted == 3
    first = asked.index(("decode", 64))
    assert asked[:first] == ["part"] * 5, "only what nothing can run beside"
    running = asked[first : asked.index(("decode", 4))]  # until the last call of response 0
    assert running.count("part") == 10
    assert not any(a == b == "part" for a, b in itertools.pairwise(running))


def test_hidden_and_cache_are_those_of_a_whole_prefill():
    cfg, batch = config(), prompt_batch(config(), 3)
    hidden, cache = vlm.prefill(weights(), cfg, batch, rollouts=1, max_new_tokens=1)
    state = loop.begin_prefill(cfg, weights(), batch, part=5)  # 12 tokens: 5, 5 and 2
    step = jax.jit(lambda state: loop.prefill_part(cfg, weights(), state, part=5))
    for _ in range(3):
        state = step(state)
    slots = loop.empty_slots(cfg, 3, 1, 12, 1)
    slots = loop.end_prefill(cfg, slots, state, jnp.arange(3), tokens=12)
    np.testing.assert_allclose(slots.prompt_hidden, hidden, atol=1e-5)
    np.testing.assert_array_equal(slots.cache.prompt_mask, cache.prompt_mask)
    seen = np.asarray(cache.prompt_mask)[:, None, None]
    for found, wanted in zip(slots.cache.prompt_k, cache.prompt_k):
        np.testing.assert_allclose(found * seen, wanted * seen, atol=1e-5)
