"""The report's section on each domain in training."""

import json
import xml.etree.ElementTree

import pytest

from qoq_jax.report import by_domain, report
from qoq_jax.train import domains

GOLD = {"MI": 10, "CD": 10, "Normal": 10}


def rows(sampled, domain="ecg", gold=GOLD, **more):
    """Log rows of one domain, 30 responses each, whose labels are `sampled(step)`."""
    return [
        {
            "stage": "rl",
            "step": step,
            f"domain/{domain}/entropy": 0.5,
            f"domain/{domain}/kl": 0.1,
            f"domain/{domain}/advantage_share": 1.0,
            "labels": {domain: {"responses": 30, "sampled": sampled(step), "gold": gold}},
        }
        | more
        for step in range(1, 21)
    ]


def page(folder, lines):
    folder.joinpath("metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    return report.write_report(folder).read_text()


def falling(step):
    return {"MI": 10 + step, "CD": 20 - step}


def test_a_domain_that_falls_onto_one_label_is_named(tmp_path):
    html = page(tmp_path, rows(falling))
    sentence = "ECG: 95% of the last sampled responses name “MI”, which is a gold label of 33%."
    assert f'<p class="no">{sentence}</p>' in html


def test_a_domain_that_keeps_its_labels_is_not(tmp_path):
    html = page(tmp_path, rows(lambda step: GOLD))
    assert "By domain over training" in html and "of the last sampled responses" not in html


def test_a_domain_that_has_found_back_is_not_named(tmp_path):
    html = page(tmp_path, rows(lambda step: falling(20 - step)))
    assert "of the last sampled responses" not in html


def column(responses, sampled, gold):
    return by_domain.Column(1.0, responses, sampled, gold)


def test_one_label_is_right_where_the_gold_labels_are_one():
    columns = [column(100, {"No": 99, "Yes": 1}, {"No": 95, "Yes": 5})]
    assert by_domain.collapse(columns) is None


def test_the_same_two_labels_in_every_response_are_a_collapse():
    columns = [column(30, {"MI": 30, "CD": 30}, GOLD)]
    assert by_domain.collapse(columns).startswith("100% of the last sampled responses name “MI”")


def test_responses_without_an_answer_are_a_collapse_of_another_kind():
    said = by_domain.collapse([column(30, {by_domain.NONE: 29, "MI": 1}, GOLD)])
    assert said == "97% of the last sampled responses have no readable answer."


def test_many_rare_labels_counted_together_are_no_collapse():
    assert by_domain.collapse([column(30, {by_domain.OTHERS: 29, "MI": 1}, GOLD)]) is None


def test_the_names_of_answers_that_are_no_label_are_those_of_the_log():
    assert (by_domain.OTHERS, by_domain.NONE) == (domains.OTHERS, domains.NONE)


def test_labels_are_model_text_and_are_escaped(tmp_path):
    html = page(tmp_path, rows(lambda step: {"<script>": 30}))
    assert "<script>" not in html and "&lt;script&gt;" in html


def test_all_domains_share_the_scale_of_a_column(tmp_path):
    loud = rows(lambda step: GOLD, "ct", **{"domain/ct/entropy": 2.0})
    low, high = by_domain._range([*rows(falling), *loud], ["domain/ecg/entropy"])
    assert (low, high) == (0.0, pytest.approx(0.53))
    keys = ["domain/ecg/entropy", "domain/ct/entropy"]
    assert by_domain._range([*rows(falling), *loud], keys) == (0.0, pytest.approx(2.12))


def test_a_run_without_label_counts_has_no_such_section(tmp_path):
    old = [{"stage": "rl", "step": 1, "kl": 0.1, "reward/total": 0.4}]
    html = page(tmp_path, old)
    assert "How training went" in html and "By domain over training" not in html


@pytest.mark.parametrize("count", [1, 2, 200])
def test_areas_fill_the_whole_height_at_every_step(count):
    columns = [column(4, {"A": 1, "B": 3}, {"A": 2})._replace(step=float(i)) for i in range(count)]
    svg = xml.etree.ElementTree.fromstring(by_domain.label_areas(columns))
    polygons = [e.get("points").split() for e in svg if e.tag.endswith("polygon")]
    heights = {point.split(",")[1] for points in polygons for point in points}
    assert len(polygons) == 2 and {"28.0", "99.0"} <= heights


def test_labels_beyond_the_palette_are_added_up():
    many = {f"label {i}": 50 - i for i in range(20)} | {by_domain.OTHERS: 5}
    names = list(by_domain._colours(many))
    assert names == [f"label {i}" for i in range(len(by_domain.PALETTE))] + [by_domain.OTHERS]
    rest = 5 + sum(50 - i for i in range(len(by_domain.PALETTE), 20))
    assert 1 - by_domain._edges([many], names)[0, -2] == pytest.approx(rest / sum(many.values()))
