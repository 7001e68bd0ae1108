"""ECGs of GE MUSE: values, units and leads; what names a patient stays in the file; bad files."""

import base64

import numpy as np
import pytest

from qoq_jax.base.errors import DataError
from qoq_jax.data import readers
from qoq_jax.data.readers import ecg, leads

CANARY = "DOE JANE 1931"
RATE = 500


def counts(seconds: float = 10) -> np.ndarray:
    """int16 [8, n]"""
    times = np.arange(round(seconds * RATE)) / RATE
    rows = [200 * np.sin(2 * np.pi * (1 + 0.1 * i) * times + 0.3) for i in range(8)]
    return np.rint(np.stack(rows)).astype("<i2")


def lead(name: str, samples: np.ndarray, **change: str) -> str:
    fields = {
        "LeadByteCountTotal": str(2 * len(samples)),
        "LeadSampleCountTotal": str(len(samples)),
        "LeadAmplitudeUnitsPerBit": "4.88",
        "LeadAmplitudeUnits": "MICROVOLTS",
        "LeadID": name,
        "LeadSampleSize": "2",
        "LeadOff": "FALSE",
        # As MUSE does, with line breaks.
        "WaveFormData": "\n".join(
            base64.encodebytes(samples.astype("<i2").tobytes()).decode().split()
        ),
    } | change
    return "<LeadData>" + "".join(f"<{k}>{v}</{k}>" for k, v in fields.items()) + "</LeadData>"


def waveform(kind: str, content: str, base: str = "500", exponent: str = "0") -> str:
    return (
        f"<Waveform><WaveformType>{kind}</WaveformType><SampleBase>{base}</SampleBase>"
        f"<SampleExponent>{exponent}</SampleExponent>{content}</Waveform>"
    )


def write(path, *waveforms: str, head: str = '<!DOCTYPE RestingECG SYSTEM "restecg.dtd">'):
    patient = (
        f"<PatientDemographics><PatientLastName>{CANARY}</PatientLastName></PatientDemographics>"
    )
    path.write_text(
        f'<?xml version="1.0" encoding="ISO-8859-1"?>{head}<RestingECG>{patient}'
        + "".join(waveforms)
        + "</RestingECG>",
        encoding="iso-8859-1",
    )
    return path


def rhythm(samples=None, **change: str) -> str:
    samples = counts() if samples is None else samples
    return waveform(
        "Rhythm", "".join(lead(n, s, **change) for n, s in zip(leads.NEEDED, samples, strict=True))
    )


def test_the_rhythm_strip_in_millivolts(tmp_path):
    median = waveform("Median", "".join(lead(n, counts(1.2)[0]) for n in leads.NEEDED))
    found = ecg.read_recording(write(tmp_path / "a.xml", median, rhythm()))
    assert found.names == list(leads.NEEDED) and (found.rate, found.seconds) == (500.0, 10.0)
    np.testing.assert_allclose(found.signal, counts() * 0.00488, rtol=1e-12)
    np.savez(tmp_path / "b.npz", signal=counts() * 0.00488, fs=500.0, leads=leads.NEEDED)
    same = readers.read_ecg(tmp_path / "b.npz")
    assert np.array_equal(readers.read_ecg(tmp_path / "a.xml"), same)


def test_units_and_rates(tmp_path):
    one = rhythm(LeadAmplitudeUnits="MILLIVOLTS", LeadAmplitudeUnitsPerBit="0.00488")
    one = one.replace("<SampleBase>500", "<SampleBase>5").replace("Exponent>0", "Exponent>2")
    found = ecg.read_recording(write(tmp_path / "a.xml", one))
    assert found.rate == 500 and np.allclose(found.signal, counts() * 0.00488)


def test_utf_16_is_read(tmp_path):
    path = write(tmp_path / "a.xml", rhythm())
    text = path.read_text(encoding="iso-8859-1").replace("ISO-8859-1", "UTF-16")
    expected = readers.read_ecg(path)
    path.write_text(text, encoding="utf-16")
    assert np.array_equal(readers.read_ecg(path), expected)


LAUGHS = '<!DOCTYPE RestingECG [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("waveforms", "head", "message"),
    [
        ([rhythm()], LAUGHS, "declares XML entities"),
        ([rhythm().replace("</Waveform>", "", 1)], "", "not well-formed"),
        ([], "", "0 rhythm strips"),
        ([rhythm(), rhythm()], "", "2 rhythm strips"),
        ([rhythm(LeadAmplitudeUnits="BANANAS")], "", "without a known unit"),
        ([rhythm(LeadSampleSize="4")], "", "not of 2 bytes"),
        ([rhythm(LeadSampleCountTotal="9999")], "", "samples are cut"),
        ([rhythm(WaveFormData="AAA*")], "", "samples are cut"),
        ([rhythm(LeadAmplitudeUnitsPerBit="nan")], "", "LeadAmplitudeUnitsPerBit"),
        ([rhythm(LeadOff="TRUE")], "", "was off"),
        ([waveform("Rhythm", "")], "", r"leads of \[\] samples"),
        ([waveform("Rhythm", lead("I", counts()[0]))], "", "lead"),
        ([rhythm().replace("<SampleBase>500", f"<SampleBase>{CANARY}")], "", "SampleBase"),
        ([rhythm().replace("Exponent>0", "Exponent>400")], "", "SampleExponent"),
        (["<a>" * 100_000], "", "too many parts"),
        (["<Waveform></Waveform>" * 50], "", "too many parts"),
        ([waveform("Rhythm", "<LeadData></LeadData>" * 500)], "", "too many parts"),
        ([rhythm(np.zeros((8, 5000), int))], "", "flat lead"),
    ],
)
def test_files_that_are_not_sound(tmp_path, waveforms, head, message):
    path = write(tmp_path / "a.xml", *waveforms, head=head)
    with pytest.raises(DataError, match=message) as caught:
        readers.read_ecg(path)
    assert "a.xml" in str(caught.value) and CANARY not in str(caught.value)


def test_other_xml_is_not_taken_for_an_ecg(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(f"<?xml version='1.0'?><AnnotatedECG>{CANARY}</AnnotatedECG>")
    with pytest.raises(DataError, match="unknown type"):
        readers.read_ecg(path)


def test_damaged_bytes_end_in_an_error_or_in_a_signal(tmp_path):
    whole = write(tmp_path / "a.xml", rhythm()).read_bytes()
    rng, errors = np.random.default_rng(0), 0
    for _ in range(60):
        content = bytearray(whole)
        if rng.random() < 0.5:
            del content[int(rng.integers(len(content))) :]
        for place in rng.integers(0, len(content), 3):
            content[place] = rng.integers(256)
        (tmp_path / "a.xml").write_bytes(content)
        try:
            assert readers.read_ecg(tmp_path / "a.xml").shape == (8, 2500)
        except DataError as error:
            errors += 1
            assert CANARY not in str(error)
    assert errors > 20
