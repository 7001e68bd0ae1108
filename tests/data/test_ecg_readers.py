"""ECG files as users have them: WFDB records, HDF5, MATLAB, tables; names of leads; lengths."""

from __future__ import annotations

import json
import pathlib
import sys
import typing

import h5py
import numpy as np
import pydicom
import pytest
import scipy.io
from helpers import wfdb_cases
from helpers.rows import TOKENIZER, config, row, write_ecg

from qoq_jax.base.errors import DataError
from qoq_jax.data import ecgs, index_build, pipeline, readers, sample
from qoq_jax.data import rows as schema
from qoq_jax.data.config import DataConfig
from qoq_jax.data.packing import Budget
from qoq_jax.data.readers import ecg_tables, leads, wfdb

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "wfdb.npz"
RATE = 100
FACTS = {"rate": RATE, "unit": "mV", "leads": list(leads.STANDARD)}


def signal(seconds: float = 10, scale: float = 1.0) -> np.ndarray:
    """float32 [12, n] at 100 Hz, no sample 0."""
    t = np.arange(round(seconds * RATE)) / RATE
    rows = [np.sin(2 * np.pi * (1 + 0.1 * i) * t + 0.3) + 0.01 * (i + 1) for i in range(12)]
    return (scale * np.stack(rows)).astype(np.float32)


def write_npz(path: pathlib.Path, values: np.ndarray, names=leads.STANDARD) -> pathlib.Path:
    np.savez(path, signal=values, fs=RATE, leads=np.array(names))
    return path


def facts(folder: pathlib.Path, name: str = "ecg.json", **change) -> None:
    (folder / name).write_text(json.dumps(FACTS | change))


@pytest.fixture
def expected(tmp_path) -> np.ndarray:
    """What `signal()` becomes."""
    return readers.read_ecg(write_npz(tmp_path / "expected.npz", signal()))


# --------------------------------------------------------------------------------------------- WFDB


@pytest.mark.parametrize("case", wfdb_cases.CASES)
def test_wfdb_records_are_what_the_wfdb_package_reads(case, tmp_path):
    found = wfdb.read_record(tmp_path / wfdb_cases.write(tmp_path, case))
    order = sorted(
        range(len(found.names)),
        key=lambda i: wfdb_cases.LEADS.index(found.names[i].split()[-1]),
    )
    with np.load(GOLDEN) as golden:
        for key, value in wfdb_cases.summary(found.signal[order]).items():
            np.testing.assert_array_equal(value, golden[f"{case}/{key}"], err_msg=key)


def test_a_wfdb_record_is_found_by_name_header_and_signal_file(tmp_path):
    name = wfdb_cases.write(tmp_path, "format_16")
    found = [wfdb.read_record(tmp_path / f"{name}{end}").signal for end in ("", ".hea", ".dat")]
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_a_long_wfdb_record_is_read_no_further_than_needed(tmp_path, monkeypatch):
    name = wfdb_cases.write(tmp_path, "format_212")
    header = tmp_path / f"{name}.hea"
    header.write_text(header.read_text().replace(" 51 509", " 102 509", 1))
    monkeypatch.setattr(wfdb, "WINDOW_SECONDS", 1)
    found = wfdb.read_record(header)
    assert found.signal.shape == (11, 102) and found.seconds == pytest.approx(509 / 102)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (" 16 ", " 516 ", "format 516"),
        ("/mV", "/mmHg", "unit that is not"),
        (" 16 ", " 99999 ", "damaged"),
        (" 16 3 ", f" 16 {10**20} ", "damaged"),
        ("format_16.dat", "other.dat", "no such file beside it"),
        ("format_16.dat", "../format_16.dat", "unsafe file"),
        ("format_16.dat 16 ", "format_16.dat 16x2 ", "cut short"),
        (" 51 509 ", " 51 510 ", "cut short"),
        (" 51 509 ", " 1e9 509 ", "frames per second"),
    ],
)
def test_wfdb_headers_that_cannot_be_read_say_why(old, new, said, tmp_path):
    header = tmp_path / f"{wfdb_cases.write(tmp_path, 'format_16')}.hea"
    header.write_text(header.read_text().replace(old, new))
    with pytest.raises(DataError) as caught:
        wfdb.read_record(header)
    assert said in str(caught.value) and str(caught.value).startswith(str(header))
    assert (said == "damaged") == ("damaged" in str(caught.value))


def test_leads_of_two_rates_are_refused_by_name(tmp_path):
    header = tmp_path / f"{wfdb_cases.write(tmp_path, 'frames_of_two')}.hea"
    header.write_text(header.read_text().replace(" 212x2 ", " 212 ", 1))
    with pytest.raises(DataError, match="different sampling rates"):
        wfdb.read_record(header)


def test_a_gap_in_the_first_ten_seconds_is_an_error(tmp_path):
    path = tmp_path / wfdb_cases.write(tmp_path, "variable_segments")
    with pytest.raises(DataError, match="missing samples"):
        readers.read_ecg(path, length="repeat")


# ------------------------------------------------------------------------------ links


def annex(root: pathlib.Path, store: pathlib.Path) -> pathlib.Path:
    """A record all of whose files are links into a store, as git-annex keeps them."""
    (root / "ecg").mkdir(parents=True)
    store.mkdir(parents=True)
    wfdb_cases.write(root / "ecg", "format_16")
    for number, name in enumerate(("format_16.hea", "format_16.dat")):
        (root / "ecg" / name).rename(store / f"SHA256-{number}")
        (root / "ecg" / name).symlink_to(store / f"SHA256-{number}")
    return root / "ecg" / "format_16.hea"


def test_links_that_stay_inside_the_data_folder_are_followed(tmp_path):
    root = tmp_path / "data"
    annex(root, root / ".git" / "annex" / "objects")
    assert wfdb.read_record(schema.resolve(root, "ecg/format_16.hea"), root).signal.shape[0] == 11


def test_links_that_leave_the_data_folder_are_refused(tmp_path):
    root = tmp_path / "data"
    header = annex(root, tmp_path / "store")
    with pytest.raises(DataError, match="outside its folder"):
        wfdb.read_record(header, root)
    with pytest.raises(DataError, match="leads out"):
        schema.resolve(root, "ecg/format_16.hea")


def test_a_member_of_a_file_behind_a_link_that_leaves_is_refused(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    (tmp_path / "exams.h5").write_bytes(b"x")
    (root / "exams.h5").symlink_to(tmp_path / "exams.h5")
    with pytest.raises(DataError, match="leads out"):
        schema.resolve(root, "exams.h5::tracings#3")


def test_a_described_file_may_not_be_described_from_outside(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    np.save(root / "a.npy", signal())
    facts(tmp_path)
    (root / "ecg.json").symlink_to(tmp_path / "ecg.json")
    with pytest.raises(DataError, match="outside its folder"):
        readers.read_ecg(root / "a.npy", root=root)


# ------------------------------------------------------------------------------ leads


@pytest.mark.parametrize(
    ("name", "lead"),
    [
        ("II", "II"),
        ("ii", "II"),
        ("Lead II", "II"),
        ("ECG I", "I"),
        ("D1", "I"),
        ("DI", "I"),
        ("DII", "II"),
        ("MLII", "II"),
        ("V1-REF", "V1"),
        ("AVR", "aVR"),
        ("avl", "aVL"),
        ("MDC_ECG_LEAD_V3", "V3"),
        ("MDC_ECG_LEAD_AVF", "aVF"),
        ("Lead I (Einthoven)", "I"),
        ("2:1", "I"),
        ("5.6.3-9-61", "III"),
        ("C4", "V4"),
        ("V 6", "V6"),
        ("Ⅱ", "II"),
        ("V1 [mV]", "V1"),
        ("ECG_V5", "V5"),
        ("lead 1", "I"),
        ("V4R", None),
        ("-aVR", None),
        ("Vx", None),
        ("I-II", None),
        ("V7", None),
        ("", None),
        ("Lead V3 right", None),
        ("4", None),
        ("ECG", None),
    ],
)
def test_names_of_leads(name, lead):
    assert leads.standard_name(name) == lead


def test_dicom_leads_are_found_by_code_where_the_meaning_says_nothing(tmp_path):
    path = pydicom.data.get_testdata_file("waveform_ecg.dcm")
    dataset = pydicom.dcmread(path)
    for channel in dataset.WaveformSequence[0].ChannelDefinitionSequence:
        channel.ChannelSourceSequence[0].CodeMeaning = "Kanal"
    dataset.save_as(tmp_path / "a.dcm")
    np.testing.assert_array_equal(readers.read_ecg(tmp_path / "a.dcm"), readers.read_ecg(path))


def test_missing_leads_are_listed_beside_those_found_and_no_free_text(tmp_path):
    names = ("MLII", "V5", *(f"Zyx {i}" for i in range(10)))
    with pytest.raises(DataError) as caught:
        readers.read_ecg(write_npz(tmp_path / "a.npz", signal(), names))
    assert "lacks lead I, V1, V2, V3, V4, V6; found II, V5 and 10 under other" in str(caught.value)
    assert "Zyx" not in str(caught.value)


def test_two_signals_that_could_be_a_lead_are_an_error_unless_one_has_its_plain_name(tmp_path):
    values = signal()
    rhythm = np.concatenate([values, values[1:2] * 2])
    both = (*leads.STANDARD[:1], "Lead II", *leads.STANDARD[2:], "MLII")
    with pytest.raises(DataError, match="2 different signals that could be lead II"):
        readers.read_ecg(write_npz(tmp_path / "a.npz", rhythm, both))
    plain = readers.read_ecg(write_npz(tmp_path / "b.npz", rhythm, (*leads.STANDARD, "MLII")))
    alone = readers.read_ecg(write_npz(tmp_path / "c.npz", values))
    np.testing.assert_array_equal(plain, alone)


# ------------------------------------------------------------------------------ length


def test_the_first_ten_seconds_of_a_longer_recording_are_taken_and_told(tmp_path, expected):
    told = []
    long = readers.read_ecg(write_npz(tmp_path / "a.npz", signal(25)), note=told.append)
    np.testing.assert_array_equal(long, expected)
    assert told == [readers.CUT]


def test_a_short_recording_is_refused_by_default(tmp_path):
    with pytest.raises(DataError, match=r"is 8\.0 s long.*ecg_length"):
        readers.read_ecg(write_npz(tmp_path / "a.npz", signal(8)))


def test_a_short_recording_starts_again_at_its_end_when_asked(tmp_path):
    told = []
    path = write_npz(tmp_path / "a.npz", signal(6))
    got = readers.read_ecg(path, length="repeat", note=told.append)
    assert told == [readers.REPEATED] and np.abs(got).max() > 0.5
    twice = write_npz(tmp_path / "b.npz", np.tile(signal(6), 2)[:, :1000])
    np.testing.assert_array_equal(got, readers.read_ecg(twice))


def test_less_than_five_seconds_are_never_repeated(tmp_path):
    with pytest.raises(DataError, match=r"is 4\.9 s long.*5 s are needed"):
        readers.read_ecg(write_npz(tmp_path / "a.npz", signal(4.9)), length="repeat")


def test_a_ten_second_recording_is_told_nothing(tmp_path):
    told = []
    readers.read_ecg(write_npz(tmp_path / "a.npz", signal(9.95)), length="repeat", note=told.append)
    assert told == []


def test_batches_count_what_was_cut_and_repeated(tmp_path):
    for i, seconds in enumerate((10, 7, 12)):
        write_npz(tmp_path / f"{i}.npz", signal(seconds))
    found = ecgs.find(tmp_path, "train")
    data = ecgs.EcgBatches(found, batch=3, seed=0, length="repeat")
    next(data)
    assert sorted(data.ecg_lengths.values()) == [readers.CUT, readers.REPEATED]


def test_the_length_is_part_of_what_a_resumed_run_compares(tmp_path):
    rows = [row(**{"time-series": [write_ecg(tmp_path, "ecg.npz")]})]
    budget = Budget(rows=1, tokens=400, media_rows=1, patches=0, ecgs=1, pad_id=0)
    states = [
        pipeline.make_eval_iterator(
            pipeline.Recipe(
                [pipeline.Source("a", tmp_path, rows)],
                TOKENIZER,
                config(ecg_length=length),
                budget,
            )
        ).get_state()
        for length in readers.ECG_LENGTHS
    ]
    assert states[0]["fingerprint"] != states[1]["fingerprint"]


# ------------------------------------------------------------------------------ arrays and tables


def test_a_recording_of_an_hdf5_file_as_code_15_has_them(tmp_path, expected):
    """[recordings, 1024, 12], zeros at both ends, numbers of the exams beside them."""
    tracings = np.zeros((3, 1024, 12), np.float32)
    tracings[1, 12:1012] = signal().T
    with h5py.File(tmp_path / "exams_part0.hdf5", "w") as file:
        file.create_dataset("tracings", data=tracings, compression="gzip")
        file["exam_id"] = np.array([590673, 1169160, 0])
    facts(tmp_path)
    for member in ("#1", "::tracings#1", "#exam_id=1169160"):
        got = readers.read_ecg(f"{tmp_path}/exams_part0.hdf5{member}")
        np.testing.assert_allclose(got, expected, atol=1e-6)
    for member, said in (("#3", "0 to 2"), ("", "3 axes"), ("#exam_id=7", "0 recordings")):
        with pytest.raises(DataError, match=said):
            readers.read_ecg(f"{tmp_path}/exams_part0.hdf5{member}")


def test_a_tree_lists_the_recordings_of_described_hdf5_files(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["tracings"] = np.stack([signal().T] * 2)
    with pytest.raises(DataError, match="no ECG files"):
        ecgs.find(tmp_path, "train")
    facts(tmp_path)
    found = ecgs.find(tmp_path, "train")
    assert [pathlib.Path(recording.path).name for recording in found] == ["a.h5#0", "a.h5#1"]
    assert ecgs.read_all(found).shape == (2, 8, 2500)


def test_hdf5_that_would_open_other_files_is_refused(tmp_path):
    facts(tmp_path)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["s"] = signal()
    virtual = h5py.VirtualLayout((12, 1000), np.float32)
    virtual[:] = h5py.VirtualSource(tmp_path / "other.h5", "s", (12, 1000))
    (tmp_path / "raw").write_bytes(signal().tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["link"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "s")
        file.create_virtual_dataset("virtual", virtual)
        raw = [(str(tmp_path / "raw"), 0, 48_000)]
        file.create_dataset("raw", (12, 1000), np.float32, external=raw)
    for name, said in (("link", "is a link"), ("virtual", "other files"), ("raw", "other files")):
        with pytest.raises(DataError, match=said):
            readers.read_ecg(f"{tmp_path}/a.h5::{name}")


def test_hdf5_without_h5py_names_the_extra(tmp_path, monkeypatch):
    facts(tmp_path)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["s"] = signal()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"needs the package h5py.*qoq_jax\[ecg\]"):
        readers.read_ecg(tmp_path / "a.h5")


def test_matlab_files_of_all_versions(tmp_path, expected):
    facts(tmp_path)
    scipy.io.savemat(tmp_path / "v4.mat", {"val": signal().astype(np.float64)}, format="4")
    record = {"sex": "x", "age": 5, "data": signal()}  # as CPSC 2018 was published
    scipy.io.savemat(tmp_path / "v5.mat", {"ECG": record}, do_compression=True)
    with h5py.File(tmp_path / "v73.mat", "w", userblock_size=512) as file:
        file["val"] = signal().T
    for name in ("v4.mat", "v5.mat::ECG.data", "v73.mat"):
        np.testing.assert_allclose(readers.read_ecg(f"{tmp_path}/{name}"), expected, atol=1e-6)
    for name in ("v5.mat", "v5.mat::ECG.none", "v5.mat::ECG.sex"):
        with pytest.raises(DataError, match="array"):
            readers.read_ecg(f"{tmp_path}/{name}")


def test_a_matlab_file_that_inflates_without_end_is_refused(tmp_path, monkeypatch):
    facts(tmp_path)
    scipy.io.savemat(tmp_path / "a.mat", {"val": np.zeros((12, 500_000))}, do_compression=True)
    monkeypatch.setattr("qoq_jax.data.readers.files.MAX_ARRAY_BYTES", 10 << 20)
    with pytest.raises(DataError, match="limit 10,485,760"):
        readers.read_ecg(tmp_path / "a.mat")


def test_npy_arrays_in_both_orders_and_units(tmp_path, expected):
    np.save(tmp_path / "a.npy", signal())
    np.save(tmp_path / "b.npy", signal(scale=1000).T)
    np.save(tmp_path / "c.npy", np.stack([signal(scale=10)] * 2))
    facts(tmp_path)
    facts(tmp_path, "b.npy.json", unit="µV")
    facts(tmp_path, "c.npy.json", unit=0.1)
    for name in ("a.npy", "b.npy", "c.npy#1"):
        np.testing.assert_allclose(readers.read_ecg(f"{tmp_path}/{name}"), expected, atol=1e-5)


@pytest.mark.parametrize("missing", ["rate", "unit", "leads"])
def test_bare_numbers_do_not_say_what_they_are(missing, tmp_path):
    np.save(tmp_path / "a.npy", signal())
    (tmp_path / "ecg.json").write_text(json.dumps({k: FACTS[k] for k in FACTS if k != missing}))
    with pytest.raises(DataError, match=f"does not say its {missing}"):
        readers.read_ecg(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "wrong", [{"unit": "mmHg"}, {"rate": "x"}, {"leads": "I"}, {"fs": 5}, {"rate": -1}]
)
def test_a_wrong_description_is_an_error_of_that_file(wrong, tmp_path):
    np.save(tmp_path / "a.npy", signal())
    facts(tmp_path, **wrong)
    with pytest.raises(DataError, match=r"ecg\.json: does not describe"):
        readers.read_ecg(tmp_path / "a.npy")


def table(path: pathlib.Path, head: str, mark: str = ",", time: bool = False) -> pathlib.Path:
    columns = signal().T.astype(np.float64)
    if time:
        columns = np.column_stack([np.arange(len(columns)) / RATE, columns])
    lines = [mark.join(f"{value:.6f}" for value in row) for row in columns]
    text = head + "\n".join(lines) + "\n"
    path.write_text(text.replace(".", ",") if mark == ";" else text, encoding="utf-8-sig")
    return path


def test_tables_that_say_all_themselves(tmp_path, expected):
    units = ",".join(f"{lead} (mV)" for lead in leads.STANDARD)
    rdsamp = ",".join(f"'{lead}'" for lead in leads.STANDARD)
    seconds = ",".join(["'seconds'"] + ["'mV'"] * 12)
    for name, head in (
        ("a.csv", f"time (s),{units}\n"),
        ("b.csv", f"'Elapsed time',{rdsamp}\n{seconds}\n"),
    ):
        got = readers.read_ecg(table(tmp_path / name, head, time=True))
        np.testing.assert_allclose(got, expected, atol=2e-6)


def test_tables_with_a_description(tmp_path, expected):
    facts(tmp_path)
    names = ";".join(leads.STANDARD) + "\r\n"
    for path in (table(tmp_path / "a.csv", ""), table(tmp_path / "b.csv", names, ";")):
        np.testing.assert_allclose(readers.read_ecg(path), expected, atol=2e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"unit": "uV"}, "another unit"),
        ({"rate": 500}, "another rate"),
        ({"leads": ["II", "I"]}, "another leads"),
    ],
)
def test_a_description_that_contradicts_its_table_is_an_error(change, said, tmp_path):
    head = "t_s," + ",".join(f"{lead} (mV)" for lead in leads.STANDARD) + "\n"
    facts(tmp_path, **change)
    with pytest.raises(DataError, match=said):
        readers.read_ecg(table(tmp_path / "a.csv", head, time=True))


def test_a_table_with_a_hole_in_time_is_an_error(tmp_path):
    values = np.column_stack([[0.0, 0.01, 0.02, 0.5], np.ones((4, 1))])
    text = "time (s),I (mV)\n" + "\n".join(",".join(map(str, row)) for row in values)
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match="uneven times"):
        ecg_tables.read(tmp_path / "a.csv")


def test_an_unknown_type_is_named_and_not_called_damaged(tmp_path):
    (tmp_path / "a.scp").write_bytes(b"\1" * 200)
    with pytest.raises(DataError, match=r"unknown type \.scp") as caught:
        readers.read_ecg(tmp_path / "a.scp")
    assert "damaged" not in str(caught.value)


def test_the_size_of_a_row_s_member_is_that_of_its_file(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"12345")
    assert index_build.file_size(str(tmp_path / "a.h5#3")) == 5


def test_rows_with_other_lengths_say_so_in_their_sample(tmp_path):

    write_ecg(tmp_path, "ten.npz")
    write_npz(tmp_path / "six.npz", signal(6))
    for name, wanted in (("ten.npz", ()), ("six.npz", (readers.REPEATED,))):
        made = sample.process(
            row(domain="ecg", **{"time-series": [name]}),
            tmp_path,
            TOKENIZER,
            config(ecg_length="repeat"),
        )
        assert made["meta"].ecg_lengths == wanted


def test_the_choices_of_the_config_are_those_of_the_reader():
    choices = typing.get_type_hints(DataConfig)["ecg_length"]
    assert typing.get_args(choices) == readers.ECG_LENGTHS
