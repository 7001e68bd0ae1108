"""The report's sections on what was measured beside accuracy, each only where the run has it."""

import json

import numpy as np
import pytest
from helpers import measured
from helpers.measured import records, write

from qoq_jax.cli import main
from qoq_jax.evaluation import calibration, metrics
from qoq_jax.report import pages, report

SECTIONS = ("selective", "fairness", "tasks", "evaluations")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return measured.write_run(tmp_path_factory.mktemp("runs") / "all")


@pytest.fixture(scope="module")
def page(run):
    return report.write_report(run).read_text()


def section(page, name):
    """The HTML of one section; "" where the page has none."""
    return page.partition(f'<section id="{name}">')[2].partition("</section>")[0]


def test_a_run_without_these_has_none_of_them(tmp_path):
    made = [one | {"scores": {}, "attributes": {}} for one in records(0.5)]
    write(tmp_path, "rl", made)
    page = report.write_report(tmp_path).read_text()
    assert section(page, "results")
    assert not any(section(page, name) for name in (*SECTIONS, "calibration"))


def test_fairness_names_the_worst_group_and_the_gaps(run, page):
    found = json.loads((run / "eval/rl.json").read_text())["fairness"]["sex"]
    text = section(page, "fairness")
    one = found["datasets"]["ct/ct-mini"]
    assert one["worst"] == "male"
    low, high = one["f1_gap_interval"]
    assert f"male ({one['groups']['male']['f1']:.2f})" in text
    assert f"{one['f1_gap']:.2f} [{low:.2f}, {high:.2f}]" in text
    assert f"{found['mean']['equalized_odds_difference']:.2f}" in text and "By age" not in text
    assert text.count("<circle") == 2 * 3  # two groups of three data sets


def test_temperature_is_before_and_after(run, page):
    found = json.loads((run / "eval/rl.json").read_text())["temperature"]
    text = section(page, "calibration")
    assert f"{found['temperature']:.3f}" in text and "before RL, rescaled" in text
    for key in ("nll", "ece", "brier"):
        then, now = (f"{found[side][key]:.3f}" for side in ("before", "after"))
        assert f'<span class="was">{then}</span> {now}' in text


def test_selective_prediction_gives_the_error_of_the_surest_rows(page):
    made = records(0.9)
    confidence, right = calibration.confidences(made)
    surest = ~right[np.argsort(-confidence, kind="stable")]
    assert np.isclose(calibration.risks(confidence, right)[-1], surest.mean())
    text = section(page, "selective")
    assert (
        f"<td>100%</td><td class=n>{1 - calibration.confidences(records(0.5))[1].mean():.3f}"
        in text
    )
    assert text.count("<polyline") == 2


def test_risks_follow_the_surest_first_and_share_ties():
    confidence, right = np.array([0.9, 0.5, 0.8, 0.5]), np.array([True, False, False, True])
    np.testing.assert_allclose(calibration.risks(confidence, right), [0, 1 / 2, 1.5 / 3, 2 / 4])


def test_tasks_have_their_metrics_with_standard_errors(page):
    text = section(page, "tasks")
    assert "the first 2,000 questions" in text and "0.500 ± 0.020" in text
    assert "acc (nearest)" in text and "N/A" not in text and "451" in text
    assert "climb" in text and "0.250" in text


def test_every_evaluation_is_listed(page):
    text = section(page, "evaluations")
    for stage in ("warm start", "alignment", "RL"):
        for split in ("validation", "test"):
            assert f"<td>after {stage}</td><td>{split}</td>" in text


def test_a_run_of_alignment_alone_shows_it_beside_the_warm_start(tmp_path):
    write(tmp_path, "sft", records(0.2))
    write(tmp_path, "align", records(0.9))
    page = report.write_report(tmp_path).read_text()
    gain = metrics.summarize_group(records(0.9), draws=20)["overall"]["macro_f1"]
    assert f'<span class="to">{gain:.2f}</span>' in page and not section(page, "evaluations")


def test_the_pages_link_to_each_other_by_their_names(run, tmp_path, capsys):
    out = tmp_path / "a report: mine.html"
    assert main.main(["report", str(run), "--out", str(out)]) == 0
    assert capsys.readouterr().out.split("\n")[:2] == [str(out), str(tmp_path / "cases.html")]
    assert 'href="cases.html"' in out.read_text()
    assert '"report":"a%20report%3A%20mine.html"' in (tmp_path / "cases.html").read_text()


def test_a_run_without_test_rows_has_a_report_without_a_link(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"stage": "sft", "step": 1, "loss": 2.0}\n')
    assert list(pages.write(tmp_path)) == ["report"]
    assert "cases.html" not in (tmp_path / "report.html").read_text()
