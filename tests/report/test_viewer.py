"""The case viewer: what its page holds, and what can never get into it."""

import html.parser
import json

import pytest
from helpers import cases

from qoq_jax.base.errors import DataError
from qoq_jax.cli import main
from qoq_jax.report import cases_page, viewer
from qoq_jax.report.shown import Library


class Scripts(html.parser.HTMLParser):
    """The tags of a page, and the script elements as a browser cuts them: (attributes, text)."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.scripts = [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data):
        if self.tags and self.tags[-1] == "script" and self.cdata_elem == "script":
            attrs, text = self.scripts[-1]
            self.scripts[-1] = attrs, text + data

    def block(self, name):
        return next(json.loads(text) for attrs, text in self.scripts if attrs.get("id") == name)

    def names(self):
        return [attrs.get("id") for attrs, _ in self.scripts]


def page_of(path):
    return Scripts(path.read_text("utf-8"))


def written(tmp_path, made, library=None, **more):
    viewer.write(tmp_path / "cases.html", [viewer.Side("now", made)], library or Library(), **more)
    return page_of(tmp_path / "cases.html")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir with its page."""
    workdir = cases.write_workdir(tmp_path_factory.mktemp("runs") / "mine")
    assert main.main(["report", str(workdir)]) == 0
    return workdir


def test_the_page_of_a_run_holds_all_cases_with_both_evaluations_and_their_media(run):
    page = page_of(run / "cases.html")
    content = page.block("cases")
    assert content["sides"] == ["before RL", "after RL"] and content["title"] == "Cases of mine"
    assert sorted(c["id"] for c in content["cases"]) == sorted(r["id"] for r in cases.records())
    assert content["total"] == 12 and all(None not in c["sides"] for c in content["cases"])
    kinds = {}
    for i, case in enumerate(content["cases"]):
        block = page.block(f"media-{i}")
        assert not block["fault"]
        kinds[case["domain"]] = block["kind"], len(block["pictures"]), bool(block["ecg"])
    assert kinds["CT"] == ("frames", 4, False) and kinds["ECG"][1:] == (0, True)
    assert kinds["Chest X-ray"] == ("images", 1, False)


def test_failures_come_first(run):
    right = [c["sides"][-1]["right"] for c in page_of(run / "cases.html").block("cases")["cases"]]
    assert right == sorted(right) and set(right) == {True, False}


def test_text_of_models_and_data_is_no_markup(run):
    text = (run / "cases.html").read_text("utf-8")
    page = Scripts(text)
    written_text = cases.EVIL.replace("\u2028", " ")  # which is no printable character
    content = page.block("cases")
    assert all(written_text in c["sides"][-1]["text"] for c in content["cases"])
    assert any(written_text in c["prompt"] for c in content["cases"])
    data, code = page.names()[:-1], page.names()[-1]
    assert data == ["cases", *(f"media-{i}" for i in range(12))] and code is None
    assert "img" not in page.tags and "\u2028" not in text
    assert all(attrs.get("type") == "application/json" for attrs, _ in page.scripts[:-1])


def test_json_in_a_script_element_cannot_end_it():
    value = {"</script><!--": "a\u2028b\u2029</SCRIPT >"}
    text = viewer.to_json(value)
    assert json.loads(text) == value and "<" not in text
    assert "\u2028" not in text and "\u2029" not in text


def test_the_policy_admits_the_pages_own_script_alone(run):
    text = (run / "cases.html").read_text("utf-8")
    policy = text.partition('http-equiv="Content-Security-Policy" content="')[2].partition('"')[0]
    assert "default-src 'none'" in policy and "unsafe-inline' 'strict" not in policy
    script = [one for one in policy.split("; ") if one.startswith("script-src")]
    assert len(script) == 1 and "sha256-" in script[0] and "http" not in policy


def test_an_id_that_holds_the_patient_is_left_out(tmp_path):
    made = [
        cases.record(0, True, id="Meier_Anna-01", patient="meier_anna"),
        cases.record(1, True, id="scan-7", patient="meier_anna"),
        cases.record(2, True, id="01-MEIER-anna", patient="Meier^Anna"),
    ]
    page = written(tmp_path, made)
    assert sorted(c["id"] for c in page.block("cases")["cases"]) == ["", "", "scan-7"]
    assert "meier" not in (tmp_path / "cases.html").read_text().lower()


def test_media_that_cannot_be_read_are_said_without_their_path(tmp_path):
    root = cases.write_data(tmp_path / "meier_anna")
    (root / "a.png").write_bytes(b"no picture")
    (root / "e.npz").unlink()
    page = written(tmp_path, cases.records(), Library(roots={cases.SOURCE: str(root)}))
    text = (tmp_path / "cases.html").read_text()
    faults = [page.block(f"media-{i}")["fault"] for i in range(12)]
    assert sum(map(bool, faults)) == 8
    assert "meier" not in text and "a.png" not in text and "e.npz" not in text


@pytest.mark.parametrize(("most", "wrong"), [(3, 3), (9, 6), (12, 6)])
def test_of_more_cases_than_a_page_shows_wrong_ones_go_before_right_ones(tmp_path, most, wrong):
    # Chest X-rays have four wrong rows, the other domains one each; all domains have right ones.
    made = [cases.record(i, i not in (0, 1, 2, 3, 6, 9)) for i in range(15)]
    content = written(tmp_path, made, most=most).block("cases")
    kept = [(c["domain"], c["sides"][0]["right"]) for c in content["cases"]]
    assert content["total"] == 15 and len(kept) == most
    assert [right for _, right in kept] == [False] * wrong + [True] * (most - wrong)
    assert len(set(kept[:wrong])) == 3
    assert len(set(kept[wrong:])) == min(3, most - wrong)


def test_no_records_and_what_is_no_record_are_clear_errors(tmp_path):
    with pytest.raises(DataError, match="no records to show"):
        written(tmp_path, [])
    with pytest.raises(DataError, match="no record of an evaluation"):
        written(tmp_path, [{"id": "a"}])
    with pytest.raises(DataError, match="is there twice"):
        written(tmp_path, cases.records() * 2)


def test_a_row_that_is_there_twice_is_not_named_since_its_id_may_hold_the_patient(tmp_path):
    made = [cases.record(0, True), cases.record(1, True, id="Meier_Anna-01")]
    with pytest.raises(DataError, match="record 3 is of a row of mini that is") as caught:
        written(tmp_path, [*made, made[1]])
    assert "meier" not in str(caught.value).lower()


def test_another_evaluation_is_joined_row_by_row(tmp_path):
    made = cases.records()
    first = cases.write_evaluation(tmp_path / "a/eval/rl.json", made[::-1][:8])
    second = cases.write_evaluation(tmp_path / "b/eval/rl.json", made)
    out = tmp_path / "cases.html"
    arguments = ["report", str(second), "--out", str(out), "--against", str(first)]
    assert main.main(arguments) == 0
    content = page_of(out).block("cases")
    assert content["sides"] == ["a/eval/rl.json", "b/eval/rl.json"]
    for case in content["cases"]:
        then, now = case["sides"]
        assert (then is None) == (int(case["id"].removeprefix("row-")) < 4)
        assert then is None or then == now


def test_another_evaluation_without_a_common_row_is_refused_in_one_line(tmp_path, capsys):
    made = cases.records()
    other = [one | {"source": "other"} for one in made]
    first = cases.write_evaluation(tmp_path / "a/eval/rl.json", other)
    second = cases.write_evaluation(tmp_path / "b/eval/rl.json", made)
    out = tmp_path / "cases.html"
    arguments = ["report", str(second), "--out", str(out), "--against", str(first)]
    assert main.main(arguments) == 1
    said = capsys.readouterr().err.strip()
    assert "no row is in both" in said and "\n" not in said and not out.exists()


def test_a_file_of_an_evaluation_has_no_media_without_a_data_set(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = cases.write_evaluation(tmp_path / "eval.json", cases.records())
    assert main.main(["report", str(path)]) == 0
    assert capsys.readouterr().out == "cases.html\n"
    assert page_of(tmp_path / "cases.html").names() == ["cases", None]


@pytest.mark.parametrize("named", [False, True])
def test_data_brings_the_media_of_an_evaluation(tmp_path, named):
    path = cases.write_evaluation(tmp_path / "eval.json", cases.records())
    root = cases.write_data(tmp_path / ("data" if named else cases.SOURCE))
    data = f"{cases.SOURCE}={root}" if named else str(root)
    out = tmp_path / "c.html"
    assert main.main(["report", str(path), "--data", data, "--out", str(out)]) == 0
    page = page_of(out)
    assert len(page.names()) == 14 and cases.EVIL[:9] in page.block("cases")["cases"][0]["prompt"]


def test_data_of_another_name_or_nowhere_is_refused(tmp_path, capsys):
    (tmp_path / "rl.json").write_text(json.dumps({"records": cases.records()}))
    (tmp_path / "elsewhere").mkdir()
    for data, said in (
        (tmp_path / "elsewhere", "no row is of the source 'elsewhere'"),
        (f"{cases.SOURCE}={tmp_path / 'nowhere'}", "no such folder"),
    ):
        assert main.main(["report", str(tmp_path / "rl.json"), "--data", str(data)]) == 2
        assert said in capsys.readouterr().err


def test_media_of_a_large_page_are_files_that_the_page_names(tmp_path, monkeypatch):
    root = cases.write_data(tmp_path / "data")
    library = Library(roots={cases.SOURCE: str(root)})
    inside = written(tmp_path, cases.records(), library)
    blocks = [inside.block(f"media-{i}") for i in range(12)]
    monkeypatch.setattr(viewer, "MAX_BYTES", 1000)
    page = written(tmp_path, cases.records(), library)
    assert page.names() == ["cases", None]
    folder = page.scripts[0][0]["data-files"]
    assert folder == "cases_files" and len(list((tmp_path / folder).iterdir())) == 12
    for i, block in enumerate(blocks):
        text = (tmp_path / folder / f"{i}.js").read_text()
        assert text.startswith(f"qoqMedia({i}, ") and text.endswith(");\n")
        assert json.loads(text.removeprefix(f"qoqMedia({i}, ").removesuffix(");\n")) == block
    monkeypatch.undo()
    written(tmp_path, cases.records(), library)
    assert not (tmp_path / folder).exists()


def test_a_run_that_was_not_evaluated_has_no_page(tmp_path):
    assert cases_page.of_run(tmp_path, tmp_path) is None and not list(tmp_path.iterdir())


def test_boxes_of_an_evaluation_that_saw_other_sizes_are_scaled_to_the_picture_that_is_shown():
    block = {"kind": "images", "pictures": [{"size": [32, 24]}]}
    twice = cases.record(0, True, boxes=[[8, 8, 40, 40]], frame_sizes=[[64, 48]])
    assert viewer.boxes_in(twice, block) == [[4, 4, 20, 20, 0]]
    assert viewer.boxes_in(cases.record(0, True), block) == [[4, 4, 20, 20, 0]]
    elsewhere = cases.record(0, True, box_images=[1])
    assert viewer.boxes_in(elsewhere, block) == []
