"""The stream of batches is a function of rows, seed and config alone, and resumes exactly."""

from __future__ import annotations

import collections
import dataclasses
import json

import numpy as np
import pytest
from helpers.rows import TOKENIZER, config, mixed_rows, row

from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.data import pipeline
from qoq_jax.data.packing import Budget

PAD = TOKENIZER.token_to_id("<|endoftext|>")
BUDGET = Budget(rows=4, tokens=224, media_rows=4, patches=64, ecgs=1, pad_id=PAD)
WEIGHTS = {"chest_xray": 1.0, "fundus": 1.0, "ecg": 2.0}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipeline")
    return pipeline.Source("mini", root, mixed_rows(root))


ORDER = {"seed": 3, "weights_by_domain": None, "epochs": None}


def recipe(sources, budget=BUDGET, with_answer=False):
    return pipeline.Recipe(sources, TOKENIZER, config(), budget, with_answer)


def train(source, budget=BUDGET, **over):
    order = pipeline.Shuffle(**{key: over.pop(key, value) for key, value in ORDER.items()})
    reading = pipeline.Reading(**over)
    return pipeline.make_iterator(recipe([source], budget, with_answer=True), order, reading)


def evaluate(source, budget=BUDGET, **over):
    return pipeline.make_eval_iterator(recipe([source], budget), pipeline.Reading(**over))


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def ids(step):
    return [(place.meta.id, place.row, place.segment) for place in step[1]]


def assert_equal(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other):
        assert ids(a) == ids(b)
        for key in a[0]:
            np.testing.assert_array_equal(a[0][key], b[0][key])


def with_bad_row(source, at=5):
    rows = list(source.rows)
    rows[at] = row("broken", images=["gone.png"])
    return dataclasses.replace(source, rows=rows)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_same_seed_same_batches_whatever_the_threads(source, weights):
    one = take(train(source, weights_by_domain=weights), 4)
    assert_equal(one, take(train(source, weights_by_domain=weights, threads=0), 4))
    assert_equal(one, take(train(source, weights_by_domain=weights, threads=2, prefetch=8), 4))
    assert [ids(s) for s in one] != [
        ids(s) for s in take(train(source, weights_by_domain=weights, seed=4), 4)
    ]


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_resume_is_bit_equal(source, weights):
    straight = train(source, weights_by_domain=weights)
    take(straight, 3)
    saved = json.loads(json.dumps(straight.get_state()))
    resumed = train(source, weights_by_domain=weights)
    take(resumed, 1)  # whatever it held before
    resumed.set_state(saved)
    assert_equal(take(straight, 4), take(resumed, 4))
    assert straight.get_state() == resumed.get_state()


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_the_global_batch_does_not_depend_on_the_number_of_processes(source, count):
    budget = dataclasses.replace(BUDGET, rows=2 * BUDGET.rows, media_rows=2 * BUDGET.media_rows)
    whole = take(train(source, budget), 4)
    parts = [train(source, budget, process_index=p, process_count=count) for p in range(count)]
    for batch, placed in whole:
        steps = [next(part) for part in parts]
        for key, value in batch.items():
            np.testing.assert_array_equal(np.concatenate([b[key] for b, _ in steps]), value)
        rows = budget.rows // count
        moved = [
            (q.meta.id, q.row + p * rows, q.segment)
            for p, (_, local) in enumerate(steps)
            for q in local
        ]
        assert moved == [(q.meta.id, q.row, q.segment) for q in placed]


def test_states_of_two_processes_resume_on_four(source):
    pair = [train(source, process_index=p, process_count=2) for p in range(2)]
    for part in pair:
        take(part, 3)
    state = json.loads(json.dumps(pipeline.merge_states([part.get_state() for part in pair])))
    after = [train(source, process_index=p, process_count=4) for p in range(4)]
    for part in after:
        part.set_state(state)
    straight = train(source)
    take(straight, 3)
    for batch, _ in take(straight, 2):
        steps = [next(part) for part in after]
        np.testing.assert_array_equal(
            np.concatenate([b["tokens"] for b, _ in steps]), batch["tokens"]
        )
    with pytest.raises(DataError, match="no stream 2.*merge"):
        train(source).set_state(pair[0].get_state())


def test_states_of_different_steps_do_not_merge(source):
    one, other = (train(source, process_index=p, process_count=2) for p in range(2))
    next(one)
    with pytest.raises(DataError, match="different runs or batches"):
        pipeline.merge_states([one.get_state(), other.get_state()])


def test_a_state_of_other_data_or_seed_is_refused(source):
    state = train(source).get_state()
    renamed = dataclasses.replace(
        source, rows=[dataclasses.replace(source.rows[0], id="x"), *source.rows[1:]]
    )
    moved = dataclasses.replace(
        source, rows=[dataclasses.replace(source.rows[0], bbox=((1, 2, 3, 4),)), *source.rows[1:]]
    )
    for other in (
        train(renamed),
        train(moved),
        train(source, seed=9),
        train(source, weights_by_domain=WEIGHTS),
        evaluate(source),
    ):
        with pytest.raises(DataError, match="other rows, another seed"):
            other.set_state(state)


def test_media_of_another_size_are_other_data(tmp_path):
    source = pipeline.Source("mini", tmp_path, mixed_rows(tmp_path))
    state = train(source).get_state()
    train(source).set_state(state)
    with open(tmp_path / next(row.images[0] for row in source.rows if row.images), "ab") as file:
        file.write(b"0")
    with pytest.raises(DataError, match="other rows"):
        train(source).set_state(state)


def test_samples_go_by_the_name_of_their_data_set(source):
    """Two data sets may use the same ids, and a row may call its source what it likes."""
    other = dataclasses.replace(
        source, name="mine", rows=[dataclasses.replace(row, source="mini") for row in source.rows]
    )
    batches = list(pipeline.make_eval_iterator(recipe([source, other])))
    found = [(place.meta.source, place.meta.id) for _, placed in batches for place in placed]
    assert len(set(found)) == len(found) == 2 * len(source.rows) and {
        name for name, _ in found
    } == {"mini", "mine"}


def test_an_epoch_holds_each_row_once_and_epochs_differ(source):
    everything = [ids(step) for step in train(source, epochs=1)]
    seen = collections.Counter(name for step in everything for name, _, _ in step)
    assert seen == collections.Counter(r.id for r in source.rows)
    twice = collections.Counter(
        name for step in train(source, epochs=2) for name, _, _ in ids(step)
    )
    assert set(twice.values()) == {2} and len(twice) == len(source.rows)


def test_weights_set_the_share_of_each_domain_in_every_stream(source):
    budget = dataclasses.replace(BUDGET, max_per_row=1)
    text_only = [dataclasses.replace(r, images=(), time_series=(), bbox=()) for r in source.rows]
    source = dataclasses.replace(source, rows=text_only)
    counts = [collections.Counter() for _ in range(BUDGET.media_rows)]
    for _, placed in take(
        train(source, weights_by_domain=WEIGHTS | {"fundus": 0.0}, budget=budget), 96
    ):
        for place in placed:
            counts[place.row][place.meta.domain] += 1
    total = sum(counts, collections.Counter())
    assert set(total) == {"chest_xray", "ecg"}
    assert abs(total["ecg"] / total.total() - 2 / 3) < 0.05
    assert all(0.4 < c["ecg"] / c.total() < 0.9 for c in counts)


def test_one_sample_a_row_fills_every_row(source):
    budget = dataclasses.replace(BUDGET, rows=8, max_per_row=1)
    for _, placed in take(train(source, budget=budget), 4):
        assert [(p.row, p.segment) for p in placed] == [(b, 1) for b in range(8)]


def test_a_bad_sample_raises_and_the_state_stays_before_its_batch(source):
    iterator = train(with_bad_row(source), threads=0)
    with pytest.raises(DataError, match="mini: row 'broken', images.*gone.png"):
        for _ in range(50):
            state = iterator.get_state()
            next(iterator)
    assert iterator.get_state() == state
    with pytest.raises(DataError, match="row 'broken'"):
        next(iterator)


def test_skip_leaves_the_sample_out_names_and_counts_it(source):
    bad = with_bad_row(source)
    iterator = train(bad, epochs=2, on_error="skip")
    seen = collections.Counter(name for step in iterator for name, _, _ in ids(step))
    assert set(seen) == {r.id for r in bad.rows} - {"broken"}
    assert (
        list(iterator.quarantined) == ["mini/broken"]
        and "gone.png" in iterator.quarantined["mini/broken"]
    )
    resumed = train(bad, epochs=2, on_error="skip")
    resumed.set_state(iterator.get_state())
    assert resumed.quarantined == iterator.quarantined


def test_skip_has_a_limit(source):
    bad = with_bad_row(with_bad_row(source, 5), 6)
    bad = dataclasses.replace(
        bad, rows=[dataclasses.replace(r, id=f"{r.id}{i}") for i, r in enumerate(bad.rows)]
    )
    with pytest.raises(DataError, match="2 samples could not be made, the limit is 1"):
        take(train(bad, on_error="skip", max_bad=0.05), 50)


def test_a_sample_over_the_budget_is_named_or_skipped(source):
    small = dataclasses.replace(BUDGET, patches=24)
    with pytest.raises(DataError, match="32 patches, a whole batch row has 24"):
        take(train(source, budget=small), 20)
    iterator = train(source, budget=small, on_error="skip", max_bad=0.5)
    take(iterator, 20)
    assert iterator.quarantined


@pytest.mark.parametrize("count", [1, 2])
def test_evaluation_visits_every_row_in_order_once(source, count):
    rows = source.rows[:10]
    parts = [
        evaluate(dataclasses.replace(source, rows=rows), process_index=p, process_count=count)
        for p in range(count)
    ]
    steps = [list(part) for part in parts]
    assert {len(s) for s in steps} == {3}
    got = [place.meta.id for step in zip(*steps) for _, placed in step for place in placed]
    assert got == [r.id for r in rows]
    assert all(place.segment == 1 for s in steps for _, placed in s for place in placed)
    if count == 2:  # the last two of twelve places are empty and belong to the second process
        assert not steps[1][-1][0]["segment_ids"].any()


def test_evaluation_resumes(source):
    straight, resumed = evaluate(source), evaluate(source)
    take(straight, 2)
    resumed.set_state(json.loads(json.dumps(straight.get_state())))
    assert_equal(list(straight), list(resumed))


def test_evaluation_keeps_its_places_when_it_skips(source):
    steps = list(evaluate(with_bad_row(source), on_error="skip"))
    assert len(steps) == 6
    assert sum(len(placed) for _, placed in steps) == len(source.rows) - 1


def test_evaluation_says_when_media_rows_are_too_small(source):
    budget = dataclasses.replace(BUDGET, rows=8, media_rows=2, patches=64)
    with pytest.raises(DataError, match="overflow a media row"):
        list(evaluate(source, budget))


@pytest.mark.parametrize(
    "over, message",
    [
        ({"weights_by_domain": {"chest_xray": 1.0}}, "no weight for"),
        ({"weights_by_domain": WEIGHTS | {"mri": 1.0}}, "'mri' has no rows"),
        ({"weights_by_domain": dict.fromkeys(WEIGHTS, 0.0)}, "not all 0"),
        ({"process_count": 3}, "media_rows a multiple"),
        ({"epochs": 1, "process_count": 2}, "count steps"),
        ({"on_error": "ignore"}, "'raise' or 'skip'"),
        ({"max_bad": 1.5}, "max_bad"),
    ],
)
def test_mistakes_in_the_call_are_config_errors(source, over, message):
    with pytest.raises(ConfigError, match=message):
        train(source, **over)


def test_no_rows_is_an_error(source):
    with pytest.raises(DataError, match="no rows"):
        train(dataclasses.replace(source, rows=[]))
