"""Metrics: the released code's dictionary, each metric by hand, hierarchy, confusion, bootstrap."""

import dataclasses
import json
import pathlib
import types

import numpy as np
import pytest

from qoq_jax.base.errors import DataError
from qoq_jax.evaluation import metrics
from qoq_jax.rewards.score import score

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "metrics_reference.json"


def row(gold, predicted, domain="ct", dataset="a", vocabulary=("N", "P"), **more):
    def as_list(value):
        return [value] if isinstance(value, str) else list(value)

    fields = dict(
        id=f"{gold}{predicted}{domain}{dataset}",
        source="climb-mini",
        iou=None,
        reward={"total": 0.5, "format": 1.0},
    )
    return fields | dict(
        domain=domain,
        dataset=dataset,
        labels=as_list(gold),
        predicted=as_list(predicted),
        vocabulary=list(vocabulary),
        **more,
    )


def test_released_equals_the_released_code():
    case = json.loads(GOLDEN.read_text())
    found = metrics.released_metrics(
        case["predictions"], case["answers"], case["data_source"], case["dataset"]
    )
    assert found == pytest.approx(case["metrics"], abs=1e-5)


def test_one_data_set_by_hand():
    rows = [
        row("N", "N"),
        row("N", "N"),
        row("N", "P"),
        row("P", "P"),
        row("P", []),
        row("P", "weird"),
    ]
    found = metrics.dataset_metrics(rows)
    n, p = found["per_label"]["N"], found["per_label"]["P"]
    assert (n["tp"], n["fp"], n["fn"], n["tn"]) == (2, 0, 1, 3) and (
        p["tp"],
        p["fp"],
        p["fn"],
        p["tn"],
    ) == (
        1,
        1,
        2,
        2,
    )
    assert found["macro_f1"] == pytest.approx((0.8 + 0.4) / 2)
    assert found["balanced_accuracy"] == found["recall"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert found["label_accuracy"] == pytest.approx((5 / 6 + 3 / 6) / 2)
    assert found["exact_match"] == pytest.approx(3 / 6) and found["unparseable"] == pytest.approx(
        2 / 6
    )
    assert "iou" not in found and "auroc" not in found and found["format"] == 1.0
    assert found["confusion"] == {"labels": ["N", "P"], "matrix": [[2, 1, 0], [0, 1, 2]]}


def test_label_accuracy_flatters_an_unreadable_answer():
    """1 - 1/K on K balanced classes (spec): the reason why it has its own name."""
    labels = ("A", "B", "C", "D")
    found = metrics.dataset_metrics([row(label, [], vocabulary=labels) for label in labels])
    assert found["label_accuracy"] == 0.75 and found["balanced_accuracy"] == found["macro_f1"] == 0


def test_means_go_up_by_label_data_set_domain():
    rows = [row("N", "N", "ct", "a")] * 98 + [row("N", "P", "ct", "b"), row("N", "P", "mri", "c")]
    found = metrics.summarize_group(rows, draws=10)
    assert {k: v["macro_f1"] for k, v in found["datasets"].items()} == {
        "ct/a": 1.0,
        "ct/b": 0.0,
        "mri/c": 0.0,
    }
    assert found["domains"]["ct"]["macro_f1"] == 0.5 and found["overall"]["macro_f1"] == 0.25
    assert found["domains"]["ct"]["count"] == 99 and found["overall"]["count"] == 100
    assert metrics.flat(found, "eval")["eval/domain/ct/macro_f1"] == 0.5


def test_same_data_set_name_in_two_domains_stays_apart():
    found = metrics.summarize_group(
        [row("N", "N", "ct", "mini"), row("N", "P", "mri", "mini")], draws=10
    )
    assert (
        set(found["datasets"]) == {"ct/mini", "mri/mini"} and found["overall"]["exact_match"] == 0.5
    )


def test_sources_are_apart():
    rows = [row("N", "N"), row("N", "P") | {"source": "real"}]
    found = metrics.summarize(rows, draws=10)
    assert found["sources"]["climb-mini"]["overall"]["macro_f1"] == 1.0
    assert found["sources"]["real"]["overall"]["macro_f1"] == 0.0 and found["all"]["count"] == 2


def test_no_records_is_an_error():
    with pytest.raises(DataError, match="no records"):
        metrics.summarize([])


def test_auroc():
    positive = np.array([True, True, False, False])
    assert metrics.auroc(np.array([0.9, 0.8, 0.2, 0.1]), positive) == 1.0
    assert metrics.auroc(np.array([0.9, 0.1, 0.5, 0.1]), positive) == pytest.approx(
        (1 + 1 + 0 + 0.5) / 4
    )
    assert metrics.auroc(np.zeros(4), positive) == 0.5
    assert metrics.auroc(np.zeros(2), np.ones(2, bool)) is None
    rows = [row("N", "N", scores={"N": 0.9, "P": 0.1}), row("P", "N", scores={"N": 0.6, "P": 0.4})]
    assert metrics.dataset_metrics(rows)["auroc"] == 1.0


def test_confusion_of_label_sets_sums_to_the_support():
    labels = ("A", "B", "C")
    rows = [
        row(("A", "B"), ("A", "C"), vocabulary=labels),
        row("B", ("A", "C"), vocabulary=labels),
        row("C", [], vocabulary=labels),
    ]
    names, matrix = metrics.confusion(rows)
    assert names == list(labels)
    np.testing.assert_allclose(matrix, [[1, 0, 0, 0], [0.5, 0, 1.5, 0], [0, 0, 0, 1]])


def test_iou_over_rows_with_a_region():
    rows = [row("N", "N"), row("P", "P") | {"iou": 0.4}, row("P", "P") | {"iou": 0.8}]
    found = metrics.dataset_metrics(rows)
    assert (
        found["iou"] == pytest.approx(0.6)
        and found["iou_over_half"] == 0.5
        and found["iou_count"] == 2
    )


def test_bootstrap_is_seeded_and_covers():
    rng = np.random.default_rng(0)
    rows = [
        row("NP"[g], "NP"[g if rng.random() < 0.7 else 1 - g], dataset="ab"[i % 2])
        for i, g in enumerate(rng.integers(0, 2, 300))
    ]
    first, again = (metrics.bootstrap_macro_f1(rows, 250, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first[""], again[""])
    assert first["ct"].shape == (250,)
    low, high = metrics.interval(first[""])
    value = metrics.summarize_group(rows, draws=0)["overall"]["macro_f1"]
    # 2 * 1.96 * sqrt(0.7 * 0.3 / 300) = 0.10
    assert low < value < high and 0.06 < high - low < 0.16


def test_paired_gain():
    before = [row("N", "P") | {"id": str(i)} for i in range(20)]
    after = [row("N", "N") | {"id": str(i)} for i in range(20)]
    assert metrics.paired_gain(before, after) == {"gain": 1.0, "interval": [1.0, 1.0], "count": 20}
    assert metrics.paired_gain(before, before)["interval"] == [0.0, 0.0]
    assert metrics.paired_gain(before, []) == {}


def test_record_is_json_and_complete():
    @dataclasses.dataclass(frozen=True)
    class Meta:
        id: str = "1"
        dataset: str = "a"
        domain: str = "ct"
        source: str = "real"
        labels: tuple = ("P",)
        vocabulary: tuple = ("N", "P")
        boxes: tuple = ()
        box_labels: tuple = ()
        mask: np.ndarray | None = None
        frame_size: tuple | None = (20, 10)
        frame_sizes: tuple = ((20, 10),)
        box_images: tuple = ()
        box_coordinates: str = "pixels"
        row: types.SimpleNamespace | None = None

    mask = np.zeros((10, 20), bool)
    mask[2:5, 3:9] = True
    meta = Meta(mask=mask, row=types.SimpleNamespace(patient="p1", attributes=(("sex", "other"),)))
    text = '```json\n[{"bbox_2d": [3, 2, 9, 5], "label": "P"}]\n```<think>x</think>\\boxed{p}'
    made = json.loads(json.dumps(metrics.record(text, meta, score(text, meta))))
    assert (
        made["gold_boxes"] == [[3, 2, 9, 5]] and made["iou"] == 1.0 and made["predicted"] == ["P"]
    )
    assert made["patient"] == "p1" and made["attributes"] == {"sex": "other"}
    assert metrics.summarize([made], draws=5)["sources"]["real"]["overall"]["exact_match"] == 1.0
