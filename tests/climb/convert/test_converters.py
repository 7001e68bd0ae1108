"""Each converter on its data set in miniature, in the published layout."""

import csv
import io
import json
import sys
import types

import numpy as np
import pytest
from PIL import Image

from qoq_jax.base.errors import DataError
from qoq_jax.climb.access import access
from qoq_jax.climb.catalogue import table
from qoq_jax.climb.convert import lndb, sets, write
from qoq_jax.climb.convert.example import Dropped
from qoq_jax.climb.convert.folder import Folder
from qoq_jax.data import check, readers
from qoq_jax.data import rows as schema
from tests.helpers import original_layouts

CALOT, RETRACTION = "CalotTriangleDissection", "GallbladderRetraction"
# name -> {id of a row: (answer, own split or "", patient)}
EXPECTED = {
    "ptb-xl": {
        "1": ("Normal", "train", "15709"),
        "2": ("MI, STTC", "test", "13243"),
        "5": ("A. Fib/Aflutter", "test", "13243"),  # of a patient who is in test
    },
    "mimic-iv-ecg": {
        "40689230": ("Normal", "", "10000032"),
        "40689231": ("MI", "", "10000032"),
    },
    "chapman-shaoxing": {"JS00001": ("HYP, A. Fib/Aflutter, Other", "", "JS00001")},
    "georgia": {"E00001": ("Normal", "", "E00001")},
    "cpsc2018": {"A0001": ("CD", "", "A0001")},
    "mimic-cxr": {
        "d1": ("Cardiomegaly, Pleural Effusion", "train", "p10000032"),
        "d2": ("Cardiomegaly, Pleural Effusion", "train", "p10000032"),
        "d3": ("No Finding", "validation", "p10000764"),
        "d4": ("Atelectasis", "test", "p10000898"),
    },
    "chexpert": {
        "train/patient00001/study1/view1_frontal.jpg": (
            "Cardiomegaly, Pleural Effusion",
            "",
            "patient00001",
        ),
        "train/patient00001/study2/view1_lateral.jpg": ("No Finding", "", "patient00001"),
        "valid/patient64541/study1/view1_frontal.jpg": ("No Finding", "test", "patient64541"),
    },
    "vindr-cxr": {
        "a": ("Lung tumor, Pneumonia", "", "a"),
        "b": ("No finding", "", "b"),
        "t": ("Tuberculosis, Other diseases", "test", "t"),
    },
    "coronahack": {
        "IM-0128-0001.jpeg": ("Normal", "", "IM-0128"),
        "person1_bacteria_1.jpeg": ("Bacterial Pneumonia", "", "person1_bacteria"),
        "person1_virus_6.jpeg": ("Viral Pneumonia", "test", "person1_virus"),
    },
    "covid-19": {
        "train/BacterialPneumonia/person3_bacteria_10.jpeg": (
            "Bacterial Pneumonia",
            "",
            "person3_bacteria",
        ),
        "train/COVID-19/covid1.png": ("COVID-19", "", "train/COVID-19/covid1.png"),
        "test/Normal/NORMAL2-IM-0501-0001.jpeg": ("Normal", "test", "NORMAL2-IM-0501"),
        "test/ViralPneumonia/person9_virus_4.jpeg": ("Viral Pneumonia", "test", "person9_virus"),
    },
    "vindr-mammo": {
        "i1": ("BI-RADS 4", "", "s1"),
        "i2": ("BI-RADS 1", "", "s1"),
        "i3": ("BI-RADS 2", "test", "s2"),
    },
    "cbis-ddsm": {
        "P_00001_LEFT_CC": ("BI-RADS 5", "test", "P_00001"),
        "P_00001_LEFT_MLO": ("BI-RADS 2", "test", "P_00001"),
    },
    "cmmd": {
        "D1-0001-R": ("Benign", "", "D1-0001"),
        "D1-0001-L": ("Malignant", "", "D1-0001"),
    },
    "isic-2020": {
        "ISIC_1": ("Benign", "", "IP_1"),
        "ISIC_2": ("Malignant", "", "IP_1"),
    },
    "ham10000": {
        "ISIC_1": ("MEL", "", "HAM_1"),
        "ISIC_2": ("OTHER", "", "HAM_1"),
        "ISIC_3": ("OTHER", "", "HAM_2"),
    },
    "pad-ufes-20": {
        "PAT_1_11_5.png": ("AKIEC", "", "PAT_1"),
        "PAT_2_12_6.png": ("NV", "", "PAT_2"),
    },
    "messidor-2": {
        "20051020_43808_0100_pp": ("No DR", "", "20051020_43808_0100_pp"),
        "im004832": ("Proliferative DR", "", "20051020_43808_0100_pp"),
    },
    "aptos2019": {"000c": ("Moderate DR", "", "000c"), "001a": ("No DR", "", "001a")},
    "jichi": {
        "1_1_r": ("SDR", "", "1"),
        "1_2_l": ("PDR", "", "1"),
        "2_1_r": ("No DR", "", "2"),
    },
    "rspect": {
        "1.3": ("No PE", "", "1.1"),
        "1.4": ("Chronic PE", "", "1.1"),
        "2.3": ("Chronic PE, Acute PE", "", "2.1"),
    },
    "inspect": {
        "100": ("No PE", "train", "7"),
        "101": ("Acute PE", "validation", "8"),
        "102": ("Acute Subsegmental-only PE", "test", "9"),
        "103": ("Chronic PE", "train", "7"),
    },
    "lndb": {
        "LNDb-0001-0000": ("nodule < 3 mm", "", "LNDb-0001"),
        "LNDb-0001-0012": ("nodule >= 3 mm", "", "LNDb-0001"),
        "LNDb-0001-0016": ("nodule >= 3 mm", "", "LNDb-0001"),
        "LNDb-0002-0000": ("non-nodule", "", "LNDb-0002"),
    },
    "kits23": {
        "case_00000": ("Malignant", "", "case_00000"),
        "case_00001": ("Benign", "", "case_00001"),
    },
    "hemorrhage": {
        "049-14": ("Has Hemorrhage", "", "049"),
        "049-15": ("No Hemorrhage", "", "049"),
    },
    "echonet-dynamic": {
        "0X1": ("Reduced", "train", "0X1"),
        "0X2": ("Mildly reduced", "validation", "0X2"),
        "0X3": ("Preserved", "test", "0X3"),
    },
    "busi": {
        "benign (1)": ("Benign", "", "benign (1)"),
        "malignant (2)": ("Malignant", "", "malignant (2)"),
        "normal (3)": ("Normal", "", "normal (3)"),
    },
    "covid-blues": {
        "patient_1_L1": ("Has COVID", "", "1"),
        "patient_2_R3_2": ("No COVID", "", "2"),
    },
    "covid-us": {
        "1_butterfly_covid": ("covid", "", "p1"),
        "40_grepmed_pneumonia": ("pneumonia", "", "p40"),
        "139_litfl_normal": ("normal", "", "139_litfl_normal"),
    },
    "cholec80": {
        f"video{video}-{number:02d}": (answer(number), split, f"video{video}")
        for video, split, answer in (
            (
                "01",
                "train",
                lambda n: CALOT if n > 1 else ("Preparation", f"Preparation, {CALOT}")[n],
            ),
            ("48", "validation", lambda n: "GallbladderPackaging"),
            (
                "80",
                "test",
                lambda n: RETRACTION if n < 89 else f"{RETRACTION}, CleaningCoagulation",
            ),
        )
        for number in range(90)
    },
    "bcss": {
        "TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500/00000_00000": (
            "Tumor",
            "",
            "TCGA-A1-A0SK",
        ),
        "TCGA-OL-A5RW-DX1_xmin1_ymin2_MPP-0.2500/00000_00000": ("Tumor", "test", "TCGA-OL-A5RW"),
    },
    "brain-tumor": {
        "train/glioma_tumor/gg (1).jpg": ("Glioma Tumor", "", "train/glioma_tumor/gg (1).jpg"),
        "train/no_tumor/image(1).jpg": ("No Tumor", "", "train/no_tumor/image(1).jpg"),
        "test/no_tumor/image(1).jpg": ("No Tumor", "test", "test/no_tumor/image(1).jpg"),
    },
    "brain-tumor-2": {
        "yes/Y1.jpg": ("yes", "", "yes/Y1.jpg"),
        "no/1 no.jpeg": ("no", "", "no/1 no.jpeg"),
    },
    "lc25000": {
        "lung_aca/lungaca1.jpeg": ("lung adenocarcinoma", "", "lung_aca/lungaca1.jpeg"),
        "colon_n/colonn1.jpeg": ("benign colon", "", "colon_n/colonn1.jpeg"),
    },
}
DROPPED = {
    "ptb-xl": {"unknown code 'NEW'": 1, "scp_codes is not a dictionary of codes": 1},
    "mimic-iv-ecg": {
        "a statement that is not known": 1,
        "findings that the machine doubts, and no other": 1,
        "its signals are not there": 1,
        "no statement of a finding": 1,
        "the table of measurements has no line of it": 1,
    },
    "georgia": {"no code": 1, "its signals are not there": 1, "unknown code '123'": 1},
    "cpsc2018": {"its name is not that of a record of this set": 1},
    "mimic-cxr": {"no finding is marked as present": 1, "its study has no labels": 1},
    "chexpert": {"no finding is marked as present": 1},
    "vindr-cxr": {"its readers agree on no label": 1},
    "coronahack": {"its class is Stress-Smoking": 1},
    "vindr-mammo": {"its category is not given": 1},
    "cbis-ddsm": {"0 files of its series are there": 2},
    "cmmd": {"no picture of this side is there": 1, "its header does not say the side": 1},
    "isic-2020": {"a duplicate of another picture": 1},
    "messidor-2": {"it is not gradable": 1},
    "lndb": {"its scan is not there": 1},
    "cholec80": {
        "its phases are not there": 1,
        "its video is not there": 1,
        "it has fewer than 180 frames with a phase": 1,
    },
    "bcss": {"none of the four tissues covers half of it": 2, "its mask is not there": 1},
    "kits23": {"whether it is malignant is not known": 1},
    "echonet-dynamic": {
        "its ejection fraction is not between 0 and 100 %": 1,
        "a file that the tables name is not there": 1,
    },
    "covid-blues": {"the table has no test of its patient": 1},
    "covid-us": {"its class is Other": 1, "it does not show the lung": 1},
    "brain-tumor-2": {"a second copy of the same picture": 2},
}
PICTURES = tuple(  # sets whose media in miniature can be opened
    name
    for name in EXPECTED
    if name not in ("inspect", "kits23", "echonet-dynamic", "covid-blues", "covid-us", "cholec80")
)


def converted(root, name):
    """(rows by id, report) of a data set in miniature."""
    report = write.convert(sets.get(name), original_layouts.build(root, name))
    rows = {}
    for path in root.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            row = schema.validate_row(json.loads(line), path.name)
            rows[row.id] = row
    return rows, report


def found_in(root, name):
    """What the records of a folder give, without the tasks' files."""
    converter, folder = sets.get(name), Folder(root)
    for record in converter.read(folder):
        yield from [record] if isinstance(record, Dropped) else converter.found(record, folder)


def test_every_converter_is_tested():
    assert set(EXPECTED) == set(sets.CONVERTERS) == set(original_layouts.LAYOUTS)


def test_converters_and_ways_to_a_set_are_those_of_the_catalogue():
    rows = table.load()
    assert set(sets.CONVERTERS) < set(rows)
    without = {name for name, row in rows.items() if row.qoq_med} - set(sets.CONVERTERS)
    assert without == set()
    assert all(access.access_of(name).name == name for name in rows)


@pytest.mark.parametrize("name", EXPECTED)
def test_rows_have_the_labels_patients_and_splits_of_the_source(tmp_path, name):
    rows, report = converted(tmp_path, name)
    expected = EXPECTED[name]
    assert {i: (row.answer, row.patient) for i, row in rows.items()} == {
        i: (answer, patient) for i, (answer, _, patient) in expected.items()
    }
    for identity, (_, split, _) in expected.items():
        assert not split or rows[identity].split == split
    found = {reason: of["records"] for reason, of in report["dropped"].items()}
    assert found == DROPPED.get(name, {})
    assert sum(report["rows"].values()) == len(rows)


@pytest.mark.parametrize("name", PICTURES)
def test_rows_are_valid_and_their_media_open(tmp_path, name):
    converted(tmp_path, name)
    for path in tmp_path.glob("*.jsonl"):
        assert check.run(str(path)) == 0


def test_sex_and_age_become_coarse_attributes(tmp_path):
    rows, _ = converted(tmp_path / "ecg", "ptb-xl")
    assert rows["1"].attributes == (("sex", "female"), ("age_band", "51-75"))
    assert rows["2"].attributes == (("sex", "male"), ("age_band", "76+"))
    assert rows["5"].attributes == ()
    rows, _ = converted(tmp_path / "xray", "chexpert")
    row = rows["train/patient00001/study1/view1_frontal.jpg"]
    assert row.attributes == (("sex", "female"), ("age_band", "51-75"))


def test_boxes_are_those_of_findings_of_the_same_category(tmp_path):
    rows, _ = converted(tmp_path, "vindr-mammo")
    assert rows["i1"].bbox == ((10.0, 12.0, 30.0, 40.5),)
    assert rows["i2"].bbox == ()


def test_a_mask_is_given_where_it_is_the_whole_finding(tmp_path):
    rows, _ = converted(tmp_path, "busi")
    assert rows["benign (1)"].segmentation_path.endswith("benign (1)_mask.png")
    assert rows["malignant (2)"].segmentation_path is None  # two masks
    assert rows["normal (3)"].segmentation_path is None  # an empty one


def test_all_views_of_a_breast_are_in_one_question(tmp_path):
    rows, _ = converted(tmp_path, "cmmd")
    assert len(rows["D1-0001-R"].images) == 2 and rows["D1-0001-R"].problem.count("<image>") == 2


def test_windows_of_lndb_are_slices_from_below_in_the_lung_window(tmp_path):
    converted(tmp_path, "lndb")
    for name, first, count in (("0001/0016", 16, 24), ("0002/0000", 0, 10)):
        (path,) = tmp_path.glob(f"windows/LNDb-{name}.npz")
        frames = readers.read_frames(path, count)[:, 0, 0, 0]
        hounsfield = np.arange(first, first + count) - 600.0
        np.testing.assert_array_equal(frames, np.rint((hounsfield + 1350) * 255 / 1500))


def test_rows_of_cholec80_show_intervals_in_seconds(tmp_path):
    rows, _ = converted(tmp_path, "cholec80")
    assert rows["video01-01"].videos == ("videos/video01.mp4#start=0.12,end=0.20",)
    assert rows["video80-89"].videos == ("videos/video80.mp4#start=7.12,end=10.52",)
    assert rows["video80-89"].problem.count("<video>") == 1


@pytest.mark.parametrize(
    "lines, said",
    [
        ("0\tPreparation\n25\tPreparation", "Frame is 25, not 1"),
        ("0\tIncision", "Phase is 'Incision'"),
    ],
)
def test_a_phase_table_of_cholec80_that_is_another_is_named(tmp_path, lines, said):
    original_layouts.build(tmp_path, "cholec80")
    table = tmp_path / "phase_annotations" / "video03-phase.txt"
    table.write_text(f"Frame\tPhase\n{lines}\n")
    with pytest.raises(DataError, match=said) as raised:
        write.convert(sets.get("cholec80"), tmp_path)
    assert raised.value.where.startswith(str(table))


@pytest.mark.parametrize("slices", [1, 24, 25, 36, 37, 300])
def test_windows_of_lndb_hold_every_slice(slices):
    firsts = lndb.first_slices(slices)
    assert {s for first in firsts for s in range(first, min(first + 24, slices))} == set(
        range(slices)
    )
    assert all(first + 24 <= slices for first in firsts) or firsts == [0]


def test_patches_of_bcss_are_their_part_of_the_region_and_its_mask(tmp_path):
    rows, _ = converted(tmp_path, "bcss")
    row = rows["TCGA-OL-A5RW-DX1_xmin1_ymin2_MPP-0.2500/00000_00000"]
    region = readers.read_mask(tmp_path / row.segmentation_path)
    assert region.shape == (1024, 1024)
    assert not region[:, :100].any() and region[:, 100:1000].all() and not region[:, 1000:].any()
    shown = readers.read_image(tmp_path / row.images[0])[..., 0]
    np.testing.assert_array_equal(shown == 30, region)


@pytest.mark.parametrize("name", ["lndb", "bcss"])
def test_media_are_cut_once_and_those_that_are_missing_again(tmp_path, name):
    converted(tmp_path, name)
    folder = tmp_path / {"lndb": "windows", "bcss": "patches"}[name]
    cut = {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
    first, last = min(cut), max(path for path in cut if path.suffix in (".npz", ".csv"))
    first.write_bytes(b"not cut again")
    write.convert(sets.get(name), tmp_path)
    assert first.read_bytes() == b"not cut again"
    for path in cut:  # as after a kill before the end
        if path.name.startswith(last.name[:8]) or path.parent == last.parent:
            path.unlink()
    first.unlink(missing_ok=True)
    write.convert(sets.get(name), tmp_path)
    assert {path: path.read_bytes() for path in cut} == cut


def test_a_mask_of_another_size_is_named(tmp_path):
    original_layouts.build(tmp_path, "bcss")
    mask = min((tmp_path / "masks").iterdir())
    Image.new("L", (10, 20)).save(mask)
    with pytest.raises(DataError, match=r"10 x 20 pixels, its picture 1920 x 1024") as raised:
        write.convert(sets.get("bcss"), tmp_path)
    assert raised.value.where == str(mask)


def test_a_second_layout_of_ham10000(tmp_path):
    table = "lesion_id,image_id,dx,dx_type,age,sex,localization\nH1,ISIC_9,bkl,histo,80,male,ear\n"
    (tmp_path / "HAM10000_metadata.csv").write_text(table)
    picture = tmp_path / "HAM10000_images_part_1" / "ISIC_9.jpg"
    picture.parent.mkdir()
    picture.write_bytes(original_layouts._medium("a.jpg"))
    write.convert(sets.get("ham10000"), tmp_path)
    rows = "".join(path.read_text() for path in tmp_path.glob("*.jsonl"))
    assert json.loads(rows)["answer"] == "OTHER"


def test_ham10000_with_the_table_that_the_dataverse_shows(tmp_path):
    table = (
        "lesion_id\timage_id\tdx\tdx_type\tage\tsex\tlocalization\tdataset\n"
        '"HAM_0000118"\t"ISIC_0027419"\t"mel"\t"histo"\t80.0\t"male"\t"scalp"\t"vidir_modern"\n'
    )
    (tmp_path / "HAM10000_metadata.tab").write_text(table)
    (tmp_path / "ISIC_0027419.jpg").write_bytes(b"medium")
    (found,) = found_in(tmp_path, "ham10000")
    assert (found.labels, found.patient) == (("MEL",), "HAM_0000118")


@pytest.mark.parametrize("name", ["bcss", "covid-us", "lndb", "aptos2019"])
def test_a_folder_whose_name_is_a_pattern(tmp_path, name):
    rows, _ = converted(tmp_path / "data [1]*", name)
    assert set(rows) == set(EXPECTED[name])


def test_a_folder_has_what_its_walk_finds(tmp_path):
    paths = ["a.png", "b/c.png", ".d.png", "._e.png", ".f/g.png", "__MACOSX/h.png"]
    for path in paths:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"medium")
    folder = Folder(tmp_path / "b" / "..")
    others = ["b", "b/", "", ".", "..", "b//c.png", "./a.png", "b/../a.png", f"{tmp_path}/a.png"]
    assert {path for path in [*paths, *others, "i.png", "a\0"] if folder.has(path)} == folder.files


def test_a_medium_that_is_not_there_is_reported(tmp_path):
    original_layouts.build(tmp_path, "aptos2019")
    (tmp_path / "train_images" / "000c.png").unlink()
    report = write.convert(sets.get("aptos2019"), tmp_path)
    assert report["dropped"] == {
        "a file that the tables name is not there": {"records": 1, "as": ["000c"]}
    }


def test_the_same_folder_gives_the_same_bytes(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        converted(folder, "mimic-cxr")
        converted(folder, "mimic-cxr")
    names = sorted(path.name for path in folders[0].glob("*.json*"))
    assert names == ["conversion.json", "test.jsonl", "train.jsonl", "validation.jsonl"]
    assert all((folders[0] / n).read_bytes() == (folders[1] / n).read_bytes() for n in names)


@pytest.mark.parametrize(
    ("table", "content", "said"),
    [
        ("train.csv", "id_code,diagnose\n1,2\n", "there is no column 'diagnosis'"),
        ("train.csv", "id_code,diagnosis\n1,2,3\n", "line 2 has 3 fields, the header 2"),
        (
            "train.csv",
            'id_code,diagnosis\n000c,2\n"001a,0\n',
            "a quotation mark is open at its end",
        ),
        ("train.csv", '"id_code,diagnosis\n000c,2\n', "a quotation mark is open at its end"),
        ("train.csv", "id_code,diagnosis\n000c,two\n", "no label for 'two'"),
        ("train.csv", b"id_code,diagnosis\n\xff\xfe,1\n", "is not a table of text"),
        ("train.csv", "", "there is no column 'id_code'"),
        ("train.csv", "id_code,diagnosis\n", "no record of aptos2019 gives a row"),
        ("else.csv", "", "train.csv or */train.csv is not there"),
    ],
)
def test_a_table_that_is_not_as_published_is_named(tmp_path, table, content, said):
    original_layouts.build(tmp_path, "aptos2019")
    (tmp_path / "train.csv").unlink()
    (tmp_path / table).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError, match="hint") as raised:
        write.convert(sets.get("aptos2019"), tmp_path)
    assert said in str(raised.value)
    assert not list(tmp_path.glob("*.jsonl"))


TABLES = [
    (name, path)
    for name, layout in original_layouts.LAYOUTS.items()
    for path, content in layout.items()
    if isinstance(content, str | bytes) and path.endswith(".csv")
]


@pytest.mark.parametrize(("name", "path"), TABLES)
def test_an_odd_cell_gives_rows_or_one_line_that_names_the_table(tmp_path, name, path):
    original_layouts.build(tmp_path, name)
    file = tmp_path / path
    lines = list(csv.reader(io.StringIO(file.read_bytes().decode("latin-1"))))
    for column in range(len(lines[1]) if len(lines) > 1 else 0):
        for cell in ("", "NaN", "x,\"'{[", "1e999", "9" * 5000, "-3.5", "../../etc"):
            changed = [list(line) for line in lines]
            changed[1][column] = cell
            with open(file, "w", encoding="latin-1", newline="") as out:
                csv.writer(out).writerows(changed)
            try:
                list(found_in(tmp_path, name))
            except DataError as error:
                assert error.where.startswith(str(tmp_path)) and error.hint
                assert "\n" not in str(error) and len(str(error)) < 600


@pytest.mark.parametrize("blank", ["\n", ",\n", " , \n"])
def test_blank_lines_of_a_table_are_no_records(tmp_path, blank):
    original_layouts.build(tmp_path, "aptos2019")
    (tmp_path / "train.csv").write_text(f"id_code,diagnosis\n{blank}000c,2\n{blank}001a,0\n{blank}")
    report = write.convert(sets.get("aptos2019"), tmp_path)
    assert sum(report["rows"].values()) == 2 and not report["dropped"]


def test_files_of_splits_of_an_earlier_conversion_are_gone(tmp_path):
    original_layouts.build(tmp_path, "mimic-cxr")
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text('{"of": "an earlier one"}\n')
    table = tmp_path / "mimic-cxr-2.0.0-split.csv"
    kept = [line for line in table.read_text().splitlines() if "train" not in line]
    table.write_text("\n".join(kept))
    write.convert(sets.get("mimic-cxr"), tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == [
        "test.jsonl",
        "validation.jsonl",
    ]


@pytest.mark.parametrize("name", ["chapman-shaoxing", "georgia", "cpsc2018"])
def test_records_of_other_sources_of_the_challenge_are_left_out(tmp_path, name):
    for one in ("chapman-shaoxing", "georgia", "cpsc2018"):
        original_layouts.build(tmp_path, one)
    _, report = converted(tmp_path, name)
    assert sum(report["rows"].values()) == 1
    assert report["dropped"]["its name is not that of a record of this set"]["records"] >= 3


def test_cmmd_with_its_excel_table(tmp_path, monkeypatch):
    original_layouts.build(tmp_path, "cmmd")
    table = tmp_path / "CMMD_clinicaldata_revision.csv"
    cells = [tuple(line) for line in csv.reader(io.StringIO(table.read_text()))]
    cells[1] = (*cells[1][:2], 44, *cells[1][3:])  # Excel has numbers and empty cells
    table.rename(table.with_suffix(".xlsx"))
    sheet = types.SimpleNamespace(iter_rows=lambda values_only: [*cells, (None,) * 6])
    library = types.ModuleType("openpyxl")
    library.load_workbook = lambda *_, **__: types.SimpleNamespace(worksheets=[sheet])
    monkeypatch.setitem(sys.modules, "openpyxl", library)
    report = write.convert(sets.get("cmmd"), tmp_path)
    assert sum(report["rows"].values()) == 2
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(DataError, match=r'openpyxl.*pip install "qoq_jax\[excel\]"'):
        write.convert(sets.get("cmmd"), tmp_path)


def test_a_damaged_picture_of_cmmd_is_named(tmp_path):
    original_layouts.build(tmp_path, "cmmd")
    damaged = next(tmp_path.glob("manifest-1/CMMD/D1-0001/*/*/1-2.dcm"))
    damaged.write_bytes(b"an HTML page, for example " * 20)
    with pytest.raises(DataError) as raised:
        write.convert(sets.get("cmmd"), tmp_path)
    assert raised.value.where == str(damaged)
