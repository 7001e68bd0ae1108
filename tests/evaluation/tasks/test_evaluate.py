"""From files to results: predictions that can be counted by hand, and a model of random weights."""

import json

import pytest
from helpers import rows as row_files
from helpers import vqa_layouts

from qoq_jax.base.errors import DataError
from qoq_jax.cli import main
from qoq_jax.data import rows as schema
from qoq_jax.evaluation import compare, metrics, paper_table
from qoq_jax.evaluation.tasks import predictions, scores
from qoq_jax.sampling import model


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    vqa_layouts.write(folder)
    busi, ecg = folder / "busi", folder / "ptb-xl"
    busi.mkdir()
    row_files.write_image(busi, "a.png", 100, 200)
    lesion = {"bbox": [[20, 10, 120, 60]], "bbox_labels": ["Benign"]}
    labels = {"labels": ["Normal", "Benign", "Malignant"], "dataset": "busi"}
    about = {"domain": "ultrasound", "problem": "<image>What is it?", "images": ["a.png"]}
    made = [
        about
        | labels
        | {"id": str(i), "answer": answer, "patient": f"p{i}", "split": "test"}
        | more
        for i, (answer, more) in enumerate(
            [("Benign", lesion), ("Malignant", {}), ("Normal", {}), ("Benign", {})]
        )
    ]
    schema.write_jsonl(busi / "test.jsonl", [schema.validate_row(row, "t") for row in made])
    row_files.write_ecg(ecg, "e.npz")
    heart = {"id": "e", "dataset": "ptb-xl", "domain": "ecg", "problem": "<ecg>Which?"}
    heart |= {"answer": "MI, CD", "labels": ["MI", "CD", "Normal"], "time-series": ["e.npz"]}
    schema.write_jsonl(ecg / "test.jsonl", [schema.validate_row(heart, "t")])
    stays = folder / "mimic-iv"
    stays.mkdir()
    bins = {"domain": "multimodal", "problem": "How long?", "labels": ["0-4 days", ">12 days"]}
    schema.write_jsonl(
        stays / "test.jsonl",
        [
            schema.validate_row(bins | {"id": f"{of}-{i}", "dataset": of, "answer": answer}, "t")
            for of in ("mimic-iv-los-text", "mimic-iv-los-full")
            for i, answer in enumerate(["0-4 days", ">12 days"])
        ],
    )
    return folder


def lines(path, *items):
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return str(path)


def evaluated(root, tmp_path, tasks, *items):
    file = lines(tmp_path / "given.jsonl", *items)
    out = tmp_path / "out"
    command = ["evaluate", file, "--tasks", tasks, "--data-root", str(root), "--output", str(out)]
    assert main.main(command) == 0
    return json.loads((out / "results.json").read_text()), out


def test_predictions_are_scored_without_a_model(root, tmp_path, capsys):
    found, out = evaluated(
        root,
        tmp_path,
        "vqa-rad,omnimedvqa,ecg-qa",
        {"task": "vqa-rad", "id": 0, "response": "Yes."},
        {"task": "vqa-rad", "id": 1, "response": "the left lobe"},
        {"task": "omnimedvqa", "id": "ACRIMA_0000", "response": "fundus photography, I think"},
        {"task": "ecg-qa", "id": 0, "response": "\\boxed{yes}"},
        {"task": "ecg-qa", "id": 1, "response": "hypertrophy"},
        {"task": "ecg-qa", "id": 2, "response": "yes"},
    )
    results = found["results"]
    assert results["vqa-rad"]["exact_match,none"] == 0.5
    assert results["vqa-rad_closed"]["exact_match,none"] == 1.0
    assert results["vqa-rad_open"]["f1,none"] == pytest.approx(2 / 3)
    assert results["vqa-rad_open"]["recall,none"] == pytest.approx(2 / 3)
    assert found["group_subtasks"]["vqa-rad"] == ["vqa-rad_closed", "vqa-rad_open"]
    assert results["omnimedvqa"]["acc,none"] == 0.0
    assert results["omnimedvqa"]["acc,nearest"] == 1.0
    assert results["omnimedvqa"]["unparseable,none"] == 1.0
    assert results["ecg-qa"]["exact_match,none"] == pytest.approx(1 / 3)
    assert results["ecg-qa"]["f1,none"] == pytest.approx((1 + 2 / 3) / 3)
    assert found["n-samples"]["ecg-qa"] == {"original": 3, "effective": 3}
    assert found["versions"]["vqa-rad"] == 1 and found["n-shot"]["vqa-rad"] == 0
    assert "vqa-rad (2 questions): exact_match 0.500" in capsys.readouterr().out
    records = json.loads((out / "records.json").read_text())["records"]
    assert compare.compare(records, records, draws=10)[0]["p"] == 1.0


def test_classification_and_the_table_of_the_paper(root, tmp_path):
    found, out = evaluated(
        root,
        tmp_path,
        "busi,ptb-xl",
        {"task": "busi", "id": "0", "response": "\\boxed{Benign}"},
        {"task": "busi", "id": "1", "response": "Malignant"},  # the label and nothing else
        {"task": "busi", "id": "2", "response": "no idea"},
        {"task": "busi", "id": "3", "response": "\\boxed{Normal}"},
        {"task": "ptb-xl", "id": "e", "response": "\\boxed{CD, MI}"},
    )
    busi = found["results"]["busi"]
    assert busi["exact_match,none"] == 0.5
    assert busi["macro_f1,none"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert busi["label_accuracy,none"] == pytest.approx((3 / 4 + 1 + 2 / 4) / 3)
    assert busi["unparseable,none"] == 0.25
    rows = found["qoq"]["table"]["rows"]
    assert rows["macro_f1"]["ecg"] == 1.0
    assert rows["macro_f1"]["vision"] == pytest.approx(busi["macro_f1,none"])
    assert rows["macro_f1"]["all"] == pytest.approx((busi["macro_f1,none"] + 1) / 2)
    records = json.loads((out / "records.json").read_text())["records"]
    released = metrics.released_metrics(
        [r["text"] for r in records],
        [", ".join(r["labels"]) for r in records],
        [r["domain"] for r in records],
        [r["dataset"] for r in records],
    )
    assert rows["released_f1"]["all"] == pytest.approx(released["val/f1"])
    assert rows["released_accuracy"]["all"] == pytest.approx(released["val/accuracy"])
    table = (out / "table.md").read_text()
    assert table == paper_table.markdown(found["qoq"]["table"])
    assert table.startswith("| | ecg | ultrasound | vision | all |")
    assert found["groups"]["climb"]["macro_f1,none"] == pytest.approx(rows["macro_f1"]["all"])


def test_boxes_in_the_frame_that_the_model_saw(root, tmp_path):
    def box(*corners):
        return f'```json\n[{{"bbox_2d": {list(corners)}, "label": "Benign"}}]\n```'

    # The picture is 200 x 100 and the gold box [20, 10, 120, 60].
    for response in (
        {"response": box(20, 10, 120, 60)},
        {"response": box(10, 10, 60, 60), "frame_sizes": [[100, 100]]},
        {"response": box(100, 100, 600, 600), "box_coordinates": "relative_1000"},
    ):
        found, _ = evaluated(
            root, tmp_path, "busi", *[{"id": str(i), "response": ""} for i in range(4)]
        )
        with pytest.raises(KeyError):
            found["results"]["grounding-busi"]
        found, _ = evaluated(root, tmp_path, "grounding-busi", {"id": "0"} | response)
        assert found["results"]["grounding-busi"]["iou,none"] == pytest.approx(1.0)
    found, _ = evaluated(
        root, tmp_path, "grounding-busi", {"id": 0, "response": box(70, 10, 120, 60)}
    )
    assert found["results"]["grounding-busi"]["iou,none"] == pytest.approx(0.5)


def test_a_model_is_asked(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(model, "MAX_NEW_TOKENS", 8)
    out = str(tmp_path / "out")
    tasks = ["--tasks", "omnimedvqa,ecg-qa", "--limit", "1", "--output", out]
    code = main.main(["evaluate", "nano", *tasks, "--data-root", str(root)])
    said = capsys.readouterr()
    assert code == 1 and "12662_hr" in said.err  # the ECG is not there
    code = main.main(
        ["evaluate", "nano", *tasks[:1], "vqa-rad", *tasks[2:], "--data-root", str(root)]
    )
    assert code == 0
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert found["n-samples"]["vqa-rad"] == {"original": 1, "effective": 1}


def test_mistakes_are_one_line(root, tmp_path, capsys):
    def said(*arguments):
        assert main.main(["evaluate", *arguments, "--data-root", str(root)]) in (1, 2)
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    file = lines(tmp_path / "p.jsonl", {"id": 0, "response": "yes"})
    assert "did you mean 'vqa-rad'" in said(file, "--tasks", "vqa-rd")
    assert "no response to '1' of vqa-rad" in said(file, "--tasks", "vqa-rad")
    assert "names no task" in said(file, "--tasks", "vqa-rad,slake")
    assert main.main(["evaluate", "--list-tasks"]) == 0
    assert "medxpertqa-mm" in capsys.readouterr().out
    assert main.main(["evaluate"]) == 2


def test_lines_of_predictions(tmp_path):
    for item, match in (
        ({"id": 1}, "needs id and response"),
        ({"id": 1, "response": "", "score": 1}, "did you mean 'scores'"),
        ({"id": 1, "response": "", "box_coordinates": "pixel"}, "did you mean 'pixels'"),
        ({"id": 1, "response": "", "frame_sizes": [3]}, "pairs of numbers"),
    ):
        with pytest.raises(DataError, match=match):
            predictions.read(lines(tmp_path / "p.jsonl", item), ["a"])
    twice = lines(tmp_path / "p.jsonl", *[{"id": 1, "response": ""}] * 2)
    with pytest.raises(DataError, match="twice"):
        predictions.read(twice, ["a"])
    with pytest.raises(DataError, match="names no task"):
        predictions.read(twice, ["a", "b"])


def test_the_standard_error_counts_groups_not_questions():
    def rows(groups):
        return [
            {"kind": "yes_no", "exact": i % 2 == 0, "predicted": ["x"], "patient": f"p{i % groups}"}
            for i in range(400)
        ]

    alone = scores.of_task(rows(400))[""]["exact_match_stderr,none"]
    alike = scores.of_task(rows(4))[""]["exact_match_stderr,none"]
    assert alone == pytest.approx(0.025, rel=0.1)  # sqrt(0.25 / 400)
    assert alike > 5 * alone


def test_questions_of_one_group_have_no_standard_error():
    rows = [
        {"kind": "yes_no", "exact": i == 0, "predicted": ["x"], "patient": "p"} for i in range(3)
    ]
    assert scores.of_task(rows)[""]["exact_match_stderr,none"] == "N/A"


def test_a_task_of_several_data_sets_is_averaged_as_the_table_is():
    rows = [
        {"kind": "labels", "source": "t", "id": f"{name}{i}", "dataset": name, "domain": name}
        | {"labels": [label], "vocabulary": ["x", "y"], "predicted": ["x"], "text": ""}
        for name in ("ct", "mri")
        for i, label in enumerate("xy")
    ]
    numbers = scores.of_task(rows)[""]
    table = paper_table.table(rows)["rows"]
    for name in ("macro_f1", "label_accuracy"):
        assert numbers[f"{name},none"] == pytest.approx(table[name]["all"])
    assert numbers["label_accuracy,none"] == 0.5 and numbers["macro_f1_stderr,none"] > 0


def test_of_a_folder_of_several_data_sets_a_task_asks_its_own(root, tmp_path):
    given = [{"id": f"mimic-iv-los-text-{i}", "response": "\\boxed{0-4 days}"} for i in range(2)]
    found, _ = evaluated(root, tmp_path, "mimic-iv-los-text", *given)
    assert found["n-samples"]["mimic-iv-los-text"]["effective"] == 2
    assert found["results"]["mimic-iv-los-text"]["exact_match,none"] == pytest.approx(0.5)
