"""The report: one safe, self-contained file from whatever a run has left."""

import html.parser
import json
import xml.etree.ElementTree

import numpy as np
import pytest
from PIL import Image

from qoq_jax.base.errors import DataError
from qoq_jax.report import charts, figures, gallery, report

EVIL = "<script>alert(1)</script><img src=http://x.test/a.png onerror=go()>{cases}{body}\x00"


def record(i, domain, right, source="climb-mini", **more):
    gold, wrong = ["Lesion", "Normal"][:: 1 if i % 2 else -1]
    boxed = gold if right else wrong
    return (
        dict(
            id=f"{domain}-{i}",
            dataset=f"{domain}-mini",
            domain=domain,
            source=source,
            labels=[gold],
            vocabulary=["Normal", "Lesion"],
            predicted=[boxed],
            boxes=[[4, 4, 20, 20]],
            text=f"```json\n[]\n```\n<think>{EVIL}</think>\n\\boxed{{{boxed}}}",
            gold_boxes=[[5, 5, 22, 22]],
            frame_size=[32, 24],
            iou=0.7 if right else 0.1,
            reward={"total": 0.9, "accuracy": 1.0, "iou": 0.7, "format": 1.0},
        )
        | more
    )


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "gallery/rl").mkdir(parents=True)
    for name, share in (("sft", 3), ("rl", 5)):
        rows = [record(i, d, i % 6 < share) for d in ("ct", "ecg", "chest_xray") for i in range(12)]
        rows += [record(i, "ct", True, "real", id=f"real-{i}") for i in range(2)]
        (tmp_path / f"eval/{name}.json").write_text(json.dumps({"summary": {}, "records": rows}))
    picture = (np.arange(24 * 32 * 3) % 255).astype(np.uint8).reshape(24, 32, 3)
    Image.fromarray(picture).save(tmp_path / "gallery/rl/a.png")
    np.savez(
        tmp_path / "gallery/rl/e.npz",
        signal=np.sin(np.arange(20000).reshape(8, 2500) / 30).astype(np.float32),
    )
    media = [
        {"image": "a.png"},
        {"frames": ["a.png"] * 4},
        {"ecg": "e.npz", "frame_size": None, "boxes": [], "gold_boxes": []},
    ]
    for i, (domain, files) in enumerate(zip(("chest_xray", "ct", "ecg"), media, strict=True)):
        case = record(i, domain, i % 2 == 0, prompt=EVIL, **files)
        (tmp_path / f"gallery/rl/case_{i:03d}.json").write_text(json.dumps(case))
    lines = [{"step": i, "stage": "sft", "loss": 2.0 / (i + 1)} for i in range(20)]
    lines += [
        {
            "step": i,
            "stage": "rl",
            "reward/total": i / 30,
            "reward/iou": None,
            "reward/domain/ct": i / 30,
            "loss": float("nan"),
            "kl": 0.01,
            "seconds/rollout": 0.5,
        }
        for i in range(30)
    ]
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps(c) + "\n" for c in lines) + '{"step": 30, "sta'
    )
    (tmp_path / "config.json").write_text(json.dumps({"train": {"lr": 1e-5, "note": EVIL}}))
    facts = dict(
        title="A run " + EVIL,
        model="nano",
        algorithm="drpo",
        parameters=3e6,
        command="qoq train",
        versions={"jax": "0.10"},
        seconds={"rl": 12.5},
        notes=[EVIL],
        skipped=[{"where": EVIL, "reason": "truncated"}, "text"],
    )
    (tmp_path / "run.json").write_text(json.dumps(facts))
    return tmp_path


class Reader(html.parser.HTMLParser):
    """Collects tags and attributes, and checks that tags close in order."""

    VOID = ("meta", "img", "br", "image", "rect", "line", "path", "polyline", "circle")

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def test_the_whole_page_is_safe_and_self_contained(workdir):
    out = report.write_report(workdir)
    page = out.read_text()
    reader = Reader(page)
    assert "script" not in reader.tags and "img" not in reader.tags and "link" not in reader.tags
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    addresses = [
        value for name, value in reader.attributes if name in ("href", "src", "xlink:href")
    ]
    assert addresses and all(value.startswith(("#", "data:image/")) for value in addresses)
    assert "url(http" not in page and "@import" not in page and "default-src 'none'" in page
    assert len(page) < report.MAX_BYTES and not list(workdir.glob("*.partial"))
    for words in (
        "macro-F1",
        "Results by domain",
        "Real samples",
        "Skipped samples",
        "Chest X-ray",
        "qoq train",
        "real-1",
        "truncated",
    ):
        assert words in reader.words
    assert reader.tags.count("article") == 3 and EVIL.replace("\x00", " ") in reader.words


@pytest.mark.parametrize(
    "missing",
    ["metrics.jsonl", "eval/rl.json", "eval/sft.json", "run.json", "config.json", "gallery"],
)
def test_missing_parts_are_left_out(workdir, missing):
    for path in (workdir / "gallery/rl").iterdir() if missing == "gallery" else [workdir / missing]:
        path.unlink()
    Reader(report.write_report(workdir, workdir / "new" / "r.html").read_text())


def test_only_curves(workdir):
    for path in [*workdir.glob("eval/*"), *workdir.glob("gallery/rl/*"), workdir / "run.json"]:
        path.unlink()
    assert "Not evaluated yet" in report.write_report(workdir).read_text()


def test_only_real_rows(workdir):
    rows = [record(i, "ct", True, "real") for i in range(4)]
    (workdir / "eval/rl.json").write_text(json.dumps({"records": rows}))
    (workdir / "eval/sft.json").unlink()
    Reader(report.write_report(workdir).read_text())


def test_nothing_or_damaged_is_a_clear_error(workdir, tmp_path_factory):
    with pytest.raises(DataError, match="nothing to report on"):
        report.write_report(tmp_path_factory.mktemp("empty"))
    (workdir / "eval/rl.json").write_text('{"records": [')
    with pytest.raises(DataError, match="rl.json"):
        report.write_report(workdir)
    assert not (workdir / "report.html").exists()


def test_a_broken_line_in_the_middle_is_named(workdir):
    (workdir / "metrics.jsonl").write_text('{"step": 1}\nbroken\n{"step": 2}\n')
    with pytest.raises(DataError, match=r"metrics.jsonl:2"):
        report.write_report(workdir)


def test_a_further_data_set_has_a_section_and_its_ids_are_its_own(workdir):
    """data.extra may use ids that another data set has too."""
    for name, right in (("sft", False), ("rl", True)):
        path = workdir / f"eval/{name}.json"
        content = json.loads(path.read_text())
        mine = [
            record(i, "ct", right, "mine", id=f"ct-{i}", predicted=[f"mine {name}"])
            for i in range(3)
        ]
        path.write_text(json.dumps(content | {"records": content["records"] + mine}))
    reader = Reader(report.write_report(workdir).read_text())
    # the first one is in the navigation
    section = reader.words.partition("Other data sets")[2].partition("Other data sets")[2]
    assert "All 3 mine rows" in section and "mine sft" in section and "mine rl" in section
    case = next(
        path
        for path in (workdir / "gallery/rl").glob("case_*.json")
        if json.loads(path.read_text())["id"] == "ct-1"
    )
    page = report.write_report(workdir).read_text()
    then = "Normal"  # of climb-mini's ct-1 before RL, not that of mine's
    assert f"Before RL</dt><dd>{then}" in page and "Before RL</dt><dd>mine sft" not in page
    case.write_text(json.dumps(json.loads(case.read_text()) | {"source": "mine"}))
    assert "Before RL</dt><dd>mine sft" in report.write_report(workdir).read_text()


def test_gallery_media_stay_in_the_gallery(workdir):
    path = workdir / "gallery/rl/case_000.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image": "../../secret.png"}))
    with pytest.raises(DataError, match="outside of the gallery"):
        report.write_report(workdir)


def test_gallery_stays_under_the_byte_limit(workdir, monkeypatch):
    monkeypatch.setattr(report, "MAX_BYTES", 100_000)
    assert (
        "<article" in (page := report.write_report(workdir).read_text())
        and len(page.encode()) <= 100_000
    )


def test_a_case_of_several_images_shows_each_box_on_its_own(tmp_path):
    names = ["a.png", "b.png"]
    for name, side in zip(names, (24, 48)):
        Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(tmp_path / name)
    sizes = [[24, 24], [48, 48]]
    on = {"box_images": [1], "gold_box_images": [0], "images": names, "frame_sizes": sizes}
    page = gallery.case_html(record(0, "mammography", True, **on) | {"folder": tmp_path})
    first, second = page.split("</svg>")[:2]
    assert page.count("<svg") == 2
    assert "1 gold and 0 predicted" in first and "0 gold and 1 predicted" in second


def test_a_case_leaves_out_an_id_that_holds_the_patient(tmp_path):
    made = record(0, "ct", True, frame_size=None) | {"folder": tmp_path}
    hidden = gallery.case_html(made | {"id": "Meier_Anna-01", "patient": "meier_anna"})
    assert "meier" not in hidden.lower() and "ct-mini · climb-mini<" in hidden
    assert "scan-7" in gallery.case_html(made | {"id": "scan-7", "patient": "meier_anna"})


def test_choose_mixes_right_and_wrong_over_domains():
    made = [record(i, d, i < 8) for d in ("ct", "ecg") for i in range(10)]
    chosen = gallery.choose(made, 6)
    assert [c["domain"] for c in chosen] == ["ct"] * 3 + ["ecg"] * 3
    assert {gallery.is_right(c) for c in chosen if c["domain"] == "ct"} == {True, False}
    assert gallery.choose(made, 100) and len(gallery.choose(made, 100)) == 20


def test_draw_boxes_is_xml_in_the_boxes_frame():
    image = np.zeros((24, 32), np.uint8)
    root = xml.etree.ElementTree.fromstring(
        figures.boxes_svg(image, [(8, 8, 40, 40)], [(10, 10, 999, 999)], (64, 48))
    )
    assert root.attrib["viewBox"] == "0 0 64 48"
    boxes = [r.attrib for r in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert len(boxes) == 4 and {b["stroke"] for b in boxes} >= {figures.GOLD, figures.PREDICTED}
    assert boxes[-1]["width"] == "54.0"  # clipped to the frame
    strip = xml.etree.ElementTree.fromstring(
        figures.boxes_svg(np.zeros((4, 24, 32, 3), np.uint8), [(1, 1, 5, 5)])
    )
    assert len(list(strip.iter("{http://www.w3.org/2000/svg}image"))) == 4
    with pytest.raises(DataError, match="uint8"):
        figures.boxes_svg(np.zeros((4, 4)))


def test_draw_boxes_paints_into_the_pixels():
    picture = np.asarray(
        figures.draw_boxes(np.zeros((24, 32), np.uint8), [(2, 3, 10, 12)], [(20, 5, 99, 9)])
    )
    assert picture.shape == (24, 32, 3)
    assert (
        picture[3, 2].any()
        and picture[11, 9].any()
        and not picture[12, 10].any()
        and picture[5, 31].any()
    )


def test_draw_ecg_has_paper_scale():
    """1 mV is 10 mm and one second is 25 mm: in tenths of a millimetre 100 and 250 units."""
    signal = np.zeros((8, 2500))
    signal[:, 250:] = 1.0
    root = xml.etree.ElementTree.fromstring(figures.draw_ecg(signal))
    trace = [
        p.attrib["d"]
        for p in root.iter("{http://www.w3.org/2000/svg}path")
        if "scale(0.1)" in p.attrib.get("transform", "")
    ]
    assert len(trace) == 8 and "l1 -100" in trace[0]
    wave = trace[0].split("M")[2]
    assert wave.count("h1") + wave.count("l1") == 2499 and wave.index("l1 -100") == wave.index(
        "h1"
    ) + 249 * len("h1")
    with pytest.raises(DataError, match="ECG"):
        figures.draw_ecg(np.zeros((12, 2500)))


def test_ticks_are_round_and_inside():
    assert charts.ticks(0, 1, 5) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    for low, high in ((-0.013, 0.022), (0, 7), (1234, 1240), (-3, -1)):
        found = charts.ticks(low, high)
        assert 2 <= len(found) <= 6 and low <= found[0] and found[-1] <= high


@pytest.mark.parametrize(
    "y", [[1.0], [0.0, 0.0, 0.0], [float("nan"), 2.0], [float("nan")], [1e-9, 1e12]]
)
def test_curves_of_odd_values(y):
    chart = charts.line_chart("t", [charts.Series("s", list(range(len(y))), y)])
    assert "nan" not in chart and (
        chart == "" or xml.etree.ElementTree.fromstring(chart) is not None
    )


def test_real_samples_say_how_few_they_are(workdir):
    rows = [record(i, "ct", i % 3 == 0, "real", patient=f"p{i % 2}") for i in range(8)]
    then = [r | {"predicted": ["nothing"]} for r in rows]
    for name, held in (("sft", then), ("rl", rows)):
        (workdir / f"eval/{name}.json").write_text(
            json.dumps({"records": [*held, record(9, "ct", True)]})
        )
    words = " ".join(Reader(report.write_report(workdir).read_text()).words.split())
    for said in (
        "no evidence about patients",
        "8 held-out rows of 2 patients",
        "accuracy, constant",
        "3 became right and 0 became wrong",
    ):
        assert said in words


def test_real_samples_of_an_old_run_have_no_patients(workdir):
    words = " ".join(Reader(report.write_report(workdir).read_text()).words.split())
    assert "2 held-out rows of patients that were not recorded" in words


def test_confidence_has_a_section_where_there_are_scores(workdir):
    assert "How sure it is" not in report.write_report(workdir).read_text()
    rows = [record(i, "ct", i % 4 > 0, scores={"Normal": 0.3, "Lesion": 0.7}) for i in range(8)]
    (workdir / "eval/rl.json").write_text(json.dumps({"records": rows}))
    page = report.write_report(workdir).read_text()
    reader = Reader(page)
    assert "How sure it is" in reader.words and "8 rows" in page
    sure, right = 0.7, sum("Lesion" in r["labels"] for r in rows) / 8
    assert f"reliability after RL: {sure:.2f} right {right:.2f}" in page
    assert f"expected calibration error {abs(sure - right):.3f}" in page
