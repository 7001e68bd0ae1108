"""Two evaluations on shared rows: counts by hand, the exact test, refusals, the command."""

import json

import numpy as np
import pytest
from scipy import stats

from qoq_jax.base.errors import DataError
from qoq_jax.cli import main
from qoq_jax.evaluation.compare import compare, paired_test


def record(i, domain, right, gold="a"):
    other = {"a": "b", "b": "a"}[gold]
    return {
        "id": f"{domain}-{i}",
        "source": "mini",
        "dataset": domain,
        "domain": domain,
        "labels": [gold],
        "vocabulary": ["a", "b"],
        "predicted": [gold if right else other],
        "text": "",
        "iou": None,
        "reward": {},
    }


def evaluation(rights):
    return [
        record(i, domain, bool(right), "ab"[i % 2])
        for domain, of_it in rights.items()
        for i, right in enumerate(of_it)
    ]


def test_with_one_row_per_patient_it_is_mcnemars_test():
    own = [str(i) for i in range(7)]
    assert paired_test([True] * 3, [True] * 3, own[:3]) == {"lost": 0, "won": 0, "p": 1.0}
    found = paired_test([1, 0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1, 0], own)
    assert (found["lost"], found["won"]) == (1, 5)
    assert found["p"] == pytest.approx(2 * (1 + 6) / 2**6)  # P(0 or 1 of 6), both sides
    assert found["p"] == pytest.approx(stats.binom.cdf(1, 6, 0.5) * 2)


def test_rows_of_few_patients_decide_less():
    """Ten rows won, all of two patients: 2 of the 4 sign flips are as extreme."""
    found = paired_test([0] * 10, [1] * 10, ["a"] * 5 + ["b"] * 5)
    assert found["won"] == 10 and found["p"] == pytest.approx(0.5, abs=0.02)
    alone = paired_test([0] * 10, [1] * 10, [str(i) for i in range(10)])
    assert alone["p"] == pytest.approx(2 / 2**10)


def test_alike_models_on_clustered_rows_are_seldom_told_apart():
    rng, small, holds = np.random.default_rng(0), 0, 0
    for _trial in range(60):
        sides = []
        for _ in range(2):
            right = rng.random(30) < 0.6
            rows = [record(i, "ct", bool(right[i // 4]), "ab"[i % 2]) for i in range(120)]
            sides.append([r | {"patient": f"p{i // 4}"} for i, r in enumerate(rows)])
        found = compare(*sides, draws=200)[0]
        assert found["patients"] == 30
        small += found["p"] < 0.05
        holds += found["interval"][0] <= 0 <= found["interval"][1]
    assert small <= 8 and holds >= 52  # 3 and 57 are expected


def test_tables_by_domain_on_shared_rows_alone():
    first = evaluation({"ct": [0] * 10 + [1] * 10, "ecg": [1] * 8})
    second = evaluation({"ct": [1] * 18 + [0] * 2, "ecg": [1] * 4})
    rows = {row["name"]: row for row in compare(first, second)}
    assert list(rows) == ["all", "ct", "ecg"]
    assert (rows["ct"]["won"], rows["ct"]["lost"], rows["ct"]["count"]) == (10, 2, 20)
    assert rows["ecg"]["count"] == 4 and rows["ecg"]["gain"] == 0 and rows["ecg"]["p"] == 1
    assert rows["ct"]["first"] == pytest.approx(0.5) and rows["ct"]["second"] == pytest.approx(0.9)
    low, high = rows["ct"]["interval"]
    assert 0 < low < rows["ct"]["gain"] < high
    assert rows["all"]["second"] == pytest.approx((0.9 + 1) / 2)


def test_refusals():
    with pytest.raises(DataError, match="share no row"):
        compare(evaluation({"ct": [1]}), evaluation({"ecg": [1]}))
    with pytest.raises(DataError, match="no record"):
        compare([{"id": "a"}], [])
    with pytest.raises(DataError, match="twice"):
        compare(evaluation({"ct": [1]}) * 2, [])
    other = [record(0, "ct", True, "b")]
    with pytest.raises(DataError, match="1 of 1 shared rows.* other gold labels") as caught:
        compare(evaluation({"ct": [1]}), other)
    assert other[0]["id"] not in str(caught.value)  # which may hold the patient's name


def test_the_command(tmp_path, capsys):
    for name, rights in (("one", [0, 0, 1, 1]), ("two", [1, 1, 1, 1])):
        (tmp_path / name / "eval").mkdir(parents=True)
        content = {"records": evaluation({"ct": rights})}
        (tmp_path / name / "eval" / "sft.json").write_text(json.dumps(content))
    paths = [str(tmp_path / "one"), str(tmp_path / "two" / "eval" / "sft.json")]
    assert main.main(["compare", *paths]) == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.startswith("ct"))
    assert row.split()[:6] == ["ct", "4", "4", "0.500", "1.000", "+0.500"] and " 2/0 " in row
    assert "McNemar" in out and max(map(len, out.splitlines()[1:])) <= 80
    for content in ({"summary": {}}, [1]):
        (tmp_path / "wrong.json").write_text(json.dumps(content))
        assert main.main(["compare", str(tmp_path / "wrong.json"), paths[0]]) == 1
        assert "has no records" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main.main(["compare", str(tmp_path / "empty"), paths[0]]) == 1
    assert "no evaluation of the test split" in capsys.readouterr().err
    assert main.main(["compare", str(tmp_path / "nowhere"), paths[0]]) == 1
    assert "no such file or folder" in capsys.readouterr().err
