"""Records to batches of fixed shape."""

from __future__ import annotations

import numpy as np
import pytest

from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.climb.arrays import batches, montage
from qoq_jax.climb.arrays.record import Record
from tests.helpers.array_layouts import WRITERS, read_all


def record(arrays, names=None, labels=("a",), identity="one"):
    return Record(identity, identity, labels, arrays, names or {})


def eeg_record(names, samples=12):
    signal = np.arange(len(names))[:, None] * np.ones((1, samples), np.float32)
    return record({"signal": signal.astype(np.float32)}, {"channel": tuple(names)})


def test_the_smallest_size_that_holds_a_length_is_chosen():
    assert batches.bucket(64, (128, 64)) == 64
    assert batches.bucket(65, (128, 64)) == 128
    with pytest.raises(DataError, match="129 is longer than 128"):
        batches.bucket(129, (128, 64))


def test_targets_have_a_one_for_each_label():
    found = batches.targets([record({}, labels=("c", "a")), record({}, labels=("b",))], "abc")
    np.testing.assert_array_equal(found, [[1, 0, 1], [0, 1, 0]])
    for labels in ((), ("d",)):
        with pytest.raises(DataError, match="one: has the labels"):
            batches.targets([record({}, labels=labels)], "abc")


def test_eeg_makes_the_montage_and_masks_what_a_record_lacks():
    wanted = ("FP1-F7", "F7-T3", "F7")
    whole = eeg_record(["F7", "T3", "FP1"])
    bipolar = eeg_record(["FP1-F7", "T3"])
    batch = batches.eeg([whole, bipolar], wanted, samples=10)
    assert batch["signal"].shape == (2, 3, 10) and batch["signal"].dtype == np.float32
    np.testing.assert_array_equal(batch["channel_valid"], [[1, 1, 1], [1, 0, 0]])
    np.testing.assert_array_equal(batch["signal"][:, :, 0], [[2, -1, 0], [0, 0, 0]])


def test_eeg_that_is_too_short_or_of_other_channels_is_named():
    with pytest.raises(DataError, match="one: has 12 samples, not 13"):
        batches.eeg([eeg_record(["F7"])], ["F7"], 13)
    with pytest.raises(DataError, match="one: has none of the channels FP1-F7"):
        batches.eeg([eeg_record(["F7"])], montage.BIPOLAR, 10)


def test_a_connectome_has_its_rows_as_features_and_no_loops():
    adjacency = np.array([[1, 0.5, 0.2], [0.5, 1, 0.3], [0.2, 0.3, 1]], np.float32)
    there = np.array([True, False, True])
    batch = batches.graph([record({"adjacency": adjacency, "present": there})], 4, 5)
    np.testing.assert_array_equal(batch["node_valid"], [[1, 0, 1, 0]])
    expected = np.zeros((4, 4), np.float32)
    expected[0, 2] = expected[2, 0] = 0.2
    np.testing.assert_array_equal(batch["adjacency"][0], expected)
    np.testing.assert_allclose(batch["nodes"][0, 0], [0, 0.5, 0.2, 0, 0])
    assert not batch["nodes"][0, 1].any()
    assert adjacency[0, 0] == 1  # the record is as it was


def test_a_graph_of_edges_has_the_features_of_its_nodes():
    arrays = {
        "nodes": np.array([[1, 2], [3, 4], [5, 6]], np.float32),
        "edges": np.array([[0, 1, 1], [1, 0, 1]], np.int32),
    }
    batch = batches.graph([record(arrays)], 4, 2)
    np.testing.assert_array_equal(batch["node_valid"], [[1, 1, 1, 0]])
    np.testing.assert_array_equal(batch["nodes"][0, :3], arrays["nodes"])
    assert batch["adjacency"][0].nonzero()[0].tolist() == [0, 1]


@pytest.mark.parametrize(
    "arrays, nodes, view, message",
    [
        ("connectome", 2, 0, "has 3 nodes of 3 features, the batch 2 of 9"),
        ("connectome", 9, 1, "has 1 networks, no number 1"),
        ("motion", 9, 0, "and is no graph"),
    ],
)
def test_what_is_no_graph_of_the_size_is_named(arrays, nodes, view, message):
    held = {
        "connectome": {"adjacency": np.eye(3, dtype=np.float32), "present": np.ones(3, bool)},
        "motion": {"motion": np.ones((4, 2), np.float32)},
    }
    with pytest.raises(DataError, match=f"one: .*{message}"):
        batches.graph([record(held[arrays])], nodes, 9, view)


@pytest.mark.parametrize("length, found", [(3, [(0, 3)]), (8, [(0, 4), (2, 6), (4, 8)])])
def test_windows_cover_a_record(length, found):
    one = record({"motion": np.zeros((length, 2), np.float32)})
    assert batches.windows(one, steps=4, hop=2) == found
    assert batches.windows(record({"motion": np.zeros((9, 2))}), 4, 4)[-1] == (8, 9)
    with pytest.raises(ConfigError, match="windows of 4 steps every 5"):
        batches.windows(one, 4, 5)


def test_motion_is_standardised_and_padded():
    rng = np.random.default_rng(0)
    moves = [record({"motion": rng.normal(1e4, 3, (n, 2)).astype(np.float32)}) for n in (50, 7)]
    standard = batches.Standard.of(one.arrays["motion"] for one in moves)
    together = np.concatenate([one.arrays["motion"] for one in moves]).astype(float)
    np.testing.assert_allclose(standard.mean, together.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(standard.std, together.std(axis=0), rtol=1e-4)
    cuts = [(moves[0], (3, 13)), (moves[1], (0, 7))]
    batch = batches.motion(cuts, 10, standard)
    np.testing.assert_array_equal(batch["step_valid"].sum(axis=1), [10, 7])
    assert not batch["signal"][1, 7:].any()
    expected = (moves[0].arrays["motion"][3:13] - standard.mean) / standard.std
    np.testing.assert_allclose(batch["signal"][0], expected, atol=1e-6)


def test_expression_is_standardised_by_the_genes_that_vary_most():
    values = np.array([[1, 5, 0, np.nan], [3, 5, 10, 2], [5, 5, 20, 2]], np.float32)
    names = ("g1", "g2", "g3", "g4")
    samples = [record({"values": row}, {"probe": names}) for row in values]
    standard = batches.Standard.of((row[None] for row in values), names)
    assert standard.std[1] == standard.std[3] == 1 and standard.mean[3] == 2
    kept = batches.most_varying(standard, 3)
    assert kept.names == ("g1", "g2", "g3")
    batch = batches.expression(samples, standard, genes=6)
    np.testing.assert_array_equal(batch["value_valid"][0], [1, 1, 1, 0, 0, 0])
    np.testing.assert_allclose(batch["values"][:, 0], [-1.2247449, 0, 1.2247449], atol=1e-6)
    assert not batch["values"][0, 3:].any()
    with pytest.raises(DataError, match="lacks probes"):
        other = record({"values": values[0, :1]}, {"probe": ("g1",)})
        batches.expression([other], standard, 6)
    with pytest.raises(ConfigError, match="4 genes do not fit 3"):
        batches.expression(samples, standard, 3)


@pytest.mark.parametrize("name", ["iiic", "abide", "proteins", "hugadb"])
def test_records_of_the_published_layouts_become_batches(name, tmp_path):
    WRITERS[name](tmp_path)
    found = list(read_all(name, tmp_path)[0].values())
    if name == "iiic":
        batch = batches.eeg(found, montage.BIPOLAR, 2000)
        assert batch["channel_valid"].all()
    elif name == "hugadb":
        standard = batches.Standard.of(one.arrays["motion"] for one in found)
        cuts = [(one, pair) for one in found for pair in batches.windows(one, 64, 32)]
        batch = batches.motion(cuts, 64, standard)
        assert batch["signal"].shape[1:] == (64, 36)
    else:
        batch = batches.graph(found, 200, 360)
        assert batch["nodes"].shape == (len(found), 200, 360)
    assert all(np.isfinite(array).all() for array in batch.values())
