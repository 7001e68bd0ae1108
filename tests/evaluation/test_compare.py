"""Two evaluations on shared rows: counts by hand, the exact test, refusals, the command."""

import json

import pytest
from scipy import stats

from qoq_jax.base.errors import DataError
from qoq_jax.cli import main
from qoq_jax.evaluation.compare import compare, mcnemar


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


def test_mcnemar_by_hand():
    assert mcnemar([True] * 3, [True] * 3) == {"lost": 0, "won": 0, "p": 1.0}
    found = mcnemar([1, 0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1, 0])
    assert (found["lost"], found["won"]) == (1, 5)
    assert found["p"] == pytest.approx(2 * (1 + 6) / 2**6)  # P(0 or 1 of 6), both sides
    assert found["p"] == pytest.approx(stats.binom.cdf(1, 6, 0.5) * 2)


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
    other = [record(0, "ct", True, "b")]
    with pytest.raises(DataError, match="other gold labels"):
        compare(evaluation({"ct": [1]}), other)


def test_the_command(tmp_path, capsys):
    for name, rights in (("one", [0, 0, 1, 1]), ("two", [1, 1, 1, 1])):
        (tmp_path / name / "eval").mkdir(parents=True)
        content = {"records": evaluation({"ct": rights})}
        (tmp_path / name / "eval" / "sft.json").write_text(json.dumps(content))
    paths = [str(tmp_path / "one"), str(tmp_path / "two" / "eval" / "sft.json")]
    assert main.main(["compare", *paths]) == 0
    out = capsys.readouterr().out
    assert "ct  4  0.500  1.000  +0.500" in out and "2 / 0" in out
    (tmp_path / "empty").mkdir()
    assert main.main(["compare", str(tmp_path / "empty"), paths[0]]) == 1
    assert "no evaluation of the test split" in capsys.readouterr().err
