"""Questions out of miniature folders in the published layouts."""

import json

import pytest
from helpers import vqa_layouts

from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.evaluation.tasks import read, table
from qoq_jax.evaluation.tasks.question import prompt


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    vqa_layouts.write(folder)
    return folder


def asked(root, name):
    task = table.load()[name]
    return list(read.READERS[task.layout](str(root / task.folder)))


def test_vqa_rad_and_path_vqa_from_parquet(root):
    for name in ("vqa-rad", "path-vqa"):
        closed, opened = asked(root, name)
        assert (closed.id, closed.kind, closed.answers) == ("0", "yes_no", ("Yes",))
        assert (opened.id, opened.kind, opened.answers) == ("1", "open", ("left upper lobe",))
        assert closed.images == (vqa_layouts.png(1),) and closed.group == opened.group


def test_vqa_rad_as_first_published(tmp_path):
    item = {"qid": 5, "image_name": "synpic1.jpg", "question": "CT?", "answer": "No"}
    items = [item | {"phrase_type": "test_freeform"}, item | {"qid": 6, "phrase_type": "para"}]
    vqa_layouts.put(tmp_path / "VQA_RAD Dataset Public.json", items)
    (one,) = read.READERS["vqa_rad"](str(tmp_path))
    assert (one.id, one.kind, one.group) == ("5", "yes_no", "synpic1.jpg")
    assert one.images == (str(tmp_path / "VQA_RAD Image Folder" / "synpic1.jpg"),)


def test_slake_in_english(root):
    found = asked(root, "slake")
    assert [(q.id, q.kind) for q in found] == [
        ("11934", "open"),
        ("11935", "yes_no"),
        ("11936", "short"),
    ]
    assert found[0].images == (str(root / "slake/imgs/xmlab102/source.jpg"),)
    assert prompt(found[0]).endswith("used?\nPlease answer the question concisely.")


def test_choices(root):
    (pmc,), (omni,), (expert,) = (
        asked(root, name) for name in ("pmc-vqa", "omnimedvqa", "medxpertqa-mm")
    )
    assert pmc.options == ("A:CT", "B:MRI", "C:X-ray", "D:Ultrasound") and pmc.answers == ("B",)
    assert omni.options[1] == "B. Fundus Photography." and omni.answers == ("B",)
    assert expert.answers == ("B",) and len(expert.images) == 2
    assert prompt(omni) == (
        "\nQuestion: Which modality?\nOptions: \nA. CT.\nB. Fundus Photography.\nC. MRI.\n"
        "Answer with the option's letter from the given choices directly."
    )


def test_mmmu_gives_pictures_in_the_order_of_their_numbers(root):
    found = asked(root, "mmmu-medical")
    assert len(found) == 5 and found[0].answers == ("A",)
    assert found[0].images == (vqa_layouts.png(6), vqa_layouts.png(7))


def test_ecg_qa(root):
    verify, query, both = asked(root, "ecg-qa")
    assert verify.options == ("no", "not sure", "yes") and verify.group == "8"
    assert verify.ecgs == (str(root / "ptb-xl/records500/12000/12662_hr.hea"),)
    assert query.answers == ("hypertrophy", "st/t change") and query.ecgs[0].endswith(
        "records500/00000/00009_hr.hea"
    )
    assert len(both.ecgs) == 2 and both.group == "7"


def test_faults_name_the_place(root, tmp_path):
    for name in ("vqa-rad", "slake", "pmc-vqa", "omnimedvqa", "medxpertqa-mm", "mmmu-medical"):
        with pytest.raises(DataError, match="is not there"):
            list(read.READERS[table.load()[name].layout](str(tmp_path)))
    (tmp_path / "MM").mkdir()
    broken = {"id": "x", "question": "q", "options": {"A": "a"}, "label": "Q", "images": []}
    (tmp_path / "MM/test.jsonl").write_text(json.dumps(broken))
    with pytest.raises(DataError, match=r"test\.jsonl, line 1: .*letter of no option"):
        list(read.READERS["medxpertqa"](str(tmp_path)))


def test_names_of_tasks():
    assert len(table.find(["climb"])) == 30
    assert [task.name for task in table.find(["slake", "vqa-rad", "slake"])] == ["slake", "vqa-rad"]
    assert {task.layout for task in table.load().values()} == set(read.READERS)
    with pytest.raises(ConfigError, match="no task 'vqa-rd'.*did you mean 'vqa-rad'"):
        table.find(["vqa-rd"])
