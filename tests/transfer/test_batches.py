"""The training stream: proportions, forms, shares of processes, resume, bad samples."""

import dataclasses

import numpy as np
import pytest

from qoq_jax.base.errors import DataError
from qoq_jax.data.pipeline import Reading, merge_states
from qoq_jax.transfer.batches import Batches, in_order, shares
from qoq_jax.transfer.sets import Vocabulary


def batches(sets, seed=0, **reading):
    return Batches(
        list(sets.values()),
        Vocabulary.of(sets.values()),
        batch=8,
        seed=seed,
        temperature=2.0,
        reading=Reading(threads=0, **reading),
    )


def of_set(batch, sets):
    """The set of each sample, by the columns of its labels."""
    vocabulary = Vocabulary.of(sets.values())
    names = {tuple(sorted(vocabulary.columns(one))): name for name, one in sets.items()}
    return [names[tuple(np.flatnonzero(own))] for own in batch["own"]]


def assert_equal(a, b):
    for name in ("gold", "own", "exclusive", "weight"):
        np.testing.assert_array_equal(a[name], b[name])
    for name in a["inputs"]:
        np.testing.assert_array_equal(a["inputs"][name], b["inputs"][name])


def test_shares_are_the_powers_of_the_counts():
    found = shares({"a": 400, "b": 100}, 2.0)
    assert found == pytest.approx({"a": 2 / 3, "b": 1 / 3})
    assert shares({"a": 400, "b": 100}, 1.0) == pytest.approx({"a": 0.8, "b": 0.2})


def test_the_stream_has_each_set_at_its_share(sets):
    data, counts = batches(sets), dict.fromkeys(sets, 0)
    for _ in range(100):
        for name in of_set(next(data), sets):
            counts[name] += 1
    expected = shares({"skin": 24, "chest": 12, "heart": 12}, 2.0)
    found = {name: count / 800 for name, count in counts.items()}
    assert found == pytest.approx(expected, abs=0.01)


def test_a_batch_holds_samples_of_one_form(sets):
    data = batches(sets)
    forms = [{sets[name].form for name in of_set(next(data), sets)} for _ in range(20)]
    assert {len(found) for found in forms} == {1}
    assert len(set.union(*forms)) == 2


def test_gold_labels_stand_in_the_columns_of_their_set(sets):
    batch = next(batches({"skin": sets["skin"]}))
    assert batch["gold"].sum(axis=1).tolist() == [1.0] * 8
    bands = batch["inputs"]["pixels"][:, 0, ::2].astype(int).mean(axis=(2, 3))[:, :2]
    np.testing.assert_array_equal(batch["gold"], bands == bands.max(axis=1, keepdims=True))


def test_a_resumed_stream_goes_on_with_the_same_batches(sets):
    data = batches(sets)
    for _ in range(5):
        next(data)
    state, expected = data.get_state(), [next(data) for _ in range(3)]
    again = batches(sets)
    again.set_state(state)
    for one in expected:
        assert_equal(next(again), one)


def test_a_state_of_other_sets_is_refused(sets):
    state = batches({"skin": sets["skin"]}).get_state()
    with pytest.raises(DataError, match="other samples, another seed"):
        batches(sets).set_state(state)


def test_two_processes_read_the_two_halves_of_each_batch(sets):
    whole = batches(sets)
    halves = [batches(sets, process_index=i, process_count=2) for i in range(2)]
    for _ in range(3):
        one, parts = next(whole), [next(half) for half in halves]
        for name in ("gold", "own", "weight"):
            np.testing.assert_array_equal(one[name], np.concatenate([p[name] for p in parts]))
    assert (
        merge_states(half.get_state() for half in halves)["iterator"]
        == (whole.get_state()["iterator"])
    )


def broken(sets, number=3):
    """The sets, where one training sample cannot be read."""
    split = sets["skin"].splits["train"]

    def read(place):
        if place == number:
            raise DataError("is damaged", where="a.png")
        return split.read(place)

    splits = sets["skin"].splits | {"train": dataclasses.replace(split, read=read)}
    return {"skin": dataclasses.replace(sets["skin"], splits=splits)}


def test_a_bad_sample_is_an_error_or_is_left_out_and_counted(sets):
    strict = batches(broken(sets))
    with pytest.raises(DataError, match="is damaged"):
        for _ in range(3):
            next(strict)
    data = batches(broken(sets), on_error="skip", max_bad=0.05)
    weights = sum(next(data)["weight"].sum() for _ in range(3))
    assert weights == 23.0
    assert list(data.quarantined) == ["skin/skin-train-3"]


def test_a_split_is_read_once_and_the_last_batch_is_filled_up(sets):
    split = sets["skin"].splits["test"]
    found = list(in_order(split, 8, Reading(threads=0)))
    assert [count for _, count in found] == [8, 4]
    pixels = np.concatenate([inputs["pixels"][:count] for inputs, count in found])
    np.testing.assert_array_equal(pixels, [split.read(i)["pixels"] for i in range(12)])
