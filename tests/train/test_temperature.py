"""The temperature of a run comes from its validation file and goes into its test file."""

import json

import pytest

from qoq_jax.train import run


def test_files_of_a_run(tmp_path, capsys):
    (tmp_path / "eval").mkdir()
    rows = [{"labels": [gold], "scores": {"a": 0.9, "b": 0.1}} for gold in "aab"]
    for name, records in (("sft-validation", rows), ("sft", rows[:2])):
        content = {"split": name, "records": records}
        (tmp_path / "eval" / f"{name}.json").write_text(json.dumps(content))
    run.fit_temperature(str(tmp_path), "sft")
    written = json.loads((tmp_path / "eval/sft.json").read_text())
    assert written["temperature"]["temperature"] == pytest.approx(3.17, abs=0.01)
    assert written["temperature"]["fitted_on"] == 3 and len(written["records"]) == 2
    assert (
        "temperature 3.170 (of 0.01 to 100), fitted on 3 validation rows" in capsys.readouterr().out
    )
