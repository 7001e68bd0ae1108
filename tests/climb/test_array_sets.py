"""Made-up sets of arrays: what the simulators promise, labels in the signal, shards."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qoq_jax.base.errors import ConfigError
from qoq_jax.cli import main
from qoq_jax.climb.arrays import batches, montage, read
from qoq_jax.climb.arrays.source import ArraySource
from qoq_jax.climb.mini import array_sets, connectome_simulator, eeg_simulator, gait_simulator
from qoq_jax.evaluation.probe import linear_probe
from tests.helpers import signal_features


def records(name, patients, seed=0):
    """Records of a set with their splits, in memory."""
    one = array_sets.get(name)
    items = [array_sets.item(one, number, seed) for number in range(patients)]
    return list(read.in_splits(one.form, one.labels, items, seed))


def features(record):
    if "signal" in record.arrays:
        batch = batches.eeg([record], montage.BIPOLAR, 2000)
        return signal_features.eeg(batch["signal"][0])
    if "adjacency" in record.arrays:
        return signal_features.connectome(record.arrays["adjacency"])
    return signal_features.gait(record.arrays["motion"])


def auroc(name, patients):
    """Macro AUROC of a logistic regression on the held-out patients."""
    found, vocabulary = records(name, patients), array_sets.get(name).labels
    x = np.stack([features(record) for record in found])
    y = batches.targets(found, vocabulary) > 0
    held_out = np.array([record.split == "test" for record in found])
    return linear_probe(x[~held_out], y[~held_out], x[held_out], y[held_out], vocabulary)["auroc"]


@pytest.mark.parametrize(
    "name, patients, least",
    [
        ("eeg-mini", 50, 0.75),
        ("eeg-routine-mini", 24, 0.7),
        ("eeg-headband-mini", 40, 0.85),
        ("connectome-mini", 160, 0.8),
        ("connectome-age-mini", 120, 0.6),
        ("connectome-motor-mini", 120, 0.54),
        ("gait-mini", 40, 0.9),
        ("gait-ward-mini", 24, 0.85),
        ("gait-stroke-mini", 40, 0.65),
    ],
)
def test_labels_are_in_the_signal_and_no_label_is_given_away(name, patients, least):
    """By hand-written features of other patients than those that are asked for."""
    assert least < auroc(name, patients) < 0.999


def test_a_patient_is_in_one_split_and_depends_on_the_seed_alone():
    few, many = records("gait-mini", 2, seed=5), records("gait-mini", 6, seed=5)
    for one, again in zip(few, many):
        assert (one.id, one.labels, one.split) == (again.id, again.labels, again.split)
        np.testing.assert_array_equal(one.arrays["motion"], again.arrays["motion"])
    other = records("gait-mini", 2, seed=6)
    assert not np.array_equal(few[0].arrays["motion"], other[0].arrays["motion"])
    splits = {}
    for record in many:
        assert splits.setdefault(record.patient, record.split) == record.split


def test_of_a_small_set_most_patients_are_for_testing():
    splits = {record.patient: record.split for record in records("gait-ward-mini", 24)}
    assert sum(split == "test" for split in splits.values()) == 18


def test_a_headband_has_the_electrodes_of_the_temporal_chains():
    record = next(iter(records("eeg-headband-mini", 1)))
    valid = batches.eeg([record], montage.BIPOLAR, 2000)["channel_valid"][0]
    assert valid[:8].sum() >= 6 and not valid[8:].any()  # one electrode may be lost


def test_the_command_writes_shards_that_a_source_reads(tmp_path, capsys):
    folder = str(tmp_path / "out")
    assert main.main(["data", "arrays", "gait-mini", folder, "--patients", "8"]) == 0
    assert "gait-mini: " in capsys.readouterr().out
    report = json.loads((tmp_path / "out/arrays.json").read_text())
    assert report["labels"] == list(gait_simulator.LABELS)
    total = sum(len(ArraySource(folder, split)) for split in report["splits"])
    assert total == 8 * len(gait_simulator.LABELS)
    record = ArraySource(folder, "train")[0]
    assert record.arrays["motion"].shape[1] == len(record.names["sensor"]) == 36
    assert main.main(["data", "arrays", "list"]) == 0
    assert "eeg-mini          signal float32 [channel, 2000]" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        (["gait-mini"], "no folder is given"),
        (["gait-mini", "a", "b"], "made up and read from nowhere"),
        (["gait-mini", "a", "--patients", "-1"], "-1 patients"),
        (["hugadb", "a", "--patients", "3"], "--patients is for made-up sets"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(words, message, capsys):
    assert main.main(["data", "arrays", *words]) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_set_has_a_hint():
    with pytest.raises(ConfigError, match="no made-up data set 'eeg'"):
        array_sets.get("eeg")


# -------------------------------------------------------------------------------- the simulators


def spectrum_peak(wave, rate):
    """The frequency of the highest line between 0.4 and 8 Hz."""
    power = np.abs(np.fft.rfft(wave - wave.mean(), 8 * len(wave))) ** 2
    frequency = np.fft.rfftfreq(8 * len(wave), 1 / rate)
    inside = (frequency > 0.4) & (frequency < 8)
    return frequency[inside][np.argmax(power[inside])]


@pytest.mark.parametrize("seed", range(3))
def test_patterns_have_the_frequencies_of_their_definitions(seed):
    rng, t = np.random.default_rng(seed), np.arange(2000) / 200
    assert 0.9 < spectrum_peak(eeg_simulator.rhythm(t, rng), 200) < 3.1
    assert spectrum_peak(eeg_simulator.seizure(t, rng), 200) > 2.3
    wave = eeg_simulator.discharges(t, rng)
    sharp = (wave[1:-1] < wave[:-2]) & (wave[1:-1] < wave[2:]) & (wave[1:-1] < -0.5)
    assert 4 <= sharp.sum() <= 21  # 0.5 to 2 a second over 10 s


@pytest.mark.parametrize("label, lateral", [("LPD", True), ("LRDA", True), ("GRDA", False)])
def test_lateralised_patterns_are_on_one_side(label, lateral):
    rng = np.random.default_rng(1)
    who = eeg_simulator.head(rng)
    gains = eeg_simulator.gains(label, who, rng)
    sides = [
        gains[[int(name[-1]) % 2 == odd for name in eeg_simulator.ELECTRODES[:16]] + [False] * 3]
        for odd in (1, 0)
    ]
    near, far = sorted((side.max() for side in sides), reverse=True)
    assert (near > 3 * far) == lateral


def test_the_background_falls_with_frequency():
    rng = np.random.default_rng(0)
    signal = eeg_simulator.background(eeg_simulator.head(rng), rng, 2000)
    power = (np.abs(np.fft.rfft(signal, axis=1)) ** 2).mean(axis=0)
    assert power[10:30].mean() > 5 * power[150:250].mean() > 25 * power[500:650].mean()
    assert 4 < signal.std() < 60


def test_networks_are_blocks_and_sites_shift_them_all():
    rng = np.random.default_rng(0)
    same = connectome_simulator.NETWORK_OF[:, None] == connectome_simulator.NETWORK_OF
    off = ~np.eye(len(same), dtype=bool)
    means = {}
    for site in connectome_simulator.SITES:
        matrix = connectome_simulator.simulate("Control", site, rng)
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)
        assert matrix[same & off].mean() > matrix[~same].mean() + 0.08
        means[site.name] = matrix[off].mean()
    assert max(means.values()) > min(means.values()) + 0.15


def test_gravity_tells_sitting_from_standing_and_the_gyroscope_walking_from_both():
    rng = np.random.default_rng(0)
    who = gait_simulator.walker(rng)
    motion = {
        label: gait_simulator.simulate(label, who, rng, 4.0)
        for label in ("Sitting", "Standing", "Walking")
    }
    thigh = {label: one[:, 12:14].mean(axis=0) for label, one in motion.items()}
    assert abs(thigh["Sitting"][0]) > 0.7 > abs(thigh["Standing"][0])
    shin = {label: one[:, 9:12].std() for label, one in motion.items()}
    assert shin["Walking"] > 10 * shin["Standing"]
    assert 0.5 < spectrum_peak(motion["Walking"][:, 11], gait_simulator.RATE) < 2.2
