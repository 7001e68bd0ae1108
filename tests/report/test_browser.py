"""The pages in a browser: what is clicked and pressed does what it says, and axe-core finds no
serious fault.
"""

import csv
import json
import shutil
import xml.etree.ElementTree

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from helpers import cases, measured
from playwright.sync_api import sync_playwright

from qoq_jax.cli import main
from qoq_jax.evaluation import grades
from qoq_jax.report import viewer

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser():
    program = shutil.which("chromium")
    if program is None:
        pytest.fail("no chromium on the PATH: install the package chromium", pytrace=False)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir with its pages, and in its folder "measured" the pages of one with all sections."""
    workdir = cases.write_workdir(tmp_path_factory.mktemp("runs") / "mine")
    assert main.main(["report", str(workdir)]) == 0
    assert main.main(["report", str(measured.write_run(workdir / "measured"))]) == 0
    return workdir


@pytest.fixture
def opened(browser, run):
    """Opens a page of the run; afterwards nothing may stand in its console or have been asked of a
    network.
    """
    contexts, said = [], []

    def open_page(name="cases.html", width=1280):
        context = browser.new_context(viewport={"width": width, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on(
            "request",
            lambda request: (
                said.append(request.url)
                if not request.url.startswith(("file:", "data:", "blob:"))
                else None
            ),
        )
        page.goto((run / name).as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not said


def listed(page):
    """(right, domain) of each row of the list."""
    rows = page.eval_on_selector_all(
        "#list button",
        """rows => rows.map((row) => [row.querySelector("[role=img]").getAttribute("aria-label"),
            row.querySelector("small").textContent])""",
    )
    return [(mark.endswith("right"), words.partition(":")[0]) for mark, words in rows]


def ids(page):
    return page.eval_on_selector_all("#list button", "rows => rows.map((row) => row.id)")


def current(page):
    return page.locator("#list [aria-current=true]").get_attribute("id")


def saved(page, button):
    with page.expect_download() as download:
        page.click(button)
    return download.value.path().read_text("utf-8")


def test_the_page_lists_all_cases_failures_first_and_runs_nothing_of_their_text(opened):
    page = opened()
    right = [one for one, _ in listed(page)]
    assert len(right) == 12 and right == sorted(right) and not right[0]
    assert page.locator("#count").inner_text() == "12 of 12 cases: 9 right, 3 wrong"
    assert current(page) == ids(page)[0] and page.locator("#case .side").count() == 2
    assert cases.EVIL[:9] in page.locator("#case blockquote").first.inner_text()
    assert page.evaluate("window.hurt") is None and page.locator("#case img").count() == 0


def test_filters_by_domain_outcome_and_words(opened):
    page = opened()
    page.select_option("#domain", "CT")
    assert {domain for _, domain in listed(page)} == {"CT"} and len(listed(page)) == 4
    page.select_option("#outcome", "wrong")
    assert listed(page) == [(False, "CT")]
    page.select_option("#domain", "")
    assert len(listed(page)) == 3
    page.select_option("#outcome", "right")
    assert [one for one, _ in listed(page)] == [True] * 9
    page.select_option("#outcome", "won")
    assert len(listed(page)) == 6
    page.select_option("#outcome", "lost")
    assert [one for one, _ in listed(page)] == [False] * 3
    page.select_option("#outcome", "")
    page.fill("#search", "ROW-11")
    assert len(listed(page)) == 1
    page.fill("#search", "no such words")
    assert listed(page) == []


def test_the_iou_filter_leaves_out_rows_without_one(opened):
    page = opened()
    page.locator("#iou input").first.fill("0.6")
    assert 0 < len(listed(page)) < 12 and {d for _, d in listed(page)} == {"CT", "Chest X-ray"}


def test_keys(opened):
    page = opened()
    first, second, third = ids(page)[:3]
    places = [current(page)]
    for key in ("j", "j", "k"):
        page.keyboard.press(key)
        places.append(current(page))
    assert places == [first, second, third, second]
    place = page.evaluate("location.hash")
    assert place == second.replace("row-", "#")
    page.keyboard.press("/")
    page.keyboard.type("j")
    assert page.input_value("#search") == "j" and page.evaluate("location.hash") == place
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("j")
    assert page.evaluate("location.hash") == place
    page.keyboard.press("Escape")
    assert not page.locator("#keys").is_visible()


def test_a_volume_scrolls(opened):
    page = opened()
    page.select_option("#domain", "CT")
    page.locator("#list button").first.click()
    page.wait_for_selector("#slice")
    before = page.locator("#case svg image").first.get_attribute("href")
    page.keyboard.press("]")
    assert "2 of 4" in page.locator("#case .controls").inner_text()
    assert page.locator("#case svg image").first.get_attribute("href") != before


def test_the_table_has_one_line_per_listed_case(opened):
    page = opened()
    lines = list(csv.reader(saved(page, "#csv").splitlines()))
    assert len(lines) == 1 + 12 and {len(line) for line in lines} == {6 + 8}
    assert sorted(line[1] for line in lines[1:]) == sorted(r["id"] for r in cases.records())
    page.select_option("#outcome", "wrong")
    assert len(saved(page, "#csv").splitlines()) == 1 + 3


@pytest.mark.parametrize("domain", ["Chest X-ray", "ECG"])
def test_figures_are_saved_as_xml(opened, domain):
    page = opened()
    page.select_option("#domain", domain)
    page.locator("#list button").first.click()
    page.wait_for_selector("#svg")
    root = xml.etree.ElementTree.fromstring(saved(page, "#svg"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and float(root.attrib["width"]) > 0
    assert len(list(root.iter())) > 2


def test_boxes_can_be_hidden(opened):
    page = opened()
    page.select_option("#domain", "Chest X-ray")
    page.locator("#list button").first.click()
    gold, predicted = (page.locator(f"#case rect.{kind}").first for kind in ("gold", "predicted"))
    gold.wait_for()
    assert predicted.is_visible()
    page.click("#show-gold")
    assert not gold.is_visible() and predicted.is_visible()
    svg = saved(page, "#svg")
    assert 'class="gold"' not in svg and 'class="predicted"' in svg
    page.keyboard.press("p")
    page.keyboard.press("g")
    assert gold.is_visible() and not predicted.is_visible()


def test_the_theme_goes_around_and_stays_after_a_reload(opened):
    page = opened()
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.click("#theme")
    dark = page.evaluate(paper)
    assert dark != light and page.locator("#theme").inner_text() == "Theme: dark"
    page.reload()
    assert page.evaluate(paper) == dark
    page.keyboard.press("t")
    assert page.evaluate(paper) == light and page.locator("#theme").inner_text() == "Theme: light"


def test_media_in_files_beside_the_page_are_loaded(browser, run, tmp_path, monkeypatch):
    monkeypatch.setattr(viewer, "MAX_BYTES", 1000)
    shutil.copytree(run, tmp_path / "run")
    assert main.main(["report", str(tmp_path / "run")]) == 0
    page = browser.new_page()
    page.goto((tmp_path / "run/cases.html").as_uri())
    page.locator("#list button").first.click()
    page.locator("#case svg").first.wait_for()
    page.close()


def test_on_a_phone_list_and_case_take_turns(opened):
    page = opened(width=390)
    assert page.locator("#list").is_visible() and not page.locator("main").is_visible()
    page.locator("#list button").first.click()
    assert page.locator("main").is_visible() and not page.locator("#list").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.click("#back")
    assert page.locator("#list").is_visible()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_links_to_the_cases_and_these_to_the_report(opened, width):
    page = opened("report.html", width)
    page.locator("nav").get_by_role("link", name="Case viewer").click()
    page.locator("#list button").first.wait_for()
    page.get_by_role("link", name="Report", exact=True).click()
    page.locator("#results").wait_for()
    assert page.url.endswith("/report.html")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("link", name="Test rows").click()
    page.locator("#list button").first.wait_for()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_is_dark_where_asked_and_wide_parts_scroll_by_themselves(opened, width):
    page = opened("measured/report.html", width)
    colours = """[getComputedStyle(document.body).backgroundColor,
        getComputedStyle(document.querySelector("svg text")).fill]"""
    light = page.evaluate(colours)
    page.emulate_media(color_scheme="dark")
    paper, ink = page.evaluate(colours)
    assert light[0] == "rgb(255, 255, 255)" and paper == "rgb(18, 23, 28)" and ink != light[1]
    for name in ("calibration", "selective", "fairness", "tasks", "evaluations"):
        assert page.locator(f"#{name}").bounding_box()["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["cases.html", "report.html", "measured/report.html"])
def test_axe_finds_nothing_serious(opened, name, width):
    page = opened(name, width)
    serious = _serious(page)
    if name == "cases.html" and width == 390:  # where list and case take turns
        page.locator("#list button").first.click()
        serious += _serious(page)
    assert not serious


def _serious(page):
    """What axe-core finds in light and in dark: theme, rule and elements of each."""
    found = []
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        for one in Axe().run(page).response["violations"]:
            if one["impact"] in ("serious", "critical"):
                found.append((theme, one["id"], [node["html"][:120] for node in one["nodes"]]))
    return found


def test_axe_sees_low_contrast_and_names_that_are_missing(opened):
    """The check above can fail."""
    page = opened()
    page.evaluate("document.getElementById('count').style.color = '#ccc'")
    page.evaluate("document.getElementById('csv').textContent = ''")
    assert {"color-contrast", "button-name"} <= {rule for _, rule, _ in _serious(page)}


@pytest.fixture(scope="module")
def sheet(run):
    """The grading sheet of the run."""
    assert main.main(["report", str(run), "--grading", "3"]) == 0
    return "grading.html"


def test_answers_of_the_grading_sheet_survive_a_reload_and_are_downloaded(opened, run, sheet):
    page = opened(sheet)
    assert page.locator("[name=better]").first.is_disabled()
    page.fill("#grader", "AB")
    page.keyboard.press("Tab")
    page.check("[name=better][value=same]")
    page.check("[name=reasoningB][value='4']")
    page.click("#next")
    assert page.locator("[name=better]:checked").count() == 0
    page.check("[name=harmA][value=no]")
    page.fill("#comment", "a comment")
    page.reload()
    assert page.input_value("#grader") == "AB"
    assert page.is_checked("[name=better][value=same]")
    found = json.loads(saved(page, "#download"))
    key = json.loads((run / "grading-key.json").read_text())
    assert found["grader"] == "AB" and found["sheet"] == key["sheet"]
    assert found["answers"] == {
        "0": {"better": "same", "reasoningB": "4"},
        "1": {"harmA": "no", "comment": "a comment"},
    }
    page.fill("#grader", "CD")
    page.keyboard.press("Tab")
    assert page.locator("#questions :checked").count() == 0
    assert page.evaluate("window.hurt") is None


def test_qoq_grade_reads_what_the_sheet_downloads(opened, run, sheet, tmp_path):
    page = opened(sheet)
    page.fill("#grader", "EF")
    page.keyboard.press("Tab")
    for i in range(3):
        for group in page.locator("#asked fieldset").all():
            group.locator("input").nth(i % 2).check()
        if i < 2:
            page.click("#onward")
    assert page.locator("#count").inner_text() == "3 of 3 rows fully answered"
    (tmp_path / "a.json").write_text(saved(page, "#download"))
    _, found = grades.read(str(run / "grading-key.json"), [str(tmp_path / "a.json")])
    assert set(found["EF"]) == {"better", *grades.QUESTIONS}
    assert not any(np.isnan(one).any() for one in found["EF"].values())


@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_serious_in_the_grading_sheet(opened, sheet, width):
    page = opened(sheet, width)
    page.locator("#case .side").first.wait_for()
    assert not _serious(page)
    page.fill("#grader", "AB")
    page.keyboard.press("Tab")
    assert not _serious(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
