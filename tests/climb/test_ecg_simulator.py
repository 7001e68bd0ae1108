"""The ECG simulator obeys the laws of the leads and shows what each diagnosis means."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qoq_jax.climb.mini import ecg_simulator as sim

FS = 250.0


def record(label="Normal", kind=None, seed=0, severity=1.0, seconds=10.0, **changes):
    rng = np.random.default_rng(seed)
    heart = sim.heart(rng, (label,), severity, {label: kind} if kind else {})
    heart = replace(heart, noise_mv=0.0, wander_mv=0.0, **changes)
    return heart, sim.simulate(heart, rng, fs=FS, seconds=seconds)


def lead(recording, name):
    return recording.signal[sim.LEADS.index(name)]


def mean_beat(recording, name, start=-0.45, stop=0.55):
    """The average beat of a lead around R, less the level just before the QRS."""
    signal, half = lead(recording, name), np.arange(int(start * FS), int(stop * FS))
    at = np.round(recording.r_times[~recording.ectopic] * FS).astype(int)
    at = at[(at + half[0] >= 0) & (at + half[-1] < signal.size)]
    beat = signal[at[:, None] + half].mean(0)
    level = beat[(half >= -0.085 * FS) & (half <= -0.065 * FS)].mean()
    return half / FS, beat - level


def value(recording, name, at):
    t, beat = mean_beat(recording, name)
    return beat[np.argmin(np.abs(t - at))]


def qrs_duration(recording):
    """Seconds over which the vector of all leads moves fast, from the average beat."""
    t, _ = mean_beat(recording, "I")
    beats = np.stack(
        [mean_beat(recording, name)[1] for name in ("I", "II", "V1", "V2", "V4", "V6")]
    )
    speed = np.abs(np.gradient(beats, axis=1)).sum(0)
    near = np.abs(t - 0.02) < 0.16
    moving = t[near][speed[near] > 0.12 * speed[near].max()]
    return moving[-1] - moving[0]


@pytest.mark.parametrize("label", sim.LABELS)
def test_einthoven_and_goldberger_hold_with_noise(label):
    rng = np.random.default_rng(3)
    kind = {label: sim.KINDS[label][0]} if label in sim.KINDS else {}
    heart = replace(sim.heart(rng, (label,), 1.0, kind), noise_mv=0.05, wander_mv=0.2)
    signal = sim.simulate(heart, rng).signal
    i, ii, iii, avr, avl, avf = signal[:6]
    assert signal.shape == (12, 2500) and signal.dtype == np.float32 and np.isfinite(signal).all()
    np.testing.assert_allclose(i + iii, ii, atol=1e-6)
    np.testing.assert_allclose(avr, -(i + ii) / 2, atol=1e-6)
    np.testing.assert_allclose(avl, (i - iii) / 2, atol=1e-6)
    np.testing.assert_allclose(avf, (ii + iii) / 2, atol=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_normal_amplitudes_and_intervals_are_physiological(seed):
    heart, rec = record(seed=seed)
    assert 0.5 < np.ptp(mean_beat(rec, "II")[1]) < 2.2
    assert 0.4 < value(rec, "V5", 0.0) < 2.5  # R in V5
    assert lead(rec, "V1").min() < -0.3  # S in V1
    assert np.abs(rec.signal).max() < 3.5
    t, beat = mean_beat(rec, "II")
    p = beat[(t > -heart.pr - 0.04) & (t < -heart.pr + 0.09)].max()
    assert 0.05 < p < 0.30  # P in II
    assert beat[(t > 0.15) & (t < 0.45)].max() > 0.1  # upright T
    assert lead(rec, "aVR").min() < -0.3
    assert 0.05 < qrs_duration(rec) < 0.11
    rr = np.diff(rec.r_times)
    assert abs(60 / rr.mean() - heart.rate) < 4 and rr.std() / rr.mean() < 0.08


def test_fibrillation_is_irregular_and_has_no_p_wave():
    for seed in range(4):
        heart, rec = record("A. Fib/Aflutter", "fibrillation", seed, seconds=40.0)
        rr = np.diff(rec.r_times)
        assert rr.std() / rr.mean() > 0.12 and rr.min() >= 0.319
        assert heart.p == (0.0, 0.0, 0.0)
        # With the f waves taken away nothing is left before the QRS.
        still = replace(heart, atrial_mv=0.0)
        _, quiet = still, sim.simulate(still, np.random.default_rng(seed), fs=FS, seconds=40.0)
        slow = np.flatnonzero(np.diff(quiet.r_times) > 0.6) + 1
        for r in quiet.r_times[slow]:
            before = lead(quiet, "II")[int((r - 0.20) * FS) : int((r - 0.07) * FS)]
            assert np.ptp(before) < 0.04
        _, sinus = record(seed=seed, seconds=40.0)
        assert np.diff(sinus.r_times).std() < 0.4 * rr.std()


def test_flutter_is_regular_with_a_saw_at_300_a_minute():
    _, rec = record("A. Fib/Aflutter", "flutter")
    assert np.diff(rec.r_times).std() < 0.03
    spectrum = np.abs(np.fft.rfft(lead(rec, "II") - lead(rec, "II").mean()))
    _, plain = record()
    reference = np.abs(np.fft.rfft(lead(plain, "II") - lead(plain, "II").mean()))
    assert spectrum[50] > 1.5 * reference[48:53].max() or spectrum[50] > 40  # 5 Hz


@pytest.mark.parametrize("kind", ["left bundle branch block", "right bundle branch block"])
def test_bundle_branch_block_widens_the_qrs(kind):
    _, rec = record("CD", kind)
    assert qrs_duration(rec) > 0.115 > qrs_duration(record()[1])
    late = value(rec, "V1", 0.062)
    assert late > 0.3 if kind.startswith("right") else late < -0.3


def test_first_degree_block_prolongs_pr():
    heart, rec = record("CD", "long PR interval")
    t, beat = mean_beat(rec, "II")
    before = (t < -0.10) & (t > -0.42)
    assert heart.pr > 0.22 and t[before][np.argmax(beat[before])] < -0.24


def test_hypertrophy_meets_sokolow_lyon():
    _, rec = record("HYP")
    sokolow = -mean_beat(rec, "V1")[1].min() + mean_beat(rec, "V5")[1].max()
    _, normal = record()
    assert sokolow > 3.5 > -mean_beat(normal, "V1")[1].min() + mean_beat(normal, "V5")[1].max()


@pytest.mark.parametrize(
    "territory,names",
    [("anterior", ("V2", "V3")), ("inferior", ("II", "III", "aVF")), ("lateral", ("I", "V6"))],
)
def test_infarct_lifts_st_and_makes_q_waves_in_its_territory(territory, names):
    _, rec = record("MI", territory)
    for name in names:
        assert value(rec, name, 0.11) > 0.08, name  # ST
        t, beat = mean_beat(rec, name)
        assert beat[(t > -0.06) & (t < -0.01)].min() < -0.05, name  # Q
    assert value(record()[1], names[0], 0.11) < 0.05


def test_repolarisation_changes():
    _, rec = record("STTC", "T wave inversion")
    t, beat = mean_beat(rec, "V5")
    assert beat[(t > 0.15) & (t < 0.4)].min() < -0.1
    assert value(record("STTC", "ST depression")[1], "V5", 0.10) < -0.08


def test_premature_beats_come_early_and_wide():
    _, rec = record("Other", "premature beats")
    assert rec.ectopic.any()
    at = np.flatnonzero(rec.ectopic)[-1]
    rr = np.diff(rec.r_times)
    assert rr[at - 1] < 0.75 * np.median(rr[~rec.ectopic[1:]])


def test_same_seed_same_signal_and_combined_labels():
    first = sim.heart(
        np.random.default_rng(5), ("CD", "HYP"), 1.0, {"CD": "left bundle branch block"}
    )
    again = sim.heart(
        np.random.default_rng(5), ("HYP", "CD"), 1.0, {"CD": "left bundle branch block"}
    )
    assert first == again
    one = sim.simulate(first, np.random.default_rng(6)).signal
    np.testing.assert_array_equal(one, sim.simulate(again, np.random.default_rng(6)).signal)


def test_agrees_with_a_real_normal_record():
    """pydicom ships one real 12-lead record (sinus rhythm, normal): the same sizes and signs."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.data import get_testdata_file

    data = pydicom.dcmread(get_testdata_file("waveform_ecg.dcm"))
    item = data.WaveformSequence[0]
    raw = data.waveform_array(0).T  # [12, n]; microvolts
    names = [
        c.ChannelSourceSequence[0].CodeMeaning.replace("Lead ", "").split(" ")[0]
        for c in item.ChannelDefinitionSequence
    ]
    factor = (
        1e-3
        if str(item.ChannelDefinitionSequence[0].ChannelSensitivityUnitsSequence[0].CodeValue)
        == "uV"
        else 1.0
    )
    real = {name: raw[i] * factor for i, name in enumerate(names)}
    ours = {name: lead(record(seed=1)[1], name) for name in sim.LEADS}
    for name in ("I", "II", "V2", "V3", "V4", "V5", "V6"):
        ratio = np.ptp(ours[name]) / np.ptp(real[name])
        assert 1 / 3 < ratio < 3, (name, ratio)
    for name in ("aVR", "V1"):  # both point down, V4 to V6 and II up
        assert -ours[name].min() > ours[name].max() and -real[name].min() > real[name].max()
    for name in ("II", "V5"):
        assert ours[name].max() > -ours[name].min() and real[name].max() > -real[name].min()
