"""Data sets of arrays in miniature, in the layout in which they are published.

`WRITERS[name](root)` writes one; it has records of each split or label, and some to be left out.
"""

from __future__ import annotations

import gzip
import json
import pathlib

import numpy as np
import scipy.io
from edfio import Edf, EdfSignal

from qoq_jax.climb.arrays import montage, read
from qoq_jax.climb.arrays.record import Record

# In another order than records have, and without T1 and T2.
ELECTRODES = sorted(montage.ELECTRODES[:21])


def edf(
    path: pathlib.Path,
    seconds: int = 21,
    rate: int = 250,
    unit: str = "uV",
    names: list[str] = ELECTRODES,
    label: str = "EEG {}-REF",
    factor: float = 1.0,
) -> None:
    """A recording whose electrode i holds factor * (time in s + i), with an ECG beside them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(seconds * rate) / rate
    channels = [EdfSignal(np.sin(time), rate, label="EEG EKG1-REF", physical_dimension=unit)]
    for i, name in enumerate(names):
        channels.append(
            EdfSignal(
                factor * (time + i),
                rate,
                label=label.format(name),
                physical_dimension=unit,
                physical_range=(factor * -10, factor * 100),
            )
        )
    Edf(channels).write(path)


def tuab(root: pathlib.Path) -> None:
    """Three whole recordings, one of 4 s, one without C3, one that is cut short."""
    edf(root / "edf/train/normal/01_tcp_ar/aaaaamye_s001_t000.edf")
    edf(root / "edf/train/abnormal/01_tcp_ar/aaaaabcd_s003_t000.edf", 11, 256)
    edf(root / "edf/eval/normal/01_tcp_ar/aaaaaxyz_s001_t000.edf", 12, 512)
    edf(root / "edf/eval/abnormal/01_tcp_ar/aaaaashort_s001_t000.edf", 4)
    few = [name for name in ELECTRODES if name != "C3"]
    edf(root / "edf/train/normal/01_tcp_ar/aaaaafew_s001_t000.edf", names=few)
    cut = root / "edf/train/normal/01_tcp_ar/aaaaacut_s001_t000.edf"
    edf(cut)
    cut.write_bytes(cut.read_bytes()[:-40_000])
    (root / "AAREADME.txt").write_text("v3.0.1\n")


def tuev(root: pathlib.Path) -> None:
    """An event of two channels, one of two labels, one at the start, one after the end."""
    edf(root / "edf/train/aaaaaaar/aaaaaaar_00000001.edf")
    (root / "edf/train/aaaaaaar/aaaaaaar_00000001.rec").write_text(
        "0,10.0,11.0,6\n3,10.0,11.0,6\n4,14.0,15.0,1\n5,14.0,15.0,6\n1,0.0,1.0,5\n2,90.0,91.0,2\n"
    )
    edf(root / "edf/eval/032/bckg_032_a_.edf")
    (root / "edf/eval/032/bckg_032_a_.rec").write_text("0,5.0,6.0,6\n")
    edf(root / "edf/eval/033/bckg_032_a_.edf")
    (root / "edf/eval/033/bckg_032_a_.rec").write_text("0,5.0,6.0,9\n")


def iiic(root: pathlib.Path) -> None:
    """Five segments of three people; one without votes, one with a NaN."""
    root.mkdir(parents=True, exist_ok=True)
    signal = np.arange(5, dtype=np.float32)[:, None, None] * np.ones((1, 16, 2000), np.float32)
    signal[4, 3, 7] = np.nan
    votes = np.array([[3, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 2], [0] * 6, [0, 2, 2, 0, 0, 0], [1] * 6])
    np.save(root / "X.npy", signal)
    np.save(root / "Y.npy", votes)
    np.save(root / "patients.npy", np.array(["p1", "p1", "p2", "p3", "p3"]))


def abide(root: pathlib.Path) -> None:
    """Three people; the first has a region without signal."""
    root.mkdir(parents=True, exist_ok=True)
    matrices = np.random.default_rng(0).uniform(-1, 1, (3, 200, 200))
    matrices[0, 5] = matrices[0, :, 5] = np.nan
    np.savez(
        root / "abide.npz",
        corr=matrices,
        pcorr=matrices / 2,
        label=np.array([0, 1, 0]),
        site=np.array(["NYU", "UCLA_1", "NYU"]),
    )


def ppmi(root: pathlib.Path) -> None:
    """Three people in MATLAB cells."""
    root.mkdir(parents=True, exist_ok=True)
    cells = np.empty((3, 1), object)
    for i in range(3):
        cells[i, 0] = np.full((84, 84, 3), i) + np.arange(3)
    scipy.io.savemat(root / "PPMI.mat", {"X": cells, "label": np.array([[1], [-1], [1]])})


def abcd(root: pathlib.Path) -> None:
    """Three people whose table of sexes is in another order and lacks one."""
    root.mkdir(parents=True, exist_ok=True)
    matrices = np.stack([np.full((360, 360), i, np.float32) for i in range(3)])
    matrices[1, 7] = matrices[1, :, 7] = np.nan
    np.save(root / "abcd_rest-pearson-HCP2016.npy", matrices)
    (root / "ids_HCP2016.txt").write_text("INV1\nINV2\nINV3\n")
    (root / "id2sex.txt").write_text("id,sex\nINV3,F\nINV1,M\n")


def proteins(root: pathlib.Path) -> None:
    """Three graphs of 3, 2 and 2 nodes; the third has no edge."""
    folder = root / "PROTEINS"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "PROTEINS_A.txt").write_text("4, 5\n1, 2\n2, 1\n2, 3\n3, 2\n5, 4\n")
    (folder / "PROTEINS_graph_indicator.txt").write_text("1\n1\n1\n2\n2\n3\n3\n")
    (folder / "PROTEINS_graph_labels.txt").write_text("1\n2\n1\n")
    (folder / "PROTEINS_node_labels.txt").write_text("0\n1\n2\n0\n0\n1\n1\n")
    (folder / "PROTEINS_node_attributes.txt").write_text("23.0\n10.5\n3\n4\n5\n6\n7\n")


def ppi(root: pathlib.Path) -> None:
    """Two training graphs, one to validate, one to test."""
    root.mkdir(parents=True, exist_ok=True)
    for part, graphs in (("train", [1, 1, 1, 2, 2]), ("valid", [21, 21]), ("test", [23, 23])):
        count = len(graphs)
        links = [{"source": count - 2, "target": count - 1}, {"source": 0, "target": 1}]
        content = {
            "directed": False,
            "graph": {},
            "multigraph": False,
            "nodes": [{"id": i} for i in range(count)],
            "links": links,
        }
        (root / f"{part}_graph.json").write_text(json.dumps(content))
        np.save(root / f"{part}_graph_id.npy", np.array(graphs))
        np.save(root / f"{part}_feats.npy", np.arange(count * 50.0).reshape(count, 50))
        np.save(root / f"{part}_labels.npy", np.eye(count, 121, dtype=np.int64))


def hugadb_recording(path: pathlib.Path, activities: list[int], still: int | None = None) -> None:
    """A recording, one sample for each of `activities`; `still`: a column that never moves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    places = ("rf", "rs", "rt", "lf", "ls", "lt")
    sensors = [f"{kind}_{p}_{axis}" for p in places for kind in ("acc", "gyro") for axis in "xyz"]
    names = [*sensors, "EMG_r", "EMG_l", "act"]
    rows = []
    for t, activity in enumerate(activities):
        row = [100 * (t % 50) + column for column in range(36)] + [t % 256, 7, activity]
        if still is not None:
            row[still] = 12
        rows.append("\t".join(map(str, row)))
    head = ["#Activity\tsitting\twalking", "#ActivityID\t5\t1", "#Date\t05-24-13-08"]
    path.write_text("\n".join([*head, "\t".join(names), *rows]) + "\n")


def hugadb(root: pathlib.Path) -> None:
    """Two people: sitting, walking, standing; standing up too short; a gyroscope that is stuck."""
    hugadb_recording(root / "HuGaDB_v2_various_01_00.txt", [5] * 70 + [1] * 80 + [8] * 60)
    hugadb_recording(root / "Data/HuGaDB_v2_standing_up_02_01.txt", [7] * 20 + [6] * 100)
    hugadb_recording(root / "HuGaDB_v2_sitting_03_00.txt", [5] * 90, still=3)


def geo(root: pathlib.Path) -> None:
    """A GDS with subsets, and a series matrix with characteristics."""
    soft = root / "GDS1nnn/GDS1001/soft/GDS1001.soft.gz"
    soft.parent.mkdir(parents=True, exist_ok=True)
    text = """^DATABASE = Geo
!Database_name = Gene Expression Omnibus (GEO)
^DATASET = GDS1001
!dataset_title = A study
!dataset_sample_organism = Homo sapiens
!dataset_value_type = count
^SUBSET = GDS1001_1
!subset_dataset_id = GDS1001
!subset_description = control
!subset_sample_id = GSM1
!subset_type = disease state
^SUBSET = GDS1001_2
!subset_dataset_id = GDS1001
!subset_description = sepsis
!subset_sample_id = GSM2,GSM3
!subset_type = disease state
^DATASET = GDS1001
#ID_REF = Platform reference identifier
#GSM1 = Value for GSM1
!dataset_table_begin
ID_REF\tIDENTIFIER\tGSM1\tGSM2\tGSM3
1007_s_at\tMIR4640\t10.5\tnull\t3
1053_at\tRFC2\t2\t4\t6
!dataset_table_end
"""
    soft.write_bytes(gzip.compress(text.encode(), mtime=0))
    soft.with_name("GDS1001_full.soft.gz").write_bytes(soft.read_bytes())
    (root / "GSE7_series_matrix.txt").write_text(
        '!Series_title\t"A series"\n'
        '!Sample_geo_accession\t"GSM8"\t"GSM9"\n'
        '!Sample_organism_ch1\t"Mus musculus"\t"Mus musculus"\n'
        '!Sample_characteristics_ch1\t"tissue: liver"\t"tissue: brain"\n'
        "!series_matrix_table_begin\n"
        '"ID_REF"\t"GSM8"\t"GSM9"\n'
        '"a_at"\t1.5\t\n'
        '"b_at"\t2\t-3\n'
        "!series_matrix_table_end\n"
    )


def atlas(root: pathlib.Path) -> None:
    """A baseline experiment with quartiles, and one on an array."""
    one = root / "E-MTAB-513"
    one.mkdir(parents=True, exist_ok=True)
    (one / "E-MTAB-513-tpms.tsv").write_text(
        "Gene ID\tGene Name\tg1\tg2\nENSG1\tTSPAN6\t1,2,3,4,5\t0.5\nENSG2\t\t0\t7\n"
    )
    (one / "E-MTAB-513-transcripts-tpms.tsv").write_text("Transcript ID\tg1\nENST1\t1\n")
    (one / "E-MTAB-513.condensed-sdrf.tsv").write_text(
        "E-MTAB-513\t\tERR1\tfactor\torganism part\tliver\thttp://x\n"
        "E-MTAB-513\t\tERR2\tfactor\torganism part\tbrain\n"
    )
    two = root / "E-GEOD-9"
    two.mkdir(parents=True, exist_ok=True)
    (two / "E-GEOD-9_A-AFFY-2-normalized-expressions.tsv").write_text(
        "Gene ID\tGene Name\tDesignElementAccession\tGSM1\tGSM2\nAT1\tA\t1_at\t3.5\t\n"
    )


def read_all(
    name: str, root: pathlib.Path, seed: int = 0
) -> tuple[dict[str, Record], dict[str, str]]:
    """(records by id, {id: reason it was left out})."""
    records, dropped = {}, {}
    for one in read.records(name, root, seed):
        if isinstance(one, Record):
            assert one.id not in records
            records[one.id] = one
        else:
            dropped[one.id] = one.reason
    return records, dropped


WRITERS = {
    "tuab": tuab,
    "tuev": tuev,
    "iiic": iiic,
    "abide": abide,
    "ppmi": ppmi,
    "abcd": abcd,
    "proteins": proteins,
    "ppi": ppi,
    "hugadb": hugadb,
    "geo": geo,
    "expression-atlas": atlas,
}
