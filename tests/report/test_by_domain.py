"""The report's section on each domain in training."""

import json
import xml.etree.ElementTree

import pytest

from qoq_jax.report import by_domain, report

GOLD = {"MI": 10, "CD": 10, "Normal": 10}


def rows(sampled):
    """Log rows of one domain whose labels are `sampled(step)`."""
    return [
        {
            "stage": "rl",
            "step": step,
            "domain/ecg/entropy": 0.5,
            "domain/ecg/kl": 0.1,
            "domain/ecg/advantage_share": 1.0,
            "labels": {"ecg": {"sampled": sampled(step), "gold": GOLD}},
        }
        for step in range(1, 21)
    ]


def page(folder, lines):
    folder.joinpath("metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    return report.write_report(folder).read_text()


def test_a_domain_that_falls_onto_one_label_is_named(tmp_path):
    html = page(tmp_path, rows(lambda step: {"MI": 20 + 30 * step, "CD": 20}))
    assert "Fallen onto one label" in html and "“MI”" in html


def test_a_domain_that_keeps_its_labels_is_not(tmp_path):
    html = page(tmp_path, rows(lambda step: GOLD))
    assert "Each domain in training" in html and "Fallen" not in html


def test_one_label_is_right_where_the_gold_labels_are_one():
    columns = [(1.0, {"No": 99, "Yes": 1}, {"No": 95, "Yes": 5})]
    assert by_domain.collapsed(columns) is None


def test_a_run_without_label_counts_has_no_such_section(tmp_path):
    old = [{"stage": "rl", "step": 1, "kl": 0.1, "reward/total": 0.4}]
    assert "Each domain in training" not in page(tmp_path, old)


@pytest.mark.parametrize("count", [1, 2, 200])
def test_areas_fill_the_whole_height_at_every_step(count):
    columns = [(float(i), {"A": 1, "B": 3}, {"A": 2}) for i in range(count)]
    svg = xml.etree.ElementTree.fromstring(by_domain.label_areas(columns))
    polygons = [e.get("points").split() for e in svg if e.tag.endswith("polygon")]
    heights = {point.split(",")[1] for points in polygons for point in points}
    assert len(polygons) == 2 and {"28.0", "99.0"} <= heights


def test_labels_beyond_the_palette_are_grey():
    many = {f"label {i}": 50 - i for i in range(20)}
    svg = by_domain.label_areas([(1.0, many, many), (2.0, many, many)])
    assert svg.count(f'fill="{by_domain.REST}"') == 2 * (20 - len(by_domain.PALETTE))
