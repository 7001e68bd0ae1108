"""The grading sheet, what graders give back, and their agreement."""

import collections
import json
import re

import numpy as np
import pytest
from helpers import cases

from qoq_jax.base.errors import DataError
from qoq_jax.cli import main
from qoq_jax.evaluation import agreement, grades
from qoq_jax.report import grading, viewer
from qoq_jax.report.shown import Library

NAN = np.nan
FULL = {"better": "A", "evidenceA": "yes", "evidenceB": "no", "reasoningA": "5"}
FULL |= {"reasoningB": "2", "harmA": "no", "harmB": "yes", "comment": "left"}


def content_of(path):
    text = path.read_text("utf-8")
    return json.loads(text.partition('id="cases" data-files="">')[2].partition("</script>")[0])


def key_of(path):
    return json.loads(path.with_name("grading-key.json").read_text())


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    root = cases.write_workdir(tmp_path_factory.mktemp("runs") / "mine")
    assert main.main(["report", str(root), "--grading", "9", "--seed", "3"]) == 0
    return root


def answers_file(path, key, grader, answers, sheet=None):
    made = {"grader": grader, "sheet": sheet or key["sheet"], "answers": answers}
    path.write_text(json.dumps(made))
    return str(path)


# ------------------------------------------------------------------------------------- the sheet
def test_the_sheet_has_a_stratified_sample_and_the_key_says_which_is_a(workdir):
    content, key = content_of(workdir / "grading.html"), key_of(workdir / "grading.html")
    assert key["evaluations"] == ["before RL", "after RL"] and key["sheet"] == content["sheet"]
    assert collections.Counter(row["domain"] for row in key["rows"]) == dict.fromkeys(
        cases.DOMAINS, 3
    )
    assert sorted(collections.Counter(row["A"] for row in key["rows"]).values()) == [4, 5]
    sides = [{r["id"]: r for r in made} for made in (cases.records(every=2), cases.records())]
    for row, case in zip(key["rows"], content["cases"], strict=True):
        pair = [side[row["id"]]["predicted"] for side in sides]
        assert [one["answer"] for one in case["responses"]] == (pair[::-1] if row["A"] else pair)
    assert not (workdir / "report.html").exists()


def test_a_seed_decides_all_of_it(tmp_path, workdir):
    again, other = tmp_path / "again.html", tmp_path / "other.html"
    for out, seed in ((again, "3"), (other, "4")):
        made = ["report", str(workdir), "--grading", "9", "--seed", seed, "--out", str(out)]
        assert main.main(made) == 0
    assert again.read_text() == (workdir / "grading.html").read_text() != other.read_text()
    assert (tmp_path / "again-key.json").exists()


def test_the_page_names_no_evaluation_stage_data_set_row_or_gold_answer(tmp_path):
    gold = {"labels": ["GOLDANSWER"], "gold_boxes": [[7.77, 7, 9, 9]]}
    gold |= {"id": "IDOFROW", "dataset": "DATASETNAME", "patient": "PATIENTNAME"}
    made = [cases.record(0, right, **gold) for right in (True, False)]
    root = cases.write_data(tmp_path / "data", 1)
    row = json.loads((root / "test.jsonl").read_text()) | {"id": "IDOFROW", "answer": "GOLDANSWER"}
    (root / "test.jsonl").write_text(json.dumps(row) + "\n")
    sides = [viewer.Side(f"NAMEOF{stage}", [r]) for stage, r in zip("XY", made, strict=True)]
    library = Library(roots={cases.SOURCE: str(root)})
    grading.write(tmp_path / "grading.html", sides, library, 1)
    page, key = ((tmp_path / name).read_text() for name in ("grading.html", "grading-key.json"))
    assert "NAMEOFX" in key and "NAMEOFY" in key
    words = ("GOLDANSWER", "7.77", "IDOFROW", "DATASETNAME", "PATIENTNAME", "NAMEOF", "reward")
    assert not [word for word in words if word in page]
    names = ("before RL", "after RL", "after alignment", "sft", "gold", "eval/", "\\bseed\\b")
    without_style = re.sub("<style>.*?</style>", "", page, flags=re.S)
    assert not [name for name in names if re.search(name, without_style)]


def test_text_of_models_is_no_markup(workdir):
    text = (workdir / "grading.html").read_text("utf-8")
    assert cases.EVIL[:30] not in text and "\\u003c/script>" in text


def test_boxes_of_both_are_in_the_frame_of_the_picture_shown(tmp_path):
    root = cases.write_data(tmp_path / "data", 1)
    small = cases.record(0, True, frame_sizes=[[16, 12]], boxes=[[2, 2, 10, 10]])
    sides = [viewer.Side("a", [small]), viewer.Side("b", [cases.record(0, True)])]
    library = Library(roots={cases.SOURCE: str(root)})
    grading.write(tmp_path / "grading.html", sides, library, 1)
    responses = content_of(tmp_path / "grading.html")["cases"][0]["responses"]
    assert responses[0]["boxes"] == responses[1]["boxes"] == [[4, 4, 20, 20, 0]]


def test_the_patient_is_named_by_no_response_and_no_question(tmp_path):
    root = cases.write_data(tmp_path / "data", 4)
    rows = [json.loads(line) for line in (root / "test.jsonl").read_text().splitlines()]
    rows[3]["problem"] = "What has Anna Meier?"
    (root / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    patient = {"patient": "Meier^Anna"}
    first = [cases.record(i, True, **patient) for i in (0, 3)]
    second = [cases.record(0, True, text="Ms Meier, Anna, is well.", **patient), first[1]]
    sides = [viewer.Side("a", first), viewer.Side("b", second)]
    library = Library(roots={cases.SOURCE: str(root)})
    with pytest.raises(DataError, match="share 1 rows"):
        grading.write(tmp_path / "grading.html", sides, library, 2)
    grading.write(tmp_path / "grading.html", sides, library, 1)
    assert "Meier" not in (tmp_path / "grading.html").read_text()
    assert content_of(tmp_path / "grading.html")["cases"][0]["prompt"] == ""


def test_shares_of_domains_are_those_of_all_rows():
    domains = {("s", str(i)): "ct" if i < 60 else "ecg" if i < 90 else "derm" for i in range(100)}
    chosen = grading.sample(domains, 10, np.random.default_rng(0))
    assert collections.Counter(domains[key] for key in chosen) == {"ct": 6, "ecg": 3, "derm": 1}
    assert len(set(chosen)) == 10


@pytest.mark.parametrize("count", ["0", "13"])
def test_more_rows_than_both_hold_are_refused(workdir, capsys, count):
    assert main.main(["report", str(workdir), "--grading", count]) == 1
    assert "share 12 rows" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--seed", "1"], ["--grading", "3", "--traces", "t"]])
def test_options_that_do_not_go_together_are_refused(workdir, capsys, more):
    assert main.main(["report", str(workdir), *more]) == 2
    assert more[0] in capsys.readouterr().err


def test_a_negative_seed_is_refused(workdir, capsys):
    assert main.main(["report", str(workdir), "--grading", "3", "--seed", "-1"]) == 2
    assert "--seed -1" in capsys.readouterr().err


def test_one_evaluation_or_no_media_are_refused(tmp_path, capsys):
    path = cases.write_evaluation(tmp_path / "eval.json", cases.records())
    out = ["--grading", "3", "--out", str(tmp_path / "grading.html")]
    assert main.main(["report", str(path), *out]) == 1
    assert "--against" in capsys.readouterr().err
    assert main.main(["report", str(path), "--against", str(path), *out]) == 1
    assert "media of 3 of 3 rows" in capsys.readouterr().err
    assert not (tmp_path / "grading.html").exists()


# ------------------------------------------------------------------------------------- the answers
def test_answers_are_unblinded(tmp_path):
    """Two rows with the same answers, A being the first evaluation in one, the second in the
    other.
    """
    key = {"sheet": "h", "evaluations": ["x", "y"], "rows": [{"A": 0}, {"A": 1}, {"A": 1}]}
    (tmp_path / "key.json").write_text(json.dumps(key))
    path = answers_file(tmp_path / "a.json", key, "AB", {"0": FULL, "1": FULL})
    _, found = grades.read(str(tmp_path / "key.json"), [path])
    np.testing.assert_array_equal(found["AB"]["better"], [grades.FIRST, grades.SECOND, NAN])
    np.testing.assert_array_equal(found["AB"]["evidence"], [[1, 0, NAN], [0, 1, NAN]])
    np.testing.assert_array_equal(found["AB"]["reasoning"], [[5, 2, NAN], [2, 5, NAN]])
    np.testing.assert_array_equal(found["AB"]["harm"], [[0, 1, NAN], [1, 0, NAN]])


def test_grade_prints_and_writes_what_was_found(tmp_path, workdir, capsys):
    """Both graders hold the second evaluation better in rows 0 to 5, the first in row 6; one calls
    row 7 alike, the other leaves it out: 12 of 15 judgements, 2 and 1.
    """
    key_path = workdir / "grading-key.json"
    key = json.loads(key_path.read_text())
    right = ["B" if row["A"] == 0 else "A" for row in key["rows"]]  # the second evaluation
    other = {"A": "B", "B": "A"}
    made = {str(i): {"better": right[i], f"reasoning{right[i]}": "4"} for i in range(6)}
    for i in range(6):
        made[str(i)][f"reasoning{other[right[i]]}"] = "3"
    made["6"] = {"better": other[right[6]]}
    paths = [
        answers_file(tmp_path / "1.json", key, "AB", made | {"7": {"better": "same"}}),
        answers_file(tmp_path / "2.json", key, "CD", made),
    ]
    out = tmp_path / "found.json"
    assert main.main(["grade", str(key_path), *paths, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "2 graders, 9 rows, 15 judgements" in printed and "second: after RL" in printed
    found = json.loads(out.read_text())
    assert found["wins"]["second"] == 12 / 15 and found["wins"]["first"] == 2 / 15
    low, high = found["wins"]["second_interval"]
    assert low < 12 / 15 < high <= 1
    reasoning = found["questions"]["reasoning"]
    assert (reasoning["first"], reasoning["second"], reasoning["difference"]) == (3, 4, 1)
    assert found["questions"]["harm"]["first"] is None
    assert found["agreement"]["better"]["cohen"] == found["agreement"]["better"]["alpha"] == 1
    assert found["agreement"]["reasoning"]["units"] == 12


def test_the_interval_draws_rows_and_not_judgements():
    """Ten graders of one opinion on four rows know no more than one of them."""
    one = np.array([[1.0, 1, 0, 1]])
    assert grades._mean(np.repeat(one, 10, 0), 0) == grades._mean(one, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sheet": "another"}, "another sheet"),
        ({"answers": {"99": FULL}}, "no row of the sheet"),
        ({"answers": {"0": {"better": "C"}}}, "better='C'"),
        ({"answers": {"0": {"harmC": "yes"}}}, "harmC"),
        ({"answers": {"0": {"harmA": ["yes"]}}}, "harmA"),
        ({"answers": {"0": {"reasoningA": "6"}}}, "reasoningA"),
        ({"grader": ""}, "names no grader"),
    ],
)
def test_files_that_are_not_of_the_sheet_are_refused(tmp_path, workdir, change, words):
    key_path = workdir / "grading-key.json"
    whole = {"grader": "AB", "sheet": json.loads(key_path.read_text())["sheet"], "answers": {}}
    (tmp_path / "a.json").write_text(json.dumps(whole | change))
    with pytest.raises(DataError, match=words):
        grades.read(str(key_path), [str(tmp_path / "a.json")])


def test_another_file_is_no_key(tmp_path, workdir):
    with pytest.raises(DataError, match="no key of a grading sheet"):
        grades.read(str(workdir / "eval/rl.json"), [])


def test_one_grader_twice_is_refused(tmp_path, workdir):
    key_path = workdir / "grading-key.json"
    key = json.loads(key_path.read_text())
    path = answers_file(tmp_path / "a.json", key, "AB", {})
    with pytest.raises(DataError, match="'AB' is there twice"):
        grades.read(str(key_path), [path, path])


# ------------------------------------------------------------------------------------- agreement
def test_krippendorffs_alpha_of_his_example():
    """Krippendorff (2011), section C: four observers, twelve units, and his results."""
    values = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
    assert round(agreement.krippendorff_alpha(np.array(values)), 3) == 0.743
    assert round(agreement.krippendorff_alpha(np.array(values), "ordinal"), 3) == 0.815


def test_krippendorffs_alpha_by_hand():
    """Units (0,0), (0,1), (1,1): coincidences 0-0 2, 0-1 and 1-0 1 each, 1-1 2, n = 6.

    D_o = 2/6; D_e = 2 * 3 * 3 / (6 * 5) = 3/5; alpha = 1 - (1/3) / (3/5) = 4/9.
    """
    values = np.array([[0.0, 0, 1], [0, 1, 1]])
    assert agreement.krippendorff_alpha(values) == pytest.approx(4 / 9)
    assert agreement.krippendorff_alpha(values, "ordinal") == pytest.approx(4 / 9)


def test_cohens_kappa_by_hand():
    """Of 50 units 20 are yes-yes, 5 yes-no, 10 no-yes, 15 no-no: p_o = 35/50 = 0.7; the first says
    yes 25, the second 30 times, p_e = 0.5 * 0.6 + 0.5 * 0.4 = 0.5; kappa = 0.2 / 0.5 = 0.4. A unit
    that one of them has not rated does not count.
    """
    pairs = [(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 10 + [(0, 0)] * 15 + [(1, NAN)]
    assert agreement.cohen_kappa(np.array(pairs, float).T) == pytest.approx(0.4)


def test_fleiss_kappa_by_hand():
    """Three raters, four units: (0,0,0), (0,0,1), (1,1,1), (0,1,1). Pairs that agree: 3, 1, 3, 1 of
    3 each, p_o = 8/12; both values have 6 of 12 ratings, p_e = 1/2; kappa = (1/6) / (1/2) = 1/3.
    """
    values = np.array([[0.0, 0, 1, 0], [0, 0, 1, 1], [0, 1, 1, 1]])
    assert agreement.fleiss_kappa(values) == pytest.approx(1 / 3)


@pytest.mark.parametrize("values", [[[1.0, 1], [1, 1]], [[1.0, NAN], [NAN, 2]]])
def test_agreement_is_unknown_where_only_one_value_or_no_pair_was_given(values):
    values = np.array(values)
    assert agreement.cohen_kappa(values) is None and agreement.fleiss_kappa(values) is None
    assert agreement.krippendorff_alpha(values) is None
