"""Data of one's own becomes rows: folders by label, tables, data sets of Hugging Face."""

import io
import json
import os

import datasets
import numpy as np
import pytest
from PIL import Image

from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.cli import main
from qoq_jax.climb.own import huggingface, tables
from qoq_jax.climb.own.write import Columns, Task
from qoq_jax.data import check, sources

SKIN = Task("skin", "dermoscopy")


def picture(path, shade=90, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size[::-1], 3), shade, np.uint8)).save(path)


def rows_of(root):
    return {
        s: list(sources.load(root, s))
        for s in ("train", "validation", "test")
        if sources.find(root, s)
    }


def test_a_folder_of_labels(tmp_path, capsys):
    for patient in range(20):
        for number in range(2):
            picture(tmp_path / ("Nevus", "Melanoma")[patient % 2] / f"p{patient}_{number}.png")
    picture(tmp_path / "stray.png")
    (tmp_path / "Nevus/notes.txt").write_text("not a picture")
    command = ["data", "import", str(tmp_path), "--domain", "dermoscopy", "--name", "skin"]
    assert main.main([*command, "--patient-pattern", r"(p\d+)_"]) == 0
    out = capsys.readouterr().out
    assert "20 patients" in out and "left out: 1, lies in no folder of a label (stray.png)" in out
    rows = rows_of(tmp_path)
    assert sum(map(len, rows.values())) == 40 and set(rows) == {"train", "validation", "test"}
    people = {split: {row.patient for row in found} for split, found in rows.items()}
    assert not people["train"] & people["test"] and not people["train"] & people["validation"]
    row = rows["train"][0]
    assert row.labels == ("Melanoma", "Nevus") and row.images == (row.id,)
    assert row.id.startswith(row.answer) and "skin lesion" in row.problem
    assert all(check.run(str(tmp_path / f"{split}.jsonl")) == 0 for split in rows)
    before = {split: (tmp_path / f"{split}.jsonl").read_bytes() for split in rows}
    assert main.main([*command, "--patient-pattern", r"(p\d+)_"]) == 0  # over its own files
    assert before == {split: (tmp_path / f"{split}.jsonl").read_bytes() for split in rows}


def test_a_folder_with_splits_keeps_them_and_says_that_no_patients_are_known(tmp_path):
    for split in ("train", "Valid", "testing"):
        picture(tmp_path / split / "Nevus" / "a.jpg")
        picture(tmp_path / split / "Melanoma" / "deeper" / "b.jpg")
    picture(tmp_path / "train" / "c.jpg")
    report = tables.from_folder(tmp_path, SKIN)
    assert report["rows"] == {"train": 2, "validation": 2, "test": 2}
    assert "no patients are known" in report["patients"]
    assert rows_of(tmp_path)["validation"][0].id == "Valid/Melanoma/deeper/b.jpg"
    assert report["dropped"]["lies in no folder of a label"]["as"] == ["train/c.jpg"]


TABLE = """code,finding,person,fold
a,Nevus;Cyst,p1,train
b,Cyst,p2,val
c,,p3,test
d,Nevus,,test
e,Nevus,p5,holdout
f,Nevus,p6,test
g,Nevus,p1,test
h,Odd,p7,train
"""


def test_a_table(tmp_path):
    (tmp_path / "list.csv").write_text(TABLE)
    for code in "abcdegh":
        picture(tmp_path / "images" / f"{code}.png")
    columns = Columns(("code",), "finding", "person", "fold", "code", "images/{}.png")
    task = Task("skin", "dermoscopy", labels=("Nevus", "Cyst"), many=True)
    report = tables.from_table(tmp_path, "list.csv", task, columns)
    rows = {row.id: row for found in rows_of(tmp_path).values() for row in found}
    # Patient p1 is in the source's training and test: all of it goes to the later one.
    assert {k: (row.split, row.answers) for k, row in rows.items()} == {
        "a": ("test", ("Nevus", "Cyst")),
        "g": ("test", ("Nevus",)),
        "b": ("validation", ("Cyst",)),
    }
    assert rows["b"].images == ("images/b.png",) and "one or multiple" in rows["b"].problem
    assert {reason: found["as"] for reason, found in report["dropped"].items()} == {
        "has no label": ["c"],
        "names no patient": ["d"],
        "names an unknown split": ["e"],
        "a file is not there": ["f"],
        "its label is not among those given": ["h"],
    }
    assert json.loads((tmp_path / "import.json").read_text()) == report


def test_a_table_of_ecgs_and_pictures(tmp_path):
    (tmp_path / "t.tsv").write_text("film\trecord\tlabel\nx.png\ty.hea\tYes\n\tz.hea\tNo\n")
    for name in ("x.png", "y.hea", "z.hea"):
        (tmp_path / name).write_bytes(b"")
    task = Task("unit", "multimodal", asked="the outcome")
    tables.from_table(tmp_path, "t.tsv", task, Columns(("film", "record")))
    rows = {row.answer: row for found in rows_of(tmp_path).values() for row in found}
    assert rows["Yes"].images == ("x.png",) and rows["Yes"].time_series == ("y.hea",)
    assert rows["Yes"].problem.startswith("<image><ecg>") and not rows["No"].images


def test_a_table_of_parts_of_slides_and_videos(tmp_path):
    region, interval = "a.svs#x=0,y=0,width=8,height=8", "b.mp4#start=1,end=2"
    lines = [f'"{region}",,Yes', f',"{interval}",No', "a.svs,,No", f'"c{region}",,No']
    (tmp_path / "t.csv").write_text("\n".join(["tile,clip,label", *lines]) + "\n")
    for name in ("a.svs", "b.mp4"):
        (tmp_path / name).write_bytes(b"")
    report = tables.from_table(
        tmp_path, "t.csv", Task("unit", "pathology"), Columns(("tile", "clip"))
    )
    rows = {row.answer: row for found in rows_of(tmp_path).values() for row in found}
    assert rows["Yes"].images == (region,) and rows["No"].videos == (interval,)
    assert {reason: found["records"] for reason, found in report["dropped"].items()} == {
        "names a file of a kind that is not read": 1,  # a whole slide
        "a file is not there": 1,
    }


@pytest.mark.parametrize("saved", [True, False])
def test_a_data_set_of_hugging_face(tmp_path, saved, capsys, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "dx": datasets.ClassLabel(names=["No DR", "DR"]),
            "eye_of": datasets.Value("string"),
        }
    )
    drawn = [Image.fromarray(np.full((9, 12, 3), 10 * i, np.uint8)) for i in range(6)]
    gif = io.BytesIO()
    drawn[5].save(gif, "GIF")
    table = {
        "image": [
            *drawn[:4],
            {"bytes": gif.getvalue(), "path": None},
            {"bytes": b"?", "path": "q"},
        ],
        "dx": [0, 1, 0, 1, 1, 0],
        "eye_of": ["a", "a", "b", "b", "c", "d"],
    }
    part = datasets.Dataset.from_dict(table, features=features)
    source = tmp_path / "source"
    if saved:
        datasets.DatasetDict({"train": part}).save_to_disk(source)
    else:
        (source / "data").mkdir(parents=True)
        part.to_parquet(source / "data" / "train-00000-of-00001.parquet")
    out = tmp_path / "rows"
    command = ["data", "import", str(out), "--huggingface", str(source), "--domain", "fundus"]
    assert main.main([*command, "--label", "dx", "--patient", "eye_of"]) == 0
    assert "1, has a picture that cannot be read (train-0000005)" in capsys.readouterr().out
    rows = {row.id: row for found in rows_of(out).values() for row in found}
    assert len(rows) == 5 and rows["train-0000001"].answer == "DR"
    assert rows["train-0000001"].patient == "a" and rows["train-0000001"].labels == ("DR", "No DR")
    assert rows["train-0000004"].images == ("media/train/0000004_0.png",)  # a GIF before
    for number in range(4):
        with Image.open(out / rows[f"train-{number:07d}"].images[0]) as kept:
            assert np.array_equal(np.asarray(kept), np.asarray(drawn[number]))
    found = sources.find(out, "train")
    assert found and check.run(str(found)) == 0


def test_refusals(tmp_path):
    picture(tmp_path / "Nevus" / "a.png")
    with pytest.raises(ConfigError, match="has no group"):
        tables.from_folder(tmp_path, SKIN, r"p\d+")
    with pytest.raises(ConfigError, match=r"did you mean.*dermoscopy"):
        Task("skin", "dermascopy")
    with pytest.raises(DataError, match="nothing becomes a row"):
        tables.from_folder(tmp_path, Task("x", "fundus", labels=("DR", "No DR")))
    with pytest.raises(DataError, match="only the label 'Nevus'"):
        tables.from_folder(tmp_path, SKIN)
    with pytest.raises(ConfigError, match="no regular expression"):
        tables.from_folder(tmp_path, SKIN, r"(p\d+")
    with pytest.raises(DataError, match="no such table"):
        tables.from_table(tmp_path, "x.csv", SKIN, Columns())
    (tmp_path / "t.csv").write_text("image,label\n../../etc/passwd.png,Nevus\n")
    with pytest.raises(DataError, match="1 a file is not there"):
        tables.from_table(tmp_path, "t.csv", SKIN, Columns())
    with pytest.raises(DataError, match="column 'picture'"):
        huggingface.from_huggingface(
            datasets.Dataset.from_dict({"label": ["x"]}),
            tmp_path / "hf",
            SKIN,
            Columns(("picture",)),
        )
    (tmp_path / "train.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="was not written by an import"):
        tables.from_folder(tmp_path, SKIN)


@pytest.mark.parametrize("label", ["benign, nevus", "a and b", "NEVUS"])
def test_labels_that_no_question_can_list_are_refused(tmp_path, label):
    for name in ("Nevus", label):
        picture(tmp_path / name / "a.png")
    with pytest.raises(DataError, match="read as several|in another case"):
        tables.from_folder(tmp_path, SKIN)


def test_a_folder_too_high_is_told_which_one_is_meant(tmp_path):
    for split in ("train", "test"):
        for label in ("NORMAL", "PNEUMONIA"):
            picture(tmp_path / "chest" / split / label / "a.png")
    with pytest.raises(DataError, match=r"looks like a split.*give the folder .*chest"):
        tables.from_folder(tmp_path, Task("x", "chest_xray"))
    assert tables.from_folder(tmp_path / "chest", Task("x", "chest_xray"))["rows"]["test"] == 2


def test_a_wfdb_record_is_one_row(tmp_path):
    for label in ("MI", "Normal"):
        (tmp_path / label).mkdir()
        for ending in ("hea", "mat", "dat"):
            (tmp_path / label / f"{label}1.{ending}").write_bytes(b"x")
    report = tables.from_folder(tmp_path, Task("x", "ecg"))
    assert sum(report["rows"].values()) == 2


def test_a_group_that_does_not_take_part_is_no_patient(tmp_path):
    for label in ("Nevus", "Mole"):
        picture(tmp_path / label / "p1.png")
        picture(tmp_path / label / "xp1.png")
    report = tables.from_folder(tmp_path, SKIN, r"(x)?p\d+")
    assert sum(report["rows"].values()) == 2
    assert report["dropped"]["the pattern of patients does not fit"]["records"] == 2


def test_options_that_a_source_does_not_read_are_refused(tmp_path, capsys):
    picture(tmp_path / "Nevus" / "a.png")
    command = ["data", "import", str(tmp_path), "--domain", "dermoscopy"]
    for more in (["--patient", "p"], ["--table", "t.csv", "--patient-pattern", "(a)"]):
        assert main.main([*command, *more]) == 2
        assert "says nothing of a" in capsys.readouterr().err


def test_missing_cells_of_a_hugging_face_data_set_are_not_their_names(tmp_path):
    drawn = Image.fromarray(np.zeros((9, 12, 3), np.uint8))
    features = datasets.Features(
        {"image": datasets.Image()}
        | dict.fromkeys(("label", "who", "key"), datasets.Value("string"))
        | {"grade": datasets.Value("float32"), "all": datasets.Sequence(datasets.Image())}
        | {"tags": datasets.Sequence(datasets.Value("string"))}
    )
    part = datasets.Dataset.from_dict(
        {
            "image": [drawn] * 4,
            "label": [" a", "a ", "b", None],
            "who": ["p", None, "q", "r"],
            "key": ["1", "2", "3", "4"],
            "grade": [0.0, float("nan"), 1.0, 1.0],
            "all": [[drawn]] * 4,
            "tags": [["a", "b"]] * 4,
        },
        features=features,
    )

    def made(folder, **columns):
        return huggingface.from_huggingface(part, tmp_path / folder, SKIN, Columns(**columns))

    report = made("one", patient="who", id="key")
    assert sum(report["rows"].values()) == 2 and report["dataset"]["labels"] == ["a", "b"]
    assert {k: v["as"] for k, v in report["dropped"].items()} == {
        "names no patient": ["2"],
        "has no label": ["4"],
    }
    assert made("two", label="grade")["dropped"]["has no label"]["records"] == 1
    with pytest.raises(DataError, match="lists of labels"):
        made("three", label="tags")
    with pytest.raises(DataError, match="no Image"):
        made("four", media=("all",))


def test_pictures_behind_a_link_out_of_the_folder_are_left_out(tmp_path):
    root = tmp_path / "own"
    for label in ("Nevus", "Melanoma"):
        picture(root / label / "a.png")
    picture(tmp_path / "elsewhere" / "b.png")
    (root / "Nevus" / "more").symlink_to(tmp_path / "elsewhere")
    dropped = tables.from_folder(str(root), SKIN)["dropped"]
    reason = "a file is behind a link that leads out of the data folder"
    assert dropped == {reason: {"records": 1, "as": ["Nevus/more/b.png"]}}


def test_a_picture_whose_name_is_not_utf_8_is_named(tmp_path):
    for label in ("Nevus", "Melanoma"):
        picture(tmp_path / label / "a.png")
    (tmp_path / "Nevus" / "a.png").rename(os.fsdecode(bytes(tmp_path) + b"/Nevus/\xf6.png"))
    with pytest.raises(DataError, match=r"not UTF-8: 'Nevus/\\udcf6.png'"):
        tables.from_folder(str(tmp_path), SKIN)
