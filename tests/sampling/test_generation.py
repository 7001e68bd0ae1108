"""Answers: equal to the full forward pass, to themselves in any company, and to their own
log-probabilities.
"""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.generation import make_model, samples

from qoq_jax.models import vlm
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.sampling import batches, loop
from qoq_jax.sampling import engine as engine_lib
from qoq_jax.sampling.engine import Engine
from qoq_jax.sampling.schedule import Settings
from qoq_jax.sampling.stream import TextStream

NEW = 24


@pytest.fixture(scope="module")
def model():
    return make_model(eos_ids=())  # no end: every answer has NEW tokens


@pytest.fixture(scope="module")
def greedy(model):
    return [answers[0] for answers in model.generate(samples(), NEW)]


@pytest.fixture(scope="module")
def drawn(model):
    """Three answers to each sample, at a temperature."""
    return model.generate(samples(), NEW, temperature=0.8, top_p=0.95, num_samples=3, seed=5)


def processed(prepared: dict, extra=()) -> dict:
    """The processed form of a prepared sample that has an image and an ECG at most, with further
    tokens.
    """
    kept = {"input_ids": np.concatenate([prepared["input_ids"], np.array(extra, np.int32)])}
    if len(prepared["patches"]):
        height, width = prepared["patch_hw"].max(axis=0) + 1
        # window order back to that of the image processor: by unit row, unit column
        hw, side = prepared["patch_hw"], 2
        order = np.lexsort((hw[:, 1], hw[:, 0], hw[:, 1] // side, hw[:, 0] // side))
        kept |= {"patches": prepared["patches"][order], "grid_thw": np.array([[1, height, width]])}
    return kept | ({"ecg": prepared["ecg"][0]} if len(prepared["ecg"]) else {})


def test_greedy_tokens_are_the_most_likely_ones_of_the_full_forward_pass(model, greedy):
    """And so processed samples, which are asked here, are the same as files and arrays, which were
    asked there.
    """
    prepared = model.prepare(samples())[:3]
    prompts = [processed(sample, answer.token_ids[:-1]) for sample, answer in zip(prepared, greedy)]
    banned = model.banned_ids()
    assert (
        len({tuple(answer.token_ids) for answer in greedy}) == 4
        and len(set(greedy[0].token_ids)) > 5
    )
    for logits, answer in zip(model.logits(prompts), greedy):
        tail = logits[-NEW:]
        logprob = np.asarray(jax.nn.log_softmax(tail))
        np.testing.assert_allclose(
            answer.logprobs,
            np.take_along_axis(logprob, answer.token_ids[:, None], 1)[:, 0],
            atol=2e-4,
        )
        tail[:, banned] = -np.inf
        np.testing.assert_array_equal(answer.token_ids, tail.argmax(axis=1))


def test_a_batch_of_unequal_prompts_equals_single_ones(model, greedy, drawn):
    for i in (1, 2):
        alone = model.generate(samples()[i : i + 1], NEW)[0][0]
        np.testing.assert_array_equal(alone.token_ids, greedy[i].token_ids)
    # A sample with its own seed draws the same wherever it stands.
    pair = model.generate([samples()[3], samples()[2]], NEW, temperature=0.8, seed=[7, 9])
    back = model.generate([samples()[2], samples()[3]], NEW, temperature=0.8, seed=[9, 7])
    np.testing.assert_array_equal(pair[0][0].token_ids, back[1][0].token_ids)
    np.testing.assert_array_equal(pair[1][0].token_ids, back[0][0].token_ids)
    assert {tuple(answer.token_ids) for group in drawn for answer in group} != {
        tuple(a.token_ids) for a in greedy
    }


def test_groups_share_a_prefill_and_their_log_probabilities_are_those_of_a_re_score(model, drawn):
    prepared = model.prepare(samples())
    for i in (0, 1):
        assert len({tuple(answer.token_ids) for answer in drawn[i]}) == 3
        logits = model.logits(
            [processed(prepared[i], answer.token_ids[:-1]) for answer in drawn[i]]
        )
        for values, answer in zip(logits, drawn[i]):
            logprob = np.asarray(jax.nn.log_softmax(values[-NEW:] / 0.8))
            np.testing.assert_allclose(
                answer.logprobs,
                np.take_along_axis(logprob, answer.token_ids[:, None], 1)[:, 0],
                atol=2e-4,
            )


@pytest.mark.slow
def test_refill_changes_no_token_and_needs_fewer_steps():
    """Answers of very different length through four rows: a row that has ended takes up the next
    prompt.
    """
    model = make_model(eos_ids=tuple(range(100)))  # about a tenth of the words end an answer
    prepared = model.prepare([{"prompt": f"Question {i}: why?"} for i in range(16)])
    steps, tokens = {}, {}
    for refill in (True, False):
        engine = Engine(model.params, model.cfg, None, model.banned_ids())
        settings = Settings(max_new_tokens=64, temperature=2.0, rows=4, refill=refill)
        found = engine.generate(prepared, settings, [(0, i) for i in range(16)])
        tokens[refill] = [np.concatenate(answers[0].tokens) for answers in found]
        steps[refill] = engine.steps
        assert engine.prefills == 16
    for a, b in zip(tokens[True], tokens[False]):
        np.testing.assert_array_equal(a, b)
    lengths = [len(a) for a in tokens[True]]
    assert min(lengths) < 4 and max(lengths) > 15, lengths
    assert steps[True] < 0.75 * steps[False] and steps[True] < sum(lengths) / 4 + max(lengths), (
        steps,
        lengths,
    )


def test_seeds_draw_anew_and_top_k_of_one_is_greedy(model, greedy, drawn):
    other = model.generate(samples(), NEW, temperature=0.8, top_p=0.95, num_samples=3, seed=6)
    for a, b in zip(drawn, other):
        assert {tuple(answer.token_ids) for answer in a}.isdisjoint(
            {tuple(answer.token_ids) for answer in b}
        )
    first = model.generate(samples(), NEW, temperature=0.8, top_k=1)
    for (answer,), best in zip(first, greedy):
        np.testing.assert_array_equal(answer.token_ids, best.token_ids)


def test_decoding_stops_with_the_last_answer(model, greedy):
    """The step that ends the only answer is the last one, whatever the limit."""
    end = int(greedy[2].token_ids[5])
    expected = int(np.flatnonzero(greedy[2].token_ids == end)[0]) + 1
    stops = make_model(eos_ids=(end,))
    answer = stops.generate(samples()[2:3], 500)[0][0]
    assert (
        answer.finish_reason == "eos" and len(answer.token_ids) == expected == stops._engine.steps
    )
    np.testing.assert_array_equal(answer.token_ids, greedy[2].token_ids[:expected])


@pytest.mark.slow
def test_rows_take_further_samples_of_their_prompt(model, drawn):
    """Three answers through two rows, and through places that must grow, equal three answers at
    once.
    """
    before = engine_lib.FIRST_PLACES
    engine_lib.FIRST_PLACES = 16
    try:
        again = model.generate(
            samples(), NEW, temperature=0.8, top_p=0.95, num_samples=3, seed=5, rows=2
        )
    finally:
        engine_lib.FIRST_PLACES = before
    for a, b in zip(drawn, again):
        for x, y in zip(a, b):
            np.testing.assert_array_equal(x.token_ids, y.token_ids)


def test_stop_strings_end_the_answer_and_streamed_pieces_join_to_its_text(model, greedy):
    whole = greedy[0].text
    stop = next(
        whole[i : i + 2] for i in range(len(whole) // 2, len(whole)) if whole[i : i + 2].isascii()
    )
    pieces: dict[int, str] = {}

    def stream(sample, answer, piece):
        pieces[sample] = pieces.get(sample, "") + piece

    found = [
        answers[0]
        for answers in model.generate(samples(), NEW, stop=[stop, "never said"], stream=stream)
    ]
    assert found[0].finish_reason == "stop" and found[0].text == whole[: whole.index(stop)]
    assert len(found[0].token_ids) < NEW and len(found[0].token_ids) == len(found[0].logprobs)
    assert stop in model.tokenizer.decode(
        found[0].token_ids
    ) and stop not in model.tokenizer.decode(found[0].token_ids[:-1])
    assert all(pieces.get(i, "") == answer.text for i, answer in enumerate(found))
    assert all(
        answer.finish_reason == "length" for answer in found if answer.finish_reason != "stop"
    )


@pytest.mark.slow
def test_an_end_token_ends_the_answer_and_banned_tokens_never_come():
    model = make_model()
    # nearly uniform over the words
    found = model.generate(samples()[:1], 200, temperature=20.0, num_samples=40)[0]
    tokens = np.concatenate([answer.token_ids for answer in found])
    assert not set(tokens.tolist()) & set(model.banned_ids()) and len(set(tokens.tolist())) > 300
    ended = [answer for answer in found if answer.finish_reason == "eos"]
    assert ended and all(answer.token_ids[-1] in model.cfg.eos_ids for answer in ended)
    assert all(not set(answer.token_ids[:-1].tolist()) & set(model.cfg.eos_ids) for answer in found)


@pytest.mark.slow
def test_eight_devices_equal_one(model, drawn):
    sharded = make_model(mesh_lib.make_mesh(data=2, fsdp=2, tensor=2), eos_ids=())
    found = sharded.generate(samples(), NEW, temperature=0.8, top_p=0.95, num_samples=3, seed=5)
    for a, b in zip(drawn, found):
        for x, y in zip(a, b):
            np.testing.assert_array_equal(x.token_ids, y.token_ids)
            np.testing.assert_allclose(x.logprobs, y.logprobs, atol=1e-4)


def test_the_cache_is_updated_in_place(model):
    """Prefill and decode get the cache as a donation, and the loop over tokens copies no layer of
    it, nor of the weights.
    """
    cfg, run = model.cfg, engine_lib.compiled(model.cfg)
    prepared = model.prepare(samples()[:1])
    shape = batches.shape_of(prepared[0])
    slots = jax.eval_shape(lambda: loop.empty_slots(cfg, 2, 4, shape[0], 2048))
    layer = slots.cache.response_k[0].size * 4
    orders = loop.Orders(
        start=jnp.zeros((2, 4), bool),
        live=jnp.ones((2, 4), bool),
        keys=jnp.zeros((2, 4, 2), jnp.uint32),
        limit=jnp.int32(2000),
        steps=jnp.int32(16),
        more=jnp.zeros(2, bool),
        wanted=jnp.int32(3),
    )
    draw = loop.Draw(jnp.zeros(cfg.decoder.vocab_size, bool), temperature=jnp.float32(1))
    batch = batches.make_batch(prepared, shape, 1, cfg)
    apart = jax.eval_shape(lambda params: vlm.decode_params(params, cfg), model.params)
    decode = run["decode"].lower(apart, slots, orders, draw, length=16).compile()
    admit = run["admit"].lower(model.params, slots, batch, jnp.zeros(1, jnp.int32)).compile()
    for memory in (decode.memory_analysis(), admit.memory_analysis()):
        assert (
            memory.alias_size_in_bytes >= 2 * cfg.decoder.num_layers * layer
            and memory.temp_size_in_bytes < layer
        ), memory
    made = arrays_of(decode.as_text(), layer)
    assert len(made) == 2 * cfg.decoder.num_layers and all(
        "dynamic-update-slice" in one for one in made
    ), made


def arrays_of(program: str, size: int) -> list[str]:
    """Instructions of a compiled program, those within fusions left out, whose result has `size`
    bytes of float32 or more.
    """
    found, fused = [], False
    for line in program.splitlines():
        if line.endswith("{"):
            fused = "fused_computation" in line
        result = re.match(r"\s+(?:ROOT )?%\S+ = f32\[([\d,]+)\]\S* ([\w-]+)\(", line)
        if result and not fused and result[2] not in ("parameter", "get-tuple-element", "bitcast"):
            found += (
                [line.strip()]
                if 4 * np.prod([int(n) for n in result[1].split(",")]) >= size
                else []
            )
    return found


def test_text_holds_back_what_may_become_a_stop_string(model):
    text = TextStream(model.tokenizer, ["END"])
    told = ""
    for token in model.tokenizer.encode("an EN, then the END of it"):
        stopped = text.add([token]) is not None
        told += text.fresh()
        assert "an EN, then the ".startswith(told)
        if stopped:
            break
    assert text.stopped and told == text.text == "an EN, then the "
