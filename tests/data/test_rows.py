"""Row schema: what is accepted, and that every mistake names file, row and field."""

import json

import pytest

from qoq_jax.base.errors import DataError
from qoq_jax.data import rows as schema

GOOD = {
    "id": "a1",
    "dataset": "busi",
    "domain": "ultrasound",
    "patient": "p1",
    "split": "train",
    "problem": "<image>\nWhat is seen? Answer with one of the following: Normal, Benign, Malignant",
    "answer": "Benign",
    "labels": ["Normal", "Benign", "Malignant"],
    "images": ["media/a1.png"],
    "bbox": [10, 20, 30.5, 40],
    "segmentation_path": "media/a1_mask.png",
    "difficulty": 2,
    "source": "climb-mini",
}


def test_a_good_row_and_its_round_trip(tmp_path):
    row = schema.validate_row(GOOD, "f:1")
    assert row.bbox == ((10.0, 20.0, 30.5, 40.0),) and row.answers == ("Benign",)
    schema.write_jsonl(tmp_path / "train.jsonl", [row])
    assert schema.read_jsonl(tmp_path / "train.jsonl") == [row]
    assert [p.name for p in tmp_path.iterdir()] == ["train.jsonl"]


def test_released_and_conversations_spellings():
    released = {
        "problem": "An ECG. Answer with phrases from the following: Normal, CD, A. Fib/Aflutter",
        "answer": "CD, A. Fib/Aflutter",
        "time-series": ["ptb-xl/1.hea"],
        "dataset": "ptb-xl",
        "images": [],
        "videos": [],
        "bbox": None,
        "segmentation_path": "",
    }
    row = schema.validate_row(released, "f:1")
    assert (row.domain, row.time_series, row.id) == ("ecg", ("ptb-xl/1.hea",), "f:1")
    assert row.labels == ("Normal", "CD", "A. Fib/Aflutter") and row.answers == (
        "CD",
        "A. Fib/Aflutter",
    )
    talk = {
        "images": ["chexpert/1.png"],
        "conversations": [
            {"from": "human", "value": "<image>\nFindings?"},
            {"from": "gpt", "value": "edema, mass"},
        ],
    }
    row = schema.validate_row(talk, "f:2")
    assert (row.domain, row.problem, row.answers) == (
        "chest_xray",
        "<image>\nFindings?",
        ("edema", "mass"),
    )
    assert schema.validate_row(row.to_dict(), "f:2") == row


@pytest.mark.parametrize(
    "change, said",
    [
        ({"anser": "x"}, "did you mean 'answer'"),
        ({"shoe_size": 43}, "unknown field 'shoe_size'"),
        ({"answer": "Bening"}, "did you mean 'Benign'"),
        ({"answer": ""}, "answer"),
        ({"problem": None}, "problem: is missing"),
        ({"domain": "ultrasonic"}, "domain"),
        ({"domain": None, "dataset": "mine", "images": ["mine/a.png"]}, "domain: is missing"),
        ({"split": "val"}, "split"),
        ({"bbox": [30, 20, 10, 40]}, "x1 < x2"),
        ({"bbox": [-1, 20, 10, 40]}, "0 <= x1"),
        ({"bbox": [1, 2, 3]}, "four finite numbers"),
        ({"bbox": [1, 2, 3, float("nan")]}, "four finite numbers"),
        ({"bbox": [1, 2, float("inf"), 4]}, "four finite numbers"),
        ({"bbox": [True, 2, 3, 4]}, "four finite numbers"),
        ({"bbox": {"x1": 1}}, "bbox: must be a list"),
        ({"bbox_labels": ["a", "b"]}, "bbox_labels: 2 labels for 1 boxes"),
        ({"images": ["../etc/passwd"]}, "images: unsafe path"),
        ({"images": ["/etc/passwd"]}, "unsafe path"),
        ({"images": ["a\0.png"]}, "unsafe path"),
        ({"images": ["C:\\a.png"]}, "unsafe path"),
        ({"segmentation_path": "a/../../b.png"}, "segmentation_path: unsafe path"),
        ({"images": [3]}, "images: must be a list of texts"),
        ({"images": ["a.png", "b.png"]}, "2 files for 1 <image>"),
        ({"labels": ["Benign", "Benign"]}, "listed twice"),
        ({"difficulty": 7}, "difficulty"),
        ({"difficulty": True}, "difficulty"),
        ({"reasoning": 5}, "reasoning"),
        ({"conversations": [{"from": "gpt", "value": "x"}]}, "one human and one gpt turn"),
    ],
)
def test_each_mistake_names_row_and_field(change, said):
    with pytest.raises(DataError) as caught:
        schema.validate_row({**GOOD, **change}, "train.jsonl:7")
    assert said in str(caught.value) and "train.jsonl:7" in str(caught.value) and caught.value.hint


def test_region_without_a_picture():
    row = {k: v for k, v in GOOD.items() if k != "images"} | {"problem": "What?"}
    with pytest.raises(DataError, match="without an image"):
        schema.validate_row(row, "f:1")


def test_split_labels_matches_the_vocabulary_first():
    names = ("A. Fib/Aflutter", "Lobular and ductal", "MI", "CD", "Signs, other", "R&D")
    assert schema.split_labels("CD, A. Fib/Aflutter and MI.", names) == (
        "CD",
        "A. Fib/Aflutter",
        "MI",
    )
    assert schema.split_labels("lobular AND ductal & cd", names) == ("Lobular and ductal", "CD")
    assert schema.split_labels("Signs, other, R&D", names) == ("Signs, other", "R&D")
    assert schema.split_labels("edema and  mass;\nedema & fracture.") == (
        "edema",
        "mass",
        "fracture",
    )
    assert schema.split_labels("MI scale", names) == ("MI scale",)  # a longer word is another label
    assert schema.split_labels("sandy band", ()) == ("sandy band",)
    assert schema.split_labels(" , and & . ", names) == ()
    assert schema.split_labels("x," * 100_000, ()) == ("x",)


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "has no rows"),
        ("\n\n", "has no rows"),
        ("[]", "has no rows"),
        ('{"id": 1', "not valid JSON"),
        ('{"bbox": [NaN]}', "NaN is not a JSON number"),
        ('{"bbox": [1e999]}', "too large"),
        ('{"id": "a", "id": "b"}', "used twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' + "[" * 100_000, "nested too deeply"),
        ('"text"', "must be a JSON object"),
    ],
)
def test_broken_files(tmp_path, text, said):
    path = tmp_path / "train.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match="train.jsonl") as caught:
        schema.read_jsonl(path)
    assert said in str(caught.value)


def test_file_forms_and_line_numbers(tmp_path):
    path = tmp_path / "train.jsonl"
    second = {**GOOD, "id": "a2"}
    path.write_text(json.dumps([GOOD, second]))
    assert [r.id for r in schema.read_jsonl(path)] == ["a1", "a2"]
    path.write_text(json.dumps(GOOD) + "\n\n" + json.dumps({**second, "answer": "Cyst"}) + "\n")
    with pytest.raises(DataError, match=r"train\.jsonl:3: answer"):
        schema.read_jsonl(path)
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD))
    with pytest.raises(DataError, match=r"train\.jsonl:2: id: 'a1' is used by train\.jsonl:1"):
        schema.read_jsonl(path)
    path.write_bytes(b'{"id": "\xff"}')
    with pytest.raises(DataError, match="UTF-8"):
        schema.read_jsonl(path)
    with pytest.raises(DataError, match="cannot be read"):
        schema.read_jsonl(tmp_path / "nothing.jsonl")


def test_resolve_keeps_media_inside(tmp_path):
    root = tmp_path / "data"
    (root / "media").mkdir(parents=True)
    (root / "media" / "a.png").write_bytes(b"x")
    (tmp_path / "secret.png").write_bytes(b"x")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    assert schema.resolve(root, "media/a.png").read_bytes() == b"x"
    for bad in (
        "link.png",
        "../secret.png",
        str(tmp_path / "secret.png"),
        "media/../../secret.png",
        "a\0",
    ):
        with pytest.raises(DataError):
            schema.resolve(root, bad)


FOUR_VIEWS = {
    "problem": "Answer with one of: A, B.",
    "answer": "A",
    "domain": "mammography",
    "images": ["1.png", "2.png", "3.png", "4.png"],
    "bbox": [[1, 2, 3, 4]],
}


def test_a_box_can_lie_on_another_picture_than_the_first():
    row = schema.validate_row(FOUR_VIEWS | {"bbox_images": [2]}, "x:1")
    assert row.bbox_images == (2,)
    assert schema.validate_row(row.to_dict(), "x:1") == row


def test_rows_without_numbers_of_pictures_are_read_as_before():
    for numbers in ({}, {"bbox_images": [0]}, {"bbox_images": None}):
        row = schema.validate_row(FOUR_VIEWS | numbers, "x:1")
        assert row.bbox_images == () and "bbox_images" not in row.to_dict()


@pytest.mark.parametrize("numbers", [[4], [-1], [0, 1], ["2"], 2, [True]])
def test_a_picture_that_is_not_there_is_an_error_of_the_row(numbers):
    with pytest.raises(DataError, match="bbox_images"):
        schema.validate_row(FOUR_VIEWS | {"bbox_images": numbers}, "x:1")


def test_resolve_follows_links_that_stay_inside(tmp_path):
    """The layout of git-annex and DataLad: a link into .git/annex/objects of the data folder."""
    root = tmp_path / "data"
    store = root / ".git" / "annex" / "objects" / "a1"
    store.mkdir(parents=True)
    (store / "key.png").write_bytes(b"x")
    (root / "a.png").symlink_to(".git/annex/objects/a1/key.png")
    (root / "gone.png").symlink_to(".git/annex/objects/b2/key.png")
    assert schema.resolve(root, "a.png").read_bytes() == b"x"
    with pytest.raises(DataError, match="git-annex link whose content is not here.*datalad get"):
        schema.resolve(root, "gone.png")
