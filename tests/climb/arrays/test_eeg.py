"""EEG: electrodes by name, microvolts, 200 Hz, windows where events are."""

import numpy as np
import pytest

from qoq_jax.base.errors import DataError
from qoq_jax.climb.arrays import edf, montage
from tests.helpers import array_layouts
from tests.helpers.array_layouts import ELECTRODES, read_all


def time_of(record):
    """The time in s that each sample was taken at, as `array_layouts.edf` wrote it."""
    place = record.names["channel"].index("A1")
    return record.arrays["signal"][place] - ELECTRODES.index("A1")


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("EEG FP1-REF", "FP1"),
        ("EEG T5-LE", "T5"),
        ("Fp2", "FP2"),
        ("EEG P7-REF", "T5"),
        ("T8", "T4"),
        ("EEG EKG1-REF", None),
        ("FP1-F7", None),
        ("PHOTIC-REF", None),
    ],
)
def test_electrodes_by_name(label, name):
    assert montage.electrode(label) == name


@pytest.mark.parametrize("rate", [200, 250, 256, 400, 512, 1000])
def test_the_rate_becomes_200_hz(rate, tmp_path):
    """Electrode i holds the time + i, which resampling keeps away from the ends."""
    array_layouts.edf(tmp_path / "a.edf", 12, rate)
    names, signal = edf.read(str(tmp_path / "a.edf"))
    assert names == montage.ELECTRODES[:21]
    assert signal.shape == (21, 2400)
    assert signal.dtype == np.float32
    time = np.arange(2400) / 200
    expected = time + np.array([ELECTRODES.index(name) for name in names])[:, None]
    np.testing.assert_allclose(signal[:, 100:-100], expected[:, 100:-100], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("unit", "factor"), [("mV", 1e-3), ("uV", 1.0), ("V", 1e-6)])
def test_values_are_microvolts(unit, factor, tmp_path):
    array_layouts.edf(tmp_path / "a.edf", unit=unit, factor=factor)
    names, signal = edf.read(str(tmp_path / "a.edf"))
    assert signal[names.index("FZ"), 1000] == pytest.approx(5 + ELECTRODES.index("FZ"), rel=1e-3)


def test_an_unknown_unit_is_refused(tmp_path):
    array_layouts.edf(tmp_path / "a.edf", unit="degC")
    with pytest.raises(DataError, match=r"a\.edf: a channel is in no unit of volts"):
        edf.read(str(tmp_path / "a.edf"))


def test_a_tone_above_100_hz_does_not_fold_back(tmp_path):
    """110 Hz at 512 Hz would be 90 Hz at 200 Hz without the filter."""
    from edfio import Edf, EdfSignal

    tone = 50 * np.sin(2 * np.pi * 110 * np.arange(20 * 512) / 512)
    channels = [
        EdfSignal(tone, 512, label=f"EEG {name}-REF", physical_dimension="uV")
        for name in ELECTRODES
    ]
    Edf(channels).write(tmp_path / "a.edf")
    _, signal = edf.read(str(tmp_path / "a.edf"))
    assert np.abs(signal[:, 200:-200]).max() < 0.15 * 50


def test_bipolar_channels_are_differences(tmp_path):
    array_layouts.tuab(tmp_path)
    records, _ = read_all("tuab", tmp_path)
    record = records["aaaaamye_s001_t000:10s"]
    names, signal = record.names["channel"], record.arrays["signal"]
    bipolar = montage.choose(signal, names, montage.BIPOLAR)
    assert bipolar.shape == (16, 2000)
    difference = ELECTRODES.index("FP1") - ELECTRODES.index("F7")
    np.testing.assert_allclose(bipolar[0], difference, atol=0.05)
    np.testing.assert_allclose(montage.choose(signal, names, ["CZ"])[0], signal[19])
    with pytest.raises(DataError, match="there is no channel T1"):
        montage.choose(signal, names, ["T1"])


def test_a_montage_that_is_bipolar_stays(tmp_path):
    array_layouts.iiic(tmp_path)
    records, _ = read_all("iiic", tmp_path)
    record = records["p3:3"]
    chosen = montage.choose(record.arrays["signal"], record.names["channel"], montage.BIPOLAR)
    np.testing.assert_array_equal(chosen, record.arrays["signal"])


def test_windows_follow_each_other(tmp_path):
    array_layouts.tuab(tmp_path)
    records, _ = read_all("tuab", tmp_path)
    second = time_of(records["aaaaamye_s001_t000:10s"])
    assert second[0] == pytest.approx(10, abs=0.02)
    assert second[-1] == pytest.approx(10 + 1999 / 200, abs=0.02)


def test_an_event_is_in_the_middle_of_its_window(tmp_path):
    array_layouts.tuev(tmp_path)
    records, _ = read_all("tuev", tmp_path)
    window = time_of(records["aaaaaaar/aaaaaaar_00000001:10-11s"])
    np.testing.assert_allclose(window, 8 + np.arange(1000) / 200, atol=0.02)


def test_a_window_wraps_round_the_start(tmp_path):
    """The event at 0 to 1 s of a recording of 21 s: 19 to 21 s, then 0 to 3 s."""
    array_layouts.tuev(tmp_path)
    records, _ = read_all("tuev", tmp_path)
    window = time_of(records["aaaaaaar/aaaaaaar_00000001:0-1s"])
    assert window[0] == pytest.approx(19, abs=0.02)
    assert window[500] == pytest.approx(0.5, abs=0.02)


def test_a_recording_without_annotations_is_left_out(tmp_path):
    array_layouts.tuev(tmp_path)
    (tmp_path / "edf/eval/032/bckg_032_a_.rec").unlink()
    _, dropped = read_all("tuev", tmp_path)
    assert dropped["032/bckg_032_a_"] == "no such file"


def test_without_edfio_the_extra_is_named(tmp_path, monkeypatch):
    import sys

    array_layouts.edf(tmp_path / "a.edf")
    monkeypatch.setitem(sys.modules, "edfio", None)
    with pytest.raises(DataError, match=r"qoq_jax\[eeg\]"):
        edf.read(str(tmp_path / "a.edf"))
