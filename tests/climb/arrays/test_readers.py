"""Each reader on its data set in miniature, in the published layout."""

import numpy as np
import pytest

from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.climb.arrays import sets
from qoq_jax.climb.arrays.record import Array, Reader, Record, check
from qoq_jax.climb.catalogue import table
from tests.helpers import array_layouts
from tests.helpers.array_layouts import read_all

# name -> {id: (labels, patient, the source's split or "", {array: shape})}
EXPECTED = {
    "tuab": {
        "aaaaabcd_s003_t000:0s": (["Abnormal"], "aaaaabcd", "", {"signal": (21, 2000)}),
        "aaaaamye_s001_t000:0s": (["Normal"], "aaaaamye", "", {"signal": (21, 2000)}),
        "aaaaamye_s001_t000:10s": (["Normal"], "aaaaamye", "", {"signal": (21, 2000)}),
        "aaaaaxyz_s001_t000:0s": (["Normal"], "aaaaaxyz", "test", {"signal": (21, 2000)}),
    },
    "tuev": {
        "aaaaaaar/aaaaaaar_00000001:10-11s": (["BCKG"], "aaaaaaar", "", {"signal": (21, 1000)}),
        "aaaaaaar/aaaaaaar_00000001:14-15s": (
            ["SPSW", "BCKG"],
            "aaaaaaar",
            "",
            {"signal": (21, 1000)},
        ),
        "aaaaaaar/aaaaaaar_00000001:0-1s": (["ARTF"], "aaaaaaar", "", {"signal": (21, 1000)}),
        "032/bckg_032_a_:5-6s": (["BCKG"], "032", "test", {"signal": (21, 1000)}),
    },
    "iiic": {
        "p1:0": (["SZ"], "p1", "", {"signal": (16, 2000)}),
        "p1:1": (["Other"], "p1", "", {"signal": (16, 2000)}),
        "p3:3": (["LPD"], "p3", "", {"signal": (16, 2000)}),
    },
    "abide": {
        f"row {i}": (
            [label],
            f"row {i}",
            "",
            {"adjacency": (200, 200), "partial": (200, 200), "present": (200,)},
        )
        for i, label in enumerate(["ASD", "Typical control", "ASD"])
    },
    "ppmi": {
        f"row {i}": ([label], f"row {i}", "", {"adjacency": (3, 84, 84), "present": (84,)})
        for i, label in enumerate(["PD", "Control", "PD"])
    },
    "abcd": {
        "INV1": (["M"], "INV1", "", {"adjacency": (360, 360), "present": (360,)}),
        "INV3": (["F"], "INV3", "", {"adjacency": (360, 360), "present": (360,)}),
    },
    "proteins": {
        "1": (["Enzyme"], "1", "", {"nodes": (3, 4), "edges": (2, 4)}),
        "2": (["Not enzyme"], "2", "", {"nodes": (2, 4), "edges": (2, 2)}),
        "3": (["Enzyme"], "3", "", {"nodes": (2, 4), "edges": (2, 0)}),
    },
    "ppi": {
        "1": ([], "1", "train", {"nodes": (3, 50), "edges": (2, 2), "targets": (3, 121)}),
        "2": ([], "2", "train", {"nodes": (2, 50), "edges": (2, 2), "targets": (2, 121)}),
        "21": ([], "21", "validation", {"nodes": (2, 50), "edges": (2, 2), "targets": (2, 121)}),
        "23": ([], "23", "test", {"nodes": (2, 50), "edges": (2, 2), "targets": (2, 121)}),
    },
    "hugadb": {
        "HuGaDB_v2_standing_up_02_01:20": (
            ["Sitting down"],
            "2",
            "",
            {"motion": (100, 36), "emg": (100, 2)},
        ),
        "HuGaDB_v2_various_01_00:0": (["Sitting"], "1", "", {"motion": (70, 36), "emg": (70, 2)}),
        "HuGaDB_v2_various_01_00:150": (
            ["Standing"],
            "1",
            "",
            {"motion": (60, 36), "emg": (60, 2)},
        ),
    },
    "geo": {
        "GDS1001:GSM1": (["control"], "GDS1001", "", {"values": (2,)}),
        "GDS1001:GSM2": (["sepsis"], "GDS1001", "", {"values": (2,)}),
        "GDS1001:GSM3": (["sepsis"], "GDS1001", "", {"values": (2,)}),
        "GSE7:GSM8": (["liver"], "GSE7", "", {"values": (2,)}),
        "GSE7:GSM9": (["brain"], "GSE7", "", {"values": (2,)}),
    },
    "expression-atlas": {
        "E-MTAB-513-tpms": ([], "E-MTAB-513", "", {"values": (2, 2)}),
        "E-GEOD-9_A-AFFY-2-normalized-expressions": ([], "E-GEOD-9", "", {"values": (1, 2)}),
    },
}
DROPPED = {
    "tuab": {
        "aaaaacut_s001_t000": "is damaged: Incomplete data record at the end of the EDF file. "
        "Data was truncated.",
        "aaaaafew_s001_t000": "has no electrode C3",
        "aaaaashort_s001_t000": "is shorter than 10 s",
    },
    "tuev": {
        "aaaaaaar/aaaaaaar_00000001:90s": "an event is outside its recording",
        "033/bckg_032_a_": "no label for '9'",
    },
    "iiic": {
        "p2:2": "has no votes for the six patterns",
        "p3:4": "has samples that are not numbers",
    },
    "abcd": {"INV2": "id2sex.txt does not have the person"},
    "hugadb": {
        "HuGaDB_v2_sitting_03_00": "a sensor never moves: RF_gyro_x",
        "HuGaDB_v2_standing_up_02_01:0": "it is shorter than 1 s",
        "HuGaDB_v2_various_01_00:70": "its activity is number 1",
    },
}


@pytest.mark.parametrize("name", sets.READERS)
def test_records_of_the_published_layout(name, tmp_path):
    array_layouts.WRITERS[name](tmp_path)
    records, dropped = read_all(name, tmp_path)
    found = {
        record.id: (
            list(record.labels),
            record.patient,
            {array: value.shape for array, value in record.arrays.items()},
        )
        for record in records.values()
    }
    expected = EXPECTED[name]
    assert found == {key: (value[0], value[1], value[3]) for key, value in expected.items()}
    assert dropped == DROPPED.get(name, {})
    own = {key: value[2] for key, value in expected.items() if value[2]}
    assert {key: records[key].split for key in own} == own
    splits = {}
    for record in records.values():
        assert splits.setdefault(record.patient, record.split) == record.split
        assert record.split in ("train", "validation", "test")


def test_sets_are_those_of_the_catalogue_that_are_arrays():
    kinds = ("eeg", "imu", "graph", "table")
    rows = [row for row in table.load().values() if not row.companion]
    known = {row.name for row in rows if row.dimensionality in kinds}
    assert set(sets.READERS) == known == set(EXPECTED)


def test_an_unknown_name_has_a_hint():
    with pytest.raises(ConfigError, match="did you mean 'tuab'"):
        sets.get("tuba")


def test_a_folder_without_the_set_is_an_error(tmp_path):
    with pytest.raises(DataError, match="there is nothing of tuab"):
        read_all("tuab", tmp_path)
    with pytest.raises(DataError, match="PROTEINS_A.txt is not there"):
        read_all("proteins", tmp_path)


# ------------------------------------------------------------------------------------------- graphs


def test_edges_of_a_graph_count_from_its_first_node(tmp_path):
    array_layouts.proteins(tmp_path)
    records, _ = read_all("proteins", tmp_path)
    assert records["1"].arrays["edges"].T.tolist() == [[0, 1], [1, 0], [1, 2], [2, 1]]
    assert records["2"].arrays["edges"].T.tolist() == [[0, 1], [1, 0]]
    assert records["1"].names["feature"] == ("attribute", "label 0", "label 1", "label 2")
    assert records["1"].arrays["nodes"].tolist() == [
        [23.0, 1, 0, 0],
        [10.5, 0, 1, 0],
        [3.0, 0, 0, 1],
    ]


def test_links_without_direction_become_two_edges(tmp_path):
    array_layouts.ppi(tmp_path)
    records, _ = read_all("ppi", tmp_path)
    second = records["2"].arrays
    assert second["edges"].T.tolist() == [[0, 1], [1, 0]]
    assert second["targets"].argmax(1).tolist() == [3, 4]
    assert second["nodes"][0, 0] == 150


def test_a_region_without_signal_is_marked(tmp_path):
    array_layouts.abide(tmp_path)
    records, _ = read_all("abide", tmp_path)
    first = records["row 0"]
    assert np.flatnonzero(~first.arrays["present"]).tolist() == [5]
    assert not first.arrays["adjacency"][5].any()
    np.testing.assert_allclose(first.arrays["partial"] * 2, first.arrays["adjacency"], rtol=1e-6)
    assert first.metadata == {"site": "NYU"}


def test_the_pickle_of_abide_is_not_read(tmp_path):
    np.save(tmp_path / "abide.npy", {"corr": 1}, allow_pickle=True)
    with pytest.raises(DataError, match=r"abide.npy: is a pickle.*np.savez"):
        read_all("abide", tmp_path)


def test_tractographies_are_the_first_axis(tmp_path):
    array_layouts.ppmi(tmp_path)
    records, _ = read_all("ppmi", tmp_path)
    assert records["row 2"].arrays["adjacency"][:, 0, 0].tolist() == [2, 3, 4]


def test_matrices_and_sexes_are_joined_by_id(tmp_path):
    array_layouts.abcd(tmp_path)
    records, _ = read_all("abcd", tmp_path)
    assert records["INV3"].arrays["adjacency"][0, 0] == 2


# ----------------------------------------------------------------------------- sensors, expression


def test_sensors_are_in_g_and_degrees_per_second(tmp_path):
    array_layouts.hugadb(tmp_path)
    records, _ = read_all("hugadb", tmp_path)
    standing = records["HuGaDB_v2_various_01_00:150"]
    # Sample 150 is the first of a period: column i holds i.
    motion = standing.arrays["motion"][0]
    sensors = standing.names["sensor"]
    assert motion[sensors.index("RF_acc_z")] == pytest.approx(2 * 2 / 2**15)
    assert motion[sensors.index("LT_gyro_z")] == pytest.approx(35 * 2000 / 2**15)
    assert standing.arrays["emg"][0].tolist() == [150, 7]


def test_expression_has_names_annotations_and_gaps(tmp_path):
    array_layouts.geo(tmp_path)
    records, _ = read_all("geo", tmp_path)
    second = records["GDS1001:GSM2"]
    np.testing.assert_array_equal(second.arrays["values"], [np.nan, 4])
    assert second.names == {"probe": ("1007_s_at", "1053_at"), "gene": ("MIR4640", "RFC2")}
    assert second.metadata == {
        "sample_organism": "Homo sapiens",
        "value_type": "count",
        "disease state": "sepsis",
    }
    np.testing.assert_array_equal(records["GSE7:GSM9"].arrays["values"], [np.nan, -3])


def test_series_of_several_platforms_are_one_group(tmp_path):
    array_layouts.geo(tmp_path)
    path = tmp_path / "GSE7_series_matrix.txt"
    path.rename(tmp_path / "GSE7-GPL96_series_matrix.txt")
    other = (tmp_path / "GSE7-GPL96_series_matrix.txt").read_text().replace("GSM", "GSM7")
    (tmp_path / "GSE7-GPL97_series_matrix.txt").write_text(other)
    records, _ = read_all("geo", tmp_path)
    series = [record for record in records.values() if record.patient == "GSE7"]
    assert {record.id for record in series} == {
        "GSE7:GSM8",
        "GSE7:GSM9",
        "GSE7:GSM78",
        "GSE7:GSM79",
    }
    assert len({record.split for record in series}) == 1


def test_of_quartiles_the_median_is_taken(tmp_path):
    array_layouts.atlas(tmp_path)
    records, _ = read_all("expression-atlas", tmp_path)
    baseline = records["E-MTAB-513-tpms"]
    assert baseline.arrays["values"].tolist() == [[3, 0.5], [0, 7]]
    assert baseline.names == {"gene": ("ENSG1", "ENSG2"), "column": ("g1", "g2")}
    assert baseline.metadata == {"unit": "TPM", "organism part": "brain; liver"}


# --------------------------------------------------------------------------------------------- form


@pytest.mark.parametrize(
    ("arrays", "names", "labels", "message"),
    [
        ({}, {}, (), r"has the arrays \[\], not \['x'\]"),
        ({"x": np.zeros((2, 3))}, {}, (), "x is float64"),
        ({"x": np.zeros((2, 4), np.float32)}, {}, (), "has 4 along 3, not 3"),
        ({"x": np.zeros((2, 3), np.float32)}, {"place": ("a",)}, (), "has 2 along place, not 1"),
        ({"x": np.zeros((2, 3), np.float32)}, {}, ("C",), "'C' is not among its labels"),
    ],
)
def test_a_record_of_another_form_is_refused(arrays, names, labels, message):
    reader = Reader("toy", {"x": Array(("place", 3), "float32", "", "")}, lambda folder: iter(()))
    with pytest.raises(DataError, match=message):
        check(Record("1", "p", labels, arrays, names), reader, ("A", "B"))
