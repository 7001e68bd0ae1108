"""Damaged files: a typed error that names the file, or a recording left out with its reason."""

import contextlib
import shutil

import numpy as np
import pytest

from qoq_jax.base.errors import DataError
from qoq_jax.climb.arrays import cells, molecules, read, sets
from qoq_jax.climb.arrays.record import Record
from qoq_jax.climb.convert.folder import Folder
from tests.helpers import array_layouts


def damaged(content: bytes, how: str) -> bytes:
    """The bytes of a file that something happened to."""
    if how == "empty":
        return b""
    if how == "cut":
        return content[: len(content) // 2]
    if how == "noise":
        return np.random.default_rng(0).bytes(len(content))
    if how == "page":
        return b"<!DOCTYPE html><html><body>Please log in</body></html>"
    data = bytearray(content)
    generator = np.random.default_rng(int(how))
    for place in generator.integers(0, min(len(data), 600), 8):
        data[place] = int(generator.integers(256))
    return bytes(data)


# The one file that a set cannot do without, or of which every recording is.
FILES = {
    "tuab": "edf/train/normal/01_tcp_ar/aaaaamye_s001_t000.edf",
    "tuev": "edf/eval/032/bckg_032_a_.edf",
    "iiic": "X.npy",
    "abide": "abide.npz",
    "ppmi": "PPMI.mat",
    "abcd": "abcd_rest-pearson-HCP2016.npy",
    "proteins": "PROTEINS/PROTEINS_A.txt",
    "ppi": "train_graph.json",
    "hugadb": "HuGaDB_v2_various_01_00.txt",
    "geo": "GDS1nnn/GDS1001/soft/GDS1001.soft.gz",
    "expression-atlas": "E-MTAB-513/E-MTAB-513-tpms.tsv",
}


def damage(name, root, how):
    path = root / FILES[name]
    path.write_bytes(damaged(path.read_bytes(), how))
    return path


@pytest.mark.parametrize("how", ["empty", "cut", "noise", "page"])
@pytest.mark.parametrize("name", sets.READERS)
def test_a_file_that_is_not_whole_is_named(name, how, tmp_path):
    array_layouts.WRITERS[name](tmp_path)
    path = damage(name, tmp_path, how)
    try:
        items, _ = read.find(name, tmp_path)
    except DataError as error:
        assert path.name in str(error)
        return
    assert any(fails_on(item, path) for item in items)


def fails_on(item, path) -> bool:
    """Whether an item fails with an error that names the file."""
    try:
        list(item.read())
    except DataError as error:
        return path.name in str(error)
    return False


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", sets.READERS)
def test_bytes_that_changed_never_crash(name, tmp_path):
    """They may go unnoticed (a digit for a digit), but what is raised is a DataError."""
    array_layouts.WRITERS[name](tmp_path / "whole")
    for seed in range(3 if name == "ppmi" else 12):  # which starts a process for each
        shutil.copytree(tmp_path / "whole", tmp_path / str(seed))
        damage(name, tmp_path / str(seed), str(seed))
        with contextlib.suppress(DataError):
            list(read.records(name, tmp_path / str(seed)))


def test_one_damaged_recording_does_not_stop_the_others(tmp_path):
    array_layouts.tuab(tmp_path)
    damage("tuab", tmp_path, "noise")
    found = list(read.records("tuab", tmp_path))
    kept = {one.id for one in found if isinstance(one, Record)}
    assert kept == {"aaaaabcd_s003_t000:0s", "aaaaaxyz_s001_t000:0s"}
    left_out = {one.id: one.reason for one in found if not isinstance(one, Record)}
    assert "cannot be read as an EDF file" in left_out["aaaaamye_s001_t000"]
    assert str(tmp_path) not in "".join(left_out.values())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("A", "1, 4\n", "an edge between two graphs"),
        ("A", "1, 99\n", "an edge to a node that is not one of 7"),
        ("A", "1, 2, 3\n", "has 3 columns, not 2"),
        ("A", "1, 2\n2, 1\n2, 3\n", "an edge in one direction only"),
        ("A", "1, x\n", "is no table of numbers"),
        ("A", "1, 1.5\n", "a number that is not whole"),
        ("graph_indicator", "1\n1\n2\n1\n2\n3\n3\n", "does not number the 3 graphs"),
        ("node_labels", "0\n1\n", "has 2 nodes, graph_indicator 7"),
        ("graph_labels", "1\n2\n7\n", "no label for '7'"),
    ],
)
def test_tables_of_a_graph_that_disagree(name, content, message, tmp_path):
    array_layouts.proteins(tmp_path)
    (tmp_path / f"PROTEINS/PROTEINS_{name}.txt").write_text(content)
    with pytest.raises(DataError, match=rf"PROTEINS_{name}\.txt: .*{message}"):
        list(molecules.proteins(Folder(tmp_path)))


@pytest.mark.parametrize(
    ("file", "array", "message"),
    [
        ("Y.npy", np.zeros((5, 5)), r"is \[5, 5\], not \[5, 6\]"),
        ("X.npy", np.zeros((5, 16, 1000)), r"is \[5, 16, 1000\], not \[n, 16, 2000\]"),
        ("X.npy", np.array(["a"]), "not an array of the kind"),
        ("patients.npy", np.zeros((5,), object), "cannot be read as an .npy file"),
    ],
)
def test_arrays_of_another_shape(file, array, message, tmp_path):
    array_layouts.iiic(tmp_path)
    np.save(tmp_path / file, array, allow_pickle=True)
    with pytest.raises(DataError, match=f"{file}: .*{message}"):
        read.find("iiic", tmp_path)


def test_a_file_that_ends_the_process_that_reads_it(tmp_path, monkeypatch):
    array_layouts.ppmi(tmp_path)
    monkeypatch.setattr(cells, "_PROGRAM", "import os; os.abort()")
    with pytest.raises(DataError, match=r"PPMI\.mat: cannot be read as a MATLAB file"):
        read.find("ppmi", tmp_path)


def test_segments_without_patients_are_refused(tmp_path):
    array_layouts.iiic(tmp_path)
    (tmp_path / "patients.npy").unlink()
    with pytest.raises(DataError, match=r"patients\.npy: no such file"):
        read.find("iiic", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0,5.0,6.0\n", "has 3 columns, not 4"),
        ("0,5.0,6.0,7\n", "no label for '7'"),
        ("0,5.0,nan,6\n", "a number that is not finite"),
        ("<html>\n", "is no table of numbers"),
        ("", "the file is empty"),
    ],
)
def test_events_that_cannot_be_read(content, message, tmp_path):
    array_layouts.edf(tmp_path / "edf/train/a/a_1.edf", 10)
    (tmp_path / "edf/train/a/a_1.rec").write_text(content)
    (item,), _ = read.find("tuev", tmp_path)
    with pytest.raises(DataError, match=rf"a_1\.rec: .*{message}"):
        list(item.read())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1\t2\t3", "line 5 has 3 columns, not 39"),
        ("\t".join(["40000"] * 39), "a number of a sensor that is no int16"),
        ("\t".join(["1"] * 36 + ["300", "1", "5"]), "an EMG that is no uint8"),
        ("\t".join(["1"] * 38 + ["13"]), "an activity that is not 1 to 12"),
        ("\t".join(["one"] * 39), "line 5 holds what is no number"),
    ],
)
def test_samples_outside_their_range(line, message, tmp_path):
    path = tmp_path / "HuGaDB_v2_sitting_01_00.txt"
    array_layouts.hugadb_recording(path, [5])
    head = path.read_text().splitlines()[:4]
    path.write_text("\n".join([*head, line]) + "\n")
    (item,), _ = read.find("hugadb", tmp_path)
    with pytest.raises(DataError, match=f"{path.name}: .*{message}"):
        list(item.read())


def test_a_column_in_another_place_is_refused(tmp_path):
    path = tmp_path / "HuGaDB_v2_sitting_01_00.txt"
    array_layouts.hugadb_recording(path, [5])
    path.write_text(path.read_text().replace("acc_rf_x\tacc_rf_y", "acc_rf_y\tacc_rf_x"))
    (item,), _ = read.find("hugadb", tmp_path)
    with pytest.raises(DataError, match="column 1 is 'acc_rf_y', not"):
        list(item.read())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("INV1,M\n", "has no columns id and sex"),
        ("id,sex\nINV1,M,3\n", "has lines that are longer"),
        ("id,sex\nINV1,M\rF\n", "no label for"),
    ],
)
def test_sexes_that_cannot_be_read(content, message, tmp_path):
    array_layouts.abcd(tmp_path)
    (tmp_path / "id2sex.txt").write_bytes(content.encode())
    with pytest.raises(DataError, match=rf"id2sex\.txt: {message}"):
        read.find("abcd", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("!series_matrix_table_end\n", ""), "has no !series_matrix_table_end: it is cut short"),
        (("!series_matrix_table_begin", ""), "has no !series_matrix_table_begin"),
        (('"a_at"\t1.5', '"a_at"\rx\t1.5\t2'), "row 1 has 4 cells, the header 3"),
        (('"a_at"\t1.5', '"a_at"\tone'), "a cell that is no number"),
    ],
)
def test_a_series_that_cannot_be_read(change, message, tmp_path):
    array_layouts.geo(tmp_path)
    path = tmp_path / "GSE7_series_matrix.txt"
    path.write_bytes(path.read_text().replace(*change).encode())
    item = next(item for item in read.find("geo", tmp_path)[0] if item.patient == "GSE7")
    with pytest.raises(DataError, match=f"{path.name}: .*{message}"):
        list(item.read())


def test_two_recordings_of_one_name_are_refused(tmp_path):
    for part in ("normal", "abnormal"):
        array_layouts.edf(tmp_path / f"edf/train/{part}/a_s1_t0.edf", 10)
    with pytest.raises(DataError, match="two recordings have the id 'a_s1_t0'"):
        read.find("tuab", tmp_path)
