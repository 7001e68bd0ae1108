"""Subsets and edits of rows before they become samples."""

from __future__ import annotations

import dataclasses

import numpy as np

from qoq_jax.data import edits
from qoq_jax.data.rows import Row

ROW = Row(
    id="r",
    dataset="d",
    domain="chest_xray",
    problem="?",
    answer="Pneumothorax, Lung Lesion",
    labels=("No Finding", "Pneumothorax", "Lung Lesion", "Cardiomegaly"),
    bbox=((1, 2, 3, 4), (5, 6, 7, 8)),
    bbox_labels=("Pneumothorax", "Lung Lesion"),
    reasoning="black air",
)


def test_hidden_diagnoses_keep_format_and_findings_and_tell_nothing():
    hide = edits.HideDiagnosis(seed=0)
    drawn = [hide(dataclasses.replace(ROW, id=f"r{i}")) for i in range(300)]
    first = [row.answers[0] for row in drawn]
    assert {row.reasoning for row in drawn} == {"black air"} and {row.bbox for row in drawn} == {
        ROW.bbox
    }
    assert all(row.bbox_labels == row.answers and len(set(row.answers)) == 2 for row in drawn)
    assert set(first) == {"Pneumothorax", "Lung Lesion", "Cardiomegaly"}, (
        "labels that deny a finding are not drawn"
    )
    assert 70 < first.count("Pneumothorax") < 130, "gold must be no more likely than the others"
    assert hide(ROW) == hide(ROW) != edits.HideDiagnosis(seed=5)(ROW)


def test_hidden_diagnoses_leave_denials():
    normal = dataclasses.replace(ROW, answer="No Finding", bbox=(), bbox_labels=())
    assert edits.HideDiagnosis(0)(normal) == normal


def test_a_random_subset_is_fixed_by_its_seed():
    drawn = [edits.limited(20, 5, seed).tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and drawn[0] == sorted(set(drawn[0]))


def test_per_domain_keeps_the_first_rows_of_each_in_order():
    domains = np.array([3, 1, 1, 3, 1, 3, 0], np.uint8)
    assert edits.per_domain(domains, 2).tolist() == [0, 1, 2, 3, 6]


def test_shrunk_boxes_lie_inside_and_depend_on_row_and_seed():
    shrink = edits.ShrinkBoxes(share=0.3, seed=0)
    for (x1, y1, x2, y2), (a1, b1, a2, b2) in zip(ROW.bbox, shrink(ROW).bbox, strict=True):
        assert x1 <= a1 < a2 <= x2 and y1 <= b1 < b2 <= y2
    other = dataclasses.replace(ROW, id="s")
    assert shrink(ROW) == shrink(ROW) != edits.ShrinkBoxes(share=0.3, seed=1)(ROW)
    assert shrink(ROW).bbox != shrink(other).bbox


def test_noisy_labels_change_a_share_of_the_rows_and_fit_their_boxes():
    noisy = edits.NoisyLabels(seed=0, share=0.6)
    rows = [dataclasses.replace(ROW, id=f"r{i}") for i in range(600)]
    drawn = [noisy(row) for row in rows]
    # a sixth of the random pairs is the gold one
    changed = np.mean([new.answers != ROW.answers for new in drawn])
    assert abs(changed - 0.6 * 5 / 6) < 0.06
    assert all(row.bbox_labels == row.answers and len(set(row.answers)) == 2 for row in drawn)
    assert "No Finding" not in {label for row in drawn for label in row.answers}
    assert noisy(ROW) == noisy(ROW)


def test_noisy_labels_of_an_ecg_are_any_of_its_labels():
    row = dataclasses.replace(
        ROW, answer="No Finding", bbox=(), bbox_labels=(), time_series=("a.npz",)
    )
    noisy = edits.NoisyLabels(seed=0, share=1.0)
    answers = [noisy(dataclasses.replace(row, id=f"r{i}")).answer for i in range(200)]
    assert set(answers) == set(ROW.labels)
    picture = dataclasses.replace(row, time_series=())
    assert noisy(picture) == picture
